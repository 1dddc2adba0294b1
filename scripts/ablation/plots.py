"""The two pictures: rows with their error bars and single seeds, and the data-size curve."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

from ham.records import atomic_write
from scripts.ablation.rows import HERO, REFERENCE, ROWS
from scripts.ablation.statistics import Mean, mean_of

COLOURS = {"human": "#1f5f8b", "plain": "#c9772b"}
LINES = {REFERENCE: "#8a8a8a", HERO: "#1f5f8b"}


def draw_rows(file: Path, rows: dict[str, Any]) -> None:
    """Draw mean R1 with human and with plain queries, a line a row; a dot for each seed, a bar for the standard error."""
    plt = _pyplot()
    names = list(rows)[::-1]
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(names) + 1.6), layout="constrained")
    for kind, shift, label in (("human", 0.14, "queries of the benchmarks' annotators"), ("plain", -0.14, "plain queries")):
        for place, name in enumerate(names):
            values = [one[kind]["R1"] for one in rows[name]["seeds"].values()]
            found = mean_of(values)
            axes.plot(values, [place + shift] * len(values), "o", ms=4, mfc="none", mec=COLOURS[kind], alpha=0.6)
            axes.errorbar(found.mean, place + shift, xerr=found.error or 0.0, fmt="D", ms=6, color=COLOURS[kind], capsize=3,
                          label=label if place == 0 else None)
    axes.set_yticks(range(len(names)), [rows[name]["label"] + (" *" if rows[name]["is_control"] else "") for name in names])
    axes.set_xlabel("Rank-1, mean of three benchmarks, percent (○ a seed, bar: standard error)\n* control")
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlim(left=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False)
    _save(figure, file)


def draw_curve(file: Path, curve: dict[str, list[dict[str, Any]]], fixed: str) -> None:
    """Draw R1 against the number of pretraining images."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row, points in curve.items():
        found: list[Mean] = [mean_of(list(point["R1"].values())) for point in points]
        axes.errorbar([point["images"] for point in points], [one.mean for one in found], [one.error or 0.0 for one in found],
                      fmt="o-", capsize=3, color=LINES.get(row), label=ROWS[row].label)
    sizes = sorted({point["images"] for points in curve.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel(f"pretraining images (fixed {fixed})")
    axes.set_ylabel("Rank-1, mean of three benchmarks, percent")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, file)


def _pyplot() -> Any:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    with atomic_write(file, "wb") as out:
        out.write(picture.getvalue())
    _pyplot().close(figure)
