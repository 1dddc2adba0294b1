"""Write the features of images or captions to a file: `train_reid.py embed`.

    OUT.safetensors            features [N, D], unit rows, in the order of OUT.jsonl
    OUT.jsonl                  a row for each feature: {image}, or {image, caption, identity} (null where the file has none)
    OUT.failed.jsonl           images that cannot be read, with the reason
    OUT.parts/                 finished parts of a run that is not complete

The items are divided into fixed parts; rank r of w encodes parts r, r+w, ... Each part appears whole, so that the same command
resumes, also with another number of processes. The last step joins the parts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ham.datasets.own_annotation import SUFFIXES as ANNOTATION_SUFFIXES
from ham.datasets.own_annotation import read_own_annotation
from ham.image_folder import list_images
from ham.records import read_json, write_json, write_jsonl
from ham.reid.encode import EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.reid.search import index_key
from ham.runtime import UsageError, WorkError, dist_info, log
from ham.tensor_files.writing import write_file

PART_ITEMS = 8192
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
Row = dict[str, Any]


@dataclass(frozen=True)
class EmbedJob:
    """What to encode, where to write it, and the parts that it is divided into."""

    items: Sequence[Row]
    images: Path | None  # root of the items' image paths; None: the captions are encoded
    out: Path
    key: str  # digest of the model, the settings and the items

    @property
    def parts(self) -> list[range]:
        count = len(self.items)
        return [range(start, min(start + PART_ITEMS, count)) for start in range(0, count, PART_ITEMS)]

    @property
    def folder(self) -> Path:
        return self.out.with_suffix(".parts")

    def part_file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"


def image_items(folder: Path) -> list[Row]:
    """Return a row for each image of a folder."""
    items = [{"image": path} for path in list_images(folder)]
    if not items:
        raise UsageError(f"--images {folder}: no image found")
    return items


def caption_items(file: Path) -> list[Row]:
    """Return a row for each caption of a text file (a caption a line) or of an annotation in any format of one's own data."""
    if not file.is_file():
        raise UsageError(f"--captions {file}: no such file")
    if file.suffix in ANNOTATION_SUFFIXES:
        records = read_own_annotation(file)
        items = [
            {"image": one.image_path, "caption": text, "identity": one.person_id}
            for one in records
            for text in one.captions
        ]
    else:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"--captions {file}: not UTF-8 text ({error}); save it as UTF-8") from None
        items = [{"image": None, "caption": line.strip(), "identity": None} for line in lines if line.strip()]
    if not items:
        raise UsageError(f"--captions {file}: holds no caption")
    return items


