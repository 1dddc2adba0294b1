"""Neutralisers: replace the words that tell who a person is by general ones, so that what stays is how a caption is said.

    lexicon   reviewed word lists and a part-of-speech tagger that ships its data: offline, thousands of captions per second
    llm       an instruction-tuned language model, as in the paper (llm_neutral.py)
    none      the caption as it is

Every neutraliser maps captions to as many `NeutralText`; `neutralise_cached` asks nothing twice, also after a restart.
Source: HAM, section 3.2 (style features from captions whose attribute words were replaced).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ham.records import to_json_line
from ham.runtime import UsageError, log, progress
from ham.style.lexicon import GENERAL, MODIFIERS, NOUNS, PRONOUNS, facts_of_word, lexicon, tag_of

TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|\s+|.", re.DOTALL)
JOINS = (" ", "-")  # what may stand between the words of one phrase
BE = frozenset(
    (
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "am",
        "look",
        "looks",
        "seem",
        "seems",
        "appear",
        "appears",
    )
)


@dataclass(frozen=True)
class NeutralText:
    """A caption and its neutral text. status: ok, or fallback with a reason where a language model's answer was refused."""

    caption: str
    neutral: str
    status: str = "ok"
    reason: str | None = None


class Unit:
    """A stretch of the caption: a word, a phrase of the lists (with kind and form), or what stands between words."""

    __slots__ = ("form", "is_word", "kind", "text")

    def __init__(self, text: str, is_word: bool, kind: str | None = None, form: str | None = None) -> None:
        self.text, self.is_word, self.kind, self.form = text, is_word, kind, form


Neutraliser = Callable[[Sequence[str]], list[NeutralText]]


def keep(captions: Sequence[str]) -> list[NeutralText]:
    """Leave captions as they are (the neutraliser `none`)."""
    return [NeutralText(caption, caption) for caption in captions]


def lexicon_neutraliser(generalize: bool = True) -> Neutraliser:
    """Make the neutraliser `lexicon`; generalize: also replace nouns and adjectives that no word list knows."""
    return lambda captions: [NeutralText(caption, neutral_text(caption, generalize)) for caption in captions]


def neutral_text(caption: str, generalize: bool = True) -> str:
    """Replace a caption's identity words by general words of the same kind and form.

    "A woman in a navy blue jacket" -> "A person in a coloured top". Spelling, case, punctuation and word order stay; runs of
    modifiers of one kind and compounds of listed nouns become one word; a and an follow the word after them.
    generalize: nouns and adjectives (by the tagger) in no list become "thing", "things", "certain", unless keep.txt has them.
    """
    return render(merge_runs(split_units(caption, generalize)))


# ----------------------------------------------------------------------------------------------------------- three passes


def split_units(caption: str, generalize: bool) -> list[Unit]:
    """Cut a caption into units; the longest phrase of the lists wins. Joined, their texts are the caption."""
    tokens = TOKEN.findall(caption)
    units: list[Unit] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if not token[0].isalpha():
            units.append(Unit(token, False))
            at += 1
            continue
        word = token.lower()
        longest, kind, form = facts_of_word(word, generalize)
        step = 1
        for count in range(longest, 1, -1):
            end = at + 2 * count - 1
            if end <= len(tokens) and all(join in JOINS for join in tokens[at + 1 : end : 2]):
                found = lexicon().phrases.get(" ".join(tokens[at:end:2]).lower())
                if found:
                    (kind, form), step = found, end - at
                    break
        units.append(Unit(token if step == 1 else "".join(tokens[at : at + step]), True, kind, form))
        at += step
    return units


def merge_runs(units: list[Unit]) -> list[Unit]:
    """Make one unit of neighbours that say one thing: modifiers of one kind ("dark navy"), noun compounds ("suit jacket").

    How many words a shade or a garment takes would tell which it is. The last unit stays, with the first one's case.
    """
    merged: list[Unit] = []
    for unit in units:
        while unit.kind and len(merged) >= 2 and merged[-1].text in JOINS and one_thing(merged[-2], unit):
            unit = Unit(with_case_of(merged[-2].text, unit.text), True, unit.kind, unit.form)
            del merged[-2:]
        merged.append(unit)
    return merged


def one_thing(first: Unit, second: Unit) -> bool:
    """Tell whether two neighbours are a run: see merge_runs. A person is never part of a compound."""
    if first.kind in MODIFIERS:
        return first.kind == second.kind
    return first.kind in COMPOUND and second.kind in COMPOUND


