"""Pictures, tables and pages for people, from plain records: knows nothing of models or training.

gallery     queries with the images ranked first, right and wrong framed
style_map   what the styles are, on one HTML page
report      a whole run of scripts/demo.sh on one HTML page: folder reads the run, opening, wording and retrieval make the
            sections, charts, page and look what these are made of
"""