def plan_embedding(
    model: RetrievalModel, items: Sequence[Row], images: Path | None, out: Path, settings: EncodeSettings
) -> EmbedJob:
    """Plan a job; a part that was made from other weights, settings or items is refused.

    Raises UsageError when OUT is no .safetensors name, or its parts belong to another job.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise UsageError(f"--out {out}: expected a file name that ends in .safetensors")
    digest = hashlib.sha256(index_key(model, settings).encode())
    digest.update(str(settings.for_model(model).text_length).encode())
    for item in items:
        digest.update(json.dumps(item).encode())
    job = EmbedJob(items, images, out, digest.hexdigest()[:16])
    plan = job.folder / "plan.json"
    if plan.exists() and read_json(plan).get("key") != job.key:
        raise UsageError(
            f"{job.folder} holds parts of another job (other weights, images, captions or sizes); finish that one with its "
            "own command, or delete the folder"
        )
    if dist_info().is_main:
        write_json(plan, {"key": job.key, "items": len(items), "part_items": PART_ITEMS})
    return job


def run_job(
    model: RetrievalModel, job: EmbedJob, settings: EncodeSettings, dtype: torch.dtype = torch.float16
) -> None:
    """Encode the parts that this rank has to encode and that are not there."""
    place = dist_info()
    mine = range(place.rank, len(job.parts), place.world_size)
    todo = [number for number in mine if not is_whole(job.part_file(number), job.parts[number])]
    log.info("embed: %d parts, %d of this process's %d to encode", len(job.parts), len(todo), len(mine))
    for done, number in enumerate(todo, start=1):
        rows = [job.items[row] for row in job.parts[number]]
        places, feats, failed = encode_rows(model, rows, job.images, settings)
        start = job.parts[number].start
        kept = torch.tensor([start + place for place in places], dtype=torch.int64)
        write_part(job.part_file(number), feats.to(dtype), kept, len(rows), failed)
        log.info("embed: part %d of %d done", done, len(todo))


def encode_rows(
    model: RetrievalModel, rows: Sequence[Row], images: Path | None, settings: EncodeSettings
) -> tuple[list[int], Tensor, list[Row]]:
    """Encode rows on this process alone; return positions that could be encoded, their features [n, D], and failures."""
    if images is None:
        return list(range(len(rows))), encode_texts(model, [row["caption"] for row in rows], settings), []
    lenient = replace(settings, max_failed_share=1.0)
    done = encode_images(model, [images / row["image"] for row in rows], lenient)
    return done.places, done.feats, done.failed


def write_part(file: Path, feats: Tensor, rows: Tensor, items: int, failed: Sequence[Row]) -> None:
    """Write one part whole; failures travel in its metadata, so that a part is one file."""
    notes = {"items": str(items), "failed": json.dumps(list(failed))}
    write_file(file, {"features": feats.contiguous(), "rows": rows}, notes)


def is_whole(file: Path, part: range) -> bool:
    """Return whether a part is there and readable; a broken one counts as missing."""
    try:
        with safe_open(file, framework="pt") as opened:
            return int((opened.metadata() or {}).get("items", -1)) == len(part)
    except (OSError, SafetensorError, ValueError):
        return False


def join_parts(job: EmbedJob, max_failed_share: float) -> Path | None:
    """Join the parts into OUT when all are there, and delete them; return None while other processes still encode some.

    Raises WorkError when more images than accepted failed; the parts with failures are deleted, so that the same command tries
    these again.
    """
    with FileLock(job.folder / "join.lock"):
        if is_done(job):
            shutil.rmtree(job.folder, ignore_errors=True)
            return job.out
        numbers = range(len(job.parts))
        if not all(is_whole(job.part_file(number), job.parts[number]) for number in numbers):
            return None
        feats, rows, failed_of = [], [], {}
        for number in numbers:
            with safe_open(job.part_file(number), framework="pt") as opened:
                part = opened.get_tensor("features")
                positions = opened.get_tensor("rows")
                failed_of[number] = json.loads(opened.metadata()["failed"])
            feats += [part] if len(part) else []
            rows += positions.tolist()
        failed = [row for rows_of_part in failed_of.values() for row in rows_of_part]
        listed = job.out.with_suffix(".failed.jsonl")
        if failed or listed.exists():
            write_jsonl(listed, failed)
        if not feats or len(failed) > max_failed_share * len(job.items):
            for number, rows_of_part in failed_of.items():
                if rows_of_part:
                    job.part_file(number).unlink()
            raise WorkError(
                f"{len(failed)} of {len(job.items)} images cannot be read, more than the accepted {max_failed_share:.1%}; "
                f"see {listed}; --max-failed-share accepts more"
            )
        write_jsonl(job.out.with_suffix(".jsonl"), (job.items[row] for row in rows))
        write_file(job.out, {"features": torch.cat(feats)}, {"key": job.key})
        shutil.rmtree(job.folder)
        return job.out


def is_done(job: EmbedJob) -> bool:
    """Return whether OUT was written by this very job."""
    try:
        with safe_open(job.out, framework="pt") as opened:
            return (opened.metadata() or {}).get("key") == job.key
    except (OSError, SafetensorError):
        return False
