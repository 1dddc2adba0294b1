"""Load the images of training batches in worker processes, and count the unreadable ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ham.datasets.image_pack import read_jpeg
from ham.distributed import DieWithParent
from ham.records import atomic_write, to_json_line
from ham.reid.data import Pairs
from ham.reid.images import ImageError, read_image
from ham.runtime import UsageError, WorkError, log

if TYPE_CHECKING:
    from ham.reid.config import TrainConfig

MAX_NEIGHBORS = 50  # unreadable images in a row after which a worker gives up
Failure = tuple[str, str]  # image file, reason


def num_workers(config: TrainConfig) -> int:
    """Return the number of image workers: --num_workers, at most one per core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(config.num_workers, len(affinity(0)) if affinity else os.cpu_count() or 1)


class PairImages(Dataset):
    """Load the images of a list of batches: item i is (pixels uint8 [B, H, W, 3], index int64 [B], failures).

    as_jpeg: a list of the images' JPEG bytes, uint8 [n] each, instead of the pixels; only for packed images.
    A pair whose image cannot be read is replaced by the next readable pair, so that batches keep their size; the failure is
    returned with the batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        batches: Sequence[np.ndarray],
        image_size_px: tuple[int, int],
        as_jpeg: bool = False,
    ) -> None:
        self.pairs = pairs
        self.batches = batches
        self.image_size_px = image_size_px
        self.read = read_jpeg if as_jpeg else read_image
        self.as_jpeg = as_jpeg

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor | list[Tensor], Tensor, list[Failure]]:
        batch = np.asarray(self.batches[number])
        index = batch.copy()
        images: list[np.ndarray] = []
        failures: list[Failure] = []
        for row, pair in enumerate(batch.tolist()):
            image, index[row], failed = self._readable_from(pair)
            images.append(image)
            failures += failed
        if self.as_jpeg:
            return [torch.from_numpy(image) for image in images], torch.from_numpy(index), failures
        return torch.from_numpy(np.stack(images)), torch.from_numpy(index), failures

    def _readable_from(self, pair: int) -> tuple[np.ndarray, int, list[Failure]]:
        failures: list[Failure] = []
        for neighbor in range(pair, pair + MAX_NEIGHBORS):
            candidate = neighbor % len(self.pairs)
            file = self.pairs.image_paths[int(self.pairs.image[candidate])]
            try:
                return self.read(file, self.image_size_px), candidate, failures
            except ImageError as error:
                failures.append((error.path, error.reason))
        raise WorkError(
            f"{MAX_NEIGHBORS} unreadable images in a row, the first {failures[0][0]}: {failures[0][1]}; "
            "check the image root with `python -m ham.datasets verify`"
        )


def image_loader(
    pairs: Pairs,
    batches: Sequence[np.ndarray],
    image_size_px: tuple[int, int],
    num_workers: int,
    pin_memory: bool = False,
    as_jpeg: bool = False,
) -> DataLoader:
    """Build a loader of batches in order, loaded ahead in `num_workers` processes (0: in this one)."""
    return DataLoader(
        PairImages(pairs, batches, image_size_px, as_jpeg),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=DieWithParent(os.getpid()) if num_workers else None,
    )


class FailedImages:
    """Count unreadable images, write each once to `failed.jsonl`, and stop the run when there are too many.

    A resumed run counts from 0, since images may have been repaired, and does not write the same image again.
    """

    def __init__(self, path: Path, total: int, max_share: float) -> None:
        self.path = path
        self.total = total
        self.max_share = max_share
        self.seen: set[str] = set()
        self.written = listed_images(path)

    def add(self, failures: Iterable[Failure]) -> None:
        """Record failures. Raises WorkError when more than `max_share` of all images failed."""
        for file, reason in failures:
            if file not in self.seen:
                self.seen.add(file)
                log.warning("image skipped: %s: %s", file, reason)
            if file not in self.written:
                self.written.add(file)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8", errors="backslashreplace") as out:
                    out.write(to_json_line({"image": file, "status": "failed", "reason": reason}))
        if len(self.seen) > self.max_share * self.total:
            raise WorkError(
                f"{len(self.seen)} of {self.total} images could not be read, more than --max_failed_share "
                f"{self.max_share}; they are listed in {self.path}"
            )


def listed_images(path: Path) -> set[str]:
    """Return the images that `failed.jsonl` lists.

    A last line that a kill has cut is removed. Raises UsageError for other damage.
    """
    if not path.exists():
        return set()
    *lines, last = path.read_bytes().split(b"\n")
    if last:
        log.warning("%s: its last line is cut and is removed", path)
        with atomic_write(path, "wb") as out:
            out.writelines(line + b"\n" for line in lines)
    found = set()
    for number, line in enumerate(lines, start=1):
        try:
            found.add(str(json.loads(line)["image"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{path}, line {number}: expected an object with the key 'image'; delete the file, it is only the list of "
                "unreadable images"
            ) from None
    return found
