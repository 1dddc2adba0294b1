"""Backbone: any image-text-to-text model of transformers, with its own processor and chat template.

    load.py        find a model folder by content, load it frozen, check what style tuning needs of it
    vocabulary.py  tokens added to tokenizer and embedding; only the new rows are parameters
    prompts.py     prompts and label masks through the model's own chat template
    export.py      write the model with its added tokens as an ordinary folder of the same family

Knows nothing of styles as the paper means them: an added token is a name and a row.
"""
