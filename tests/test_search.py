"""Searching a folder: right answers, and an index that follows the files and the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ham.clip import tokenize
from ham.reid import search as search_module
from ham.reid.batch import normalize
from ham.reid.encode import EncodeSettings
from ham.reid.search import SearchIndex, index_key, open_index, search
from ham.runtime import UsageError, WorkError

COLOURS = {"red": (220, 20, 30), "green": (20, 200, 40), "blue": (30, 40, 230), "white": (250, 250, 250)}
SMALL = EncodeSettings(image_size_px=(16, 8), batch_size=4)


class Stub(nn.Module):
    """Mean colour for images, the named colour for captions; counts the images that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = 0
        pixels = normalize(torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, :, None, None])
        self.colours = dict(zip(tokenize(list(COLOURS))[:, 1].tolist(), pixels[:, :, 0, 0]))

    def image_features(self, images: Tensor) -> list[Tensor]:
        self.seen += len(images)
        return [self.scale * images.mean(dim=(2, 3))]

    def text_features(self, ids: Tensor) -> list[Tensor]:
        return [
            torch.stack(
                [
                    next((self.colours[i] for i in row if i in self.colours), torch.ones(3))
                    for row in ids.tolist()
                ]
            )
        ]


def paint(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 12), COLOURS[colour]).save(path)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "gallery"
    for colour in COLOURS:
        paint(folder / f"{colour}.png", colour)
        paint(folder / "inner" / f"{colour}.JPG", colour)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_best_images_come_first(gallery: Path) -> None:
    rows = search(Stub(), gallery, ["a man in a blue jacket", "green"], top=3, settings=SMALL)
    assert [row["query"] for row in rows] == ["a man in a blue jacket", "green"]
    for row, colour in zip(rows, ("blue", "green")):
        names = [Path(hit["image"]).stem for hit in row["hits"]]
        assert names[:2] == [colour, colour] and len(names) == 3 and colour != names[2]
        assert Path(row["hits"][0]["image"]).is_file() and row["hits"][0]["score"] == pytest.approx(
            1.0, abs=1e-3
        )
        assert row["hits"][0]["right"] is None


def test_top_beyond_the_gallery_gives_what_there_is(gallery: Path) -> None:
    assert len(search(Stub(), gallery, ["red"], top=99, settings=SMALL)[0]["hits"]) == 8


def test_index_is_kept_and_only_changes_are_embedded(gallery: Path) -> None:
    model = Stub()
    first = open_index(model, gallery, SMALL)
    assert model.seen == 8 and len(first.paths) == 8
    again = open_index(model, gallery, SMALL)
    assert model.seen == 8 and again.paths == first.paths and torch.equal(again.feats, first.feats)

    paint(gallery / "inner" / "new.png", "red")  # one new
    paint(gallery / "white.png", "green")  # one changed
    os.utime(gallery / "white.png", ns=(1, 1))
    (gallery / "blue.png").unlink()  # one lost
    after = open_index(model, gallery, SMALL)
    assert model.seen == 10
    assert sorted(after.paths) == sorted({*first.paths, "inner/new.png"} - {"blue.png"})
    fresh = open_index(model, gallery, SMALL, index_dir=gallery.parent / "elsewhere")
    for path, feature in zip(after.paths, after.feats):
        torch.testing.assert_close(feature, fresh.feats[fresh.paths.index(path)])


def test_lost_images_leave_the_saved_index(gallery: Path) -> None:
    model = Stub()
    open_index(model, gallery, SMALL)
    (gallery / "blue.png").unlink()
    open_index(model, gallery, SMALL)
    saved = json.loads((gallery / ".ham-index" / index_key(model, SMALL) / "index.json").read_text())
    assert "blue.png" not in {entry[0] for entry in saved["entries"]}
    assert model.seen == 8


def test_another_checkpoint_or_size_has_another_index(gallery: Path) -> None:
    model = Stub()
    open_index(model, gallery, SMALL)
    wide = EncodeSettings(image_size_px=(16, 16), batch_size=4)
    assert index_key(model, SMALL) == index_key(Stub(), SMALL) != index_key(model, wide)
    with torch.no_grad():
        model.scale.mul_(2.0)
    assert index_key(model, SMALL) != index_key(Stub(), SMALL)
    open_index(model, gallery, SMALL)
    assert model.seen == 16


