"""Searching a folder: right answers, and an index that follows the files and the weights."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ham import image_folder
from ham.clip import tokenize
from ham.reid import search as search_module
from ham.reid import search_index
from ham.reid.batch import normalize
from ham.reid.encode import EncodeSettings
from ham.reid.queries import Query, encode_queries, query_warnings, read_queries
from ham.reid.search import index_key, open_index, search, to_json
from ham.reid.search_index import SearchIndex, Segment
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
    saved = open_index(model, gallery, SMALL, refresh=False)
    assert "blue.png" not in saved.paths and len(saved) == 7
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


@pytest.mark.parametrize("damage", ["torn", "empty", "width", "dtype", "paths", "keys", "lost"])
def test_damaged_index_is_rebuilt_with_a_line(
    gallery: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Stub()
    index = open_index(model, gallery, SMALL)
    paths, feats, file = index.paths, index.feats, index.segments[0].file
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    whole = file.read_bytes()
    file.unlink()  # never changed in place: it is memory-mapped
    if damage == "torn":
        file.write_bytes(whole[:-40])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "width":
        save_file(tensors | {"features": torch.zeros(8, 5).half()}, file)
    elif damage == "dtype":
        save_file(tensors | {"features": tensors["features"].float()}, file)
    elif damage == "paths":
        save_file(tensors | {"path_ends": tensors["path_ends"] + 3}, file)
    elif damage == "keys":
        del tensors["sizes"]
        save_file(tensors, file)
    with caplog.at_level(logging.WARNING, logger="ham"):
        found = open_index(model, gallery, SMALL)
    assert model.seen == 16 and found.paths == paths
    assert ("embedded again" in caplog.text) == (damage != "lost")
    torch.testing.assert_close(found.feats, feats)


def test_killed_in_between_keeps_the_finished_blocks(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "SEGMENT_ROWS", 3)
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


def index_of(feats: Tensor, folder: Path, rows: int) -> SearchIndex:
    segments = []
    for start in range(0, len(feats), rows):
        entries = [(f"{number}.png", (1, number)) for number in range(start, min(start + rows, len(feats)))]
        segments.append(
            Segment.write(folder / f"{len(segments):08d}.safetensors", feats[start : start + rows], entries)
        )
    return SearchIndex(folder, segments)


@pytest.mark.parametrize("rows", [7, 50])
@pytest.mark.parametrize("half_product", [True, False])
def test_top_equals_a_sort_in_any_chunk(
    tmp_path: Path, rows: int, half_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    feats = unit(torch.randn(50, 6, generator=draw), dim=1)
    feats[20:30] = feats[20]  # equal scores keep the order of rows
    feats[30:40] = unit(feats[20] + 1e-4 * torch.randn(10, 6, generator=draw), dim=1)  # nearly equal ones
    queries = unit(torch.cat([feats[:2], torch.randn(7, 6, generator=draw)]), dim=1)
    index = index_of(feats, tmp_path, rows)
    if not half_product:
        monkeypatch.setattr(
            search_index,
            "_products",
            lambda part, query: torch.cat([block.float() @ query.T for block in part.split(4)]),
        )
    expected = (queries @ feats.half().float().T).sort(dim=1, descending=True, stable=True)
    for chunk in (1, 4, 64):
        scores, places = index.top(queries, 5, chunk)
        assert torch.equal(places, expected.indices[:, :5])
        torch.testing.assert_close(scores, expected.values[:, :5])
    assert [index.path(row) for row in (0, 6, 7, 49)] == ["0.png", "6.png", "7.png", "49.png"]
    with pytest.raises(IndexError):
        index.path(50)
    with pytest.raises(IndexError):
        index.path(-1)


@pytest.mark.parametrize("most", [1 << 20, 12])
def test_queries_ranked_together_equal_a_sort(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, in plain torch; a batch with many candidates is divided."""
    monkeypatch.setattr(search_index, "MOST_CANDIDATES", most)
    draw = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    feats = unit(torch.randn(50, 6, generator=draw), dim=1)
    feats[20:30] = feats[20]
    feats[30:40] = unit(feats[20] + 1e-4 * torch.randn(10, 6, generator=draw), dim=1)
    queries = unit(torch.cat([feats[:2], feats[20:21], torch.randn(7, 6, generator=draw)]), dim=1)
    index = index_of(feats, tmp_path, 7)
    for top in (1, 5, 50):
        expected = (queries @ feats.half().float().T).sort(dim=1, descending=True, stable=True)
        scores, places = index._top_together(queries, top)
        assert torch.equal(places, expected.indices[:, :top])
        torch.testing.assert_close(scores, expected.values[:, :top])


def test_many_small_segments_are_merged(gallery: Path) -> None:
    model = Stub()
    for number in range(12):
        paint(gallery / f"later/{number}.png", "red")
        index = open_index(model, gallery, SMALL)
    assert len(index.segments) <= search_index.MAX_SMALL_SEGMENTS + 1
    assert model.seen == 20 and len(set(index.paths)) == len(index) == 20
    assert sorted(open_index(model, gallery, SMALL, refresh=False).paths) == sorted(index.paths)


def test_path_in_two_segments_counts_once(gallery: Path) -> None:
    """As when a merge was killed between writing the merged segment and deleting its parts."""
    model = Stub()
    index = open_index(model, gallery, SMALL)
    (segment,) = index.segments
    Segment.write(segment.file.with_name("00000005.safetensors"), segment.feats, list(segment.entries()))
    again = open_index(model, gallery, SMALL)
    assert len(again) == 8 and model.seen == 8


