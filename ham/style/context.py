"""Grammar of a caption, as far as the lexicon neutralizer needs it: what part a word plays among its neighbors.

A caption is a list of `Word`s, each with the separator before it. `is_attributive` and `is_predicate` choose between "colored"
and "color"; part_of_speech.py corrects the kinds of words that are nouns or verbs by their neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass

from ham.style.lexicon import (
    HERE,
    MODIFIERS,
    NOUNS,
    WORN,
    facts_of_word,
    function_words,
    read_sections,
)

# Roles: parts of speech, coarsely.
NOUN, ADJECTIVE, VERB, DETERMINER, PREPOSITION, CONJUNCTION, ADVERB, NUMBER, PRONOUN, OTHER = "NAVDPCRMOX"

ROLE_OF_TAG = {
    "NN": NOUN,
    "JJ": ADJECTIVE,
    "VB": VERB,
    "MD": VERB,
    "DT": DETERMINER,
    "PD": DETERMINER,
    "IN": PREPOSITION,
    "TO": PREPOSITION,
    "CC": CONJUNCTION,
    "RB": ADVERB,
    "RP": ADVERB,
    "CD": NUMBER,
    "PR": PRONOUN,
    "WP": PRONOUN,
    "WD": PRONOUN,
    "WR": CONJUNCTION,
}
SECTIONS = read_sections(HERE / "roles.txt")
ROLE_OF_SECTION = {
    "determiner": DETERMINER,
    "pronoun": PRONOUN,
    "conjunction": CONJUNCTION,
    "adverb": ADVERB,
    "preposition": PREPOSITION,
    "adjective": ADJECTIVE,
}
ROLE_OF_WORD = {word: role for name, role in ROLE_OF_SECTION.items() for word in SECTIONS[name]}
ROLE_OF_KIND = (
    dict.fromkeys(NOUNS, NOUN)
    | dict.fromkeys(MODIFIERS, ADJECTIVE)
    | {"action": VERB, "view": ADVERB, "motion": ADVERB, "direction": ADVERB, "bearing": PREPOSITION}
)
LINKING = frozenset(SECTIONS["linking"])
OBJECT_ENDS = frozenset((PREPOSITION, CONJUNCTION, VERB, ADVERB))  # after "her" as an object


@dataclass(slots=True)
class Word:
    """A word, or a phrase of the lists, and the separator before it.

    kind, form: as in the lexicon, None when the word stays. is_listed: the kind comes from words.txt, not from the tagger.
    """

    gap: str
    text: str
    lower: str
    kind: str | None
    form: str | None
    is_listed: bool = True
    role: str = OTHER

    def __post_init__(self) -> None:
        self.role = role_of(self.lower, self.kind)

    def set_kind(self, kind: str | None, form: str | None = None) -> None:
        """Change what the word is taken for."""
        self.kind, self.form = kind, form
        self.role = role_of(self.lower, kind)

    @property
    def is_joined(self) -> bool:
        """Whether only blanks or a hyphen stand between this word and the one before it."""
        return self.gap == " " or self.gap == "-" or self.gap.isspace()


def role_of(lower: str, kind: str | None) -> str:
    """Return the role of a word on its own."""
    if kind is not None:
        return ROLE_OF_KIND[kind]
    return ROLE_OF_WORD.get(lower) or ROLE_OF_TAG.get(facts_of_word(lower, False).tag[:2], OTHER)


# --------------------------------------------------------------------------------------------------------------- neighbors


def word_after(words: list[Word], at: int) -> Word | None:
    """Return the next word when nothing but blanks or a hyphen stands before it."""
    if at + 1 < len(words) and words[at + 1].is_joined:
        return words[at + 1]
    return None


def word_before(words: list[Word], at: int) -> Word | None:
    """Return the previous word when nothing but blanks or a hyphen stands after it."""
    return words[at - 1] if at > 0 and words[at].is_joined else None


def is_attributive(words: list[Word], at: int) -> bool:
    """Return whether a modifier belongs to a noun after it, directly or through a list of modifiers.

    "a white, lacy top", "black and white shoes", "a black and a grey skirt", "the white one": yes. "dressed in black, carrying
    a bag", "stripes of white and green with": no.
    """
    after_conjunction = False
    for position in range(at + 1, min(at + 9, len(words))):
        word = words[position]
        gap = word.gap.strip()
        if gap not in ("", "-", ",", "/", "&", "'", '"'):
            return False
        if word.role == NOUN or word.lower in ("one", "ones"):
            return gap != "," or begins_with_modifier(word) or follows_article(words, at)
        if position + 1 < len(words) and words[position + 1].gap == "-":
            continue  # the first part of a compound: "pedal-pushers"
        if word.role == DETERMINER and not after_conjunction:
            return False
        if not is_participle(word) and word.role not in (ADJECTIVE, CONJUNCTION, ADVERB, NUMBER, DETERMINER):
            return False
        if word.kind in ("view", "motion", "direction"):
            return False
        after_conjunction = word.role == CONJUNCTION or gap == "&"
    return False


def is_participle(word: Word) -> bool:
    """Return whether an unlisted verb may stand before a noun as an adjective ("black framed glasses", "close fitting top")."""
    if word.kind is not None or word.role != VERB or word.lower in function_words():
        return False
    return facts_of_word(word.lower, False).tag in ("VBN", "VBD", "VBG")


def begins_with_modifier(word: Word) -> bool:
    """Return whether a listed noun phrase begins with a modifier of its own: "sleeveless shirt"."""
    first = word.lower.split()[0]
    return first != word.lower and role_of(first, facts_of_word(first, True).kind) == ADJECTIVE


def follows_article(words: list[Word], at: int) -> bool:
    """Return whether "a" or "an" opens the row of modifiers that a word is in."""
    for position in range(at - 1, max(-1, at - 5), -1):
        if words[position].lower in ("a", "an"):
            return True
        if words[position].role not in (ADJECTIVE, CONJUNCTION, ADVERB):
            return False
    return False


def is_predicate(words: list[Word], at: int) -> bool:
    """Return whether a modifier is said of a noun before it: "her hair is long and black", "the top black"."""
    for position in range(at - 1, max(-1, at - 8), -1):
        gap = words[position + 1].gap.strip()
        if gap not in ("", "-", ",", "/", "'"):
            return False
        word = words[position]
        if word.lower in LINKING and word.kind is None:
            return True
        if word.role == NOUN:
            return position == at - 1 and gap == "" and word.kind != "pattern"
        if word.role not in (ADJECTIVE, CONJUNCTION, ADVERB):
            return False
    return False


def is_possessive(words: list[Word], at: int) -> bool:
    """Return whether "her" at this place stands before what she has; else it is an object ("behind her", "her walking")."""
    after = word_after(words, at)
    if after is None:
        return False
    if after.kind in (*WORN, "part", "item", "hair", "place"):
        return True
    return after.role not in OBJECT_ENDS and after.role != DETERMINER
