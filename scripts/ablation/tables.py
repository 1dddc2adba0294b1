"""The tables of ablation.md. Pure functions of what ablation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ham.datasets import BENCHMARKS
from scripts.ablation.rows import REFERENCE, ROWS
from scripts.ablation.statistics import Difference, Mean, by_seed, mean, mean_of, paired

QUERIES = (("human", "R1"), ("human", "mAP"), ("plain", "R1"))
CAPTION_COLUMNS = {  # name in ablation.json: title, digits
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "distinct_1": ("distinct-1", 2),
    "distinct_2": ("distinct-2", 1),
    "self_bleu": ("self-BLEU", 0),
    "words": ("words", 0),
}
DIFFERENCE_NOTE = (
    "The same dataset, pool and queries on both sides, seed by seed; ± is one standard error of the mean."
)


def tables(result: dict[str, Any]) -> list[str]:
    """Return all sections in the order of the page; a section without figures is empty."""
    rows, finetuned = result["rows"], result["finetune"]
    return [
        *opening(result),
        row_table(rows),
        difference_table("Paired differences, points", result["differences"], rows),
        benchmark_table("Each benchmark, percent", rows),
        benchmark_table("After fine-tuning on each benchmark's training split, percent", finetuned),
        difference_table(
            "Paired differences after fine-tuning, points", result["finetune_differences"], finetuned
        ),
        curve_table(result["curve"]),
    ]


def opening(result: dict[str, Any]) -> list[str]:
    """Return the title, the command, and what was run where and when."""
    settings = result["settings"]
    reid, per_image = settings["reid"], settings["captions"]["per_image"]
    steps = settings["images"] * per_image // reid["batch_size"] * reid["epochs"]
    kinds = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in result["seconds_by_kind"].items())
    weights = ", ".join(f"{name} {digest}" for name, digest in result["weights"].items())
    facts = {
        "preset": settings["preset"],
        "seeds": ", ".join(map(str, settings["seeds"])),
        "pretraining images": f"{settings['images']:,}, {per_image} captions each",
        "pretraining steps": f"{steps:,} of {reid['batch_size']} pairs",
        "tuning steps": f"{settings['tuning']['steps']:,} of {settings['tuning']['batch_size']} records",
        "machine": result["machine"],
        "time": f"{result['began']} to {result['ended']} UTC, {result['core_hours']} core hours",
        "tasks": f"{result['tasks_done']} of {result['tasks']} done; seconds each: {kinds}",
        "commit": result["git_revision"],
        "weights": weights,
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    return ["# The paper's Table 1 in miniature\n", f"    {result['command']}\n", *lines, ""]


def row_table(rows: dict[str, Any]) -> str:
    """The main table: direct transfer, and the captions that each row was trained on."""
    lines = []
    for row, found in rows.items():
        cells = [label_of(found), str(len(found["seeds"]))]
        cells += [show(mean_of(list(by_seed(rows, row, *query).values()))) for query in QUERIES]
        gain = None if row == REFERENCE else paired(by_seed(rows, row), by_seed(rows, REFERENCE))
        cells += [show(gain, signed=True) if gain else ""]
        paper = ROWS[row].paper if row in ROWS else None
        cells += [f"{mean(paper):.1f}" if paper else ""]
        written = [one["captions"] for one in found["seeds"].values() if one["captions"]]
        for name, (_, digits) in CAPTION_COLUMNS.items():
            average = mean_of([one[name] for one in written])
            cells.append(f"{average.mean:.{digits}f}" if average else "")
        lines.append(cells)
    header = ["captions", "seeds", "R1", "mAP", "R1, plain queries", "R1 minus static", "R1 in the paper"]
    header += [title for title, _ in CAPTION_COLUMNS.values()]
    notes = [
        "± is one standard error over seeds. Precision: share of the captions' claims that are true; recall: share of "
        "what is worth mentioning that they mention. Distinct-1 and -2 (percent; higher is more varied), self-BLEU (lower is "
        "more varied) and words: of one caption of each image.",
        "\\* a control, not a row of the paper.",
    ]
    return section("Direct transfer, mean of the three benchmarks, percent", header, lines, notes)


def difference_table(title: str, differences: list[dict[str, Any]], rows: dict[str, Any]) -> str:
    """Paired differences; above 0: the first one is better."""
    lines = []
    compared = [
        f"{kind} {metric}" for kind, metric in QUERIES if f"{kind} {metric}" in (differences or [{}])[0]
    ]
    for entry in differences:
        values = [Difference(**entry[key]) if entry[key] else None for key in compared]
        first = Difference(**entry["human R1"])
        names = " − ".join(rows[entry[side]]["label"] for side in ("row", "minus"))
        lines.append(
            [names, *(show(value, signed=True) for value in values), f"{first.positive} of {first.count}"]
        )
    titles = {"human R1": "R1", "human mAP": "mAP", "plain R1": "R1, plain queries"}
    header = ["difference", *(titles[key] for key in compared), "seeds above 0"]
    return section(title, header, lines, [DIFFERENCE_NOTE])


def benchmark_table(title: str, rows: dict[str, Any]) -> str:
    """R1 and mAP on each benchmark and their means."""
    single = [(name, metric) for name in BENCHMARKS for metric in ("R1", "mAP")]
    lines = []
    for found in rows.values():
        seeds = list(found["seeds"].values())
        cells = [show(mean_of([one["human"][metric] for one in seeds])) for metric in ("R1", "mAP")]
        cells += [
            show(mean_of([one["benchmarks"][name][metric] for one in seeds])) for name, metric in single
        ]
        lines.append([label_of(found), str(len(seeds)), *cells])
    header = ["captions", "seeds", "mean R1", "mean mAP", *(f"{name} {metric}" for name, metric in single)]
    return section(title, header, lines)


def curve_table(curve: dict[str, list[dict[str, Any]]]) -> str:
    """R1 against the number of pretraining images."""
    sizes = sorted({point["images"] for points in curve.values() for point in points})
    lines = []
    for row, points in curve.items():
        cells = {point["images"]: show(mean_of(list(point["R1"].values()))) for point in points}
        lines.append([ROWS[row].label, *(cells.get(size, "–") for size in sizes)])
    header = ["captions", *(f"{size:,} images" for size in sizes)]
    return section("R1 against the number of pretraining images, the same epochs", header, lines)


# ------------------------------------------------------------------------------------------------------------------ parts


def section(
    title: str, header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """Format a Markdown section: heading, table, notes below; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
    return "\n\n".join([f"## {title}", table, *notes]) + "\n"


def show(value: Mean | Difference | None, signed: bool = False) -> str:
    """Format a mean and its standard error."""
    if value is None:
        return "–"
    text = f"{value.mean:{'+' if signed else ''}.1f}"
    return text if value.error is None else f"{text} ± {value.error:.1f}"


def label_of(row: dict[str, Any]) -> str:
    return row["label"] + (" \\*" if row["is_control"] else "")
