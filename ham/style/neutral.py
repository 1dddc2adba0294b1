"""Neutralizers: replace the words that describe a person by general ones, so that what stays is how a caption is written.

    lexicon   reviewed word lists and a part-of-speech tagger that ships its data: offline, thousands of captions per second
    llm       an instruction-tuned language model, as in the paper (llm_neutral.py)
    none      the caption as it is

Every neutralizer maps captions to as many `NeutralText`.
Source: HAM, section 3.2 (style features from captions whose attribute words were replaced).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ham.style.context import Word, is_attributive, is_possessive, is_predicate
from ham.style.lexicon import GENERAL, MODIFIERS, NOUNS, PRONOUNS, facts_of_word, lexicon
from ham.style.part_of_speech import resolve

WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
COMPOUND = frozenset(NOUNS) - {"person", "color_noun"}  # nouns that form compounds ("suit jacket")


@dataclass(frozen=True)
class NeutralText:
    """A caption and its neutral text. status: ok, or fallback with a reason where a language model's answer was refused."""

    caption: str
    neutral: str
    status: str = "ok"
    reason: str | None = None


Neutralizer = Callable[[Sequence[str]], list[NeutralText]]


def keep(captions: Sequence[str]) -> list[NeutralText]:
    """Return captions as they are (the neutralizer `none`)."""
    return [NeutralText(caption, caption) for caption in captions]


def lexicon_neutralizer(generalize: bool = True) -> Neutralizer:
    """Return the neutralizer `lexicon`; generalize: also replace nouns and adjectives that no word list knows."""
    return lambda captions: [NeutralText(caption, neutral_text(caption, generalize)) for caption in captions]


def neutral_text(caption: str, generalize: bool = True) -> str:
    """Return a caption with its descriptive words replaced by general words of the same kind and form.

    "A woman in a navy blue jacket" -> "A person in a colored garment". Spelling, case, punctuation and word order stay; runs of
    modifiers of one kind and compounds of listed nouns become one word; a and an follow the word after them.
    generalize: nouns and adjectives (by the tagger) in no list become "thing", "things", "certain", unless keep.txt has them.
    """
    words, tail = split_words(caption, generalize)
    resolve(words)
    return render(merge_runs(words)) + tail


# ----------------------------------------------------------------------------------------------------------- three passes


def split_words(caption: str, generalize: bool) -> tuple[list[Word], str]:
    """Split a caption into words and phrases of the lists (the longest wins); also return what follows the last word."""
    spans = [(match.start(), match.end()) for match in WORD.finditer(caption)]
    texts = [caption[start:end] for start, end in spans]
    lowers = [text.lower() for text in texts]
    gaps = [caption[end:start] for (_, end), (start, _) in zip([(0, 0), *spans], spans)]
    words: list[Word] = []
    at = 0
    while at < len(texts):
        facts = facts_of_word(lowers[at], generalize)
        kind, form, count = facts.kind, facts.form, 1
        if facts.longest > 1:
            count, found = longest_phrase(lowers, gaps, at, facts.longest)
            if found is not None:
                kind, form = found
        end = at + count
        text = texts[at] if count == 1 else caption[spans[at][0] : spans[end - 1][1]]
        lower = lowers[at] if count == 1 else " ".join(lowers[at:end])
        words.append(Word(gaps[at], text, lower, kind, form, facts.is_listed or count > 1))
        at = end
    return words, caption[spans[-1][1] :] if spans else caption


def longest_phrase(
    lowers: list[str], gaps: list[str], at: int, longest: int
) -> tuple[int, tuple[str, str] | None]:
    """Return how many words the longest listed phrase of two or more words at this place has, and its kind and form."""
    phrases = lexicon().phrases
    for count in range(min(longest, len(lowers) - at), 1, -1):
        if not all(gap == "-" or gap.isspace() for gap in gaps[at + 1 : at + count]):
            continue
        found = phrases.get(" ".join(lowers[at : at + count]))
        if found is None or (found[0] == "view" and begins_noun_phrase(lowers, gaps, at, count)):
            continue
        return count, found
    return 1, None


