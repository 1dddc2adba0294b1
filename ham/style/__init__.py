"""Stage 1: from human captions to style clusters to instruction data.

    neutral       identity words made general, so that what stays is how a caption is said   (words, llm_neutral)
    features      a vector for each neutral text
    cluster       KMeans, uniform prototype sampling (UPS), DBSCAN
    instructions  the LLaVA conversation list: one record for each caption and style it belongs to
    build         the four in a row, resumable; judge: how good the styles are

Knows nothing of images, language models with eyes, or the world's annotators.
"""
