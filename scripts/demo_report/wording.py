"""The sections on what captions say and how: styles, one pedestrian in several styles, diversity, facts.

Takes what the script worked out (what was drawn, what a caption claims) as plain records; knows no world and no captioner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ham.report.page import Section, note, number, picture, plural, table, text
from ham.report.style_map import NAMES, View
from scripts.demo_report.charts import Series, bars, line_chart, point_map

SCHEME_COLOURS = {"kmeans": 0, "ups": 1, "dbscan": 2}
SOURCE_COLOURS = {"static": 4, "template": 5, "HAM": 0, "humans": 2}  # the names of Wording.source
SOURCES = tuple(SOURCE_COLOURS)


@dataclass(frozen=True)
class Voice:
    """One caption in one style. wrong: its claims that do not hold. human: a caption that the style was learned from."""

    style_id: int
    caption: str
    claims: int
    wrong: Sequence[str]
    human: str


@dataclass(frozen=True)
class Portrait:
    """One pedestrian described in several styles. shows: what was drawn, in words."""

    image: Path
    shows: Sequence[str]
    voices: Sequence[Voice]


@dataclass(frozen=True)
class Wording:
    """One source of captions of the pool, measured on equally many captions.

    source: static | template | HAM | humans. diversity: as ham.generation.diversity.measure gives it. facts: precision, recall
    and f1 against the truth, percent.
    """

    source: str
    diversity: Mapping[str, Any]
    facts: Mapping[str, float]


def styles_section(styles: Mapping[str, Any], view: View) -> Section:
    """Show the map of captions and style centres, the clusters' sizes and their coverage."""
    centres = {NAMES[name]: places for name, places in view.centres.items()}
    colours = {NAMES[name]: SCHEME_COLOURS[name] for name in view.centres}
    sizes = [
        Series(NAMES[name], np.arange(1, len(sizes) + 1), np.sort(sizes)[::-1], SCHEME_COLOURS[name])
        for name, sizes in view.sizes.items()
    ]
    counts = styles["counts"]
    schemes = " and ".join(
        f"{end - first} by {NAMES[name]}" for name, (first, end) in styles["schemes"].items()
    )
    outside = "; ".join(
        f"{count} of {len(view.centres[name])} {NAMES[name]} centres lie beyond every caption"
        for name, count in view.outside.items()
    )
    body = (
        '<div class="grid">'
        + point_map(view.points, centres, colours, "Captions and centres, close by", around_points=True)
        + point_map(view.points, centres, colours, "As far as the centres reach", around_points=False)
        + line_chart(sizes, "Sizes of the styles", "styles, the largest first", "captions", from_zero=True)
        + "</div>"
        + table(
            ["scheme", "styles", "smallest", "largest", "captions covered, %", "styles per caption"],
            [
                [
                    NAMES[name],
                    len(sizes),
                    int(sizes.min()),
                    int(sizes.max()),
                    100 * float((view.times_covered[name] > 0).mean()),
                    float(view.times_covered[name].mean()),
                ]
                for name, sizes in view.sizes.items()
            ],
        )
        + note(
            f"Both maps show the plane of the two first principal components, {view.explained_pct:.0f} % of the "
            f"variance. On it, {outside}."
        )
    )
    return Section(
        "The styles",
        "It makes the attributes in every human caption vague, so that only the manner is left, and clusters the features of "
        "what remains: KMeans finds the frequent manners, UPS (uniform prototype sampling) reaches for the rare ones.",
        f"{plural(counts['captions'], 'caption')} of {' and '.join(styles['datasets'])} gave "
        f"{plural(counts['styles'], 'style')}: {schemes}. "
        + (
            f"{plural(counts['captions_without_style'], 'caption')} in no style."
            if counts["captions_without_style"]
            else "Every caption is in at least one."
        ),
        body,
    )


def portrait_section(portrait: Portrait, prompt: str) -> Section:
    """Show one pedestrian in several styles, each beside a human caption of that style."""
    claims, wrong = (
        sum(values) for values in zip(*((voice.claims, len(voice.wrong)) for voice in portrait.voices))
    )
    voices = "".join(_voice(voice) for voice in portrait.voices)
    body = (
        f'<div class="portrait"><figure>{picture(portrait.image, "the pedestrian described", (336, 800))}'
        f"<figcaption class=note>Drawn: {text(', '.join(portrait.shows))}.</figcaption></figure>"
        f'<div class="voices">{voices}</div></div>'
    )
    return Section(
        "One pedestrian, several manners",
        "At captioning time it puts the ten learned tokens of a randomly drawn style before the instruction; the picture and "
        "the instruction stay the same.",
        f"One image of the pool, drawn at random, in {len(portrait.voices)} styles, drawn at random too, all asked with "
        f"“{prompt.rstrip('.')}”. {claims - wrong} of {plural(claims, 'claim')} about the person hold. In grey, for the "
        "manner: what a human of that style wrote about somebody else.",
        body,
    )


