"""Correct the kinds of listed words whose part of speech depends on their neighbors.

"steps" and "walk" are nouns or verbs, "back" and "front" nouns or adverbs, "left" a side or a verb, "a little" a size or a
degree, "faces" a part or a verb, "running" a verb or a kind of shoes.
"""

from __future__ import annotations

from ham.style.context import (
    ADJECTIVE,
    ADVERB,
    CONJUNCTION,
    DETERMINER,
    LINKING,
    NOUN,
    NUMBER,
    PREPOSITION,
    PRONOUN,
    SECTIONS,
    Word,
    is_attributive,
    is_predicate,
    word_after,
    word_before,
)
from ham.style.lexicon import WORN, facts_of_word, lexicon

RELATIVES = frozenset(SECTIONS["relative"])
VERBS_OR_NOUNS = frozenset(SECTIONS["verb or noun"])
ADVERBS_OR_QUALITIES = frozenset(SECTIONS["adverb or quality"])
DEGREE = frozenset(("little",))
ADVERBS_OF_PLACE = frozenset(("back", "front", "right"))
LONE_GARMENTS = {"short": "lower", "sleeveless": "upper", "long sleeve": "upper", "short sleeve": "upper"}


def resolve(words: list[Word]) -> None:
    """Correct the kinds of words whose part of speech depends on their neighbors, in place."""
    for at, word in enumerate(words):
        if word.kind is None:
            if word.lower in ("sport", "sports"):
                resolve_sports(words, at)
            elif word.role in (NUMBER, PRONOUN):
                resolve_number(words, at)
            continue
        rule = RULES.get(word.kind)
        if rule is not None:
            rule(words, at)
        elif not word.is_listed:
            resolve_unlisted(words, at)
        elif word.lower in VERBS_OR_NOUNS:
            resolve_false_noun(words, at)
        elif word.lower in ("top", "bottom"):
            resolve_top(words, at)


def resolve_sports(words: list[Word], at: int) -> None:
    """Distinguish "sports shoes" from the verb: "the woman sports a hat"."""
    before = word_before(words, at)
    after = word_after(words, at)
    marked = before is not None and (
        before.role in (DETERMINER, ADJECTIVE, PREPOSITION) or before.lower == "wearing"
    )
    if marked and after is not None and after.role == NOUN:
        words[at].set_kind("quality", "any")


def resolve_number(words: list[Word], at: int) -> None:
    """Make a modifier of "six-point trousers", "one-shoulder bag"."""
    if (
        at + 2 < len(words)
        and words[at + 1].gap == "-"
        and words[at + 2].is_joined
        and words[at + 2].role == NOUN
    ):
        words[at].set_kind("quality", "any")
        words[at + 1].set_kind("quality", "any")


def resolve_action(words: list[Word], at: int) -> None:
    """Make a noun of "steps", "a walk", "long strides", and a modifier of "jogging pants"."""
    word = words[at]
    before = word_before(words, at)
    after = word_after(words, at)
    if word.form == "ing" and after is not None and after.kind in WORN:
        word.set_kind("quality", "any")
        return
    if (
        word.form not in ("base", "third")
        or before is None
        or before.lower == "to"
        or before.lower in RELATIVES
    ):
        return
    after_noun_marker = before.role in (DETERMINER, NUMBER) or (
        before.role == ADJECTIVE and before.lower not in LINKING
    )
    after_preposition = before.role == PREPOSITION and before.lower not in ("as", "that", "while")
    if after_noun_marker or after_preposition:
        kind = "scene" if word.lower.startswith("step") else "thing"
        word.set_kind(kind, "plural" if word.form == "third" else "singular")


def resolve_place(words: list[Word], at: int) -> None:
    """Leave "in front of", "back" as an adverb, "left" as a verb and "right behind" as they are."""
    word = words[at]
    before = word_before(words, at)
    after = word_after(words, at)
    if word.lower == "left" and before and before.kind == "person" and after and after.role == DETERMINER:
        word.set_kind(None)
        return
    if word.lower not in ADVERBS_OF_PLACE:
        return
    if word.lower == "front" and before is not None and before.lower == "in":
        word.set_kind(None)
        return
    marks = (DETERMINER, ADJECTIVE, PREPOSITION, CONJUNCTION)
    marked = before is not None and (before.role in marks or before.lower in ("her", "left", "right", "s"))
    has_noun = after is not None and after.role in (NOUN, ADJECTIVE)
    if not marked and (word.lower == "right" or not has_noun):
        word.set_kind(None)


