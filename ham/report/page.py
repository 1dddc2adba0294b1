"""The parts that every section of the report is made of: text, tables, pictures inside the page, sections, the page itself.

All of them escape what they are given; only arguments named `body` are HTML already.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.images import ImageError, open_image
from ham.report.look import CSS

THUMB_PX, QUALITY = (220, 320), 82  # most width and height of a picture inside the page; JPEG


@dataclass(frozen=True)
class Section:
    """One section. paper: what the paper does there. here: what this run measured. body: the HTML below both."""

    title: str
    paper: str
    here: str
    body: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(title: str, head: str, sections: Sequence[Section], foot: str) -> str:
    """Put the page together. head: the HTML above the sections. foot: the closing line, text."""
    links = "".join(f'<li><a href="#{one.anchor}">{text(one.title)}</a></li>' for one in sections)
    bodies = "\n".join(
        f'<section id="{one.anchor}"><h2>{text(one.title)}</h2><dl class="told"><dt>The paper</dt><dd>{text(one.paper)}</dd>'
        f"<dt>This run</dt><dd>{text(one.here)}</dd></dl>\n{one.body}</section>"
        for one in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f'<style>{CSS}</style></head>\n<body><header>{head}</header>\n<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f"<main>{bodies}</main>\n<footer><p>{text(foot)}</p></footer></body></html>\n"
    )


def text(value: Any) -> str:
    """Give anything as escaped text."""
    return html.escape(str(value))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], styles: Mapping[int, str] | None = None
) -> str:
    """Lay rows out under columns: words to the left, numbers to the right; None is a dash.

    A row of one cell is a heading over the rows below it. styles: the class of a row by its place, `strong` or `pale`.
    """
    rows = [list(row) for row in rows]
    whole = [row for row in rows if len(row) > 1]
    numeric = [
        bool(whole) and all(row[place] is None or isinstance(row[place], int | float) for row in whole)
        for place in range(len(columns))
    ]

    def cell(tag: str, value: Any, place: int) -> str:
        said = (
            "–"
            if value is None
            else f"{value:.2f}"
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else str(value)
        )
        return f"<{tag}{' class=n' if numeric[place] else ''}>{text(said)}</{tag}>"

    head = "".join(cell("th", column, place) for place, column in enumerate(columns))
    lines = []
    for place, row in enumerate(rows):
        if len(row) == 1 < len(columns):
            lines.append(
                f"<tr><th colspan={len(columns)} class=group scope=colgroup>{text(row[0])}</th></tr>"
            )
            continue
        kind, cells = (
            (styles or {}).get(place),
            "".join(cell("td", value, at) for at, value in enumerate(row)),
        )
        lines.append(f"<tr class={kind}>{cells}</tr>" if kind else f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(rows: Mapping[str, Any]) -> str:
    """Give a list of names and what they are."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(said)}</dd>" for name, said in rows.items())
    return f'<dl class="facts">{lines}</dl>'


def figures(rows: Sequence[tuple[str, str]]) -> str:
    """Give a row of large figures, each with the words below it."""
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{text(value)}</b><span>{text(said)}</span></div>" for value, said in rows)
        + "</div>"
    )


def note(words: str) -> str:
    return f'<p class="note">{text(words)}</p>'


def picture(path: str | Path, words: str, size_px: tuple[int, int] = THUMB_PX) -> str:
    """Give an image element with the picture inside, as JPEG of at most size_px; a file that gives none becomes words."""
    try:
        image = open_image(path)
    except ImageError as error:
        return f'<span class="lost" role="img" aria-label="{text(words)}">no picture: {text(error.reason.split(":")[0])}</span>'
    image.thumbnail(size_px)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    coded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="{text(words)}" width="{image.width}" height="{image.height}" '
        f'src="data:image/jpeg;base64,{coded}">'
    )


def plural(count: int, one: str, many: str | None = None) -> str:
    """Count things in words: "1 image", "1,200 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Give a time for people: 8 s, 12 min 5 s, 1 h 4 min."""
    seconds = round(seconds) if seconds >= 10 else round(seconds, 1)
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def moved(start: float, end: float) -> str:
    """Say how a figure moved: "rose from 3.10 to 9.40"."""
    verb = "stayed at" if number(start) == number(end) else "rose from" if end > start else "fell from"
    return f"{verb} {number(start)}" if verb == "stayed at" else f"{verb} {number(start)} to {number(end)}"


def number(value: float) -> str:
    """Write a number for people: no digits that tell nothing."""
    value = float(value)
    if not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 100 or value == round(value) else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return "0" if float(text.replace(",", "")) == 0 else text
