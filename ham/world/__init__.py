"""The embedded world: drawn pedestrians and simulated annotators that stand in for data which cannot be shipped.

    attributes   what a pedestrian can wear, carry and do: the one vocabulary that drawing, writing and parsing share
    wardrobe     the persons of a domain and their clothes
    draw         one picture: pen, figure, head, tops, legs, belongings, camera
    annotators   people with a persistent manner who describe what a picture shows; parser reads it back
    domains      the datasets and the presets; plan, write and build make them files; sheet shows them

`python -m ham.world build --out DIR --preset nano|demo|full --seed 0` makes one; README.md here says what is in it.
"""
