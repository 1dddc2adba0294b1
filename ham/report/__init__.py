"""Pictures and pages for people, made from plain records; independent of models and training.

gallery     a picture of queries with the images ranked first
style_map   the page of a styles/ folder
samples     the page of a captioning job's sample
page        the frame and the style sheet of all pages
"""
