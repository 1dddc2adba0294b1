"""The attribute parser: a caption back to attributes, for scoring captions against what was drawn.

Reads the words of parser_words.py and does not depend on the annotators. A caption becomes a row of marks (nouns,
modifiers, breaks); a modifier belongs to the noun that follows it without a break ("navy jacket"), else to the noun before it
("the jacket is navy"), and to neither where an unknown thing follows ("a black bracelet"). A second color before "striped
shirt" or "stripes" is the pattern's; a shirt over which another top is worn is the inner one. Near misses of long words are
forgiven, and of two claims about one field the first counts.
"""

from __future__ import annotations

from ham.world.attributes import ABSENT_WITH, FIELDS, agree
from ham.world.chances import worth_telling
from ham.world.parser_marks import INNER, OTHER, following_noun, is_second, mark_inner, marks_of
from ham.world.parser_words import Mark


def parse(caption: str) -> dict[str, str]:
    """Return the attributes that a caption mentions.

    Returns: field -> value as in `ham.world.attributes`, a color as its shade or plain color. Never fails: text without
    known words gives an empty dict. Of two claims about one field the first counts.
    """
    marks = marks_of(caption)
    mark_inner(marks)
    found: dict[str, str] = {}
    before: Mark | None = None  # the noun before, until a sentence ends
    linked = denied = False  # behind "is"; behind "no"
    for place, mark in enumerate(marks):
        if mark.kind == "noun":
            claim_noun(found, mark, before, denied)
            before = before if mark.thing in ("pattern", "print") else mark
        elif mark.kind == "fact":
            claim_fact(found, mark, following_noun(marks, place) or before)
        elif mark.kind in ("colour", "length"):
            noun = following_noun(marks, place) or (before if linked else None)
            claim_modifier(found, mark, noun, before, is_second(marks, place))
        elif mark.kind == "side":
            claim_side(found, mark, before)
        elif mark.kind == "stop":
            before = None
        elif mark.kind == "word" and place + 1 < len(marks) and marks[place + 1].kind == "link":
            before = OTHER  # "her bracelet is red"
        linked = mark.kind == "link" or (linked and mark.kind not in ("noun", "verb", "stop"))
        denied = mark.kind == "no" or (denied and mark.kind in ("break", "comma", "word", "link", "and"))
    return consistent_claims(found)


def consistent_claims(found: dict[str, str]) -> dict[str, str]:
    """Drop claims that cannot stand beside others: the color of a bag that is not there."""
    for dependent, (name, values) in ABSENT_WITH.items():
        if found.get(name) in values:
            found.pop(dependent, None)
    return found


def claim_noun(found: dict[str, str], noun: Mark, before: Mark | None, denied: bool) -> None:
    """Add what a noun says by itself: its kind, or, denied, that there is none."""
    name = {"hair": "hair_length", "pattern": "upper_pattern", "print": "upper_pattern"}.get(
        noun.thing, noun.thing
    )
    value = noun.values.get("", "")
    if denied and "none" in FIELDS.get(name, ()):
        found.setdefault(name, "none")
    elif noun.thing in ("pattern", "print") and not of_upper(before):
        return  # "shorts with white stripes"
    elif value and not denied:
        found.setdefault(name, value)


def of_upper(noun: Mark | None) -> bool:
    """Return whether a pattern can belong to a noun: to the upper garment, or to nothing known."""
    return noun is None or noun.thing in ("upper", "pattern", "print")


def claim_fact(found: dict[str, str], fact: Mark, noun: Mark | None) -> None:
    """Add a fact; a pattern of another thing than the upper garment makes no claim."""
    if (fact.thing == "upper_pattern" and not of_upper(noun)) or (fact.thing == "sleeve" and noun is INNER):
        return
    found.setdefault(fact.thing, fact.values[""])


def claim_side(found: dict[str, str], side: Mark, before: Mark | None) -> None:
    """Add the side on which the bag or the carried thing before it is held."""
    if before is not None and before.thing in ("bag", "carried"):
        found.setdefault(f"{before.thing}_side", side.values[""])


def claim_modifier(
    found: dict[str, str], mark: Mark, noun: Mark | None, before: Mark | None, second: bool
) -> None:
    """Add a color or a length of the noun it belongs to; a color that only hair has needs no noun.

    before: the noun that came before the color; second: the color follows "and" behind another.
    """
    if noun is OTHER:
        return
    thing = noun.thing if noun else ""
    if mark.kind == "length" and noun and noun.values.get("") == "dress":
        thing = "lower"
    if thing == "pattern":
        if not of_upper(before):
            return
        thing = "upper_second"
    elif second and mark.kind == "colour" and thing == "upper":
        thing = "upper_second"
    value = mark.values.get(thing, mark.values.get("") if thing != "hair" else None)
    if value is None and thing != "hair" and mark.kind == "colour":
        thing, value = "hair", mark.values["hair"]
    name = f"{thing}_{mark.kind}"
    if value is not None and name in FIELDS:
        found.setdefault(name, value)


def score(captions: list[str], truths: list[dict[str, str]]) -> dict:
    """Score captions against attributes (what was drawn, or what a writer meant to tell).

    precision: share of the parsed claims that agree with the truth; recall: share of the truth's fields that are mentioned and
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
    """Score captions against all that their images show, without expecting what nobody mentions.

    precision: against everything; recall: against what is worth mentioning; f1: their harmonic mean. Shares in [0, 1].

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
