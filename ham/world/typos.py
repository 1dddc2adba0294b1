"""Typing errors: a closed list of misspellings, so that they are a habit that can be learnt, and that can be read back."""

from __future__ import annotations

# word -> how a careless typist writes it; every misspelling is no other word of the lexicon
MISSPELLINGS = {
    "wearing": "wering",
    "wears": "weares",
    "carrying": "carring",
    "carries": "carrys",
    "jacket": "jaket",
    "sweater": "swetter",
    "trousers": "trowsers",
    "sneakers": "sneekers",
    "backpack": "bakpack",
    "handbag": "hanbag",
    "umbrella": "umbrela",
    "the": "teh",
    "with": "wiht",
    "hair": "hiar",
    "black": "balck",
    "white": "whtie",
    "yellow": "yelow",
    "purple": "purpel",
    "person": "persn",
    "woman": "womna",
    "shoulder": "sholder",
    "glasses": "glases",
    "there": "thier",
    "which": "wich",
    "standing": "standng",
    "walking": "walkng",
    "shoes": "shose",
    "striped": "stripped",
    "picture": "pictrue",
    "and": "adn",
    "brown": "borwn",
    "orange": "ornage",
    "pants": "pnats",
    "jeans": "jeens",
    "hoodie": "hoddie",
    "boots": "boosts",
}
RATES = {"none": 0.0, "some": 0.12, "many": 0.4}


def misspell(text: str, rate: float, chances: list[float]) -> str:
    """Write some words of `text` wrongly, each listed one with probability `rate`.

    chances: uniform numbers in [0, 1), used in turn from the first and again from the start when they run out.
    """
    words = text.split(" ")
    for place, word in enumerate(words):
        core = word.rstrip(".,;:!?")
        wrong = MISSPELLINGS.get(core.lower())
        if wrong and chances[place % len(chances)] < rate:
            if core[0].isupper():
                wrong = wrong[0].upper() + wrong[1:]
            words[place] = wrong + word[len(core) :]
    return " ".join(words)
