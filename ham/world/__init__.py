"""The embedded world: drawn pedestrians and simulated annotators that stand in for data which cannot be shipped.

    attributes   what a pedestrian can wear, carry and do: the one vocabulary that drawing, writing and parsing share
"""
