"""Typing errors as people make them: letters left out, doubled or swapped, neighboring keys, recurring misspellings."""

from __future__ import annotations

import re
from collections.abc import Callable

# word -> how it is often misspelt, sometimes as another word
MISSPELLINGS = {
    "striped": "stripped",
    "sandals": "sandles",
    "clothes": "cloths",
    "wearing": "waring",
    "carrying": "carring",
    "sneakers": "sneekers",
    "woman": "women",
    "shirt": "shrit",
    "sleeved": "sleved",
    "sleeve": "sleve",
    "shoulder": "sholder",
    "jacket": "jackt",
    "glasses": "glases",
    "plaid": "plad",
    "umbrella": "umbrela",
    "sweater": "sweather",
    "backpack": "bagpack",
    "collar": "coller",
    "beige": "biege",
    "purse": "purce",
    "khaki": "kaki",
    "leggings": "leggins",
    "scarf": "scraf",
    "white": "whit",
    "with": "wit",
    "holding": "hoding",
    "jeans": "jeens",
    "dress": "dres",
    "brown": "bown",
}
RATES = {"none": 0.004, "some": 0.14, "many": 0.4}  # chance that a caption has a typing error
SECOND = 0.15  # chance that one with an error has another
RECURRING = 0.2  # chance that an error is one that recurs, where a word has one
LEAST_LETTERS = 4
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOR = {
    key: row[place + 1] if place + 1 < len(row) else row[place - 1]
    for row in _KEYS
    for place, key in enumerate(row)
}


def misspell(text: str, rate: float, draw: Callable[[], float]) -> str:
    """Write one or two words of `text` wrongly with probability `rate`."""
    if draw() >= rate:
        return text
    for _ in range(2 if draw() < SECOND else 1):
        places = [found.span() for found in re.finditer(rf"[A-Za-z]{{{LEAST_LETTERS},}}", text)]
        if not places:
            return text
        known = [span for span in places if text[slice(*span)].lower() in MISSPELLINGS]
        recurring = bool(known) and draw() < RECURRING
        start, stop = known[int(draw() * len(known))] if recurring else places[int(draw() * len(places))]
        word = text[start:stop]
        text = (
            text[:start]
            + (like(MISSPELLINGS[word.lower()], word) if recurring else slip(word, draw))
            + text[stop:]
        )
    return text


def like(word: str, model: str) -> str:
    """Return a word with the capitals of another."""
    if model.isupper():
        return word.upper()
    return word[0].upper() + word[1:] if model[0].isupper() else word


def slip(word: str, draw: Callable[[], float]) -> str:
    """Return a word with one slip behind its first letter: a letter left out, doubled, swapped with the next, or mistyped."""
    place = 1 + int(draw() * (len(word) - 2))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    kind = draw()
    if kind < 0.4:
        return before + after
    if kind < 0.6:
        return before + letter * 2 + after
    if kind < 0.85:
        return before + after[0] + letter + after[1:]
    return before + NEIGHBOR.get(letter, letter) + after