def _voice(voice: Voice) -> str:
    right = voice.claims - len(voice.wrong)
    verdict = (
        f'<span class="{"bad" if voice.wrong else "good"}">{right} of {plural(voice.claims, "claim")} right</span>'
        if voice.claims
        else "no claims found"
    )
    wrong = f"; wrong: {text(', '.join(voice.wrong))}" if voice.wrong else ""
    return (
        f'<div class="voice"><div><blockquote>{text(voice.caption)}</blockquote><small>style {voice.style_id} · '
        f'{verdict}{wrong}</small></div><div class="human">{text(voice.human)}</div></div>'
    )


def diversity_section(wordings: Sequence[Wording], how_to_add: Mapping[str, str]) -> Section:
    """Compare the sources' distinct-1/2, self-BLEU and lengths. how_to_add: what makes each source that is missing."""
    rows = {one.source: one.diversity for one in wordings}

    def chart(
        title: str, words: str, key: str, top: float | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        return bars(
            title, words, {source: row.get(key) for source, row in rows.items()}, SOURCE_COLOURS, top, labels
        )

    spans = {source: f"{number(row['words_mean'])}" for source, row in rows.items() if "words_mean" in row}
    body = (
        '<div class="grid">'
        + "".join(
            [
                chart("Distinct-1, %", "different words among all words; more is more varied", "distinct_1"),
                chart(
                    "Distinct-2, %",
                    "different pairs of words among all pairs; more is more varied",
                    "distinct_2",
                ),
                chart(
                    "Self-BLEU, %",
                    "how far the other captions contain a caption; less is more varied",
                    "self_bleu",
                    100,
                ),
                chart(
                    "Different captions, %",
                    "captions that no other repeats word for word count once each",
                    "different",
                    100,
                ),
                chart("Words in a caption", "the mean", "words_mean", None, spans),
                bars(
                    "Spread of lengths, words",
                    "from the 5th to the 95th percentile",
                    {
                        source: row["words_p95"] - row["words_p5"] if "words_p95" in row else None
                        for source, row in rows.items()
                    },
                    SOURCE_COLOURS,
                    None,
                    {
                        source: f"{row['words_p5']}–{row['words_p95']}"
                        for source, row in rows.items()
                        if "words_p95" in row
                    },
                ),
            ]
        )
        + "</div>"
    )
    ham, humans = rows["HAM"], rows["humans"]
    count = humans["captions"]
    here = f"Measured on {plural(count, 'caption')} of the same pool from each source"
    if "distinct_2" in ham and "distinct_2" in humans:
        here += (
            f": distinct-2 is {number(ham['distinct_2'])} for HAM captions and {number(humans['distinct_2'])} for humans'"
            + (f", {number(rows['static']['distinct_2'])} for static ones" if "static" in rows else "")
        )
    here += "." + "".join(f" No {source} captions in this run: {how}." for source, how in how_to_add.items())
    return Section(
        "How varied the captions are",
        "One instruction makes one manner (static), and instructions with a template to follow make a few dozen; the learned "
        "styles are to be as varied as the humans whom they model.",
        here,
        body,
    )


def facts_section(wordings: Sequence[Wording]) -> Section:
    """Compare how much of what the sources' captions say is true, and how much of the truth they say."""
    rows = {one.source: one.facts for one in wordings}
    words = {
        "precision": "claims that hold, of all claims",
        "recall": "told, of all that is worth telling",
        "f1": "the harmonic mean of both",
    }
    body = (
        '<div class="grid">'
        + "".join(
            bars(
                f"{'F1' if key == 'f1' else key.capitalize()}, %",
                meant,
                {source: row[key] for source, row in rows.items()},
                SOURCE_COLOURS,
                100,
            )
            for key, meant in words.items()
        )
        + "</div>"
    )
    said = {source: (number(row["precision"]), number(row["recall"])) for source, row in rows.items()}
    body += note(
        "A parser reads the attributes (garments, colours, hair, bags, what the person does) back from each caption "
        "and compares them with what was drawn and can be seen. Recall counts what is worth telling: no hat, say, is "
        "not. Humans leave things out, so that theirs is the recall to reach."
    )
    return Section(
        "How true the captions are",
        "The content is to come from the image and only the manner from the style. It judges captions by the retrieval that "
        "they teach, since real images carry no record of what they show; drawn ones do.",
        f"HAM captions are right in {said['HAM'][0]} % of their claims and tell {said['HAM'][1]} % of what is worth telling; "
        f"humans {said['humans'][0]} % and {said['humans'][1]} %"
        + (f"; static captions {said['static'][0]} % and {said['static'][1]} %" if "static" in said else "")
        + ".",
        body,
    )