def resolve_quality(words: list[Word], at: int) -> None:
    """Distinguish size and degree ("a little blurry"), adjective and adverb, and garments called by their quality."""
    word, before = words[at], word_before(words, at)
    join_compound(words, at)
    if is_attributive(words, at):
        if word.lower in DEGREE and before and before.lower == "a" and degree_follows(words, at):
            word.set_kind(None)
        return
    if word.lower in DEGREE and before and before.lower in ("a", "very"):
        word.set_kind(None)
        return
    after = word_after(words, at)
    if after is not None and after.role == PREPOSITION and first_tag(word) in ("VBN", "VBD"):
        word.set_kind(None)  # "tucked into", "pulled back in a bun"
        return
    if after is not None and after.role == DETERMINER and first_tag(word) == "VBG":
        word.set_kind(None)  # "rolling a suitcase"
        return
    if is_predicate(words, at) and word.lower not in ADVERBS_OR_QUALITIES:
        return
    marked = before is not None and (before.role in (DETERMINER, ADJECTIVE) or before.kind == "pattern")
    if marked and word.lower in LONE_GARMENTS:
        word.set_kind(LONE_GARMENTS[word.lower], "singular")
    elif marked and word.lower in lexicon().proper and before is not None and before.role == DETERMINER:
        word.set_kind("person", "singular")
    elif before is not None and before.role in (PREPOSITION, ADVERB) and word.lower.startswith("mid "):
        word.set_kind("part", "singular")  # "down to about mid thigh"
    elif not marked and (word.lower in ADVERBS_OR_QUALITIES or not word.is_listed):
        word.set_kind(None)


def first_tag(word: Word) -> str:
    """Return the tag of the first word of a phrase."""
    return facts_of_word(word.lower.split()[0], False).tag


def join_compound(words: list[Word], at: int) -> None:
    """Make one modifier of a hyphened compound before a noun: "straight-leg slacks", "athletic-type shoes"."""
    if at + 2 >= len(words) or words[at + 1].gap != "-" or not words[at + 2].is_joined:
        return
    second = words[at + 1]
    if (second.role == NOUN or second.kind == "place") and words[at + 2].role == NOUN:
        words[at + 1].set_kind("quality", "any")


def resolve_material(words: list[Word], at: int) -> None:
    """Make a quality of a material before a noun, so that "tight leather trousers" have one modifier."""
    if is_attributive(words, at):
        words[at].set_kind("quality", "any")


def resolve_color_noun(words: list[Word], at: int) -> None:
    """Make a modifier of "color" in "a reddish color handbag"."""
    before = word_before(words, at)
    after = word_after(words, at)
    if before is not None and before.role == ADJECTIVE and after is not None and after.role == NOUN:
        words[at].set_kind("color", "any")


def degree_follows(words: list[Word], at: int) -> bool:
    """Return whether "little" stands before an adverb or a comparative rather than a person or a thing."""
    after = word_after(words, at)
    return after is not None and (after.role == ADVERB or after.lower in ("bit", "more", "less", "too"))


def resolve_top(words: list[Word], at: int) -> None:
    """Distinguish a place from a garment: "on top", "the bottom of it", "toward the top"."""
    word = words[at]
    before = word_before(words, at)
    after = word_after(words, at)
    if before is None:
        return
    if before.lower == "on" and word.form == "singular":
        word.set_kind(None)
    elif before.role == DETERMINER:
        second = word_before(words, at - 1)
        place_before = second is not None and second.lower in (
            "at",
            "near",
            "toward",
            "towards",
            "from",
            "to",
            "on",
            "along",
        )
        if place_before or (after is not None and after.lower == "of"):
            word.set_kind("place", "any")


def resolve_unlisted(words: list[Word], at: int) -> None:
    """Leave a word that the tagger calls a noun where only a verb can stand: "to match", "she flips the"."""
    word = words[at]
    before = word_before(words, at)
    after = word_after(words, at)
    if before is None:
        return
    verb_place = before.lower in (
        "to",
        "can",
        "could",
        "will",
        "would",
        "may",
        "might",
        "he",
        "she",
        "who",
        "that",
    )
    subject_before = before.kind == "person" and after is not None and after.role == DETERMINER
    after_one = before.lower == "one" and word.form == "plural"  # "one flips", as "she flips" is written
    if (verb_place and before.role != DETERMINER) or after_one or subject_before:
        word.set_kind(None)


def resolve_false_noun(words: list[Word], at: int) -> None:
    """Make verbs of "faces", "heads" after a person or "who" and before an article or a preposition."""
    word = words[at]
    before = word_before(words, at)
    after = word_after(words, at)
    if before is None or after is None or word.form != "plural":
        return
    subject = before.kind == "person" or before.lower in ("he", "she", "who", "that", "and")
    if subject and (after.role in (DETERMINER, PREPOSITION) or after.kind in ("direction", "place")):
        word.set_kind("action", "third")


RULES = {
    "action": resolve_action,
    "place": resolve_place,
    "quality": resolve_quality,
    "material": resolve_material,
    "color_noun": resolve_color_noun,
}