def test_index_is_opened_as_it_is_without_a_refresh(gallery: Path) -> None:
    model = Stub()
    with pytest.raises(UsageError, match="no index yet"):
        open_index(model, gallery, SMALL, refresh=False)
    open_index(model, gallery, SMALL)
    paint(gallery / "new.png", "red")
    assert len(open_index(model, gallery, SMALL, refresh=False)) == 8


# ---------------------------------------------------------------------------------------------------------------- queries


def test_a_picture_and_both_are_queries(gallery: Path, tmp_path: Path) -> None:
    paint(tmp_path / "ask.png", "green")
    rows = search(
        Stub(),
        gallery,
        [Query(image=tmp_path / "ask.png"), Query("a blue coat", tmp_path / "ask.png")],
        top=2,
        settings=SMALL,
    )
    assert [Path(hit["image"]).stem for hit in rows[0]["hits"]] == ["green", "green"]
    assert rows[0]["query_image"] == str(tmp_path / "ask.png") and "a blue coat + " in rows[1]["query"]
    feats = encode_queries(
        Stub(), [Query("blue"), Query(image=tmp_path / "ask.png"), Query("blue", tmp_path / "ask.png")], SMALL
    )
    torch.testing.assert_close(feats[2], torch.nn.functional.normalize(feats[0] + feats[1], dim=0))
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(WorkError, match=r"query pictures cannot be read.*torn\.png"):
        search(Stub(), gallery, [Query(image=tmp_path / "torn.png")], settings=SMALL)
    with pytest.raises(UsageError, match="no such file"):
        search(Stub(), gallery, [Query(image=tmp_path / "nowhere.png")], settings=SMALL)


def test_a_picture_path_as_a_sentence_is_noticed(gallery: Path) -> None:
    for text in (str(gallery / "red.png"), "photos/someone.JPG", " x.webp "):
        with pytest.raises(UsageError, match=r"is the path of a picture.*--image"):
            search(Stub(), gallery, ["red", text], settings=SMALL)
    search(Stub(), gallery, ["a man as in my holiday photo 3.jpg"], settings=SMALL)


def test_cut_and_foreign_queries_are_said(gallery: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert query_warnings("a man in a red coat", 77) == []
    assert query_warnings("a café owner in a naïve coat", 77) == []
    assert "has 102 tokens and the model reads 77" in query_warnings("red " * 100, 77)[0]
    for foreign in ("穿红衣服的人", "человек в красном", "رجل"):
        assert "not in Latin letters" in query_warnings(foreign, 77)[0]
    with caplog.at_level(logging.WARNING, logger="ham"):
        search(Stub(), gallery, ["穿红衣服的人"], settings=SMALL)
    assert "query '穿红衣服的人': it is not in Latin letters" in caplog.text


def test_threshold_leaves_out_low_scores(gallery: Path) -> None:
    rows = search(Stub(), gallery, ["blue"], top=8, settings=SMALL, threshold=0.99)
    assert [Path(hit["image"]).stem for hit in rows[0]["hits"]] == ["blue", "blue"]
    assert search(Stub(), gallery, ["blue"], settings=SMALL, threshold=1.1)[0]["hits"] == []


def test_queries_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("\ufeffa red man\n\n a blue one \n", encoding="utf-8")
    assert read_queries(tmp_path / "q.txt") == [Query("a red man"), Query("a blue one")]
    rows = [{"text": "red"}, {"query": "blue", "image": "a.png"}, {"image": "b.png"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_queries(tmp_path / "q.jsonl") == [
        Query("red"),
        Query("blue", tmp_path / "a.png"),
        Query(None, tmp_path / "b.png"),
    ]
    for text in ('{"caption": "x"}', "[1]", '{"text": 3}'):
        (tmp_path / "q.jsonl").write_text(text)
        with pytest.raises(UsageError, match=r"q\.jsonl, line 1: expected"):
            read_queries(tmp_path / "q.jsonl")
    (tmp_path / "latin.txt").write_bytes("ein Mädchen".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_queries(tmp_path / "latin.txt")
    with pytest.raises(UsageError, match="no such file"):
        read_queries(tmp_path / "none.txt")


def test_name_that_is_not_utf8_is_refused_by_name(gallery: Path) -> None:
    paint(gallery / os.fsdecode(b"bl\xff.png"), "blue")
    with pytest.raises(UsageError, match=r"bl\\udcff\.png.*not UTF-8"):
        open_index(Stub(), gallery, SMALL)


def test_answers_become_json() -> None:
    hit = {"image": os.fsdecode(b"g/bl\xff.png"), "score": 0.123456789, "right": None, "row": 3}
    (row,) = json.loads(to_json([{"query": "穿", "query_image": "a.png", "hits": [hit]}]))
    assert row["query"] == "穿" and row["image"] == "a.png" and row["hits"][0]["score"] == 0.123457


# ------------------------------------------------------------------------------------------------------------ odd galleries


def test_link_cycles_and_special_files_end(gallery: Path) -> None:
    (gallery / "inner" / "up").symlink_to("..")
    (gallery / "dot").symlink_to(".")
    os.mkfifo(gallery / "pipe.jpg")
    assert len(open_index(Stub(), gallery, SMALL, max_failed_share=0.2)) == 8


def test_file_that_vanishes_between_listing_and_stat_is_left_out(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [*image_folder.list_images(gallery), "gone.png"]
    monkeypatch.setattr(image_folder, "list_images", lambda _: iter(listed))
    assert len(open_index(Stub(), gallery, SMALL)) == 8


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

    monkeypatch.setattr(search_index, "write_file", refused)  # a read-only folder would not stop root
    with pytest.raises(UsageError, match=r"cannot be written to .* \(Permission denied\); .* --index"):
        open_index(Stub(), gallery, SMALL)
