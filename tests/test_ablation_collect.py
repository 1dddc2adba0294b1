"""The results of scripts/ablation.py: the first paragraph, the tables, the order, the plots."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablation_helpers import R1, make_up, settings_of
from PIL import Image

from ham.records import read_json
from scripts.ablation.collect import collect
from scripts.ablation.gather import one_each
from scripts.ablation.paper import PAPER, paper_mean
from scripts.ablation.plots import apart
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import Settings
from scripts.ablation.statistics import by_chance_ordered, ranks, spearman
from scripts.demo_report.__main__ import read_experiment


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def test_the_page_opens_with_what_was_run(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    text = collect(
        settings,
        Path(settings.work),
        tmp_path / "results",
        lambda _: "python scripts/ablation.py --images 96",
    )
    opening = text.split("## ")[0]
    assert opening.startswith("# ") and "    python scripts/ablation.py --images 96\n" in opening
    assert (
        "Preset full, seeds 0, 1, 2 (another world" in opening and "16 retrieval steps of 48 pairs" in opening
    )
    assert "2026-11-24 16:00 to 2026-11-24 16:03 UTC" in opening
    assert text == (tmp_path / "results" / "ablation.md").read_text()
    for title in (
        "Direct transfer",
        "The paper's order",
        "Paired differences",
        "Each benchmark",
        "R1 against the number",
    ):
        assert text.count(f"## {title}") == 1
    assert "of 96 captions, one drawn for each image, as many in every row" in text
    written = (tmp_path / "results" / "ablation.json").read_text()
    assert str(tmp_path) not in written + text and "/tmp" not in written
    assert {row["label"] for row in read_experiment(tmp_path / "results" / "ablation.json")["rows"]} == {
        row.label for row in ROWS.values()
    }


def test_one_seed_and_different_seeds_are_said(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, ["static", "both"], [0])
    text = collect(settings, Path(settings.work), tmp_path / "one")
    assert "Rows have different seeds" not in text
    assert "| static, untuned, greedy | 1 | 2" in text and "## The paper's order" not in text
    make_up(settings, ["static"], [1])
    assert "Rows have different seeds so far" in collect(settings, Path(settings.work), tmp_path / "two")


def test_the_order_beside_the_papers(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    collect(settings, Path(settings.work), tmp_path / "results")
    found = read_json(tmp_path / "results" / "ablation.json")["order"]
    assert list(found["rows"]) == list(PAPER) and found["seeds"] == [0, 1, 2]
    ours = {row: one["ours"] for row, one in found["rows"].items()}
    assert (
        sorted(ours, key=ours.get) != list(PAPER) and found["rows"]["kmeans"]["our_rank"] == 5.0
    )  # above UPS here
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (6 * 35)) and found["chance"] == pytest.approx(
        6 / 720
    )
    assert [(one["row"], one["above"]) for one in found["turned"]] == [("kmeans", "ups")]
    text = (tmp_path / "results" / "ablation.md").read_text()
    assert "Spearman's rank correlation with the paper's order: +0.94** over 6 rows" in text
    assert "The other way round than in the paper: KMeans above UPS by" in text


def test_ranks_and_their_correlation_by_hand() -> None:
    assert ranks([3.0, 1.0, 3.0, 9.0]) == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0) and spearman([1, 1, 1], [1, 2, 3]) is None
    assert (
        by_chance_ordered([1, 2, 3], [1, 2, 3]) == pytest.approx(1 / 6)
        and by_chance_ordered([3, 2, 1], [1, 2, 3]) == 1.0
    )
    assert by_chance_ordered([1, 1], [1, 2]) is None
    assert [round(paper_mean(row), 2) for row in PAPER] == [32.58, 34.4, 35.38, 41.7, 43.5, 44.43]


def test_variety_is_measured_on_one_caption_of_each_image() -> None:
    captions = {f"{index}.jpg": ["first", "second"] for index in range(200)}
    drawn = one_each(captions, 0)
    assert drawn == one_each(captions, 0) != one_each(captions, 1)
    assert len(drawn) == 200 and 70 < drawn.count("first") < 130
    assert one_each({"a": ["only"]}, 0) == ["only"]


def test_labels_are_moved_apart() -> None:
    assert apart([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert apart([1.0, 2.0, 9.0], 2.0) == [0.5, 2.5, 9.0]
    assert apart([1.0, 2.0, 3.0], 2.0) == [0.0, 2.0, 4.0] and apart([], 1.0) == []


def test_plots_are_as_wide_as_a_readme(settings: Settings, tmp_path: Path) -> None:
    make_up(settings, list(R1), [0, 1, 2])
    collect(settings, Path(settings.work), tmp_path / "results")
    for name in ("ablation.png", "curve.png"):
        with Image.open(tmp_path / "results" / name) as picture:
            assert picture.width == 1800 and picture.height < 1400
