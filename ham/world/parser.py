"""The attribute parser: a caption back to attributes, for scoring captions against what was drawn.

Reads the words of lexicon.py whoever wrote them; knows nothing of annotators. A caption becomes a row of marks (nouns,
modifiers, breaks); a modifier belongs to the noun that follows it without a break ("navy jacket"), else to the noun before it
("the jacket is navy"). Unknown words are skipped, near misses of long words are forgiven, and of two claims about one field
the first counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from ham.world.attributes import ABSENT_WITH, FIELDS, SHADES, agree
from ham.world.lexicon import BEHIND, ROWS, TONES
from ham.world.manners import worth_telling
from ham.world.typos import MISSPELLINGS

TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*|[^\sa-z]")
COLOURED = re.compile(r"[ -]+colou?red\b")  # "navy-coloured", "navy colored"
LEAST_FUZZY = 6  # letters of a word before one wrong letter in it is forgiven
STOPS = frozenset(".;!?")  # behind them nothing belongs to an earlier noun
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


@dataclass
class Mark:
    """One meaningful stretch of a caption."""

    kind: str  # noun | colour | length | fact | no | break | stop
    thing: str = ""  # of a noun: the thing ("upper", "hair"); of a fact: its field
    values: dict[str, str] = field(
        default_factory=dict
    )  # of a modifier: what it says of which thing; else {"": value}


def _lexicon() -> dict[tuple[str, ...], Mark]:
    """Collect every phrase that means something: words -> mark."""
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
    for word in ("no", "without"):
        marks[(word,)] = Mark("no")
    return marks


MARKS = _lexicon()
LONGEST = max(map(len, MARKS))
WORDS = frozenset(word for words in MARKS for word in words)
CORRECT = {wrong: right for right, wrong in MISSPELLINGS.items()}


@lru_cache(maxsize=20000)
def known_word(word: str) -> str:
    """Give the lexicon's word for a misspelt one, if exactly one is a single slip away; any other word comes back as it is."""
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
    """Tell whether one letter added, dropped or exchanged, or two neighbours swapped, turn `one` into `other`."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def marks_of(caption: str) -> list[Mark]:
    """Turn a caption into marks, the longest phrase first at every place; words without meaning become breaks."""
    text = caption.lower().replace("\u2019", "'").replace("'s", "")
    text = COLOURED.sub("", text) if "colo" in text else text
    tokens = [known_word(token) if token[0].isalpha() else token for token in TOKEN.findall(text)]
    marks, place = [], 0
    while place < len(tokens):
        for size in range(min(LONGEST, len(tokens) - place), 0, -1):
            mark = MARKS.get(tuple(tokens[place : place + size]))
            if mark is not None:
                break
        else:
            size, mark = 1, Mark("stop" if tokens[place] in STOPS else "break")
        marks.append(mark)
        place += size
    return marks


def parse(caption: str) -> dict[str, str]:
    """Read the attributes that a caption tells.

    Returns: field -> value as in `ham.world.attributes`, a colour as its shade or plain colour. Never fails: text without
    known words gives an empty dict. Of two claims about one field the first counts.
    """
    marks = marks_of(caption)
    heads = following_nouns(marks)
    found: dict[str, str] = {}
    behind: Mark | None = None  # the noun before, until a sentence ends
    denied = False
    for mark, head in zip(marks, heads):
        if mark.kind == "noun":
            claim_noun(found, mark, denied)
            behind = mark
        elif mark.kind == "fact":
            found.setdefault(mark.thing, mark.values[""])
        elif mark.kind in ("colour", "length"):
            claim_modifier(found, mark, head or behind)
        elif mark.kind == "stop":
            behind = None
        denied = mark.kind == "no" or (denied and mark.kind == "break")
    for dependent, (name, values) in ABSENT_WITH.items():
        if found.get(name) in values:
            found.pop(dependent, None)
    return found


def following_nouns(marks: list[Mark]) -> list[Mark | None]:
    """Give every mark the noun that follows it with only modifiers between, else None."""
    heads: list[Mark | None] = [None] * len(marks)
    head: Mark | None = None
    for place in range(len(marks) - 1, -1, -1):
        heads[place] = head
        kind = marks[place].kind
        if kind == "noun":
            head = marks[place]
        elif kind not in ("colour", "length", "fact") or marks[place].thing == "gender":
            head = None
    return heads


def claim_noun(found: dict[str, str], noun: Mark, denied: bool) -> None:
    """Note what a noun says by itself: its kind, or, denied, that there is none."""
    name = "hair_length" if noun.thing == "hair" else noun.thing
    value = noun.values[""]
    if denied and "none" in FIELDS.get(name, ()):
        found.setdefault(name, "none")
    elif value and not denied:
        found.setdefault(name, value)


def claim_modifier(found: dict[str, str], mark: Mark, noun: Mark | None) -> None:
    """Note a colour or a length for the noun it belongs to; a colour that only hair has needs no noun."""
    thing = noun.thing if noun else ""
    value = mark.values.get(thing, mark.values.get("") if thing != "hair" else None)
    if value is None and thing != "hair" and mark.kind == "colour":
        thing, value = "hair", mark.values["hair"]
    name = f"{thing}_{mark.kind}"
    if value is not None and name in FIELDS:
        found.setdefault(name, value)


def score(captions: list[str], truths: list[dict[str, str]]) -> dict:
    """Score captions against attributes (what was drawn, or what a writer meant to tell).

    precision: share of the parsed claims that agree with the truth; recall: share of the truth's fields that are told and
    agree; f1: their harmonic mean; per_field: the same three for every field that occurs. Shares in [0, 1]; of nothing, 0.

    Raises: ValueError when the two lists differ in length.
    """
    if len(captions) != len(truths):
        raise ValueError(
            f"{len(captions)} captions but {len(truths)} truths: give one truth for each caption"
        )
    counts = {name: [0, 0, 0] for name in FIELDS}  # agreeing claims, claims, truths
    for caption, truth in zip(captions, truths):
        said = parse(caption)
        for name, value in said.items():
            counts[name][1] += 1
            counts[name][0] += name in truth and agree(name, value, truth[name])
        for name in truth:
            counts[name][2] += 1
    total = [sum(count[place] for count in counts.values()) for place in range(3)]
    return _shares(*total) | {
        "per_field": {name: _shares(*count) for name, count in counts.items() if any(count)}
    }


def score_content(captions: list[str], truths: list[dict[str, str]]) -> dict[str, float]:
    """Score captions against all that their images show, fairly to people, who leave out what goes without saying.

    precision: against everything; recall: against what is worth telling; f1: their harmonic mean. Shares in [0, 1].

    Raises: ValueError when the two lists differ in length.
    """
    precision = score(captions, truths)["precision"]
    recall = score(captions, [worth_telling(truth) for truth in truths])["recall"]
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
    }


def _shares(right: int, said: int, true: int) -> dict[str, float]:
    return {
        "precision": right / max(said, 1),
        "recall": right / max(true, 1),
        "f1": 2 * right / max(said + true, 1),
    }
