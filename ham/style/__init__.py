"""Stage 1: from human captions to style clusters to instruction data.

    neutral       descriptive words replaced by general ones (lexicon, context, part_of_speech, spelling, llm_neutral)
    features      a vector for each neutral text
    cluster       KMeans, uniform prototype sampling (UPS), DBSCAN
    instructions  the LLaVA conversation list: one record for each caption and style it belongs to
    build         the four in a row, resumable; judge: how good the styles are

Knows nothing of images, language models with eyes, or the world's annotators.
"""
