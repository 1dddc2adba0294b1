"""Measured beside expected figures, the matrix of several checkpoints, and the file of published results."""

from __future__ import annotations

import pytest

from ham.datasets import BENCHMARKS
from ham.reid.compare import check_figures, expected_figures, format_expected, format_matrix, published
from ham.reid.metrics import METRICS
from ham.runtime import UsageError


def row(dataset: str, first: float, direction: str = "text-to-image") -> dict:
    return {
        "dataset": dataset,
        "direction": direction,
        **dict(zip(METRICS, (first, 80.0, 90.0, 60.0, float("nan")))),
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_published_figures_are_percentages_of_known_metrics() -> None:
    check_figures({name: entry["results"] for name, entry in published().items()})
    for entry in published().values():
        assert entry["source"] and entry["kind"] and set(entry["results"]) <= set(BENCHMARKS)
    assert published()["HAM released file"]["results"]["CUHK-PEDES"] == {
        "R1": 70.60,
        "R5": 86.89,
        "R10": 91.78,
        "mAP": 63.39,
        "mINP": 47.06,
    }


def test_difference_to_published_and_own_expectations() -> None:
    expected = expected_figures(["HAM released file"], {"config": {"CUHK-PEDES": {"mAP": 61.0}}})
    rows = [row("CUHK-PEDES", 70.15), row("CUHK-PEDES", 1.0, "image-to-text"), row("mine", 3.0)]
    table = [cells(line) for line in format_expected(rows, expected).splitlines()]
    assert table[0] == ["dataset", "figures", *METRICS]
    assert table[2] == ["CUHK-PEDES", "measured", "70.15", "80.00", "90.00", "60.00", "-"]
    assert table[4] == ["CUHK-PEDES", "difference", "-", "-", "-", "-1.00", "-"]
    assert table[6] == ["CUHK-PEDES", "difference", "-0.45", "-6.89", "-1.78", "-3.39", "-"]
    assert len(table) == 7
    assert format_expected([row("mine", 3.0)], expected) == ""


def test_matrix_has_a_row_a_checkpoint_and_the_published_ones() -> None:
    rows_of = {"a": [row("ICFG-PEDES", 40.0), row("mine", 5.0)], "b": [row("ICFG-PEDES", 41.0)]}
    lines = format_matrix(rows_of).splitlines()
    table = [cells(line) for line in lines]
    assert len(set(map(len, lines))) == 1
    assert table[0] == ["trained on \\ tested on, R1", "ICFG-PEDES", "mine"]
    assert table[2] == ["a", "40.00", "5.00"] and table[3] == ["b", "41.00", "-"]
    assert ["IRRA, CUHK-PEDES (published: ICL, Table 3)", "42.41", "-"] in table
    assert ["RDE, RSTPReid (published: ICL, Table 3)", "42.17", "-"] in table
    assert not any(line[0].startswith("RDE, ICFG") for line in table)
    assert "published" not in format_matrix(rows_of, with_published=False)


def test_unknown_names_and_metrics_are_refused() -> None:
    with pytest.raises(
        UsageError, match="no published result is called 'HAM released'; did you mean 'HAM released file'"
    ):
        expected_figures(["HAM released"])
    for wrong in ({"R2": 3.0}, {"R1": 101}, {"R1": "x"}, {"R1": True}):
        with pytest.raises(UsageError, match="the metrics are R1, R5, R10, mAP, mINP, in percent"):
            expected_figures([], {"config": {"CUHK-PEDES": wrong}})
