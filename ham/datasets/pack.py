"""Write image packs: `python -m ham.datasets pack`. Their layout is described in image_pack.py."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham.datasets.image_pack import DONE, INDEX, PATHS, simplejpeg
from ham.datasets.packed import PackedStrings
from ham.datasets.readers import annotation_files, display_name, image_root, read_dataset
from ham.images import ImageError, open_image
from ham.records import atomic_write, path_below, read_json, read_jsonl, write_json, write_jsonl
from ham.runtime import UsageError, WorkError, log, progress

SHARD_IMAGES = 10_000
QUALITY = 85
CHROMA = {
    "half": ("420", 2),
    "full": ("444", 0),
}  # resolution of the color channels; simplejpeg's and Pillow's name
BLOCK = 512  # bytes of a tar record


@dataclass(frozen=True)
class PackJob:
    """The images to pack, sorted, and how."""

    images: tuple[str, ...]
    folder: Path
    out: Path
    size_px: tuple[int, int] = (384, 128)
    quality: int = QUALITY
    chroma: str = "half"

    @property
    def shards(self) -> range:
        return range(-(-len(self.images) // SHARD_IMAGES))

    @property
    def key(self) -> str:
        digest = hashlib.sha256(repr((self.size_px, self.quality, self.chroma, SHARD_IMAGES)).encode())
        for image in self.images:
            digest.update(image.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()[:16]


def pack_images(job: PackJob, workers: int = 1, max_failed_share: float = 0.01) -> Path:
    """Pack images; finished shards are kept, so that the same command resumes. Returns the pack's folder.

    A broken image is a row with its reason. Raises UsageError when the folder holds another pack, WorkError when more than
    max_failed_share of the images failed; these are tried again by the next run.
    """
    check_job(job)
    write_json(job.out / "plan.json", {"key": job.key, "images": len(job.images)})
    todo = [shard for shard in job.shards if not is_written(job, shard)]
    log.info(
        "pack %s: %d images, %d of %d shards to write", job.out, len(job.images), len(todo), len(job.shards)
    )
    if workers > 1 and len(todo) > 1:
        with ProcessPoolExecutor(max_workers=workers) as pool:
            done = pool.map(write_shard, [job] * len(todo), todo)
            for _ in progress(done, len(todo), "packing", "shard"):
                pass
    else:
        for shard in progress(todo, what="packing", unit="shard"):
            write_shard(job, shard)
    return finish(job, max_failed_share)


def check_job(job: PackJob) -> None:
    """Raise UsageError for numbers out of range, no images, or a folder that holds something else."""
    if min(job.size_px) < 1 or not 1 <= job.quality <= 100:
        raise UsageError(
            f"size {job.size_px} and quality {job.quality}: expected positive pixels and 1 to 100"
        )
    if not job.images:
        raise UsageError(f"{job.folder}: no image to pack")
    plan = job.out / "plan.json"
    if plan.is_file():
        if read_json(plan).get("key") != job.key:
            raise UsageError(
                f"{job.out} holds a pack of other images, size or quality; give another --out, or delete it"
            )
    elif job.out.is_dir() and any(job.out.iterdir()):
        raise UsageError(f"{job.out} is not empty and no pack; give another --out")


def shard_images(job: PackJob, shard: int) -> tuple[str, ...]:
    return job.images[shard * SHARD_IMAGES : (shard + 1) * SHARD_IMAGES]


def is_written(job: PackJob, shard: int) -> bool:
    """Return whether a shard is complete: its list is written after its tar file."""
    return (job.out / f"{shard:05d}.jsonl").is_file() and (job.out / f"{shard:05d}.tar").is_file()


def write_shard(job: PackJob, shard: int) -> None:
    """Write one shard's tar file, then its list."""
    rows: list[dict[str, Any]] = []
    with (
        atomic_write(job.out / f"{shard:05d}.tar", "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for number, image in enumerate(shard_images(job, shard), start=shard * SHARD_IMAGES):
            try:
                data = encode(path_below(job.folder, image), job.size_px, job.quality, job.chroma)
            except (ImageError, UsageError) as error:
                reason = error.reason if isinstance(error, ImageError) else f"outside: {error}"
                rows.append({"image": image, "status": "failed", "reason": reason, "offset": 0, "bytes": 0})
                continue
            entry = tarfile.TarInfo(f"{number:09d}.jpg")
            entry.size = len(data)
            offset = tar.offset + BLOCK
            tar.addfile(entry, io.BytesIO(data))
            row = {"image": image, "status": "ok", "reason": None, "offset": offset, "bytes": len(data)}
            rows.append(row)
    write_jsonl(job.out / f"{shard:05d}.jsonl", rows)


def encode(path: Path, size_px: tuple[int, int], quality: int, chroma: str = "half") -> bytes:
    """Decode an image file, resize it as `ham.reid.images.read_image` does, and encode it as JPEG. Raises ImageError."""
    height, width = size_px
    image = open_image(path).resize((width, height), Image.Resampling.BILINEAR)
    if simplejpeg is not None:
        return simplejpeg.encode_jpeg(np.array(image), quality=quality, colorsubsampling=CHROMA[chroma][0])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=CHROMA[chroma][1])
    return buffer.getvalue()


def finish(job: PackJob, max_failed_share: float) -> Path:
    """Write the index over all shards, and pack.json last."""
    failed, first = 0, ""
    index = np.zeros((len(job.images), 3), dtype=np.int64)
    row_number = 0
    broken_shards = set()
    for shard in job.shards:
        for row in read_jsonl(job.out / f"{shard:05d}.jsonl"):
            index[row_number] = (shard, row["offset"], row["bytes"])
            row_number += 1
            if row["status"] == "failed":
                failed += 1
                broken_shards.add(shard)
                first = first or f"{row['image']}: {row['reason']}"
    if failed > max_failed_share * len(job.images):
        for shard in broken_shards:
            (job.out / f"{shard:05d}.jsonl").unlink()
        raise WorkError(
            f"{failed} of {len(job.images)} images cannot be read, more than the accepted {max_failed_share:.1%}; the first: "
            f"{first}; --max-failed-share accepts more"
        )
    PackedStrings.write(job.out / PATHS, job.images)
    with atomic_write(job.out / INDEX, "wb") as file:
        np.save(file, index)
    size = sum((job.out / f"{shard:05d}.tar").stat().st_size for shard in job.shards)
    facts = {
        "image_size_px": list(job.size_px),
        "quality": job.quality,
        "chroma": job.chroma,
        "images": len(job.images),
        "failed": failed,
        "bytes": size,
    }
    write_json(job.out / DONE, facts)
    log.info("pack %s: %d images, %d failed, %.2f GB", job.out, len(job.images), failed, size / 1e9)
    return job.out


def pack_dataset(
    root: Path,
    spec: str,
    out_root: Path,
    size_px: tuple[int, int] = (384, 128),
    quality: int = QUALITY,
    chroma: str = "half",
    workers: int = 1,
    max_failed_share: float = 0.01,
) -> Path:
    """Pack a dataset's images and copy its annotation, so that OUT_ROOT is a data root; return the dataset's new folder."""
    records = read_dataset(root, spec)
    name = display_name(spec)
    target = out_root / name
    images = tuple(sorted({record.image_path for record in records}))
    job = PackJob(images, image_root(root, spec), target / "imgs", size_px, quality, chroma)
    pack_images(job, workers, max_failed_share)
    for file in annotation_files(root, spec):
        shutil.copyfile(file, target / file.name)
    return target
