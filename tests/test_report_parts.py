"""Parts of the report: moving averages, charts, numbers in words, the frame of a page."""

from __future__ import annotations

import numpy as np
import pytest

from ham.records import CaptionRow
from ham.report.page import html_page, image_tag
from ham.report.samples import sample_block
from scripts.demo_report.charts import line_chart, moving_average
from scripts.demo_report.experiment import mean_error
from scripts.demo_report.facts import duration, group_by_value, loss_means, number, plural
from scripts.demo_report.folder import sum_by_step, total_seconds


def test_moving_average_keeps_length_mean_level_and_removes_a_sawtooth() -> None:
    sawtooth = 1 + 0.3 * np.tile([1, -1], 50)
    smooth = moving_average(sawtooth)
    assert len(smooth) == 100 and np.ptp(smooth) < 0.3 * np.ptp(sawtooth)
    by_length = (
        0.55 + np.exp(-np.arange(60) / 5) + 0.1 * np.tile([2, 0, -1, -1, 0], 12)
    )  # batches of five lengths
    assert np.diff(moving_average(by_length)).max() < 0.03  # of values that rise by 0.2
    assert moving_average([5.0]).tolist() == [5.0]
    assert moving_average([1.0, 2.0, 3.0]).tolist() == [1.5, 2.0, 2.5]


def test_charts_of_short_and_long_lines_are_pictures() -> None:
    for length in (1, 5, 100):
        png = line_chart([("a", range(length), range(length)), ("b", range(length), range(length))], "x", "y")
        assert png.startswith(b"\x89PNG")


def test_loss_means_compare_whole_phases() -> None:
    rows = [{"step": step, "loss": 2.0 if step < 10 else 1.0} for step in range(20)]
    assert loss_means(rows) == (2.0, 1.0) and loss_means(rows[:1]) is None and loss_means([{"x": 1}]) is None


def test_numbers_in_words() -> None:
    assert [number(value) for value in (0.004, 3.14159, 12.34, 1234.5, 5)] == [
        "0.00",
        "3.14",
        "12.3",
        "1,234",
        "5",
    ]
    assert [duration(value) for value in (0.25, 59.6, 61, 3840)] == ["0 s", "1 min", "1 min 1 s", "1 h 4 min"]
    assert plural(1, "image") == "1 image" and plural(1200, "query", "queries") == "1,200 queries"
    assert mean_error([10.0, 20.0]) == "15.0 ± 5.0" and mean_error([3.0]) == "3.0"
    assert group_by_value({"a": 1, "b": 1}) == "1" and group_by_value({"a": 1, "b": 2}) == "1 (a), 2 (b)"
    assert total_seconds([{"time_s": 3}, {"time_s": 8}, {"time_s": 2}]) == 10
    assert sum_by_step({"step": step, "seconds": 2} for step in "aba") == {"a": 4, "b": 2}


def test_pages_fit_phones_and_escape_titles(tmp_path) -> None:
    page = html_page("<x>", "body")
    assert 'name="viewport" content="width=device-width' in page and "<title>&lt;x&gt;</title>" in page
    assert "no picture: missing" in image_tag(tmp_path / "none.png", "x")


@pytest.mark.parametrize("name", ["../x.png"])
def test_a_description_is_escaped(name: str) -> None:
    assert "&lt;b&gt;" in image_tag(name, "<b>")


@pytest.mark.parametrize(
    ("style_id", "note"), [(-1, "no style"), (None, "no style"), (0, "style 0"), (7, "style 7")]
)
def test_a_caption_without_a_style_is_called_so(tmp_path, style_id: int | None, note: str) -> None:
    row = CaptionRow("0.jpg", "A man.", style_id, 0, "accepted", None)
    assert f"<small>{note}</small>" in sample_block("0.jpg", [row], tmp_path)
