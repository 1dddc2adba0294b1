"""The tables of ablation.md. Pure functions of what ablation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ham.datasets import BENCHMARKS
from scripts.ablation.rows import REFERENCE, ROWS
from scripts.ablation.statistics import Difference, Mean, by_chance, mean_of, paired

COMPARED = ("R1", "mAP")
QUERIES = (("human", "R1"), ("human", "mAP"), ("plain", "R1"))


def tables(result: dict[str, Any]) -> list[str]:
    """Return all sections in the order of the page; a section without figures is empty."""
    rows = result["rows"]
    return [
        row_table(rows),
        order_table(result["order"]),
        difference_table(result["differences"], rows),
        benchmark_table(rows),
        curve_table(result["curve"], result["settings"]["curve"]["fixed"]),
        *remarks(result),
    ]


def by_seed(rows: dict[str, Any], row: str, kind: str = "human", metric: str = "R1") -> dict[int, float]:
    """Return a row's mean over the benchmarks for each seed that it has."""
    return {seed: found[kind][metric] for seed, found in rows[row]["seeds"].items()} if row in rows else {}


def row_table(rows: dict[str, Any]) -> str:
    """The main table: direct transfer, and the captions that brought it about."""
    lines, sizes = [], set()
    for row, found in rows.items():
        cells = [label_of(found), str(len(found["seeds"]))]
        cells += [shown(mean_of(list(by_seed(rows, row, kind, metric).values()))) for kind, metric in QUERIES]
        cells.append(
            ""
            if row == REFERENCE
            else shown(paired(by_seed(rows, row), by_seed(rows, REFERENCE)), signed=True)
        )
        written = [one["captions"] for one in found["seeds"].values() if one["captions"]]
        sizes |= {one["captions_for_variety"] for one in written}
        for name, digits in (
            ("precision", 2),
            ("recall", 2),
            ("distinct_1", 2),
            ("distinct_2", 1),
            ("self_bleu", 0),
            ("words", 0),
        ):
            average = mean_of([one[name] for one in written])
            cells.append(f"{average.mean:.{digits}f}" if average else "")
        lines.append(cells)
    notes = [
        "± is one standard error over seeds. Of the captions that the row trains on: precision, the share of their claims "
        "that are true; recall, the share of what is worth telling that they tell. Distinct-1 and -2 (percent, higher is "
        "more varied), self-BLEU (lower is more varied) and words: of "
        f"{' or '.join(f'{size:,}' for size in sorted(sizes))} captions, one drawn for each image, as many in every row."
    ]
    if len({tuple(found["seeds"]) for found in rows.values()}) > 1:
        notes.append(
            "**Rows have different seeds so far**: compare them by paired differences, not by their means."
        )
    if any(found["is_control"] for found in rows.values()):
        notes.append("\\* a control, not a row of the paper.")
    return section(
        "Direct transfer, mean of the three benchmarks, percent",
        [
            "captions",
            "seeds",
            "R1",
            "mAP",
            "R1, plain queries",
            "R1 against static",
            "precision",
            "recall",
            "distinct-1",
            "distinct-2",
            "self-BLEU",
            "words",
        ],
        lines,
        notes,
    )


def order_table(order: dict[str, Any] | None) -> str:
    """Our order of the paper's rows beside the paper's."""
    if order is None:
        return ""
    lines = [
        [
            ROWS[row].label,
            f"{one['paper']:.1f}",
            f"{one['ours']:.1f}",
            f"{one['paper_rank']:g}",
            f"{one['our_rank']:g}",
        ]
        for row, one in order["rows"].items()
    ]
    names = sorted(order["rows"], key=lambda row: order["rows"][row]["ours"])
    notes = [
        f"Here, the lowest first: {' < '.join(ROWS[row].label for row in names)} ({seeds_said(order['seeds'])})."
    ]
    if order["spearman"] is None:
        notes.append("All rows are equal here: there is no order to compare.")
    else:
        notes.append(
            f"**Spearman's rank correlation with the paper's order: {order['spearman']:+.2f}** over {len(names)} "
            f"rows; of all orders of our figures, {100 * order['chance']:.1f} % agree as well or better."
        )
    if order["turned"]:
        turned = (
            f"{ROWS[one['row']].label} above {ROWS[one['above']].label} by {shown(Difference(**without_names(one)))}"
            for one in order["turned"]
        )
        notes.append(f"The other way round than in the paper: {'; '.join(turned)}.")
    return section(
        "The paper's order and ours, R1, mean of the three benchmarks",
        ["captions", "paper", "here", "place in the paper, from below", "place here"],
        lines,
        notes,
    )