def test_unreadable_images_are_listed_tried_again_and_limited(gallery: Path) -> None:
    model = Stub()
    (gallery / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(
        WorkError, match=r"1 of 9 images cannot be read, more than the accepted 10%; see .*failed.jsonl"
    ):
        open_index(model, gallery, SMALL)
    index = open_index(model, gallery, SMALL, max_failed_share=0.2)
    listed = gallery / ".ham-index" / index_key(model, SMALL) / "failed.jsonl"
    assert [Path(json.loads(line)["image"]).name for line in listed.read_text().splitlines()] == ["torn.jpg"]
    assert "torn.jpg" not in index.paths and model.seen == 8
    paint(gallery / "torn.jpg", "red")
    assert "torn.jpg" in open_index(model, gallery, SMALL).paths
    assert listed.read_text() == ""


@pytest.mark.parametrize("damage", ["features", "entries", "mismatch", "lost"])
def test_damaged_index_is_made_anew(gallery: Path, damage: str) -> None:
    model = Stub()
    expected = open_index(model, gallery, SMALL)
    folder = gallery / ".ham-index" / index_key(model, SMALL)
    if damage == "features":
        (folder / "features.safetensors").write_bytes(b"torn")
    elif damage == "entries":
        (folder / "index.json").write_text('{"entries": [[1]]}')
    elif damage == "mismatch":  # as when the run was killed between the two files
        saved = json.loads((folder / "index.json").read_text())
        saved["entries"][0][1] += 1
        (folder / "index.json").write_text(json.dumps(saved))
    else:
        (folder / "features.safetensors").unlink()
    found = open_index(model, gallery, SMALL)
    assert model.seen == 16 and found.paths == expected.paths
    torch.testing.assert_close(found.feats, expected.feats)


def test_killed_in_between_keeps_the_finished_blocks(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "BLOCK", 3)
    model = Stub()
    encode = search_module.encode_images

    def dies_in_the_third(*arguments, **options):
        if model.seen >= 6:
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    monkeypatch.setattr(search_module, "encode_images", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_index(model, gallery, SMALL)
    monkeypatch.setattr(search_module, "encode_images", encode)
    assert len(open_index(model, gallery, SMALL).paths) == 8 and model.seen == 8


def test_top_equals_a_sort_in_any_chunk() -> None:
    draw = torch.Generator().manual_seed(0)
    feats, queries = torch.randn(50, 6, generator=draw), torch.randn(9, 6, generator=draw)
    index = SearchIndex(Path(), [str(number) for number in range(50)], feats)
    expected = (queries @ feats.T).sort(dim=1, descending=True)
    for chunk in (1, 4, 64):
        scores, places = index.top(queries, 5, chunk)
        assert torch.equal(places, expected.indices[:, :5])
        torch.testing.assert_close(scores, expected.values[:, :5])


def test_bad_input_is_named(gallery: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"empty ones: \[2\]"):
        search(Stub(), gallery, ["red", " "], settings=SMALL)
    with pytest.raises(UsageError, match="found 0 queries"):
        search(Stub(), gallery, [], settings=SMALL)
    with pytest.raises(UsageError, match="no such folder"):
        search(Stub(), tmp_path / "nowhere", ["red"], settings=SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no image found; looked for \.bmp"):
        search(Stub(), tmp_path / "empty", ["red"], settings=SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        open_index(Stub(), gallery, SMALL, index_dir=tmp_path / "file")


def test_dangling_link_is_a_failed_image_and_no_crash(gallery: Path) -> None:
    (gallery / "link.png").symlink_to(gallery / "nothing.png")
    assert "link.png" not in open_index(Stub(), gallery, SMALL, max_failed_share=0.2).paths


def test_gallery_that_cannot_be_written_to_names_the_option(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(search_module, "atomic_write", refused)  # a read-only folder would not stop root
    with pytest.raises(UsageError, match=r"cannot be written to .* \(Permission denied\); .* --index"):
        open_index(Stub(), gallery, SMALL)
