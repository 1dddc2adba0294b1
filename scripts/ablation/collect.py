"""Collect the figures of jobs into ablation.json, ablation.md and the plots; seeds may be missing, the table says how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.records import atomic_write, write_json
from ham.runtime import UsageError, git_revision
from scripts.ablation.gather import FILE, METRICS, Figures, gather, read_kept, with_kept
from scripts.ablation.graph import Job, digest_of, job_name
from scripts.ablation.opening import opening
from scripts.ablation.paper import PAPER, paper_mean
from scripts.ablation.plots import draw_curve, draw_rows
from scripts.ablation.rows import AGAINST_HERO, HERO, REFERENCE, ROWS, SHOWN
from scripts.ablation.settings import Settings
from scripts.ablation.statistics import binomial_error, by_chance_ordered, paired, ranks, spearman
from scripts.ablation.tables import COMPARED, by_seed, tables

CAPTION_FIGURES = {
    "precision": ("content", "precision"),
    "recall": ("content", "recall"),
    "distinct_1": ("one_each", "distinct_1"),
    "distinct_2": ("one_each", "distinct_2"),
    "self_bleu": ("one_each", "self_bleu"),
    "words": ("one_each", "words_mean"),
    "captions_for_variety": ("one_each", "captions"),
}


def collect(
    settings: Settings,
    work: Path,
    out: Path,
    command_of: Callable[[Settings], str] = lambda settings: "python scripts/ablation.py",
) -> str:
    """Write the four files into `out`. Returns what ablation.md says. Raises UsageError when no row is measured yet.

    command_of: says the command that these settings come from, without this machine's folders.
    """
    settings = with_kept(settings, read_kept(out))
    graph, figures = gather(settings, work, out)
    rows = {row: row_figures(figures, settings, row) for row in SHOWN}
    rows = {row: found for row, found in rows.items() if found["seeds"]}
    if not rows:
        raise UsageError(f"{work}: no row is measured yet; run without --collect first")
    result = {
        "command": command_of(settings),
        "git_revision": git_revision(),
        **origin(graph, figures),
        "weights": {name: digest_of(Path(getattr(settings, name))) for name in ("llava", "clip")},
        "settings": {
            name: value for name, value in asdict(settings).items() if name not in ("work", "llava", "clip")
        },
        "unit": "percent; precision and recall are shares",
        "rows": rows,
        "differences": differences(rows),
        "order": order(rows),
        "curve": curve_figures(figures, settings),
        "jobs": figures,
    }
    text = "\n".join([*opening(result), *tables(result)])
    write_json(out / FILE, result)
    with atomic_write(out / "ablation.md") as file:
        file.write(text)
    draw_rows(out / "ablation.png", rows)
    if result["curve"]:
        draw_curve(out / "curve.png", result["curve"], rows, settings.curve.fixed)
    return text


def origin(graph: dict[str, Job], figures: Figures) -> dict[str, Any]:
    """Return where and when the jobs were done, and what they cost."""
    began = [one["began"] for one in figures.values()]
    ended = [one["began"] + one["seconds"] for one in figures.values()]
    seconds: dict[str, list[float]] = {}
    for name, one in figures.items():
        if graph[name].part == 1:
            seconds.setdefault(graph[name].kind, []).append(one["seconds"])
    return {
        "machines": sorted({one["machine"] for one in figures.values()}),
        "began": utc(min(began, default=0)),
        "ended": utc(max(ended, default=0)),
        "jobs_done": len(figures),
        "jobs_in_all": len(graph),
        "core_hours": round(sum(one["seconds"] for one in figures.values()) / 3600, 2),
        "seconds_by_kind": {kind: round(mean(values), 1) for kind, values in seconds.items()},
    }


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


# ---------------------------------------------------------------------------------------------------------------- figures


def row_figures(figures: Figures, settings: Settings, row: str) -> dict[str, Any]:
    """Gather a row: its metrics by seed, with both kinds of queries, and its captions' figures."""
    seeds: dict[int, Any] = {}
    for seed in settings.seeds:
        measured = figures.get(job_name("eval", seed, row))
        if measured is None:
            continue
        found = {kind: means(measured[kind]) for kind in ("human", "plain")}
        found["benchmarks"] = {
            name: {metric: measured["human"][name][metric] for metric in METRICS} for name in BENCHMARKS
        }
        found["binomial"] = binomial_error(
            [measured["human"][name]["R1"] for name in BENCHMARKS],
            [measured["human"][name]["queries"] for name in BENCHMARKS],
        )
        written = figures.get(job_name("captions", seed, row))
        found["captions"] = written and {
            name: written[part][key] for name, (part, key) in CAPTION_FIGURES.items()
        }
        seeds[seed] = found
    return {"label": ROWS[row].label, "is_control": ROWS[row].is_control, "seeds": seeds}


def means(benchmarks: Mapping[str, Any]) -> dict[str, float]:
    return {metric: mean([benchmarks[name][metric] for name in BENCHMARKS]) for metric in METRICS}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def differences(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Pair every row with `static`, and `both` with each other way to get captions."""
    pairs = [(row, REFERENCE) for row in rows if row != REFERENCE] + [
        (HERO, row) for row in AGAINST_HERO if row in rows
    ]
    found = []
    for one, other in pairs:
        entry: dict[str, Any] = {"row": one, "minus": other}
        for kind in ("human", "plain"):
            for metric in COMPARED:
                difference = paired(by_seed(rows, one, kind, metric), by_seed(rows, other, kind, metric))
                entry[f"{kind} {metric}"] = difference and asdict(difference)
        if entry["human R1"]:
            found.append(entry)
    return found


def order(rows: dict[str, Any]) -> dict[str, Any] | None:
    """Compare our order of the paper's rows with the paper's, on the seeds that all of them have. None for fewer than three.

    turned: the pairs that the paper has the other way round, with our paired difference.
    """
    names = [row for row in PAPER if row in rows]
    seeds = set.intersection(*(set(by_seed(rows, row)) for row in names)) if names else set()
    if len(names) < 3 or not seeds:
        return None
    ours = {row: mean([by_seed(rows, row)[seed] for seed in seeds]) for row in names}
    paper = {row: paper_mean(row) for row in names}
    pairs = [sorted(pair, key=lambda row: paper[row]) for pair in combinations(names, 2)]
    turned = [
        {
            "row": low,
            "above": high,
            **asdict(paired({seed: by_seed(rows, low)[seed] for seed in seeds}, by_seed(rows, high))),
        }
        for low, high in pairs
        if ours[low] > ours[high]
    ]
    values = list(paper.values()), list(ours.values())
    return {
        "seeds": sorted(seeds),
        "spearman": spearman(*values),
        "chance": by_chance_ordered(*values),
        "turned": turned,
        "rows": {
            row: {"paper": round(paper[row], 2), "ours": ours[row], "paper_rank": first, "our_rank": second}
            for row, first, second in zip(names, *map(ranks, values), strict=True)
        },
    }


def curve_figures(figures: Figures, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Return for each row of the curve its points: images, and R1 by seed."""
    curve: dict[str, list[dict[str, Any]]] = {}
    for row in settings.curve.rows:
        for part in (*sorted(settings.curve.parts, reverse=True), 1):
            seeds = {
                seed: means(measured["human"])["R1"]
                for seed in settings.seeds
                if (measured := figures.get(job_name("eval", seed, row, part)))
            }
            if seeds:
                curve.setdefault(row, []).append(
                    {"images": settings.images // part, "part": part, "R1": seeds}
                )
    return {row: points for row, points in curve.items() if len(points) > 1}
