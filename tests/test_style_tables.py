"""scripts/measure_styles.py: captions from files, presence probes, broken places, coverage of lonely captions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ham.runtime import UsageError
from ham.style.cluster import Clusters
from ham.style.neutral import NeutralText, neutral_text
from scripts.style_tables.captions import read_captions
from scripts.style_tables.coverage import loneliest, lonely_figures
from scripts.style_tables.damage import broken_places
from scripts.style_tables.features import presence_skills
from scripts.style_tables.surface import surface_figures, surface_rows

TOP = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("HAM_REAL_CAPTIONS", TOP.parent / "shared" / "real_captions"))


def test_captions_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"caption": "one"}, {"caption": " "}, "two"]))
    (tmp_path / "b.txt").write_text("three\n\nfour\n")
    assert read_captions(tmp_path / "a.json") == ["one", "two"]
    assert read_captions(tmp_path / "b.txt") == ["three", "four"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", '{"x": 1}', "expected a list"),
        ("b.json", '[{"text": "x"}]', "has no caption"),
        ("c.json", "[]", "no captions"),
        ("d.txt", "\n", "no captions"),
    ],
)
def test_files_without_captions_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_captions(tmp_path / name)


def test_presence_probes_read_what_features_hold_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    mentions = generator.random(400) < 0.5
    captions = [f"A man in {'a skirt' if mention else 'trousers'}" for mention in mentions]
    noise = generator.normal(size=(400, 4)).astype(np.float32)
    telling = np.concatenate([noise, mentions[:, None]], 1).astype(np.float32)
    assert presence_skills(captions, telling)["skirt"] > 95
    assert presence_skills(captions, noise)["skirt"] < 25
    assert presence_skills(captions, noise)["glasses"] is None


@pytest.mark.parametrize(
    "caption, neutral, kind",
    [
        ("a white, lacy top", "a color, certain garment", "adjective became a noun"),
        ("he backs toward it", "one moves side the item", "preposition or adverb replaced"),
        ("up the steps", "up the moves", "verb for a noun"),
        ("a bit wide", "a certain bit", "degree became a size"),
        ("adult male", "person certain person", "run of persons"),
        ("a white in", "a certain in", "modifier without a noun"),
        ("dark leather top", "certain certain garment", "word twice"),
        ("an umbrella", "a item", "article"),
        ("in a T-shirt", "in a Garment", "capital inside a sentence"),
    ],
)
def test_broken_places_are_found(caption: str, neutral: str, kind: str) -> None:
    assert kind in broken_places(NeutralText(caption, neutral))
    assert not broken_places(NeutralText("In a T-shirt", "In a garment"))


def test_lonely_captions_and_what_clusters_do_with_them() -> None:
    features = np.concatenate([np.zeros((90, 2)), np.arange(20).reshape(10, 2) * 10.0]).astype(np.float32)
    lonely = loneliest(features)
    assert lonely.sum() == 10 and not lonely[:81].any()
    whole = Clusters(np.zeros((1, 2), np.float32), (np.arange(100),), 100)
    assert lonely_figures(whole, lonely) == [1, 100, 100, 1]
    only = Clusters(np.zeros((1, 2), np.float32), (np.flatnonzero(lonely),), 100)
    assert lonely_figures(only, lonely) == pytest.approx([1, 10, 100, 10])


def test_surface_figures_by_hand() -> None:
    figures = surface_figures(
        ["A red and blue dress.  It is old .", "i see a man: his left shoe", "HAT ON HEAD"]
    )
    assert figures["words, mean"] == pytest.approx((8 + 7 + 3) / 3) and figures["sentences"] == pytest.approx(
        4 / 3
    )
    assert [
        round(figures[name]) for name in ("two-color things, %", "left or right, %", "first person, %")
    ] == [33, 33, 33]
    assert [
        round(figures[name]) for name in ("lower-case start, %", "all capitals, %", "double blanks, %")
    ] == [33, 33, 33]
    assert round(figures["blank before a stop, %"]) == 33 and figures["vocabulary"] == 18 - 1
    first = next(surface_rows(["one two"], [["one two three four"], ["one"]]))
    assert first == ["words, mean", "2.0", "4.0", "1.0", "2.00"]


def test_command_on_a_file(tmp_path: Path) -> None:
    captions = [
        f"A {who} in a {top}, {n}." for n in range(40) for who, top in (("man", "coat"), ("girl", "skirt"))
    ]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    words = ["--captions", str(tmp_path / "captions.json"), "--dim", "4", "--styles", "4", "--seeds", "1"]
    script = [sys.executable, str(TOP / "scripts" / "measure_styles.py"), *words]
    done = subprocess.run([*script, "--out", str(tmp_path / "t.md")], capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "t.md").read_text()
    assert "gender" in page and "broken place" in page and "loneliest" in page and "vocabulary" in page
    refused = subprocess.run([*script, "--tables", "rare"], capture_output=True, text=True, cwd=TOP)
    assert refused.returncode == 2 and "known annotators" in refused.stderr


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real captions at {REAL} (set HAM_REAL_CAPTIONS)")
def test_real_captions_stay_whole() -> None:
    captions = [caption for path in sorted(REAL.glob("*.json")) for caption in read_captions(path)]
    rows = [NeutralText(caption, neutral_text(caption)) for caption in captions]
    assert np.mean([bool(broken_places(row)) for row in rows]) < 0.03
