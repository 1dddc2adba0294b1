"""Collect the results of jobs into ablation.json, ablation.md and the plots; seeds may be missing, the table says how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ham.records import atomic_write, read_json, write_json
from ham.reid.config import BENCHMARKS
from ham.runtime import UsageError, git_revision
from scripts.ablation.graph import Job, is_done, job_name, result_file
from scripts.ablation.plots import draw_curve, draw_rows
from scripts.ablation.rows import AGAINST_HERO, HERO, REFERENCE, ROWS, SHOWN
from scripts.ablation.runner import seconds_by_kind
from scripts.ablation.settings import Settings
from scripts.ablation.statistics import Difference, Mean, binomial_error, by_chance, mean_of, paired

METRICS = ("R1", "mAP")
CAPTION_FIGURES = {"precision": ("content", "precision"), "recall": ("content", "recall"),
                   "distinct_1": ("diversity", "distinct_1"), "distinct_2": ("diversity", "distinct_2"),
                   "self_bleu": ("diversity", "self_bleu"), "words": ("diversity", "words_mean")}


def collect(settings: Settings, graph: dict[str, Job], work: Path, out: Path) -> str:
    """Write the four files into `out`. Returns the tables. Raises UsageError when no row is measured yet."""
    done = {name for name, job in graph.items() if is_done(work, job)}
    figures = {name: read_json(result_file(work, name)) for name in done}
    rows = {row: row_figures(figures, settings, row) for row in SHOWN}
    rows = {row: found for row, found in rows.items() if found["seeds"]}
    if not rows:
        raise UsageError(f"{work}: no row is measured yet; run without --collect first")
    curve = curve_figures(figures, settings)
    result = {"git_revision": git_revision(), "settings": asdict(settings), "unit": "percent", "rows": rows,
              "differences": differences(rows), "curve": curve,
              "seconds_by_kind": {kind: round(value, 1) for kind, value in seconds_by_kind(graph, work, done).items()},
              "core_hours": round(sum(one["seconds"] for one in figures.values()) / 3600, 2),
              "jobs_done": len(done), "jobs": len(graph)}
    write_json(out / "ablation.json", result)
    text = "\n".join([row_table(rows), benchmark_table(rows), difference_table(result["differences"], rows), curve_table(curve),
                      *remarks(result)])
    with atomic_write(out / "ablation.md") as file:
        file.write(text)
    draw_rows(out / "ablation.png", rows)
    if curve:
        draw_curve(out / "curve.png", curve, settings.curve.fixed)
    return text


# ---------------------------------------------------------------------------------------------------------------- figures


def row_figures(figures: dict[str, Any], settings: Settings, row: str) -> dict[str, Any]:
    """Gather a row: its metrics by seed, with both kinds of queries, and its captions' figures."""
    seeds: dict[int, Any] = {}
    for seed in settings.seeds:
        measured = figures.get(job_name("eval", seed, row))
        if measured is None:
            continue
        found = {kind: {metric: mean([measured[kind][name][metric] for name in BENCHMARKS]) for metric in METRICS}
                 for kind in ("human", "plain")}
        found["benchmarks"] = {name: {metric: measured["human"][name][metric] for metric in (*METRICS, "R5", "R10", "mINP")}
                               for name in BENCHMARKS}
        found["binomial"] = binomial_error([measured["human"][name]["R1"] for name in BENCHMARKS],
                                           [measured["human"][name]["queries"] for name in BENCHMARKS])
        written = figures.get(job_name("captions", seed, row))
        found["captions"] = written and {name: written[part][key] for name, (part, key) in CAPTION_FIGURES.items()}
        seeds[seed] = found
    return {"label": ROWS[row].label, "is_control": ROWS[row].is_control, "seeds": seeds}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def by_seed(rows: dict[str, Any], row: str, kind: str = "human", metric: str = "R1") -> dict[int, float]:
    """Give a row's mean over the benchmarks for each seed that it has."""
    return {seed: found[kind][metric] for seed, found in rows[row]["seeds"].items()} if row in rows else {}


