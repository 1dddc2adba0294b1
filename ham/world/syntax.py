"""Recognize the syntax of a caption from its text alone, to measure whether a captioner keeps the sentences of a style."""

from __future__ import annotations

import re

from ham.world.grammar import WHERE
from ham.world.lexicon import ROWS
from ham.world.typos import MISSPELLINGS

CORRECT = {wrong: right for right, wrong in MISSPELLINGS.items()}


def _any_of(*keys: str) -> str:
    return "|".join(sorted({phrase for key in keys for phrase in ROWS[key]}))


OPENING = re.compile(rf"(?:(?:in this|in the|as the) (?:{_any_of('place:picture')})(?: shows)?|here)[,:] ")


# syntax -> what its captions look like; tried in this order on the caption without its opening
PATTERNS = {
    syntax: re.compile(pattern)
    for syntax, pattern in {
        "keyvalue": r"who:|.*?; (?:hair|head|eyes|top|bottoms|shoes|bag|hand|pose): ",
        "spoken": r"see that ",
        "search": r"look for ",
        "relative": r"it is an? ",
        "steps": r"first comes ",
        "there": r"there (?:is|are) ",
        "observer": r"i (?:can )?(?:see|notice) ",
        "this": r"this ",
        "story": rf"(?:{'|'.join(WHERE)}) ",
        "passive": r".* (?:(?:is|are) being (?:worn|carried|held)|can be seen)\b",
        "participle": rf"(?:having|holding|{_any_of('verb:wearing', 'verb:carrying')}) ",
        "possessive": r"the (?:[a-z-]+ )?[a-z-]+'s |the .*[.;] (?:his|her|their) ",
        "full": r"the ",
        "chain": r"an? [a-z -]+, with ",
        "long": rf"an? .*\b(?:has|holds|stays|{_any_of('verb:wears', 'verb:carries')}) ",
        "plain": r"an? [a-z -]+? (?:with|wearing|carrying|holding|in the middle) ",
        "fragments": r"[a-z -]+[.;]",
        "list": r"[a-z -]+, ",
    }.items()
}


def syntax_of(caption: str) -> str | None:
    """Return the syntax of a caption: one of `ham.world.manners.SYNTAXES`, "plain", or None if it fits none."""
    words = re.sub(r"[a-z]+", lambda word: CORRECT.get(word[0], word[0]), caption.lower()).strip()
    opening = OPENING.match(words)
    text = words[opening.end() :] if opening else words
    return next((syntax for syntax, pattern in PATTERNS.items() if pattern.match(text)), None)
