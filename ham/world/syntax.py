"""Recognize the syntax of a caption from its text alone, to measure whether a captioner keeps the sentences of a style."""

from __future__ import annotations

import re

from ham.world.lexicon import PHRASES
from ham.world.typos import MISSPELLINGS

CORRECT = {wrong: right for right, wrong in MISSPELLINGS.items()}


def _any_of(*keys: str) -> str:
    return "|".join(
        sorted({re.escape(phrase) for key in keys for phrase in PHRASES[key]}, key=len, reverse=True)
    )


PERSON = rf"(?:[a-z'-]+ ){{0,5}}?(?:{_any_of('gender:man', 'gender:woman', 'part:person')})"
ING = _any_of("verb:wearing", "verb:carrying", "verb:holding")
WEARS = _any_of("verb:wears", "verb:carries", "verb:holds") + "|has"
HE = rf"(?:he|she|the {PERSON})"
UNJOINED = r"[^.,]*\ban? (?:(?!and |of |with |over |on )[a-z'-]+ )+an? [^.,]*"  # "a red shirt a blue skirt"
BREATHLESS = rf"(?:[^.,]* {HE} (?:{WEARS}|is) [^.,]*|(?:(?! and |[.,]).)*|{UNJOINED})"
BODY = "(?:body|upper body|lower body|feet|head|neck|waist|wrist)"

# syntax -> what its captions look like; tried in this order
PATTERNS = {
    syntax: re.compile(pattern)
    for syntax, pattern in {
        "picture": r"in this picture",
        "observer": r"i can see ",
        "there": r"there is ",
        "participle": rf"(?:{ING}) ",
        "pronoun": r"(?:he|she) (?:is|has) ",
        "body": rf"this .* on (?:his|her|their) {BODY}\b",
        "this": r"this ",
        "dressed": rf"the {PERSON} (?:is dressed in|.*[.] {HE} is dressed in) ",
        "possessive": rf"the {PERSON}'s |the .*[.] (?:his|her|their) .* (?:is|are|seems?|appears?) ",
        "has": rf"the {PERSON} (?:.*[.] {HE} )?has on ",
        "runon": rf"the {PERSON} (?:{WEARS}) {BREATHLESS}(?:[.] (?!{HE} )[^.]*)?[.]?$",
        "wears": rf"the {PERSON} (?:has [^.]*[.] {HE} )?(?:{WEARS}) (?!.*\bis (?:{ING})\b)",
        "full": r"the ",
        "relative": rf"an? {PERSON} who ",
        "template": rf"an? {PERSON} (?:with (?:(?! is )[^,])*? )?wearing .*\bpairs? of ",
        "plain": rf"an? {PERSON} (?:with .*|in the middle .*|(?:{ING}) .*)(?<! is )(?:{ING}|in the middle)(?! .*\bhe is\b)",
        "in": rf"an? {PERSON} in (?:an? |[a-z-]+ )",
        "with": rf"an? {PERSON} with ",
        "plain ": rf"an? {PERSON} wearing ",  # a template in which nothing comes in pairs looks the same
        "template ": rf"an? {PERSON} sporting ",
        "splice": rf"an? {PERSON} is (?!seen )(?:[^.]*, (?:he|she|his|her|their|the) .*|(?:{ING}) [^.]*[.]?$)",
        "doing": rf"an? {PERSON} ",
        "bare": rf"{PERSON} (?:{ING}|with) ",
        "fragments": rf"{PERSON}, ",
    }.items()
}


def syntax_of(caption: str) -> str | None:
    """Return the syntax of a caption: one of `ham.world.manners.SYNTAXES`, "plain", or None if it fits none."""
    text = re.sub(r"[a-z]+", lambda word: CORRECT.get(word[0], word[0]), caption.lower())
    text = re.sub(r" (?=[.,])", "", " ".join(text.split()))
    return next((syntax.strip() for syntax, pattern in PATTERNS.items() if pattern.match(text)), None)