def begins_noun_phrase(lowers: list[str], gaps: list[str], at: int, count: int) -> bool:
    """Return whether "from the left" goes on as a noun phrase: "from the left shoulder"."""
    end = at + count
    if lowers[at] != "from" or end >= len(lowers) or gaps[end] != " ":
        return False
    return facts_of_word(lowers[end], True).kind in NOUNS


def merge_runs(words: list[Word]) -> list[Word]:
    """Merge neighbors that describe one thing: modifiers of one kind ("dark navy"), compounds ("suit jacket"), persons.

    How many words a color or a garment takes would reveal which it is. The last word stays, at the place and with the case of
    the first. "adult Asian male" is one person.
    """
    merged: list[Word] = []
    for word in words:
        while word.kind and merged and word.is_joined and one_thing(merged[-1], word):
            first = merged.pop()
            text = (
                word.text if first.kind == "thing" else first.text
            )  # a brand's capital is no choice of the writer
            word = Word(first.gap, text, first.lower, word.kind, word.form)
        if word.kind == "person" and is_described_person(merged, word):
            merged.pop()
            first = merged.pop()
            word = Word(first.gap, first.text, first.lower, word.kind, word.form)
        merged.append(word)
    return merged


def is_described_person(words: list[Word], word: Word) -> bool:
    """Return whether a person and a quality stand right before a person: "adult Asian male"."""
    if len(words) < 2 or not (word.is_joined and words[-1].is_joined):
        return False
    return words[-1].kind == "quality" and words[-2].kind == "person"


def one_thing(first: Word, second: Word) -> bool:
    """Return whether two neighbors are a run: see merge_runs. A person is never part of a compound of things."""
    if first.kind in MODIFIERS or first.kind == "person":
        return first.kind == second.kind
    return first.kind in COMPOUND and second.kind in COMPOUND


def render(words: list[Word]) -> str:
    """Write words with their general words, and let "a" or "an" before them agree."""
    texts = [word.text for word in words]
    for at, word in enumerate(words):
        if word.kind is not None:
            general = general_word(words, at)
        elif word.lower in PRONOUNS:
            general = "their" if word.lower == "her" and is_possessive(words, at) else PRONOUNS[word.lower]
        else:
            continue
        texts[at] = (
            with_case_of(word.text, general, starts_sentence(words, at))
            if word.text[0].isupper()
            else general
        )
        if at and word.gap == " " and words[at - 1].lower in ("a", "an"):
            vowel = general[0] in "aeiou" and not general.startswith("one")
            texts[at - 1] = with_case_of(words[at - 1].text, "an" if vowel else "a", True)
    return "".join(word.gap + text for word, text in zip(words, texts))


# --------------------------------------------------------------------------------------------------------------- one word


def general_word(words: list[Word], at: int) -> str:
    """Return the general word of a listed word; whether a color or a material is a noun depends on its neighbors."""
    word = words[at]
    forms = GENERAL[word.kind or ""]
    if word.kind not in MODIFIERS:
        return forms[word.form or ""]
    if forms["modifier"] == forms["else"] or is_attributive(words, at) or is_predicate(words, at):
        return forms["modifier"]
    return forms["else"]


def starts_sentence(words: list[Word], at: int) -> bool:
    """Return whether a word is the first of its sentence or of a list entry."""
    return at == 0 or any(mark in words[at].gap for mark in ".!?:\n")


def with_case_of(original: str, word: str, starts_sentence: bool = True) -> str:
    """Return `word` in the case of the word that it replaces: JACKET -> GARMENT, Jacket -> Garment.

    Capitals that are no choice of the writer (T-shirt, V-neck, Asian) are kept at the start of a sentence only.
    """
    if not original[:1].isupper():
        return word
    if len(original) > 1 and original.isupper():
        return word.upper()
    if not starts_sentence and (
        original[1:2] in ("-", " ") or original.lower().replace("-", " ") in lexicon().proper
    ):
        return word
    return word[:1].upper() + word[1:]
