"""The two pictures: rows with their error bars and single seeds, and the data-size curve.

Drawn for a README that is 900 pixels wide, at twice that for sharp screens. Colours are Okabe and Ito's, which colour-blind
people can tell apart; shapes say the same once more.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from ham.records import atomic_write
from scripts.ablation.rows import HERO, REFERENCE, ROWS
from scripts.ablation.statistics import Mean, mean_of

WIDTH_IN, DPI = 9.0, 200
BLUE, ORANGE, GREEN, GREY, DARK = "#0072B2", "#D55E00", "#009E73", "#777777", "#444444"
START, CEILING = "none", "ceiling"
KINDS = {False: (BLUE, "o", "a row of the paper"), True: (ORANGE, "s", "a control")}
LINES = {REFERENCE: (GREY, "s"), HERO: (BLUE, "o")}
PANELS = {"human": "queries by the benchmarks' annotators", "plain": "plain queries"}
AXIS = "Rank-1, mean of three benchmarks, percent"


def draw_rows(file: Path, rows: dict[str, Any]) -> None:
    """Draw mean R1, a line a row: a mark and a bar for mean and standard error, below it a small ring for each seed.

    Two panels with one scale, human and plain queries, with dashed lines where the start stands and true human captions lead.
    """
    plt = _pyplot()
    names = [name for name in rows if name not in (START, CEILING)][::-1]
    figure, panels = plt.subplots(
        1, 2, figsize=(WIDTH_IN, 0.37 * len(names) + 2.1), sharex=True, sharey=True, layout="constrained"
    )
    for axes, (kind, title) in zip(panels, PANELS.items(), strict=True):
        for place, name in enumerate(names):
            colour, shape, _ = KINDS[rows[name]["is_control"]]
            _mark(axes, _values(rows, name, kind), place, colour, shape)
        for name, label, height in ((START, "start", 3), (CEILING, "true human captions", 15)):
            if name in rows:
                mean = mean_of(_values(rows, name, kind)).mean
                axes.axvline(mean, color=GREY, lw=1.2, ls="--", zorder=0)
                axes.annotate(
                    f"{label} {mean:.1f}",
                    (mean, 1),
                    (0, height),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    color=DARK,
                    fontsize=9,
                )
        axes.set_title(title, fontsize=11, pad=32)
        axes.set_xlabel(AXIS, fontsize=9)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.margins(x=0.08)
        axes.tick_params(length=0)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), [rows[name]["label"] for name in names], fontsize=10)
    shown = [
        plt.Line2D([], [], color=colour, marker=shape, ls="", ms=6, label=label)
        for colour, shape, label in KINDS.values()
    ]
    ring = plt.Line2D([], [], marker="o", ls="", mfc="none", mec=GREY, ms=4.5, label="one seed")
    figure.legend(handles=[*shown, ring], loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _save(figure, file)


def draw_curve(file: Path, curve: dict[str, list[dict[str, Any]]], rows: dict[str, Any]) -> None:
    """Draw R1 against the number of pretraining images, with the start, and the ceiling of all images."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 4.2), layout="constrained")
    sizes = sorted({point["images"] for points in curve.values() for point in points})
    ends: list[tuple[float, str, str]] = []
    for row, points in curve.items():
        colour, shape = LINES.get(row, (GREEN, "D"))
        found: list[Mean] = [mean_of(list(point["R1"].values())) for point in points]
        axes.plot(
            [point["images"] for point in points],
            [one.mean for one in found],
            color=colour,
            marker=shape,
            lw=2,
            ms=7,
        )
        for point, one in zip(points, found, strict=True):
            aside = [point["images"] * 2**0.04] * one.count
            axes.plot(aside, list(point["R1"].values()), "o", ms=4, mfc="none", mec=colour, alpha=0.7)
            if one.error is not None:
                axes.errorbar(point["images"], one.mean, one.error, color=colour, capsize=4, lw=1.5)
        ends.append((found[-1].mean, ROWS[row].label, colour))
    for name, label in ((START, "start"), (CEILING, "true human captions\nof all images")):
        if name in rows:
            mean = mean_of(_values(rows, name, "human")).mean
            axes.axhline(mean, color=GREY, lw=1.2, ls="--", zorder=0)
            ends.append((mean, label, DARK))
    axes.margins(y=0.1)
    low, high = axes.get_ylim()
    ends.sort()
    for (value, label, colour), place in zip(
        ends, apart([value for value, _, _ in ends], 0.085 * (high - low)), strict=True
    ):
        axes.annotate(
            f"{value:.1f}  {label}",
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("pretraining images (bars: standard error over seeds; rings: single seeds)")
    axes.set_ylabel("Rank-1, mean of three benchmarks, %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, file)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move labels at rising places apart until neighbours are at least `gap` from each other; a group stays centred."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _spread(groups[-2], gap)[-1] + gap > _spread(groups[-1], gap)[0]:
            last = groups.pop()
            groups[-1] += last
    return [place for group in groups for place in _spread(group, gap)]


def _spread(group: Sequence[float], gap: float) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + gap * (index - (len(group) - 1) / 2) for index in range(len(group))]


def _mark(axes: Any, values: Sequence[float], place: int, colour: str, shape: str) -> None:
    """Draw one row of one panel: seeds, mean, standard error where there is one, and both in figures at the right."""
    found = mean_of(values)
    if found.error is not None:
        axes.plot(values, [place - 0.26] * len(values), "o", ms=4, mfc="none", mec=colour, alpha=0.8)
        axes.errorbar(found.mean, place, xerr=found.error, color=colour, capsize=5, lw=1.8)
    axes.plot(found.mean, place, shape, ms=6, color=colour)
    text = f"{found.mean:.1f}" if found.error is None else f"{found.mean:.1f} ± {found.error:.1f}"
    axes.annotate(
        text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=colour
    )


def _values(rows: dict[str, Any], name: str, kind: str) -> list[float]:
    return [one[kind]["R1"] for one in rows[name]["seeds"].values()]


def _pyplot() -> Any:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    with atomic_write(file, "wb") as out:
        out.write(picture.getvalue())
    _pyplot().close(figure)
