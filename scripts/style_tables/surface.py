"""Table of what captions look like on the surface: real ones beside the simulated ones that stand in for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from ham.runtime import numpy_generator
from scripts.style_tables.captions import words_of

COLOR = r"(?:black|white|gr[ae]y|red|blue|green|yellow|brown|pink|purple|orange|beige|tan|navy)"
SHARES = {
    "hedges (seems, appears, probably ...), %": r"\b(?:seems?|appears?|probably|possibly|maybe|perhaps|might|looks like)\b",
    '"In this picture ..." openings, %': r"^\W*(?:in|here|there|this|the)\b[^.,]{0,12}\b(?:picture|photo|image|pic|shot)\b",
    "lower-case start, %": r"^\W*[a-z]",
    "left or right, %": r"\b(?:left|right)\b",
    "two-color things, %": rf"\b{COLOR} (?:and|&) {COLOR}\b",
    "dress, blouse, vest, belt, watch, socks, scarf, tie, leggings, %": (
        r"\b(?:dress|blouse|vest|belt|watch|socks?|scarf|tie|leggings)\b"
    ),
    "colon lists, %": r"^\W*\w+: .*\w+: ",
    "first person, %": r"\b(?:i|my|me|we|us)\b",
    "double blanks, %": r"\S  +\S",
    "blank before a stop, %": r" [.,;]",
}
CASE_MATTERS = ("lower-case start, %",)
SAMPLE_WORDS = 20_000  # for distinct-1 and distinct-2, which fall as a text grows


def surface_rows(real: Sequence[str], simulated: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield a row per figure: its name, the real captions', each simulated group's, and the first group's ratio to the real.

    The ratio is "-" where the real figure is 0.
    """
    figures = surface_figures(real)
    others = [surface_figures(group) for group in simulated]
    for name, value in figures.items():
        ratio = f"{others[0][name] / value:.2f}" if value else "-"
        yield [name, number(value), *(number(other[name]) for other in others), ratio]


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.3f}".rstrip("0").rstrip(".")
    )


def surface_figures(captions: Sequence[str]) -> dict[str, float]:
    """Return the figures of a set of captions by name. Empty captions must be left out before."""
    words = [words_of(caption) for caption in captions]
    lengths = np.array([len(row) for row in words])
    sentences = [len(re.findall(r"[^.!?]*\w[^.!?]*", caption)) for caption in captions]
    counts = Counter(word for row in words for word in row)
    sample = sample_of_words(words)
    found = {
        "words, mean": float(lengths.mean()),
        "words, deviation": float(lengths.std()),
        **{f"words, {percent} %": float(np.percentile(lengths, percent)) for percent in (5, 50, 95)},
        "sentences": float(np.mean(sentences)),
    }
    found |= {name: 100 * share(captions, pattern, name in CASE_MATTERS) for name, pattern in SHARES.items()}
    found["all capitals, %"] = 100 * mean_of(captions, str.isupper)
    openings = Counter(tuple(row[:3]) for row in words)
    found["ten commonest three-word openings, %"] = (
        100 * sum(count for _, count in openings.most_common(10)) / len(captions)
    )
    found["vocabulary"] = len(counts)
    found["vocabulary used once"] = sum(count == 1 for count in counts.values())
    found["distinct-1 of 20,000 words"] = len(set(sample)) / max(len(sample), 1)
    pairs = list(pairwise(sample))
    found["distinct-2 of 20,000 words"] = len(set(pairs)) / max(len(pairs), 1)
    return found


def share(captions: Sequence[str], pattern: str, case_matters: bool = False) -> float:
    """Return the share of captions in which a pattern occurs."""
    compiled = re.compile(pattern, 0 if case_matters else re.IGNORECASE)
    return mean_of(captions, lambda caption: compiled.search(caption) is not None)


def mean_of(captions: Sequence[str], holds: Callable[[str], bool]) -> float:
    """Return the share of captions for which something holds."""
    return float(np.mean([holds(caption) for caption in captions]))


def sample_of_words(words: Sequence[list[str]]) -> list[str]:
    """Return the first SAMPLE_WORDS words of the captions in a fixed random order."""
    order = numpy_generator(0, "surface").permutation(len(words))
    found: list[str] = []
    for row in order:
        if len(found) >= SAMPLE_WORDS:
            break
        found += words[row]
    return found[:SAMPLE_WORDS]