COMPOUND = frozenset(NOUNS) - {"person", "colour_noun"} | {"thing"}


def render(units: list[Unit]) -> str:
    """Write units with general words, and let "a" or "an" before them agree."""
    texts = [unit.text for unit in units]
    for at, unit in enumerate(units):
        if unit.kind is not None:
            texts[at] = with_case_of(unit.text, general_word(units, at))
        elif unit.is_word and unit.text.lower() in PRONOUNS:
            nominal = unit.text.lower() == "her" and is_nominal(following(units, at))
            texts[at] = with_case_of(unit.text, "one's" if nominal else PRONOUNS[unit.text.lower()])
        else:
            continue
        if at >= 2 and units[at - 1].text == " " and units[at - 2].text.lower() in ("a", "an"):
            article = (
                "an" if texts[at][0].lower() in "aeiou" and not texts[at].lower().startswith("one") else "a"
            )
            texts[at - 2] = with_case_of(units[at - 2].text, article)
    return "".join(texts)


# --------------------------------------------------------------------------------------------------------------- one word


def general_word(units: list[Unit], at: int) -> str:
    """Give the general word for a unit of the lists; colours and materials are modifiers or nouns by what stands around."""
    unit = units[at]
    if unit.kind == "thing":
        return {"singular": "thing", "plural": "things"}[unit.form]
    forms = GENERAL[unit.kind]
    if unit.kind in MODIFIERS:
        before = next(
            (other.text.lower() for other in reversed(units[max(0, at - 2) : at]) if other.is_word), ""
        )
        return forms["modifier" if is_nominal(following(units, at)) or before in BE else "else"]
    return forms[unit.form]


def following(units: list[Unit], at: int) -> Unit | None:
    """Give the word right after a unit (a blank or hyphen between, "and" skipped), None at a comma or the end."""
    if at + 2 >= len(units) or units[at + 1].text not in JOINS or not units[at + 2].is_word:
        return None
    return following(units, at + 2) if units[at + 2].text.lower() in ("and", "or") else units[at + 2]


def is_nominal(unit: Unit | None) -> bool:
    """Tell whether a word is a noun or an adjective, by the lists or else by the tagger."""
    if unit is None:
        return False
    if unit.kind is not None:
        return unit.kind != "action"
    return tag_of(unit.text.lower())[:2] in ("NN", "JJ")


def with_case_of(original: str, word: str) -> str:
    """Give `word` the case of the word that it replaces: JACKET -> TOP, Jacket -> Top."""
    if original[:1].isupper():
        return word.upper() if len(original) > 1 and original.isupper() else word[:1].upper() + word[1:]
    return word


# ------------------------------------------------------------------------------------------------------------------ cache


def neutralise_cached(
    captions: Sequence[str], neutraliser: Neutraliser, cache: Path, batch_size: int = 256
) -> list[NeutralText]:
    """Neutralise captions, each distinct one once; `cache` (JSON lines) grows batch by batch and is asked first.

    Returns one NeutralText per caption, in order. A torn last line, left by a killed run, is asked again.
    """
    known = read_cache(cache)
    wanted = [caption for caption in dict.fromkeys(captions) if caption not in known]
    if wanted:
        log.info("neutral text: %d captions to do, %d known", len(wanted), len(known))
        cache.parent.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(wanted), batch_size)
        with cache.open("a", encoding="utf-8") as file:
            for start in progress(starts, what="neutral text", unit=f"x{batch_size} captions"):
                rows = neutraliser(wanted[start : start + batch_size])
                file.writelines(to_json_line(row) for row in rows)
                file.flush()
                known.update((row.caption, row) for row in rows)
    return [known[caption] for caption in captions]


def read_cache(cache: Path) -> dict[str, NeutralText]:
    """Read the cache of an earlier run, dropping a torn last line from the file. Raises UsageError on other damage."""
    if not cache.exists():
        return {}
    *lines, torn = cache.read_bytes().split(b"\n")  # not splitlines: captions may hold other line separators
    if torn:
        with cache.open("r+b") as file:
            file.truncate(file.seek(0, 2) - len(torn))
    try:
        rows = [NeutralText(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{cache}: damaged cache of neutral texts: {error}; delete the file to ask again"
        ) from None
    return {row.caption: row for row in rows}
