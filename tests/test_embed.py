"""Embedding images or captions into a file: the same rows however often it was interrupted and with any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_search import COLOURS, SMALL, Stub

from ham.reid import embed
from ham.reid.embed import caption_items, image_items, join_parts, plan_embedding, run_job
from ham.reid.encode import encode_texts
from ham.runtime import UsageError, WorkError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embed, "PART_ITEMS", 3)
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(list(COLOURS.values()) * 2):
        Image.new("RGB", (6, 12), colour).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


def embed_images(
    folder: Path, out: Path, model: Stub | None = None, max_failed_share: float = 0.01
) -> Path | None:
    model = model or Stub()
    job = plan_embedding(model, image_items(folder), folder, out, SMALL)
    run_job(model, job, SMALL, torch.float32)
    return join_parts(job, max_failed_share)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


def test_features_and_rows_fit_together(folder: Path, tmp_path: Path) -> None:
    out = embed_images(folder, tmp_path / "f.safetensors")
    feats = load_file(out)["features"]
    assert [row["image"] for row in rows_of(out)] == [f"{number}.png" for number in range(8)]
    assert feats.shape == (8, 3)
    torch.testing.assert_close(feats.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(feats[:4], feats[4:])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["f.jsonl", "f.safetensors", "photos"]


def test_captions_of_a_text_file_and_of_an_annotation(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("red\n\nblue coat\n")
    (tmp_path / "c.json").write_text(json.dumps({"a.jpg": ["red", "blue coat"]}))
    for name, image in (("c.txt", None), ("c.json", "a.jpg")):
        items = caption_items(tmp_path / name)
        assert [(row["image"], row["caption"]) for row in items] == [(image, "red"), (image, "blue coat")]
        job = plan_embedding(Stub(), items, None, tmp_path / "t.safetensors", SMALL)
        run_job(Stub(), job, SMALL)
        feats = load_file(join_parts(job, 0.0))["features"]
        expected = encode_texts(Stub(), ["red", "blue coat"], SMALL)
        torch.testing.assert_close(feats.float(), expected, atol=1e-3, rtol=0)


def test_killed_and_resumed_with_other_processes_equals_uninterrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed_images(folder, tmp_path / "whole.safetensors")
    out, model = tmp_path / "f.safetensors", Stub()
    write = embed.write_part

    def dies_at_the_second(file: Path, *arguments: object) -> None:
        if file.name == "00001.safetensors":
            raise KeyboardInterrupt
        write(file, *arguments)

    monkeypatch.setattr(embed, "write_part", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        embed_images(folder, out, model)
    monkeypatch.setattr(embed, "write_part", write)
    assert not out.exists()
    (out.with_suffix(".parts") / "00002.safetensors").write_bytes(b"torn")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        result = embed_images(folder, out)
        assert (result is None) == (rank == 0)
    assert out.read_bytes() != b"" and rows_of(out) == rows_of(whole)
    assert torch.equal(load_file(out)["features"], load_file(whole)["features"])
    assert out.read_bytes() == whole.read_bytes()


def test_broken_images_are_rows_and_tried_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    (folder / "3.png").write_bytes(b"torn")
    with pytest.raises(
        WorkError, match=r"1 of 8 images cannot be read, more than the accepted 1.0%; see .*failed"
    ):
        embed_images(folder, out)
    assert not out.exists()
    assert embed_images(folder, out, max_failed_share=0.2) == out
    assert [row["image"] for row in rows_of(out)] == [f"{number}.png" for number in range(8) if number != 3]
    assert "torn" not in out.with_suffix(".failed.jsonl").read_text().split("reason")[0]
    Image.new("RGB", (6, 12)).save(folder / "3.png")
    again = tmp_path / "g.safetensors"
    (folder / "4.png").write_bytes(b"torn")
    with pytest.raises(WorkError):
        embed_images(folder, again)
    Image.new("RGB", (6, 12), "red").save(folder / "4.png")
    assert len(rows_of(embed_images(folder, again))) == 8


def test_parts_of_another_job_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    plan_embedding(Stub(), image_items(folder), folder, out, SMALL)
    other = Stub()
    with torch.no_grad():
        other.scale.mul_(2)
    with pytest.raises(UsageError, match="holds parts of another job"):
        plan_embedding(other, image_items(folder), folder, out, SMALL)


def test_bad_input_is_named(folder: Path, tmp_path: Path) -> None:
    items = image_items(folder)
    for wrong in (tmp_path / "f.pt", tmp_path / "noSuffix"):
        with pytest.raises(UsageError, match=r"expected a file name that ends in \.safetensors"):
            plan_embedding(Stub(), items, folder, wrong, SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image found"):
        image_items(tmp_path / "empty")
    with pytest.raises(UsageError, match="no such file"):
        caption_items(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match="holds no caption"):
        caption_items(tmp_path / "empty.txt")
