"""Spelling: find the listed word that a misspelt word stands for.

A candidate keeps the first letter, since that is what writers rarely get wrong ("sandles" is sandals, not handles; "nike" is
no bike). Candidates one edit away come first, in the order swap, missing letter, extra letter, wrong letter, and among equals
in the order of the lists; then words with the same consonants ("sandles", "lether").
"""

from __future__ import annotations

import re
from functools import cache

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST = 4  # letters of a word that may have a wrong or an extra letter


def correction(word: str) -> str:
    """Return the listed word that a lower-case word most likely stands for, or the word itself when there is none."""
    listed = word_ranks()
    for candidates in edits(word):
        known = [meant for meant in candidates if meant in listed and len(meant) > 2]
        if known:
            return min(known, key=listed.__getitem__)
    if len(word) < SHORTEST + 1:
        return word
    alike = words_by_consonants().get(consonants(word), ())
    close = [meant for meant in alike if abs(len(meant) - len(word)) <= 2]
    return min(close, key=listed.__getitem__, default=word)


def edits(word: str) -> list[list[str]]:
    """Return the strings one edit away from a word, by kind of edit, likeliest kind first. The first letter stays."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    inner = cuts[1:]
    swapped = [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
    missing = [a + letter + b for a, b in inner for letter in LETTERS]
    if len(word) < SHORTEST:
        return [swapped, missing]
    doubled_first = [word[1:]] if word[0] == word[1] else []
    extra = [a + b[1:] for a, b in inner if b] + doubled_first
    wrong = [a + letter + b[1:] for a, b in inner if b for letter in LETTERS]
    return [swapped, missing, extra, wrong]


def consonants(word: str) -> str:
    """Return the first letter and the consonants after it, doubled ones once: sandles -> sndls."""
    return word[0] + re.sub(r"(.)\1+", r"\1", re.sub("[aeiouy]", "", word[1:]))


@cache
def word_ranks() -> dict[str, int]:
    """Return every single word that a correction may lead to, with its place in the lists."""
    from ham.style.lexicon import function_words, kept_words, lexicon

    words = [*sorted(function_words()), *lexicon().phrases, *sorted(kept_words())]
    return {word: rank for rank, word in enumerate(dict.fromkeys(words)) if " " not in word}


@cache
def words_by_consonants() -> dict[str, list[str]]:
    """Return the words of at least five letters by their consonants."""
    found: dict[str, list[str]] = {}
    for word in word_ranks():
        if len(word) > SHORTEST:
            found.setdefault(consonants(word), []).append(word)
    return found
