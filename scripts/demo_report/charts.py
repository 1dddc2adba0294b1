"""Line charts, maps of points and bars as inline SVG and HTML: no script, no raster, colours from the page's style sheet.

A chart is 360 units wide and is shown about that wide, so that its words keep their size on a phone. Colours are the classes
`c0` to `c5` of ham/report/look.py.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ham.report.page import number

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 34
MOST_POINTS = 160  # of a drawn line; longer ones are averaged
MARKED_POINTS = 14  # a line of at most so many points shows each of them
ROOM = 0.06  # free border of a map, of its width


@dataclass(frozen=True)
class Series:
    """One line of a chart. colour: 0 to 5."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str, from_zero: bool = False
) -> str:
    """Draw lines over one pair of axes, with a legend below when there are several.

    from_zero: the vertical axis starts at 0. Points that are not finite are left out; raises ValueError when none is left.
    """
    drawn = [thinned(one) for one in series]
    drawn = [one for one in drawn if len(one.xs)]
    if not drawn:
        raise ValueError(f"chart '{title}': no finite points to draw")
    xs, ys = np.concatenate([one.xs for one in drawn]), np.concatenate([one.ys for one in drawn])
    x_ticks = ticks(xs.min(), xs.max(), 6, whole=bool(np.all(xs == xs.round())))
    y_ticks = ticks(min(0.0, ys.min()) if from_zero else ys.min(), ys.max(), 5)
    x_of = scale(min(xs.min(), x_ticks[0]), max(xs.max(), x_ticks[-1]), LEFT, WIDTH - RIGHT)
    y_of = scale(min(ys.min(), y_ticks[0]), max(ys.max(), y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = [frame(x_ticks, y_ticks, x_of, y_of, x_label, y_label)]
    for one in drawn:
        places = [(x_of(x), y_of(y)) for x, y in zip(one.xs, one.ys)]
        parts.append(
            f'<polyline class="line c{one.colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        )
        if len(places) <= MARKED_POINTS:
            parts += [
                f'<circle class="mark c{one.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
            ]
    return figure("".join(parts), title, describe(drawn, x_label, y_label), drawn if len(drawn) > 1 else ())


def point_map(
    points: ArrayLike,
    centres: Mapping[str, ArrayLike],
    colours: Mapping[str, int],
    title: str,
    around_points: bool,
) -> str:
    """Draw a cloud of points [N, 2] and coloured centres [S, 2] by name on one plane.

    around_points: the plane ends with the points, and centres beyond are not seen; otherwise it reaches to every centre.
    """
    points = np.asarray(points, float).reshape(-1, 2)
    marks = {name: np.asarray(places, float).reshape(-1, 2) for name, places in centres.items()}
    reach = points if around_points else np.concatenate([points, *marks.values()])
    low, high = reach.min(0), reach.max(0)
    room = ROOM * np.maximum(high - low, 1e-9)
    x_of, y_of = (
        scale(low[0] - room[0], high[0] + room[0], 0, WIDTH),
        scale(low[1] - room[1], high[1] + room[1], HEIGHT, 0),
    )
    cloud = "".join(f"M{x_of(x):.1f} {y_of(y):.1f}h0" for x, y in points)
    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="4"/><path class="cloud" d="{cloud}"/>'
    ]
    for name, places in marks.items():
        inside = places[((places >= low - room) & (places <= high + room)).all(1)]
        dots = "".join(f"M{x_of(x):.1f} {y_of(y):.1f}h0" for x, y in inside)
        parts.append(f'<path class="centres c{colours[name]}" d="{dots}"/>')
    shown = [Series(f"{name} centres", [0], [0], colours[name]) for name in marks]
    told = (
        f"{len(points)} captions as grey points and {sum(map(len, marks.values()))} style centres on a plane"
    )
    return figure("".join(parts), title, told, shown)


def bars(
    title: str,
    note: str,
    values: Mapping[str, float | None],
    colours: Mapping[str, int],
    top: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Draw one horizontal bar per name as HTML, the value at its end. top: the full width's value (default: the largest)."""
    most = max([value for value in values.values() if value is not None] or [0.0])
    full = (most if top is None else top) or 1.0
    rows = []
    for name, value in values.items():
        width = 0.0 if value is None else 100 * max(0.0, min(1.0, value / full))
        said = "–" if value is None else (labels or {}).get(name) or number(value)
        rows.append(
            f'<div class="row"><span>{html.escape(name)}</span><span class="track"><i class="c{colours.get(name, 0)}" '
            f'style="width:{width:.1f}%"></i></span><b>{html.escape(said)}</b></div>'
        )
    return f'<div class="bars"><h3>{html.escape(title)}</h3><p class="note">{html.escape(note)}</p>{"".join(rows)}</div>'


# ------------------------------------------------------------------------------------------------------------------ parts


def figure(body: str, title: str, description: str, legend: Sequence[Series]) -> str:
    """Put an SVG body into a figure with a title, words for those who cannot see it, and a legend."""
    keys = "".join(f'<li><i class="c{one.colour}"></i>{html.escape(one.name)}</li>' for one in legend)
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(f"{title}: {description}")}">{body}</svg>'
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + "</figure>"
    )


def frame(x_ticks: NDArray, y_ticks: NDArray, x_of, y_of, x_label: str, y_label: str) -> str:
    """Draw the grid, the ticks' numbers and the axes' labels."""
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y_of(y) + 3.5:.1f}" text-anchor="end">{number(y)}</text>'
        for y in y_ticks
    ]
    lines += [
        f'<text class="tick" x="{min(x_of(x), WIDTH - RIGHT - 4):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">'
        f"{number(x)}</text>"
        for x in x_ticks
    ]
    lines.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    lines.append(
        f'<text class="axis" x="9" y="{middle}" text-anchor="middle" transform="rotate(-90 9 {middle})">'
        f"{html.escape(y_label)}</text>"
    )
    return "".join(lines)


def ticks(low: float, high: float, most: int, whole: bool = False) -> NDArray[np.float64]:
    """Choose at most `most` round numbers (steps of 1, 2 or 5 times a power of ten) that enclose or reach [low, high]."""
    if high <= low:
        low, high = (
            (low - 1, high + 1) if whole else (low - max(0.5, abs(low) / 10), high + max(0.5, abs(high) / 10))
        )
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
        if whole and step < 1:
            continue
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    return np.arange(first, last + 1) * step


def scale(low: float, high: float, start: float, end: float):
    """Give the function that maps [low, high] to [start, end]."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def thinned(one: Series) -> Series:
    """Drop points that are not finite, and average a long line down to MOST_POINTS."""
    xs, ys = np.asarray(one.xs, float), np.asarray(one.ys, float)
    kept = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[kept], ys[kept]
    if len(xs) > MOST_POINTS:
        xs, ys = (
            np.array([part.mean() for part in np.array_split(values, MOST_POINTS)]) for values in (xs, ys)
        )
    return Series(one.name, xs, ys, one.colour)


def describe(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Say in words where each line begins and ends."""
    ends = (f"{one.name} {number(one.ys[0])} to {number(one.ys[-1])}" for one in series)
    return f"{y_label} by {x_label}; {', '.join(ends)}"
