"""The words that the attribute parser reads: lexicon.py's, plain synonyms that people use, and words that mean nothing.

A `Mark` is what a word or phrase says: a noun (a thing that is worn or carried), a color, a length, a fact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from ham.world.attributes import SHADES
from ham.world.lexicon import BEHIND, ROWS, TONES
from ham.world.typos import MISSPELLINGS

TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*|[^\sa-z]")
COLORED = re.compile(r"[ -]+colou?red\b")  # "navy-coloured", "navy colored"
LEAST_FUZZY = 6  # letters of a word before one wrong letter in it is forgiven
STOPS = frozenset(".;!?")  # after them nothing belongs to an earlier noun
GENDER_WORDS = {
    "he": "man",
    "him": "man",
    "his": "man",
    "himself": "man",
    "she": "woman",
    "her": "woman",
    "hers": "woman",
}
# Keys of telegraphic captions and parts of the body: nouns that say what is meant but not what it is.
PARTS = {
    "top": "upper",
    "upper garment": "upper",
    "bottoms": "lower",
    "lower garment": "lower",
    "shoes": "shoes",
    "footwear": "shoes",
    "bag": "bag",
    "hair": "hair",
    "headwear": "headwear",
    "nothing in hand": "carried",
}
ORDINARY = frozenset(
    word
    for key, row in ROWS.items()
    if key.split(":")[0] in ("part", "verb", "place")
    for phrase in row
    for word in phrase.split()
) | {"should", "finally", "notice", "station", "crossing"}


# Words of real captions that no simulated annotator uses: value -> phrases.
SYNONYMS = {
    "upper:t-shirt": ("t shirt", "t shirts", "tshirt", "t-shirts"),
    "upper:shirt": ("blouse", "polo shirt", "dress shirt", "polo"),
    "upper:sweater": ("cardigan", "sweatshirt", "sweat shirt"),
    "upper:coat": ("raincoat",),
    "lower:trousers": ("trouser", "dress pants", "sweatpants"),
    "lower:jeans": ("jean pants",),
    "lower:shorts": ("jean shorts", "denim shorts", "cargo shorts"),
    "shoes:sandals": ("flip flops", "flip-flop", "flip flop", "flipflops", "flipflop", "sandal", "slippers"),
    "shoes:sneakers": ("sneaker", "running shoes", "athletic shoes", "gym shoes", "tennis shoe"),
    "shoes:boots": ("boot", "cowboy boots"),
    "shoes:heels": ("high-heels", "heeled shoes"),
    "bag:backpack": ("back pack", "book bag", "schoolbag", "school bag"),
    "bag:handbag": ("hand bag", "tote bag"),
    "bag:suitcase": ("luggage",),
    "glasses:glasses": ("eye glasses",),
    "headwear:cap": ("baseball hat",),
    "carried:phone": ("cellphone", "smart phone"),
    "gender:man": ("boy", "men"),
    "gender:woman": ("women",),
}
# Words between a color and what follows it that belong to no thing of their own.
_FUNCTION_WORDS = """a an and are as at but by has have in is it on or over that the then to under was were which while who with
too also both having around near his her their its they"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
LINKING = frozenset(("is", "are", "was", "were", "looks", "look"))


@dataclass
class Mark:
    """One meaningful stretch of a caption."""

    kind: str  # noun | color | length | fact | no | word (unknown) | link (is, are) | and | break | stop
    thing: str = ""  # of a noun: the thing ("upper", "hair"); of a fact: its field
    values: dict[str, str] = field(
        default_factory=dict
    )  # of a modifier: what it says of which thing; else {"": value}


def _lexicon() -> dict[tuple[str, ...], Mark]:
    """Return every phrase that means something: words -> mark."""
    marks: dict[tuple[str, ...], Mark] = {}

    def learn(phrase: str, kind: str, name: str, thing: str, value: str) -> None:
        mark = marks.setdefault(tuple(phrase.split()), Mark(kind, name))
        mark.values.setdefault(thing, value)

    for key, phrases in ROWS.items():
        name, value = key.split(":")
        for phrase in phrases:
            if name in ("headwear", "glasses", "upper", "lower", "shoes", "bag", "carried"):
                learn(phrase, "noun", name, "", value)
            elif name in ("colour", "base"):
                learn(phrase, "colour", "", "", value)
                learn(phrase.replace("grey", "gray"), "colour", "", "", value)
            elif name == "hair_colour":
                learn(phrase, "colour", "", "hair", value)
            elif phrase in ("short", "long"):
                learn(phrase, "length", "", name.split("_")[0], value)
            elif phrase == "ponytail":
                learn(phrase, "noun", "hair", "", value)
            elif name not in ("part", "verb", "place"):
                learn(phrase, "fact", name, "", value)
    for key, phrase in BEHIND.items():
        learn(phrase.removeprefix("a "), "fact", key.split(":")[0], "", key.split(":")[1])
    for shade, (base, _) in SHADES.items():
        learn(shade, "colour", "", "", shade)
        learn(base, "colour", "", "", base)
    for shade, tone in TONES.items():
        learn(tone, "colour", "", "", shade)
        learn(tone.replace("grey", "gray"), "colour", "", "", shade)
    for phrase, thing in PARTS.items():
        learn(phrase, "noun", thing, "", "none" if thing == "carried" else "")
    for word, gender in GENDER_WORDS.items():
        learn(word, "fact", "gender", "", gender)
    for key, phrases in SYNONYMS.items():
        name, value = key.split(":")
        for phrase in phrases:
            kind = "fact" if name == "gender" else "noun"
            learn(phrase, kind, name, "", value)
    for word in ("no", "without"):
        marks[(word,)] = Mark("no")
    return marks


MARKS = _lexicon()
LONGEST = max(map(len, MARKS))
WORDS = frozenset(word for words in MARKS for word in words)
CORRECT = {wrong: right for right, wrong in MISSPELLINGS.items()}


@lru_cache(maxsize=20000)
def known_word(word: str) -> str:
    """Return the lexicon's word for a misspelt one, if exactly one is a single slip away, else the word itself."""
    word = CORRECT.get(word, word)
    if word in WORDS or word in ORDINARY or len(word) < LEAST_FUZZY:
        return word
    near = [
        other
        for other in WORDS
        if len(other) >= LEAST_FUZZY - 1 and other[0] == word[0] and one_slip(word, other)
    ]
    return near[0] if len(near) == 1 else word


def one_slip(one: str, other: str) -> bool:
    """Return whether one letter added, dropped or exchanged, or two neighbors swapped, turn `one` into `other`."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b or (a[:2] == b[:2][::-1] and a[2:] == b[2:])
