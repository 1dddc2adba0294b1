"""Collect the figures of finished tasks into ablation.json, ablation.md and the plots; seeds and rows may be missing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.records import atomic_write, read_json, write_json
from ham.runtime import UsageError, git_revision
from scripts.ablation.places import Task, figures_file, plan_tasks
from scripts.ablation.plots import draw_curve, draw_rows
from scripts.ablation.record import FILE as SETTINGS_FILE
from scripts.ablation.rows import HERO, METRICS, REFERENCE, ROWS
from scripts.ablation.settings import Settings
from scripts.ablation.statistics import binomial_error, by_seed, mean, paired
from scripts.ablation.tables import tables

FILE = "ablation.json"
COMPARED = (("human", "R1"), ("human", "mAP"), ("plain", "R1"), ("plain", "mAP"))
Figures = dict[Task, dict[str, Any]]


def collect(settings: Settings, out: Path, command: str) -> str:
    """Write the files into `out`. Returns what ablation.md says. Raises UsageError when no row is measured yet."""
    work = Path(settings.work)
    tasks = [task for stage in plan_tasks(settings, settings.seeds, list(ROWS)) for task in stage]
    figures = {
        task: read_json(figures_file(work, task)) for task in tasks if figures_file(work, task).is_file()
    }
    rows = {row: row_figures(figures, settings, row) for row in ROWS}
    rows = {row: found for row, found in rows.items() if found["seeds"]}
    if not rows:
        raise UsageError(f"{work}: no row is measured yet; run without --collect first")
    finetuned = {row: finetune_figures(figures, settings, row) for row in settings.finetune.rows}
    finetuned = {row: found for row, found in finetuned.items() if found["seeds"]}
    record = read_json(work / SETTINGS_FILE)
    result = {
        "command": command,
        "git_revision": git_revision(),
        **origin(figures),
        "tasks": len(tasks),
        "weights": record["weights"],
        "finetuning": record["finetuning"],
        "settings": {
            name: value for name, value in asdict(settings).items() if name not in ("work", "llava", "clip")
        },
        "unit": "percent; precision and recall are shares",
        "rows": rows,
        "differences": differences(rows, COMPARED),
        "finetune": finetuned,
        "finetune_differences": differences(finetuned, COMPARED[:2]),
        "curve": curve_figures(figures, settings),
    }
    result["settings"]["finetune"].pop("config")
    text = "\n".join(tables(result))
    write_json(out / FILE, result)
    with atomic_write(out / "ablation.md") as file:
        file.write(text)
    draw_rows(out / "ablation.png", rows)
    if result["curve"]:
        draw_curve(out / "curve.png", result["curve"], rows)
    return text


def origin(figures: Figures) -> dict[str, Any]:
    """Return where and when the tasks were done, and what they cost."""
    began = min(one["began"] for one in figures.values())
    ended = max(one["began"] + one["seconds"] for one in figures.values())
    seconds: dict[str, list[float]] = {}
    for task, one in figures.items():
        seconds.setdefault(task.kind, []).append(one["seconds"])
    return {
        "machine": machine(),
        "began": utc(began),
        "ended": utc(ended),
        "tasks_done": len(figures),
        "core_hours": round(sum(one["cpu_seconds"] for one in figures.values()) / 3600, 2),
        "seconds_by_kind": {kind: round(mean(values), 1) for kind, values in seconds.items()},
    }


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


def machine() -> str:
    """Return the name of the processor and its number of cores."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores"


# ---------------------------------------------------------------------------------------------------------------- figures


def row_figures(figures: Figures, settings: Settings, row: str) -> dict[str, Any]:
    """Return a row's direct transfer by seed, with both kinds of queries, and its captions' figures."""
    seeds: dict[str, Any] = {}
    for seed in settings.seeds:
        measured = figures.get(Task(seed, "retrieval", row))
        if measured is None:
            continue
        written = figures.get(Task(seed, "captions", row))
        seeds[str(seed)] = {
            **transfer_figures(measured["human"]),
            "plain": means(measured["plain"]),
            "captions": written and caption_figures(written),
        }
    return {"label": ROWS[row].label, "is_control": ROWS[row].is_control, "seeds": seeds}


def finetune_figures(figures: Figures, settings: Settings, row: str) -> dict[str, Any]:
    """Return the test results by seed after fine-tuning a row's model on each benchmark."""
    seeds = {
        str(seed): transfer_figures(figures[Task(seed, "finetune", row)]["human"])
        for seed in settings.seeds
        if Task(seed, "finetune", row) in figures
    }
    return {"label": ROWS[row].label, "is_control": False, "seeds": seeds}


def transfer_figures(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the means over the benchmarks, each benchmark, and the binomial standard error of the mean R1."""
    return {
        "human": means(measured),
        "benchmarks": {name: {metric: measured[name][metric] for metric in METRICS} for name in BENCHMARKS},
        "binomial": binomial_error(
            [measured[name]["R1"] for name in BENCHMARKS],
            [int(measured[name]["queries"]) for name in BENCHMARKS],
        ),
    }


def means(benchmarks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {metric: mean([benchmarks[name][metric] for name in BENCHMARKS]) for metric in METRICS}


def caption_figures(written: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a row's captions that the table shows."""
    diversity = written["diversity"]
    return {
        "precision": written["content"]["precision"],
        "recall": written["content"]["recall"],
        "distinct_1": diversity["distinct_1"],
        "distinct_2": diversity["distinct_2"],
        "self_bleu": diversity["self_bleu"],
        "words": diversity["words_mean"],
        "captions_for_variety": diversity["captions"],
    }


def differences(rows: dict[str, Any], compared: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """Return the paired differences of every row minus `static`, and of `both` minus every other row."""
    pairs = [(row, REFERENCE) for row in rows if row != REFERENCE]
    pairs += [(HERO, row) for row in rows if row not in (HERO, REFERENCE)]
    found = []
    for row, minus in pairs:
        entry: dict[str, Any] = {"row": row, "minus": minus}
        for kind, metric in compared:
            difference = paired(by_seed(rows, row, kind, metric), by_seed(rows, minus, kind, metric))
            entry[f"{kind} {metric}"] = difference and asdict(difference)
        if entry["human R1"]:
            found.append(entry)
    return found


def curve_figures(figures: Figures, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Return the points of each row of the curve: number of images, and R1 by seed."""
    curve: dict[str, list[dict[str, Any]]] = {}
    for row in settings.curve.rows:
        for part in (*sorted(settings.curve.parts, reverse=True), 1):
            tasks = [
                Task(seed, "curve", f"{row}-1of{part}") if part > 1 else Task(seed, "retrieval", row)
                for seed in settings.seeds
            ]
            seeds = {str(task.seed): means(figures[task]["human"])["R1"] for task in tasks if task in figures}
            if seeds:
                point = {"images": settings.images // part, "part": part, "R1": seeds}
                curve.setdefault(row, []).append(point)
    return {row: points for row, points in curve.items() if len(points) > 1}
