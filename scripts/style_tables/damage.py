"""Table of broken places in neutral texts: patterns of what a neutralizer gets wrong, found where no human would write so.

A pattern looks for general words in a place that the original's words could not have: "a color, certain garment", "one moves
the the", "side the". Patterns are of the neutral text, so they also count what the writer already got wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ham.style.neutral import NeutralText

NOUN = r"(?:garment|item|part|pattern|person|people|thing|place)s?"
MODIFIER = r"(?:certain|colored)"
DETERMINER = r"(?:an?|the|their|two)"
VERB = r"(?:move|moves|moving|moved|looking|looks)"

BROKEN = {
    "adjective became a noun": rf"\b{DETERMINER} color(?:,? (?:and (?:an? )?)?{MODIFIER}|,? {NOUN}| over| one)\b"
    rf"|\bcolor (?:{MODIFIER} )*{NOUN}\b|\bcolor, (?:{MODIFIER},? )*{MODIFIER} {NOUN}\b",
    "preposition or adverb replaced": rf"\b{VERB} side\b(?! on)|\bside (?:an?|the|their|it|us|them|from)\b"
    r"|\bside on (?:from|the|their)\b",
    "verb for a noun": rf"\b(?:{DETERMINER}|{MODIFIER}) (?:move|moves|moved)\b(?! {NOUN})",
    "degree became a size": r"\ba certain (?:bit|more|less|too)\b",
    "run of persons": r"\b(?:person|people) (?:certain )?(?:person|people)\b",
    "modifier without a noun": rf"\b(?:an?|the) {MODIFIER}(?:(?: and|,)? {MODIFIER})* "
    r"(?:is|are|has|with|of|on|in|to|while|carrying|wearing|holding|over|under)\b",
    "word twice": rf"\b({NOUN}|{MODIFIER}) \1\b",
    "article": rf"\ba item\b|\ban (?:{MODIFIER}|garment|part|pattern|person|thing|place)\b",
}
CAPITAL = re.compile(r"[a-z,] (?:Garment|Item|Part|Pattern|Person|People|Thing|Place|Certain|Colored)")
# Capitals that are no choice of the writer: T-shirt, proper adjectives, brands.
FREE_CAPITALS = re.compile(
    r"\b(?:[A-Z]-\w+|Asian|African|American|Caucasian|Indian|Chinese|Hispanic|Muslim|European)\b"
)


def broken_places(row: NeutralText) -> list[str]:
    """Return the kinds of broken places in a neutral text."""
    found = [name for name, pattern in BROKEN.items() if re.search(pattern, row.neutral)]
    own_capital = re.search(r"[a-z,] [A-Z]", FREE_CAPITALS.sub("x", row.caption))
    if CAPITAL.search(row.neutral) and not own_capital:
        found.append("capital inside a sentence")
    return found


def damage_rows(rows: Sequence[NeutralText]) -> Iterator[list[str]]:
    """Yield a row per kind of broken place and one for any: percent of the captions that have it."""
    kinds = [broken_places(row) for row in rows]
    counts = Counter(kind for found in kinds for kind in found)
    for name in [*BROKEN, "capital inside a sentence"]:
        yield [name, "", f"{100 * counts[name] / len(rows):.2f}"]
    yield ["any", "", f"{100 * sum(map(bool, kinds)) / len(rows):.2f}"]


def example_lines(rows: Sequence[NeutralText]) -> Iterator[str]:
    """Yield the original and the neutral text of every caption with a broken place, for reading."""
    for row in rows:
        kinds = broken_places(row)
        if kinds:
            yield f"{', '.join(kinds)}\n  {row.caption.strip()}\n  {row.neutral.strip()}\n"
