"""Judging styles: agreement with manners, probes, rare manners, and the inspect page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ham.report.style_map import page_of
from ham.runtime import UsageError, exit_code_of, log
from ham.style.analysis import linear_probe, look_at, mutual_information, reach
from ham.style.build import build_styles
from ham.style.cluster import Clusters
from ham.style.config import ClusterSettings, FeatureSettings, StyleSettings
from ham.style.folder import load_features

TOP = Path(__file__).resolve().parents[1]


def clusters_from(*members: list[int], rows: int) -> Clusters:
    return Clusters(
        np.zeros((len(members), 2), np.float32), tuple(np.array(ids, np.int64) for ids in members), rows
    )


def test_mutual_information_is_100_for_equal_and_about_0_for_random() -> None:
    manners = ["a"] * 50 + ["b"] * 50
    halves = clusters_from(list(range(50)), list(range(50, 100)), rows=100)
    assert mutual_information(halves, manners) == pytest.approx(100)
    odd_even = clusters_from(list(range(0, 100, 2)), list(range(1, 100, 2)), rows=100)
    assert abs(mutual_information(odd_even, manners)) < 3


def test_probe_reads_what_is_there_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    labels = np.array(["x", "y", "y", "y"] * 250)
    features = generator.normal(size=(1000, 4))
    blind = linear_probe(features, labels)
    assert blind.majority == pytest.approx(75, abs=3) and abs(blind.skill) < 6
    features[:, 2] += 6 * (labels == "x")
    seeing = linear_probe(features, labels)
    assert seeing.accuracy > 98 and seeing.skill > 95


def test_probe_needs_two_labels() -> None:
    with pytest.raises(UsageError, match="two labels with 5 captions each; found x: 20, y: 3"):
        linear_probe(np.zeros((23, 2)), ["x"] * 20 + ["y"] * 3)


def test_reach_by_hand() -> None:
    manners = ["common"] * 96 + ["rare1"] * 2 + ["rare2"] * 2
    clusters = clusters_from(list(range(96)), [0, 96, 97], rows=100)
    seen = reach(clusters, manners, rare_share=0.03)
    assert (
        seen.own_cluster == 50 and seen.covered == 50
    )  # rare1 has two thirds of a cluster, rare2 is in none
    assert seen.in_data == pytest.approx(4) and seen.drawn == pytest.approx(100 * (0 + 2 / 3) / 2)
    shares = np.array([(1 + 1 / 3) / 2, 1 / 3])
    assert seen.effective == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert reach(clusters, ["one"] * 100).own_cluster == 0


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    (tmp_path / "CUHK-PEDES" / "imgs").mkdir(parents=True)
    texts = ["The man wears <b>red</b> {}.", "{}! a man, red", "in this photo you can see one with a {}"]
    rows = [
        {
            "split": "train",
            "file_path": f"{at}.png",
            "id": at,
            "captions": [texts[at % 3].format("x" * (at % 7))],
        }
        for at in range(60)
    ]
    (tmp_path / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(rows))
    return build_styles(
        StyleSettings(
            str(tmp_path),
            str(tmp_path / "styles"),
            ["CUHK-PEDES"],
            features=FeatureSettings(dim=6),
            clusters=ClusterSettings(kmeans=3, ups=5, nearest=9),
        )
    )


def test_view_counts_and_examples(styles: Path) -> None:
    view = look_at(styles, clusters_shown=4, captions_shown=2)
    assert view.points.shape == (60, 2)
    assert {name: len(found) for name, found in view.centres.items()} == {"kmeans": 3, "ups": 5}
    assert view.sizes["ups"].tolist() == [9] * 5 and view.times_covered["kmeans"].tolist() == [1] * 60
    assert [example[0] for example in view.examples] == ["kmeans", "kmeans", "ups", "ups"]
    assert all(1 <= len(captions) <= 2 for *_, captions in view.examples)


def test_page_is_whole_and_escaped(styles: Path) -> None:
    page = page_of(look_at(styles))
    assert page.count("data:image/png;base64,iVBOR") == 2 and "http" not in page
    assert "<b>red</b>" not in page and "&lt;b&gt;" in page
    assert "8 styles of 60 captions" in page and "<td>KMeans</td><td class=n>3</td>" in page


def test_inspect_command(
    styles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    spec = importlib.util.spec_from_file_location("build_styles_script", TOP / "scripts" / "build_styles.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, value in (("handlers", []), ("propagate", log.propagate), ("level", log.level)):
        monkeypatch.setattr(log, name, value)  # main sets the log up: put it back for the other tests
    monkeypatch.setattr(sys, "argv", ["build_styles.py", "inspect", str(styles), "--clusters", "2"])
    assert exit_code_of(script.main) == 0 and capsys.readouterr().out.strip() == str(styles / "inspect.html")
    assert (styles / "inspect.html").read_text().startswith("<!doctype html>")


def test_missing_parts_are_named(styles: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"styles\.json: no such file"):
        look_at(tmp_path / "nowhere")
    (styles / "cache" / "features.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"features\.safetensors: missing or of another run; run build_styles"
    ):
        load_features(styles)
    (styles / "styles.safetensors").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"styles\.safetensors: cannot be read"):
        look_at(styles)
