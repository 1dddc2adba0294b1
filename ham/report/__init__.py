"""Pictures and tables for people, from plain records: knows nothing of models or training.

    gallery     queries with the images ranked first, right and wrong framed
    style_map   what the styles are, on one HTML page
"""
