"""From a caption to marks, the stretches that mean something, and which noun each of them belongs to."""

from __future__ import annotations

import re

from ham.world.parser_words import (
    COLORED,
    FUNCTION_WORDS,
    LINKING,
    LONGEST,
    MARKS,
    ORDINARY,
    STOPS,
    TOKEN,
    VERBS,
    Mark,
    known_word,
)

# A thing that the attributes do not know: it takes the color and makes no claim.
OTHER = Mark("noun", "other")
INNER = Mark("noun", "inner", {"": ""})  # a shirt over which another top is worn
HAIRED = re.compile(r"[ -]haired\b")  # "long-haired" -> "long hair"
JOINED = re.compile(r"(?<=[a-z])(?:/|-and-)(?=[a-z])")  # "black/white", "black-and-white"
MODIFIERS = ("colour", "length", "fact")


def marks_of(caption: str) -> list[Mark]:
    """Return a caption as marks, the longest phrase first at every place."""
    text = caption.lower().replace("\u2019", "'").replace("'s", "")
    text = COLORED.sub("", text) if "colo" in text else text
    text = JOINED.sub(" and ", HAIRED.sub(" hair", text))
    tokens = [known_word(token) if token[0].isalpha() else token for token in TOKEN.findall(text)]
    marks, place = [], 0
    while place < len(tokens):
        for size in range(min(LONGEST, len(tokens) - place), 0, -1):
            mark = MARKS.get(tuple(tokens[place : place + size]))
            if mark is not None:
                break
        else:
            size, mark = 1, Mark(kind_of_unknown(tokens[place]))
        marks.append(mark)
        place += size
    return marks


def kind_of_unknown(token: str) -> str:
    """Return the kind of mark for a token that names nothing by itself."""
    if token in STOPS:
        return "stop"
    if token in LINKING:
        return "link"
    if token in VERBS:
        return "verb"
    if token in ("and", "&"):
        return "and"
    if token == ",":
        return "comma"
    unknown = token[0].isalpha() and token not in FUNCTION_WORDS and token not in ORDINARY
    return "word" if unknown else "break"


def mark_inner(marks: list[Mark]) -> None:
    """Mark the tops that are worn under others: "over a white shirt", "a white shirt underneath", "a shirt under a jacket"."""
    tops = [place for place, mark in enumerate(marks) if mark.kind == "noun" and mark.thing == "upper"]
    if len(tops) < 2:
        return
    for place in tops:
        start = place
        while start > 0 and marks[start - 1].kind in (*MODIFIERS, "word", "and"):
            start -= 1
        start -= start > 0 and marks[start - 1].kind == "break"  # the article
        above = start > 0 and marks[start - 1].kind == "over" and tops[0] < start
        after = [mark.kind for mark in marks[place + 1 : place + 3] if mark.kind != "word"]
        if above or after[:1] == ["under"]:
            marks[place] = INNER


def following_noun(marks: list[Mark], place: int) -> Mark | None:
    """Return the noun that follows a modifier with only modifiers and unknown words between, else None.

    OTHER where the modifier belongs to a thing that the attributes do not know: "a black bracelet and jeans".
    """
    unknown = False
    for position in range(place + 1, len(marks)):
        mark = marks[position]
        if mark.kind == "noun":
            return mark
        if mark.kind == "word":
            unknown = True
            continue
        if mark.kind in ("and", "comma") and joins_colors(marks, position):
            continue
        if unknown or mark.kind not in MODIFIERS or mark.thing == "gender":
            break
    return OTHER if unknown else None


def joins_colors(marks: list[Mark], place: int) -> bool:
    """Return whether "and" or a comma joins colors of one thing: "black and white socks", "red, white and blue socks".

    Not where a predicate ends: "is black and white shoes".
    """
    if (
        not 0 < place < len(marks) - 1
        or marks[place - 1].kind != "colour"
        or marks[place + 1].kind != "colour"
    ):
        return False
    first = place - 1
    while first > 1 and marks[first - 1].kind in ("and", "comma") and marks[first - 2].kind == "colour":
        first -= 2
    if first > 0 and marks[first - 1].kind == "link":
        return False
    return marks[place].kind == "and" or (place + 3 < len(marks) and joins_colors(marks, place + 2))


def is_second(marks: list[Mark], place: int) -> bool:
    """Return whether a color is the second of several: "black and white", "is black and white"."""
    return place > 1 and marks[place - 1].kind in ("and", "comma") and marks[place - 2].kind == "colour"
