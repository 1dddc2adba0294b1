"""The parts of the report: axes, lines, maps, bars, tables, and how figures are put into words."""

from __future__ import annotations

import re

import pytest

from ham.report.page import duration, moved, number, picture, table
from scripts.demo_report.charts import Series, bars, line_chart, point_map, ticks
from scripts.demo_report.folder import seconds_of, summed


def test_ticks_are_round_and_enclose() -> None:
    assert ticks(0, 100, 6).tolist() == [0, 20, 40, 60, 80, 100] and ticks(
        0.31, 0.62, 5
    ).tolist() == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert ticks(5, 5, 5, whole=True).tolist() == [4, 5, 6] and len(ticks(1e-9, 3e7, 5)) <= 5


def test_line_chart_puts_points_where_they_belong() -> None:
    chart = line_chart(
        [Series("a", [0, 10], [0, 100]), Series("<b>", [0, 5, 10], [50, float("nan"), 50], 1)], "t", "x", "y"
    )
    first, second = re.findall(r'<polyline class="line c\d" points="([^"]+)"', chart)
    (x0, y0), (x1, y1) = ([float(v) for v in point.split(",")] for point in first.split())
    assert x1 > x0 and y1 < y0  # up is less in SVG
    assert second == f"{x0:.1f},{(y0 + y1) / 2:.1f} {x1:.1f},{(y0 + y1) / 2:.1f}" and "&lt;b&gt;" in chart
    long = line_chart([Series("a", range(5000), range(5000))], "t", "x", "y")
    assert len(long) < 8000 and "5,000" in long
    with pytest.raises(ValueError, match="no finite points"):
        line_chart([Series("a", [1], [float("nan")])], "t", "x", "y")


def test_map_hides_centres_beyond_the_points() -> None:
    points, centres = [[0, 0], [1, 1]], {"near": [[0.5, 0.5]], "far": [[9, 9]]}
    close, whole = (
        point_map(points, centres, {"near": 0, "far": 1}, "t", around) for around in (True, False)
    )
    assert close.count("h0") == 3 and whole.count("h0") == 4


def test_bars_and_words() -> None:
    html = bars("t", "n", {"a": 5.0, "b": 10.0, "c": None}, {})
    assert re.findall(r"width:([\d.]+)%", html) == ["50.0", "100.0", "0.0"] and "<b>–</b>" in html
    assert [number(value) for value in (0.004, 3.14159, 12.34, 1234.5, -0.001)] == [
        "0",
        "3.14",
        "12.3",
        "1,234",
        "0",
    ]
    assert number(float("nan")) == "–"
    assert [duration(value) for value in (0.25, 59.6, 61, 3840)] == [
        "0.2 s",
        "1 min",
        "1 min 1 s",
        "1 h 4 min",
    ]
    assert (
        moved(3, 9) == "rose from 3 to 9"
        and moved(9, 3) == "fell from 9 to 3"
        and moved(3, 3.0) == "stayed at 3"
    )
    rows = table(["a", "b"], [["head"], ["x", 1], ["<y>", None]])
    assert (
        "colspan=2" in rows
        and "<td class=n>1</td>" in rows
        and "<td>&lt;y&gt;</td><td class=n>–</td>" in rows
    )
    assert "no picture: missing" in picture("/nowhere.png", "x")
    assert seconds_of([{"time_s": 3}, {"time_s": 8}, {"time_s": 2}]) == 10
    assert summed({"step": step, "seconds": 2} for step in "aba") == [("a", 4), ("b", 2)]