def differences(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Pair every row with `static`, and `both` with each other way to get captions."""
    pairs = [(row, REFERENCE) for row in rows if row != REFERENCE] + [(HERO, row) for row in AGAINST_HERO if row in rows]
    found = []
    for one, other in pairs:
        entry: dict[str, Any] = {"row": one, "minus": other}
        for kind in ("human", "plain"):
            for metric in METRICS:
                difference = paired(by_seed(rows, one, kind, metric), by_seed(rows, other, kind, metric))
                entry[f"{kind} {metric}"] = difference and asdict(difference)
        if entry["human R1"]:
            found.append(entry)
    return found


def curve_figures(figures: dict[str, Any], settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Give for each row of the curve its points: images, and R1 by seed."""
    curve: dict[str, list[dict[str, Any]]] = {}
    for row in settings.curve.rows:
        for part in (*sorted(settings.curve.parts, reverse=True), 1):
            seeds = {}
            for seed in settings.seeds:
                measured = figures.get(job_name("eval", seed, row, part))
                if measured:
                    seeds[seed] = mean([measured["human"][name]["R1"] for name in BENCHMARKS])
            if seeds:
                curve.setdefault(row, []).append({"images": settings.images // part, "part": part, "R1": seeds})
    return {row: points for row, points in curve.items() if len(points) > 1}


# ----------------------------------------------------------------------------------------------------------------- tables


def shown(value: Mean | Difference | None, digits: int = 1, signed: bool = False) -> str:
    """Say a mean and its standard error."""
    if value is None:
        return "–"
    text = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    return text if value.error is None else f"{text} ± {value.error:.{digits}f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> str:
    """Lay out a Markdown table under its title; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return f"{title}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines]) + "\n"


def row_table(rows: dict[str, Any]) -> str:
    """The main table: direct transfer, and the captions that brought it about."""
    lines = []
    for row, found in rows.items():
        cells = [found["label"], str(len(found["seeds"]))]
        cells += [shown(mean_of(list(by_seed(rows, row, kind, metric).values())))
                  for kind, metric in (("human", "R1"), ("human", "mAP"), ("plain", "R1"))]
        cells.append("" if row == REFERENCE else shown(paired(by_seed(rows, row), by_seed(rows, REFERENCE)), signed=True))
        written = [one["captions"] for one in found["seeds"].values() if one["captions"]]
        for name, factor, digits in (("precision", 1, 2), ("recall", 1, 2), ("distinct_1", 1, 2), ("distinct_2", 1, 2),
                                     ("self_bleu", 1, 0), ("words", 1, 0)):
            cells.append(f"{factor * mean([one[name] for one in written]):.{digits}f}" if written else "")
        lines.append(cells)
    return table(["captions", "seeds", "R1", "mAP", "R1, plain queries", "R1 against static", "content precision", "recall",
                  "distinct-1", "distinct-2", "self-BLEU", "words"], lines,
                 "Direct transfer: mean of the three benchmarks, percent (± standard error over seeds); the captions' figures")


def benchmark_table(rows: dict[str, Any]) -> str:
    """R1 and mAP on each benchmark."""
    lines = []
    for found in rows.values():
        seeds = found["seeds"].values()
        lines.append([found["label"], *(shown(mean_of([one["benchmarks"][name][metric] for one in seeds]))
                                        for name in BENCHMARKS for metric in METRICS)])
    return table(["captions", *(f"{name} {metric}" for name in BENCHMARKS for metric in METRICS)], lines, "Each benchmark")


def difference_table(found: list[dict[str, Any]], rows: dict[str, Any]) -> str:
    """Paired differences; above 0: the first one is better."""
    lines = []
    for entry in found:
        values = [entry[key] and Difference(**entry[key]) for key in ("human R1", "human mAP", "plain R1")]
        first, names = values[0], [rows[entry[side]]["label"] for side in ("row", "minus")]
        lines.append([" − ".join(names), *(shown(value, signed=True) for value in values),
                      f"{first.positive} of {first.count}", f"{by_chance(first.positive, first.count):.2f}"])
    return table(["paired difference", "R1", "mAP", "R1, plain queries", "seeds above 0", "sign test"], lines,
                 "Paired differences over seeds, points (± standard error)")


def curve_table(curve: dict[str, list[dict[str, Any]]]) -> str:
    """R1 against the number of pretraining images."""
    sizes = sorted({point["images"] for points in curve.values() for point in points})
    lines = []
    for row, points in curve.items():
        cells = {point["images"]: shown(mean_of(list(point["R1"].values()))) for point in points}
        lines.append([ROWS[row].label, *(cells.get(size, "–") for size in sizes)])
    return table(["captions", *(f"{size} images" for size in sizes)], lines, "R1 against the number of pretraining images")


def remarks(result: dict[str, Any]) -> list[str]:
    """Say what the figures rest on."""
    binomial = [one["binomial"] for row in result["rows"].values() for one in row["seeds"].values()]
    return [
        f"Chance of the queries alone: a row's mean R1 on one seed has a binomial standard error of {min(binomial):.1f} to "
        f"{max(binomial):.1f} points; the same queries are asked of all rows, so that paired differences have less.",
        f"Curve: fixed {result['settings']['curve']['fixed']} at every size.",
        f"{result['jobs_done']} of {result['jobs']} jobs, {result['core_hours']} core hours in all. "
        f"Seconds of a job by kind: {', '.join(f'{kind} {value:.0f}' for kind, value in result['seconds_by_kind'].items())}.",
        ""]
