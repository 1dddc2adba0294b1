"""Captions under textual hints of a nano world's pool, for the report's comparison."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ham.datasets import image_root
from ham.generation.image_lists import job_images
from ham.records import read_json, read_jsonl
from ham.runtime import UsageError
from ham.world.build import build_world
from scripts.world import write_templates
from scripts.world.write_templates import Asked, is_there, write

TOP = Path(__file__).resolve().parent.parent
LLAVA = TOP / "ham" / "world" / "weights" / "llava"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "nano"
    build_world(out, "nano", 0, 1, foundation=False)
    return out


def test_hinted_captions_of_the_first_images(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "captions_template"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "write_templates",
            "--world",
            str(world),
            "--out",
            str(out),
            "--images",
            "7",
            "--model-path",
            str(LLAVA),
        ],
    )
    write_templates.main()
    assert "14 captions of 7 images" in capsys.readouterr().out
    captions, about = read_json(out / "captions.json"), read_json(out / "templates.json")
    assert list(captions) == list(
        job_images(image_root(world, "SYNTH-PEDES"), None, 7)
    )  # as caption.py --limit 7
    assert set(captions) <= {
        row["image_path"] for row in read_jsonl(world / "truth" / "SYNTH-PEDES-images.jsonl")
    }
    texts = [text for own in captions.values() for text in own]
    assert (
        all(len(own) == 2 for own in captions.values()) and len(set(texts)) > 10
    )  # hints differ, and so do captions
    assert len(set(about["hints"])) == 46 and about["captions"] == 14 and about["rejected"] >= 0
    written = (out / "captions.json").stat().st_mtime_ns
    write_templates.main()
    assert (out / "captions.json").stat().st_mtime_ns == written and capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="holds captions made with"):
        is_there(out, Asked(8, 2, 46, 0))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(0, 2, 46, 0), "--images 0: expected at least 1"),
        (Asked(9, 0, 46, 0), "--per-image 0"),
        (Asked(9, 3, 2, 0), "there are only 2 --templates"),
        (Asked(9, 2, 46, -1), "--seed -1: expected at least 0"),
    ],
)
def test_what_cannot_be_is_refused(world: Path, tmp_path: Path, asked: Asked, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(world, LLAVA, tmp_path, asked)


def test_missing_folders_are_named(world: Path, tmp_path: Path) -> None:
    asked = Asked(2, 2, 46, 0)
    with pytest.raises(UsageError, match=r"no world.json; python -m ham.world build"):
        write(tmp_path, LLAVA, tmp_path / "out", asked)
    with pytest.raises(UsageError, match="--model-path nowhere: no such folder"):
        write(world, Path("nowhere"), tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