def difference_table(found: list[dict[str, Any]], rows: dict[str, Any]) -> str:
    """Paired differences; above 0: the first one is better."""
    lines = []
    for entry in found:
        values = [entry[key] and Difference(**entry[key]) for key in ("human R1", "human mAP", "plain R1")]
        first, names = values[0], [rows[entry[side]]["label"] for side in ("row", "minus")]
        lines.append(
            [
                " − ".join(names),
                *(shown(value, signed=True) for value in values),
                f"{first.positive} of {first.count}",
                f"{by_chance(first.positive, first.count):.2f}",
            ]
        )
    notes = [
        "The same world, pool and queries on both sides of a difference, seed by seed; ± is one standard error of its "
        "mean. Sign test: how often fair coins are as one-sided; three seeds cannot go below 0.25."
    ]
    return section(
        "Paired differences, points",
        ["difference", "R1", "mAP", "R1, plain queries", "seeds above 0", "sign test"],
        lines,
        notes,
    )


def benchmark_table(rows: dict[str, Any]) -> str:
    """R1 and mAP on each benchmark and their means."""
    single = [(name, metric) for name in BENCHMARKS for metric in COMPARED]
    lines = []
    for found in rows.values():
        seeds = list(found["seeds"].values())
        cells = [shown(mean_of([one["human"][metric] for one in seeds])) for metric in COMPARED]
        cells += [
            shown(mean_of([one["benchmarks"][name][metric] for one in seeds])) for name, metric in single
        ]
        lines.append([label_of(found), str(len(seeds)), *cells])
    return section(
        "Each benchmark, percent (± standard error over seeds)",
        ["captions", "seeds", "mean R1", "mean mAP", *(f"{name} {metric}" for name, metric in single)],
        lines,
    )


def curve_table(curve: dict[str, list[dict[str, Any]]], fixed: str) -> str:
    """R1 against the number of pretraining images."""
    sizes = sorted({point["images"] for points in curve.values() for point in points})
    lines = []
    for row, points in curve.items():
        cells = {point["images"]: shown(mean_of(list(point["R1"].values()))) for point in points}
        counts = sorted({len(point["R1"]) for point in points})
        lines.append(
            [
                ROWS[row].label,
                " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
                *(cells.get(size, "–") for size in sizes),
            ]
        )
    return section(
        "R1 against the number of pretraining images",
        ["captions", "seeds", *(f"{size:,} images" for size in sizes)],
        lines,
        [f"Fixed {fixed} at every size (± standard error over seeds)."],
    )


def remarks(result: dict[str, Any]) -> list[str]:
    """Return the remarks below the tables."""
    binomial = [one["binomial"] for row in result["rows"].values() for one in row["seeds"].values()]
    return [
        f"Chance of the queries alone: a row's mean R1 on one seed has a binomial standard error of {min(binomial):.1f} to "
        f"{max(binomial):.1f} points; the same queries are asked of all rows, so that paired differences have less.",
        "",
        f"{result['jobs_done']} of {result['jobs_in_all']} jobs, {result['core_hours']} core hours in all. "
        f"Seconds of a job by kind: {', '.join(f'{kind} {value:.0f}' for kind, value in result['seconds_by_kind'].items())}.",
        "",
    ]


# ------------------------------------------------------------------------------------------------------------------ parts


def section(
    title: str, header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """Format a Markdown section: heading, table, notes below; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    laid = "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])
    return "\n\n".join([f"## {title}", laid, *notes]) + "\n"


def shown(value: Mean | Difference | None, digits: int = 1, signed: bool = False) -> str:
    """Format a mean and its standard error."""
    if value is None:
        return "–"
    text = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    return text if value.error is None else f"{text} ± {value.error:.{digits}f}"


def label_of(row: dict[str, Any]) -> str:
    return row["label"] + (" \\*" if row["is_control"] else "")


def seeds_said(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def without_names(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("row", "above")}
