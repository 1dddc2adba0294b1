"""Measured figures beside expected ones, and several checkpoints in one matrix of source x target.

`published.json` holds the published figures; a config's `expected:` has the same form {source: {dataset: {metric: percent}}}.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ham.records import read_json
from ham.reid.metrics import METRICS
from ham.runtime import UsageError

Figures = Mapping[str, Mapping[str, float]]  # dataset -> metric -> percent
PUBLISHED = Path(__file__).with_name("published.json")
MATRIX_KIND = "source to target"


@lru_cache
def published() -> dict[str, dict[str, Any]]:
    """Return the published results by name: {name: {kind, source, results: {dataset: {metric: percent}}}}."""
    return {row["name"]: row for row in read_json(PUBLISHED)["results"]}


def expected_figures(names: Sequence[str], own: Mapping[str, Figures] | None = None) -> dict[str, Figures]:
    """Return the figures of published rows by name, and a config's own ones. Raises UsageError for an unknown name."""
    figures: dict[str, Figures] = dict(own or {})
    for name in names:
        if name not in published():
            near = difflib.get_close_matches(name, published(), 3, 0.3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UsageError(
                f"no published result is called '{name}'{hint} The names are {', '.join(published())}"
            )
        figures[name] = published()[name]["results"]
    check_figures(figures)
    return figures


def check_figures(expected: Mapping[str, Figures]) -> None:
    """Raise UsageError for a metric that does not exist, or a figure that is no percentage."""
    for source, figures in expected.items():
        for dataset, metrics in figures.items():
            for metric, value in metrics.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if metric not in METRICS or not number or not 0 <= value <= 100:
                    raise UsageError(
                        f"expected: {source}: {dataset}: {metric}: {value}; the metrics are {', '.join(METRICS)}, in percent"
                    )


def format_expected(rows: Sequence[Mapping[str, Any]], expected: Mapping[str, Figures]) -> str:
    """Return a Markdown table of measured figures, the expected ones, and their difference in points.

    Only text-to-image rows of datasets that an expectation names are listed; an empty text where there is none.
    """
    lines: list[Sequence[str]] = []
    for row in rows:
        if row["direction"] != "text-to-image":
            continue
        sources = {
            source: figures[row["dataset"]]
            for source, figures in expected.items()
            if row["dataset"] in figures
        }
        if not sources:
            continue
        lines.append((row["dataset"], "measured", *(figure(row[metric]) for metric in METRICS)))
        for source, figures in sources.items():
            lines.append((row["dataset"], source, *(figure(figures.get(metric)) for metric in METRICS)))
            differences = (difference(row[metric], figures.get(metric)) for metric in METRICS)
            lines.append((row["dataset"], "  difference", *differences))
    if not lines:
        return ""
    return markdown(("dataset", "figures", *METRICS), lines, texts=2)


def format_matrix(
    rows_of: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str = "R1",
    with_published: bool = True,
) -> str:
    """Return a Markdown matrix of one metric: a row for each checkpoint, a column for each test set.

    with_published: add the published source-to-target rows of IRRA and RDE, where they have one of the columns.
    """
    columns = list(dict.fromkeys(row["dataset"] for rows in rows_of.values() for row in rows))
    lines = []
    for name, rows in rows_of.items():
        found = {row["dataset"]: row[metric] for row in rows if row["direction"] == "text-to-image"}
        lines.append((name, *(figure(found.get(column)) for column in columns)))
    for name, row in published().items() if with_published else ():
        results = row["results"]
        if row["kind"] == MATRIX_KIND and any(metric in results.get(column, {}) for column in columns):
            cells = (figure(results.get(column, {}).get(metric)) for column in columns)
            lines.append((f"{name} (published: {row['source']})", *cells))
    return markdown((f"trained on \\ tested on, {metric}", *columns), lines, texts=1)


def figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def difference(measured: float, expected: float | None) -> str:
    if expected is None or measured is None or math.isnan(measured):
        return "-"
    return f"{measured - expected:+.2f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """Return an aligned Markdown table; the first `texts` columns are words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(head, *lines)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ("-" if place < texts else ":") for place, width in enumerate(widths))
    return "\n".join([line(head), f"|{rule}|", *map(line, lines)])
