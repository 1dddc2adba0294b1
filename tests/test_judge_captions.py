"""Judging a folder of captions on a nano world, whose truth is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError
from ham.world.build import build_world
from scripts.world import judge_captions
from scripts.world.judge_captions import human_captions, judge


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "nano"
    build_world(out, "nano", 0, 1)
    return out


@pytest.fixture(scope="module")
def truths(world: Path) -> dict[str, dict[str, str]]:
    return {
        row["image_path"]: row["attributes"]
        for row in read_jsonl(world / "truth" / "SYNTH-PEDES-images.jsonl")
    }


def machine_captions(world: Path) -> dict[str, list[str]]:
    """The plain, true captions that the pool comes with: a perfect untuned model."""
    rows = read_json(world / "SYNTH-PEDES" / "synthpedes_dataset.json")
    return {row["file_path"]: row["captions"] for row in rows}


def test_true_plain_captions_are_precise_and_human_ones_are_varied(world: Path, truths: dict) -> None:
    plain, humans = judge({"plain": machine_captions(world), "humans": human_captions(world)}, truths)
    assert plain["precision"] == humans["precision"] == 100.0 and plain["recall"] > humans["recall"] > 40
    assert plain["f1"] == pytest.approx(2 * 100 * plain["recall"] / (100 + plain["recall"]), abs=0.02)
    assert humans["captions"] == 2 * plain["captions"] == 2 * len(truths)
    assert humans["captions_for_variety"] == plain["captions_for_variety"] == len(truths)  # sets of one size
    assert humans["distinct_2"] > plain["distinct_2"] and humans["self_bleu"] < plain["self_bleu"]


def test_captions_of_other_pictures_are_found_false(world: Path, truths: dict) -> None:
    right = machine_captions(world)
    images = sorted(right)
    wrong = {
        image: right[other]
        for image, other in zip(images, images[len(images) // 2 :] + images[: len(images) // 2])
    }
    row, same = judge({"wrong": wrong, "right": right}, truths)
    assert row["precision"] < 70 and same["precision"] == 100.0


def test_only_images_that_all_have_are_judged(
    world: Path, truths: dict, caplog: pytest.LogCaptureFixture
) -> None:
    every, some = machine_captions(world), dict(list(machine_captions(world).items())[:7])
    with caplog.at_level("WARNING", logger="ham"):
        rows = judge({"all": every, "some": some, "elsewhere": {**every, "other.jpg": ["a man"]}}, truths)
    assert [row["images"] for row in rows] == [7, 7, 7] and rows[0]["distinct_1"] == rows[1]["distinct_1"]
    assert "7 images have captions in every row" in caplog.text
    with pytest.raises(
        UsageError, match=r"no image of the world's \d+ has captions everywhere \(a 1, b \d+ images\)"
    ):
        judge({"a": {"other.jpg": ["a man"]}, "b": every}, truths)


def test_the_command_prints_a_table_and_writes_the_figures(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, captions in (("tuned", human_captions(world)), ("plain", machine_captions(world))):
        write_json(tmp_path / name / "captions.json", captions)
    words = [
        "--captions",
        str(tmp_path / "tuned"),
        "--world",
        str(world),
        "--beside",
        str(tmp_path / "plain"),
    ]
    monkeypatch.setattr(sys, "argv", ["judge_captions", *words])
    judge_captions.main()
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 5 and len(set(map(len, table))) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == ["captions", "untuned", "humans"]
    rows = json.loads((tmp_path / "tuned" / "judged.json").read_text())["rows"]
    assert [row["precision"] for row in rows] == [100.0, 100.0, 100.0] and rows[0]["recall"] == rows[2][
        "recall"
    ]
    (tmp_path / "plain" / "captions.json").unlink()
    with pytest.raises(UsageError, match=r"plain: no captions\.json; run caption\.py to its end"):
        judge_captions.main()
