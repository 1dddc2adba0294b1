"""Packs of images: complete, resumable, the same images as the files within JPEG's error, broken ones as rows."""

from __future__ import annotations

import json
import pickle
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ham.datasets import image_pack, pack
from ham.datasets.cli import main
from ham.datasets.image_pack import ImagePack, find_pack
from ham.datasets.pack import PackJob, pack_images
from ham.images import ImageError
from ham.reid.gpu_jpeg import check_gpu_jpeg, decode_jpegs
from ham.reid.images import read_image
from ham.reid.loader import PairImages
from ham.runtime import UsageError, WorkError

SIZE = (48, 16)
REAL_DECODE = torchvision.io.decode_jpeg


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pack, "SHARD_IMAGES", 3)
    image_pack._pack_above.cache_clear()
    image_pack.open_pack.cache_clear()
    folder = tmp_path / "photos"
    for number in range(8):
        path = folder / f"cam_{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, columns = np.mgrid[0:60, 0:25]
        smooth = np.stack([rows * 3 + number, columns * 9, rows + columns + 20 * number], axis=2)
        Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def job_for(photos: Path, out: Path, **more: object) -> PackJob:
    images = tuple(sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png")))
    return PackJob(images, photos, out, SIZE, **more)


@pytest.mark.parametrize("chroma", ["half", "full"])
@pytest.mark.parametrize("library", ["simplejpeg", "pillow"])
def test_packed_images_equal_the_files_within_the_encoding(
    photos: Path, tmp_path: Path, library: str, chroma: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "pillow":
        monkeypatch.setattr(image_pack, "simplejpeg", None)
        monkeypatch.setattr(pack, "simplejpeg", None)
    elif image_pack.simplejpeg is None:
        pytest.skip("simplejpeg is not installed (extra `pack`)")
    job = job_for(photos, tmp_path / "pack", quality=95, chroma=chroma)
    pack_images(job)
    most = {"half": 4, "full": 3}[chroma]
    for image in job.images:
        packed, plain = read_image(tmp_path / "pack" / image, SIZE), read_image(photos / image, SIZE)
        assert (
            packed.shape == plain.shape == (*SIZE, 3) and packed.dtype == np.uint8 and packed.flags.writeable
        )
        assert np.abs(packed.astype(int) - plain.astype(int)).mean() < most
    opened = ImagePack(tmp_path / "pack")
    assert len(opened) == 8 and pickle.loads(pickle.dumps(opened)).row_of(job.images[5]) == 5
    assert [opened.row_of(image) for image in job.images] == list(range(8))


def test_shards_are_plain_tar_files_of_jpegs(photos: Path, tmp_path: Path) -> None:
    pack_images(job_for(photos, tmp_path / "pack"))
    names = []
    for file in sorted((tmp_path / "pack").glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                names.append(member.name)
                content = tar.extractfile(member).read()
                assert Image.open(BytesIO(content)).size == SIZE[::-1]
    assert names == [f"{number:09d}.jpg" for number in range(8)]


def test_webdataset_reads_the_shards(photos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    pack_images(job_for(photos, tmp_path / "pack"))
    files = [str(file) for file in sorted((tmp_path / "pack").glob("*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 8 and samples[0]["jpg"].shape == (*SIZE, 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(
    photos: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_images(job_for(photos, tmp_path / "whole"), workers)
    write = pack.write_shard

    def dies_at_the_second(job: PackJob, shard: int) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        write(job, shard)

    job = job_for(photos, tmp_path / "pack")
    monkeypatch.setattr(pack, "write_shard", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack_images(job)
    assert find_pack(tmp_path / "pack" / job.images[0]) is None
    assert not (tmp_path / "pack/pack.json").exists()
    monkeypatch.setattr(pack, "write_shard", write)
    first = (tmp_path / "pack/00000.tar").stat().st_mtime_ns
    image_pack._pack_above.cache_clear()
    pack_images(job, workers)
    assert (tmp_path / "pack/00000.tar").stat().st_mtime_ns == first
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "pack" / file.name).read_bytes(), file.name


def test_broken_images_are_rows_with_reasons_and_tried_again(photos: Path, tmp_path: Path) -> None:
    (photos / "cam_0/4.png").write_bytes(b"torn")
    (photos / "cam_1/3.png").write_bytes(b"")
    job = job_for(photos, tmp_path / "pack")
    with pytest.raises(WorkError, match=r"2 of 8 images cannot be read.*the first: cam_0/4\.png: "):
        pack_images(job)
    pack_images(job, max_failed_share=0.5)
    rows = [
        json.loads(line)
        for file in sorted((tmp_path / "pack").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert [row["image"] for row in rows] == list(job.images)
    failed = {row["image"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert set(failed) == {"cam_0/4.png", "cam_1/3.png"} and all(failed.values())
    for image in failed:
        with pytest.raises(ImageError, match="unreadable when it was packed; see 0000"):
            read_image(tmp_path / "pack" / image, SIZE)
    with pytest.raises(ImageError, match="missing: not in the pack"):
        read_image(tmp_path / "pack/cam_0/99.png", SIZE)


def test_another_pack_or_folder_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    pack_images(job_for(photos, tmp_path / "pack"))
    with pytest.raises(UsageError, match="holds a pack of other images, size or quality"):
        pack_images(job_for(photos, tmp_path / "pack", quality=50))
    with pytest.raises(UsageError, match="is not empty and no pack"):
        pack_images(job_for(photos, photos))
    with pytest.raises(UsageError, match="of 48x16 pixels, the model reads 384x128; pack the images again"):
        read_image(tmp_path / "pack/cam_0/0.png")


def test_a_packed_dataset_is_a_data_root(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    (root / "RSTPReid").mkdir(parents=True)
    photos.rename(root / "RSTPReid/imgs")
    rows = [
        {"id": n, "img_path": f"cam_{n % 2}/{n}.png", "split": "test", "captions": [f"number {n}"]}
        for n in range(8)
    ]
    (root / "RSTPReid/data_captions.json").write_text(json.dumps(rows))
    size = ["--image-size-px", "48", "16"]
    words = ["pack", str(root), "--dataset", "RSTPReid", "--out", str(tmp_path / "packed"), "--workers", "1"]
    assert main([*words, *size]) == 0
    assert main(["verify", str(tmp_path / "packed")]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert main(["pack", "--images", str(root / "RSTPReid/imgs"), "--out", str(tmp_path / "p"), *size]) == 0
    with pytest.raises(UsageError, match="either --images DIR, or ROOT --dataset NAME"):
        main(["pack", "--out", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="expected positive pixels"):
        main(["pack", "--images", str(root), "--out", str(tmp_path / "y"), "--quality", "0"])


# ------------------------------------------------------------------------------------------------------- decoding on a GPU


class FilePairs:
    """What the loader needs of the training pairs: one pair per image."""

    def __init__(self, files: list[Path]) -> None:
        self.image_paths, self.image = files, range(len(files))

    def __len__(self) -> int:
        return len(self.image_paths)


def decode_like_a_gpu(jpegs: list[torch.Tensor], mode: object, device: torch.device) -> list[torch.Tensor]:
    """torchvision's decode_jpeg with a list and a device, on the CPU."""
    assert device.type == "cuda" and isinstance(jpegs, list)
    return [REAL_DECODE(one, mode) for one in jpegs]


@pytest.mark.filterwarnings("ignore:The image decoding")
def test_a_gpu_decodes_what_workers_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(photos, tmp_path / "pack", chroma="full")
    pack_images(job)
    monkeypatch.setattr(torchvision.io, "decode_jpeg", decode_like_a_gpu)
    card = torch.device("cuda")
    files = [tmp_path / "pack" / image for image in job.images]
    check_gpu_jpeg(card, files[0])
    pairs = FilePairs(files)
    batches = [np.array([0, 3, 5]), np.array([7])]
    plain, jpegs = (PairImages(pairs, batches, SIZE, as_jpeg) for as_jpeg in (False, True))
    for number in range(len(batches)):
        pixels, index, failures = plain[number]
        encoded, same_index, _ = jpegs[number]
        assert torch.equal(index, same_index) and not failures
        decoded = decode_jpegs(encoded, card)
        assert decoded.shape == pixels.shape and decoded.dtype == torch.uint8
        assert (decoded.int() - pixels.int()).abs().float().mean() < 3  # other rounding, other chroma filter


@pytest.mark.filterwarnings("ignore:The image decoding")
def test_gpu_decoding_is_refused_where_it_cannot_be(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(photos, tmp_path / "pack")
    pack_images(job)
    packed, card = tmp_path / "pack" / job.images[0], torch.device("cuda")
    with pytest.raises(UsageError, match="the run is on cpu; use cpu"):
        check_gpu_jpeg(torch.device("cpu"), packed)
    with pytest.raises(UsageError, match="is in no pack; pack them first"):
        check_gpu_jpeg(card, photos / job.images[0])
    with pytest.raises(UsageError, match="is in no pack"):
        image_pack.read_jpeg(photos / job.images[0], SIZE)
    with pytest.raises(UsageError, match=r"holds images of 48x16 pixels"):
        image_pack.read_jpeg(packed, (384, 128))

    def without_cuda(*args: object, **options: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", without_cuda)
    with pytest.raises(UsageError, match=r"cannot decode JPEGs on cuda .*nvJPEG.*; use cpu"):
        check_gpu_jpeg(card, packed)
