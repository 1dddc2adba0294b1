"""The words that the attribute parser reads: lexicon.py's, plain synonyms that people use, and words that mean nothing.

A `Mark` is what a word or phrase says: a noun (a thing that is worn or carried), a color, a length, a fact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from ham.world.attributes import SHADES
from ham.world.lexicon import BEHIND, PHRASES, ROWS, TONES
from ham.world.parser_synonyms import REAL_WORDS, SYNONYMS, UNKNOWN_THINGS
from ham.world.rare_words import POOLS
from ham.world.speech import ITEMS
from ham.world.typos import MISSPELLINGS

TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*|[^\sa-z]")
COLORED = re.compile(r"(?<!two)[ -]+colou?red\b")  # "navy-coloured", "navy colored"
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
# Nouns that name a thing but not its kind.
PARTS = {
    "top": "upper",
    "upper garment": "upper",
    "undershirt": "upper",
    "bottoms": "lower",
    "lower garment": "lower",
    "shoes": "shoes",
    "footwear": "shoes",
    "shoe": "shoes",
    "dress shoes": "shoes",
    "bag": "bag",
    "bags": "bag",
    "hair": "hair",
    "haired": "hair",
    "headwear": "headwear",
    "nothing in hand": "carried",
}
ORDINARY = frozenset(
    word
    for key, row in ROWS.items()
    if key.split(":")[0] in ("part", "verb")
    for phrase in row
    for word in phrase.split()
)
# Words that are spelt right and are no slip of a word of the lexicon.
SPELT_RIGHT = (
    ORDINARY | {word for row in POOLS.values() for text in row for word in text.split()} | REAL_WORDS
)
# Words between a color and what follows it that belong to no thing of their own.
_FUNCTION_WORDS = """a an and are as at but by has have in is it on or over that the then to under was were which while who too
also both around near his her their its they"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
# Words that say how things go together.
OTHER_KINDS = {
    "no": ("no", "without"),
    "side": ("left", "right"),
    "over": ("over",),
    "under": ("under", "underneath", "beneath"),
}
BASES = frozenset(base for base, _ in SHADES.values())
LINKING = frozenset(("is", "are", "was", "were", "looks", "look", "seems", "seem", "appears", "appear", ":"))
# What is said of a thing ends before them: "her hair is short and she is wearing black".
VERBS = frozenset(
    word for key, row in ROWS.items() if key.startswith("verb:") for phrase in row for word in phrase.split()
)
VERBS |= {"has", "have", "having", "with", "in", "wear", "wore", "carry", "hold", "dressed"}


@dataclass
class Mark:
    """One meaningful stretch of a caption."""

    # noun, colour, length, fact, side (left), over, under, no, word (unknown), link (is), verb, and, comma, stop, break
    kind: str
    thing: str = ""  # of a noun: the thing ("upper", "hair"); of a fact: its field
    values: dict[str, str] = field(
        default_factory=dict
    )  # of a modifier: what it says of which thing; else {"": value}


NOUNS = tuple(item for item in ITEMS if item != "hair")


def _lexicon() -> dict[tuple[str, ...], Mark]:
    """Return every phrase that means something: words -> mark."""
    marks: dict[tuple[str, ...], Mark] = {}

    def learn(phrase: str, kind: str, name: str, thing: str, value: str) -> None:
        mark = marks.setdefault(tuple(phrase.split()), Mark(kind, name))
        mark.values.setdefault(thing, value)

    for key, phrases in PHRASES.items():
        name, value = key.split(":")
        for phrase in phrases:
            if name in NOUNS:
                learn(phrase, "noun", name, "", value)
            elif name in ("colour", "base"):
                conveyed = phrase if phrase in BASES and phrase in ROWS[key] else value
                learn(phrase, "colour", "", "", conveyed)
                learn(phrase.replace("grey", "gray"), "colour", "", "", conveyed)
            elif name == "hair_colour":
                learn(phrase, "colour", "", "hair", value)
            elif phrase in ("short", "long"):
                learn(phrase, "length", "", name.split("_")[0], value)
            elif phrase.endswith(("ponytail", "pony tail")):
                learn(phrase, "noun", "hair", "", value)
            elif name not in ("part", "verb"):
                learn(phrase, "fact", name, "", value)
    for key, phrase in BEHIND.items():
        name, value = key.split(":")
        bare = phrase.removeprefix("a ").removeprefix("{}")
        learn(
            bare,
            "noun" if phrase.startswith("{}") else "fact",
            "pattern" if "{}" in phrase else name,
            "",
            value,
        )
    for shade, (base, _) in SHADES.items():
        learn(shade, "colour", "", "", shade)
        learn(base, "colour", "", "", base)
    for shade, tone in TONES.items():
        learn(tone, "colour", "", "", shade)
        learn(tone.replace("gray", "grey"), "colour", "", "", shade)
    for phrase, thing in PARTS.items():
        learn(phrase, "noun", thing, "", "none" if thing == "carried" else "")
    for word, gender in GENDER_WORDS.items():
        learn(word, "fact", "gender", "", gender)
    for key, phrases in SYNONYMS.items():
        name, value = key.split(":")
        for phrase in phrases:
            learn(phrase, "noun" if name in (*NOUNS, "pattern", "print") else "fact", name, "", value)
    for phrase in UNKNOWN_THINGS:
        marks[tuple(phrase.split())] = Mark("word")
    for kind, words in OTHER_KINDS.items():
        for word in words:
            marks[(word,)] = Mark(kind, "", {"": word})
    return marks


MARKS = _lexicon()
LONGEST = max(map(len, MARKS))
WORDS = frozenset(word for words in MARKS for word in words)
CORRECT = {wrong: right for right, wrong in MISSPELLINGS.items()}


@lru_cache(maxsize=20000)
def known_word(word: str) -> str:
    """Return the lexicon's word for a misspelt one, if exactly one is a single slip away, else the word itself."""
    word = CORRECT.get(word, word)
    if word in WORDS or word in SPELT_RIGHT or len(word) < LEAST_FUZZY:
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
