"""Training pairs, samplers and batched augmentation against slow obvious versions."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ham.clip import tokenize
from ham.reid import data
from ham.reid.batch import _augment_together, augment_images, draw_images, normalize
from ham.reid.config import TrainConfig
from ham.reid.data import (
    caption_file_pairs,
    dataset_pairs,
    fingerprint,
    pack_pairs,
)
from ham.reid.images import PIXEL_MEAN, PIXEL_STD
from ham.reid.loader import FailedImages, PairImages, image_loader
from ham.reid.sampler import SAMPLERS, identity_batches, random_batches, rank_slice
from ham.runtime import UsageError, WorkError

SIZE = (24, 8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """RSTPReid of 6 images (3 persons, 2 captions each) and one test image."""
    folder = tmp_path / "RSTPReid"
    (folder / "imgs").mkdir(parents=True)
    rows = [
        {
            "id": 10 * (number // 2),
            "img_path": f"{number}.png",
            "split": "train",
            "captions": [f"person {number} in red", f"someone {number} walking"],
        }
        for number in range(6)
    ]
    rows.append({"id": 99, "img_path": "9.png", "split": "test", "captions": ["a test"]})
    for number, row in enumerate(rows):
        Image.new("RGB", (16, 32), (number, 10 * number, 200)).save(folder / "imgs" / row["img_path"])
    (folder / "data_captions.json").write_text(json.dumps(rows))
    return tmp_path


def packed(root: Path) -> data.Pairs:
    return pack_pairs(lambda: dataset_pairs(root, "RSTPReid"), root / "cache/pairs", text_length=12)


# ------------------------------------------------------------------------------------------------------------------ pairs


def test_pairs_hold_the_training_split(root: Path) -> None:
    pairs = packed(root)
    assert len(pairs) == 12 and pairs.num_persons == 3
    assert pairs.image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert pairs.person.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [Path(path).name for path in pairs.image_paths] == [f"{number}.png" for number in range(6)]
    rows = pairs.rows(np.array([3, 8]))
    assert torch.equal(
        torch.from_numpy(rows["caption_ids"]), tokenize(["someone 1 walking", "person 4 in red"], 12)
    )
    assert (rows["person_ids"].tolist(), rows["image_ids"].tolist(), rows["index"].tolist()) == (
        [0, 2],
        [1, 4],
        [3, 8],
    )


def test_pairs_are_packed_once_and_pickle_small(root: Path) -> None:
    pairs = packed(root)
    again = pack_pairs(lambda: pytest.fail("packed twice"), root / "cache/pairs", text_length=12)
    copy = pickle.loads(pickle.dumps(again))
    assert np.array_equal(again.ids, pairs.ids) and np.array_equal(copy.ids, pairs.ids)
    assert len(pickle.dumps(pairs)) < 500 and copy.num_persons == 3


def test_no_caption_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no caption"):
        pack_pairs(lambda: iter(()), tmp_path / "pairs")


def test_caption_files_name_persons_by_image_or_folder(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(
        json.dumps({"Part1/5/0.jpg": ["A.", "B."], "Part1/5/1.jpg": ["C."]})
    )
    rows = list(caption_file_pairs([tmp_path / "captions.json"], tmp_path))
    assert rows[0] == (str(tmp_path / "Part1/5/0.jpg"), "Part1/5/0.jpg", "A.")
    assert [person for _, person, _ in rows] == ["Part1/5/0.jpg", "Part1/5/0.jpg", "Part1/5/1.jpg"]
    assert {
        person for _, person, _ in caption_file_pairs([tmp_path / "captions.json"], tmp_path, "folder")
    } == {"Part1/5"}


def test_a_limit_chooses_the_same_images_every_time(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(
        json.dumps({f"{number}.jpg": ["A.", "B."] for number in range(50)})
    )
    rows = list(caption_file_pairs([tmp_path / "captions.json"], tmp_path, limit=7))
    assert len(rows) == 14 and len({file for file, _, _ in rows}) == 7
    assert rows == list(caption_file_pairs([str(tmp_path / "captions.json")], tmp_path, limit=7))


def test_image_outside_its_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps({"../secret.jpg": ["A."]}))
    with pytest.raises(UsageError, match="leaves its root"):
        list(caption_file_pairs([tmp_path / "captions.json"], tmp_path))


def test_fingerprint_follows_files_and_settings(root: Path) -> None:
    before = fingerprint(root, ["RSTPReid"], [], 77)
    assert fingerprint(root, ["RSTPReid"], [], 77) == before != fingerprint(root, ["RSTPReid"], [], 64)
    file = root / "RSTPReid/data_captions.json"
    file.write_text(file.read_text() + " ")
    assert fingerprint(root, ["RSTPReid"], [], 77) != before


# ----------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_batches_in_order(root: Path, workers: int) -> None:
    batches = [np.array([11, 0, 5]), np.array([2, 2])]
    loaded = list(image_loader(packed(root), batches, SIZE, workers))
    assert [index.tolist() for _, index, _ in loaded] == [[11, 0, 5], [2, 2]]
    pixels = loaded[0][0]
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, *SIZE, 3)
    assert pixels[:, 0, 0].tolist() == [[5, 50, 200], [0, 0, 200], [2, 20, 200]]


def test_unreadable_image_gives_its_place_to_the_next_pair(root: Path) -> None:
    pairs = packed(root)
    (root / "RSTPReid/imgs/1.png").write_bytes(b"")
    pixels, index, failures = PairImages(pairs, [np.array([0, 2, 11])], SIZE)[0]
    assert index.tolist() == [0, 4, 11]  # pairs 2 and 3 are image 1's
    assert pixels[1, 0, 0].tolist() == [2, 20, 200]
    assert [Path(file).name for file, _ in failures] == ["1.png", "1.png"]


def test_only_unreadable_images_end_the_run(root: Path) -> None:
    pairs = packed(root)
    for number in range(6):
        (root / f"RSTPReid/imgs/{number}.png").unlink()
    with pytest.raises(WorkError, match=r"50 unreadable images in a row, the first .*0\.png: missing"):
        PairImages(pairs, [np.array([0])], SIZE)[0]


def test_failed_images_are_listed_once_and_counted(tmp_path: Path) -> None:
    failed = FailedImages(tmp_path / "failed.jsonl", total=100, max_share=0.02)
    failed.add([("a.jpg", "empty"), ("a.jpg", "empty")])
    failed.add([("b.jpg", "truncated")])
    rows = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert rows == [
        {"image": "a.jpg", "status": "failed", "reason": "empty"},
        {"image": "b.jpg", "status": "failed", "reason": "truncated"},
    ]
    with pytest.raises(
        WorkError, match=r"3 of 100 images could not be read, more than --max_failed_share 0\.02"
    ):
        failed.add([("c.jpg", "missing")])
    again = FailedImages(tmp_path / "failed.jsonl", total=100, max_share=0.02)
    again.add([("a.jpg", "empty")])
    assert len(again.seen) == 1 and len((tmp_path / "failed.jsonl").read_text().splitlines()) == 3


# ---------------------------------------------------------------------------------------------------------------- samplers


def test_random_batches_are_a_permutation_cut_short() -> None:
    plan = random_batches(np.zeros(23), batch_size=5, seed=3, epoch=1)
    assert plan.shape == (4, 5) and len(set(plan.ravel().tolist())) == 20 and plan.max() < 23
    assert np.array_equal(plan, random_batches(np.zeros(23), 5, 3, 1))
    assert not np.array_equal(plan, random_batches(np.zeros(23), 5, 3, 2))
    assert not np.array_equal(plan, random_batches(np.zeros(23), 5, 4, 1))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    persons=st.integers(1, 4),
    instances=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_identity_batches_hold_distinct_persons(
    counts: list[int], persons: int, instances: int, epoch: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(0).permutation(labels)
    plan = identity_batches(labels, persons * instances, seed=0, epoch=epoch, instances=instances)
    assert plan.shape[1] == persons * instances
    for batch in plan:
        found, times = np.unique(labels[batch], return_counts=True)
        assert len(found) == persons and set(times) == {instances}
    used = plan.ravel()
    for person, count in enumerate(counts):
        if count >= instances:  # such persons never repeat a pair
            mine = used[labels[used] == person]
            assert len(set(mine.tolist())) == len(mine)
    if len(counts) >= persons:
        assert len(plan) >= 1
    assert np.array_equal(plan, identity_batches(labels, persons * instances, 0, epoch, instances))


def test_identity_batches_use_almost_every_group() -> None:
    labels = np.repeat(np.arange(20), 8)
    plan = identity_batches(labels, 16, seed=0, epoch=0, instances=4)  # 40 groups, 4 to a batch
    assert len(plan) >= 9


def test_identity_batches_refuse_an_uneven_size() -> None:
    with pytest.raises(UsageError, match="batch_size 10 is not a multiple of instances 4"):
        identity_batches(np.arange(50), 10, 0, 0, instances=4)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_shares_of_all_processes_make_up_the_batch(name: str) -> None:
    batch = SAMPLERS[name](np.arange(64) // 4, 24, 0, 0)[0]
    for world in (1, 2, 3):
        for parts in (1, 2, 4):
            whole = [
                [batch[rank_slice(batch, rank, world, part, parts)] for rank in range(world)]
                for part in range(parts)
            ]
            assert np.array_equal(np.concatenate([share for row in whole for share in row]), batch)
            assert np.array_equal([np.concatenate(row) for row in whole], np.split(batch, parts))
    with pytest.raises(
        UsageError, match="batch_size 24 does not divide by 5 processes x 1 accumulation steps"
    ):
        rank_slice(batch, 0, 5)


# ------------------------------------------------------------------------------------------------------------ augmentation


def augment_one(image: np.ndarray, draws, at: int, pad: int = 10) -> np.ndarray:
    """Flip, pad, crop with Pillow, normalize and erase with loops: what the reference's transforms do to one image."""
    picture = Image.fromarray(image)
    if draws.flip[at]:
        picture = ImageOps.mirror(picture)
    picture = ImageOps.expand(picture, pad, fill=0)
    left, top = int(draws.left[at]), int(draws.top[at])
    picture = picture.crop((left, top, left + image.shape[1], top + image.shape[0]))
    pixels = (np.asarray(picture).astype(np.float32) / 255 - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    for y in range(draws.erase_top[at], draws.erase_top[at] + draws.erase_height[at]):
        for x in range(draws.erase_left[at], draws.erase_left[at] + draws.erase_width[at]):
            pixels[y, x] = PIXEL_MEAN
    return pixels.transpose(2, 0, 1)


def test_batched_augmentation_equals_one_image_at_a_time() -> None:
    draw = np.random.default_rng(5)
    images = draw.integers(0, 256, (40, 48, 16, 3), dtype=np.uint8)
    draws = draw_images(40, (48, 16), draw)
    found = augment_images(torch.from_numpy(images), draws)
    assert found.shape == (40, 3, 48, 16) and found.is_contiguous()
    expected = np.stack([augment_one(images[at], draws, at) for at in range(40)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert {bool(draws.flip.any()), bool((~draws.flip).any()), bool((draws.erase_height > 0).any())} == {True}


def test_draws_follow_the_reference_distribution() -> None:
    draws = draw_images(20_000, (384, 128), np.random.default_rng(0))
    assert abs(draws.flip.mean() - 0.5) < 0.02
    erased = draws.erase_height > 0
    assert abs(erased.mean() - 0.5) < 0.02
    share = (draws.erase_height * draws.erase_width)[erased] / (384 * 128)
    assert share.min() > 0.018 and share.max() < 0.41
    ratio = draws.erase_height[erased] / draws.erase_width[erased]
    assert ratio.min() > 0.28 and ratio.max() < 3.5
    assert (draws.erase_top + draws.erase_height <= 384).all() and (
        draws.erase_left + draws.erase_width <= 128
    ).all()
    assert draws.erase_width.max() < 128
    assert (draws.top.min(), draws.top.max(), draws.left.min(), draws.left.max()) == (0, 20, 0, 20)


def test_slices_of_draws_belong_to_their_rows() -> None:
    draw = np.random.default_rng(1)
    images = torch.from_numpy(draw.integers(0, 256, (6, 24, 8, 3), dtype=np.uint8))
    draws = draw_images(6, SIZE, draw)
    whole = augment_images(images, draws)
    assert torch.equal(augment_images(images[2:5], draws[2:5]), whole[2:5])
    still = replace(
        draws, flip=np.zeros(6, bool), top=np.full(6, 10), left=np.full(6, 10), erase_height=np.zeros(6, int)
    )
    assert torch.equal(augment_images(images, still), normalize(images.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("pad_px", [0, 3, 10])
def test_augmenting_image_by_image_equals_the_whole_batch(pad_px: int) -> None:
    """The CPU's path with slices against the GPU's with indices, bit for bit."""
    draw = np.random.default_rng(pad_px)
    images = torch.from_numpy(draw.integers(0, 256, (200, 24, 8, 3), dtype=np.uint8))
    draws = draw_images(200, (24, 8), draw, pad_px)
    found, slow = augment_images(images, draws, pad_px), _augment_together(images, draws, pad_px)
    assert torch.equal(found, slow) and found.is_contiguous()
    assert len({bytes(one.numpy().tobytes()) for one in found}) > 100
    # the corners of what may be drawn
    ends = np.array([0, 2 * pad_px] * 100)
    draws = replace(
        draws, top=ends, left=ends[::-1].copy(), erase_height=np.full(200, 24), erase_width=np.full(200, 8)
    )
    draws = replace(draws, erase_top=np.zeros(200, int), erase_left=np.full(200, 7))
    assert torch.equal(augment_images(images, draws, pad_px), _augment_together(images, draws, pad_px))


def test_paths_of_another_machine_need_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"/data0/x/a.jpg": ["A."], "/data0/x/b/c.jpg": ["B."]}))
    with pytest.raises(
        UsageError, match=r"c\.json: '/data0/x/a\.jpg' is a path of another machine; give --strip_prefix"
    ):
        list(caption_file_pairs([tmp_path / "c.json"], tmp_path))
    pairs = caption_file_pairs([tmp_path / "c.json"], tmp_path, strip_prefix="/data0/x")
    assert [file for file, _, _ in pairs] == [str(tmp_path / "a.jpg"), str(tmp_path / "b/c.jpg")]


def test_unknown_persons_of_a_dataset_are_persons_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "HAM-PEDES/imgs").mkdir(parents=True)
    (tmp_path / "HAM-PEDES/c.json").write_text(json.dumps({"a.jpg": ["A.", "B."], "b.jpg": ["C."]}))
    persons = [person for _, person, _ in dataset_pairs(tmp_path, "HAM-PEDES")]
    assert persons[0] == persons[1] != persons[2]


def test_own_data_needs_no_data_root(tmp_path: Path) -> None:
    config = TrainConfig(output_dir=tmp_path, weights=tmp_path, train_datasets=[f"mine={tmp_path}"])
    config.check()
    with pytest.raises(UsageError, match="data_root is missing"):
        TrainConfig(output_dir=tmp_path, weights=tmp_path, train_datasets=["RSTPReid"]).check()
