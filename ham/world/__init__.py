"""The synthetic dataset ("world"): drawn pedestrians and simulated annotators, in place of data that cannot be shipped.

    attributes   what a pedestrian can wear, carry and do: the one vocabulary that drawing, writing and parsing share
    wardrobe     the persons of a domain and what they wear
    draw         one image: pen, figure, head, tops, legs, belongings, camera
    annotators   annotators with a persistent manner who describe what an image shows; parser reads it back
    domains      the datasets and the presets; plan, write and build write them to disk; sheet draws an overview

`python -m ham.world build --out DIR --preset nano|demo|full --seed 0` builds one; README.md describes it.
"""
