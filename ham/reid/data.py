"""Training pairs: captions tokenized once into a memory-mapped array, images decoded and resized by workers.

No Python object per caption or image lives in a worker: paths are packed strings, everything else is an array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ham.clip import tokenize
from ham.datasets import (
    UNKNOWN,
    PackedStrings,
    annotation_files,
    contiguous_labels,
    image_root,
    open_captions,
    read_dataset,
)
from ham.records import atomic_write, path_below, read_jsonl, to_json_line
from ham.reid.images import ImageError, read_image
from ham.runtime import UsageError, WorkError, log, numpy_generator, progress

TOKENIZED_AT_ONCE = 4096
MAX_NEIGHBOURS = 50  # unreadable images in a row after which a worker gives up
Pair = tuple[str, str, str]  # image file, person, caption
Failure = tuple[str, str]  # image file, reason


@dataclass(frozen=True)
class Pairs:
    """All training pairs: row i is one caption with its image. Pickles as its place; pages are shared by all workers.

    image_paths: the image files [N images]. image: int32 [N pairs], rows of image_paths. person: int32 [N pairs], labels
    0..num_persons-1. ids: uint16 [N pairs, T].
    """

    image_paths: PackedStrings
    image: np.ndarray
    person: np.ndarray
    ids: np.ndarray
    num_persons: int
    stem: Path

    @classmethod
    def open(cls, stem: Path) -> Pairs:
        """Map what `pack_pairs` wrote."""
        image, person, ids = (np.load(file, mmap_mode="r") for file in _array_files(stem))
        return cls(PackedStrings(f"{stem}.images"), image, person, ids, int(person.max()) + 1, stem)

    def __reduce__(self) -> tuple[Callable[[Path], Pairs], tuple[Path]]:
        return Pairs.open, (self.stem,)

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Give the numbers of some pairs: caption_ids int64 [B, T], person_ids, image_ids and index int64 [B]."""
        numbers = {
            "caption_ids": self.ids[index],
            "person_ids": self.person[index],
            "image_ids": self.image[index],
        }
        return {
            **{name: values.astype(np.int64) for name, values in numbers.items()},
            "index": index.astype(np.int64),
        }


# ---------------------------------------------------------------------------------------------------------------- sources


def require_datasets(root: Path | None, names: Sequence[str], split: str) -> None:
    """Raise UsageError unless every dataset lies below `root` with its images and has records of the split."""
    for name in names:
        image_root(root, name)
        if not read_dataset(root, name, split):
            raise UsageError(f"{name}: its annotation holds no record of the split '{split}'")


def dataset_pairs(root: Path, name: str, split: str = "train") -> Iterator[Pair]:
    """Yield the pairs of one benchmark's split. Persons are named `dataset/id`, so that datasets never share one."""
    folder = image_root(root, name)
    for record in read_dataset(root, name, split):
        file = str(path_below(folder, record.image_path))
        for caption in record.captions:
            # an unknown person is a person of its own, not everybody's
            person = record.image_path if record.person_id == UNKNOWN else record.person_id
            yield file, f"{name}/{person}", caption


def caption_file_pairs(
    files: Sequence[str | Path],
    folder: Path,
    person_is: str = "image",
    cache_dir: Path | None = None,
    limit: int | None = None,
) -> Iterator[Pair]:
    """Yield the pairs of caption files ({image: [caption, ...]}) whose images lie below `folder`.

    person_is: "image" makes each image a person of its own; "folder" takes the image's folder, as SYNTH-PEDES' layout
    `Part1/<id>/<n>.jpg` has it. limit: only so many images, randomly chosen, always the same ones.
    """
    rows = open_captions(files, cache_dir)
    chosen = range(len(rows))
    if limit is not None:
        chosen = np.sort(
            numpy_generator(0, "images of a caption file").permutation(len(rows))[:limit]
        ).tolist()
    for image, captions in (rows[number] for number in chosen):
        file = str(path_below(folder, image))
        person = image if person_is == "image" else image.rpartition("/")[0]
        for caption in captions:
            yield file, person, caption


def fingerprint(
    root: Path | None, datasets: Sequence[str], captions: Sequence[str | Path], *settings: object
) -> str:
    """Give a digest that changes with the annotation files' places, sizes, times of change and with the settings."""
    files = [file for name in datasets for file in annotation_files(root, name)] + [
        Path(file) for file in captions
    ]
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((facts, settings)).encode()).hexdigest()[:16]


def pack_pairs(pairs: Callable[[], Iterable[Pair]], stem: Path, text_length: int = 77) -> Pairs:
    """Tokenize and pack pairs into `stem`.images and `stem`.*.npy, or open them where they are already.

    pairs: called only when there is something to pack. Files appear by rename, the one that says "complete" last, so that
    processes may race. Raises UsageError when there is no pair.
    """
    names = stem.with_name(f"{stem.name}.images")
    if not names.exists():
        image_of: dict[str, int] = {}
        images, persons, ids = [], [], []
        stream = iter(progress(pairs(), what="tokenizing captions", unit="caption"))
        while chunk := list(islice(stream, TOKENIZED_AT_ONCE)):
            images += [image_of.setdefault(file, len(image_of)) for file, _, _ in chunk]
            persons += [person for _, person, _ in chunk]
            ids.append(tokenize([caption for _, _, caption in chunk], text_length).numpy().astype(np.uint16))
        if not images:
            raise UsageError(
                "the training data holds no caption; check --train_datasets and --train_captions"
            )
        arrays = (
            np.array(images, np.int32),
            contiguous_labels(persons)[0].astype(np.int32),
            np.concatenate(ids),
        )
        for file, values in zip(_array_files(stem), arrays):
            with atomic_write(file, "wb") as out:
                np.save(out, values)
        PackedStrings.write(names, image_of)
    return Pairs.open(stem)


def _array_files(stem: Path) -> list[Path]:
    return [Path(f"{stem}.{name}.npy") for name in ("image", "person", "ids")]


# ----------------------------------------------------------------------------------------------------------------- loading


class PairImages(Dataset):
    """Load the images of a list of batches: item i is (pixels uint8 [B, H, W, 3], index int64 [B], failures).

    An image that cannot be read gives its place to the next readable pair, so that batches keep their size; the failure is
    reported with the batch.
    """

    def __init__(self, pairs: Pairs, batches: Sequence[np.ndarray], image_size_px: tuple[int, int]) -> None:
        self.pairs, self.batches, self.image_size_px = pairs, batches, image_size_px

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, list[Failure]]:
        batch = np.asarray(self.batches[number])
        height, width = self.image_size_px
        pixels, index, failures = np.empty((len(batch), height, width, 3), np.uint8), batch.copy(), []
        for place, pair in enumerate(batch.tolist()):
            pixels[place], index[place], failed = self._readable_from(pair)
            failures += failed
        return torch.from_numpy(pixels), torch.from_numpy(index), failures

    def _readable_from(self, pair: int) -> tuple[np.ndarray, int, list[Failure]]:
        failures = []
        for candidate in range(pair, pair + MAX_NEIGHBOURS):
            candidate %= len(self.pairs)
            try:
                file = self.pairs.image_paths[int(self.pairs.image[candidate])]
                return read_image(file, self.image_size_px), candidate, failures
            except ImageError as error:
                failures.append((error.path, error.reason))
        raise WorkError(
            f"{MAX_NEIGHBOURS} unreadable images in a row, the first {failures[0][0]}: {failures[0][1]}; "
            "check the image root with `python -m ham.datasets verify`"
        )


def image_loader(
    pairs: Pairs,
    batches: Sequence[np.ndarray],
    image_size_px: tuple[int, int],
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Load batches in order, ahead of their use, in `num_workers` processes (0: in this one)."""
    return DataLoader(
        PairImages(pairs, batches, image_size_px),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
    )


class FailedImages:
    """Count the images that could not be read, write each once to `failed.jsonl`, and stop the run when they are too many.

    A resumed run counts anew, since images may have been mended, and does not write the same image again.
    """

    def __init__(self, path: Path, total: int, max_share: float) -> None:
        self.path, self.total, self.max_share = path, total, max_share
        self.seen: set[str] = set()
        self.written = {row["image"] for row in read_jsonl(path)} if path.exists() else set()

    def add(self, failures: Iterable[Failure]) -> None:
        """Take note of failures. Raises WorkError when more than `max_share` of all images failed."""
        for file, reason in failures:
            if file not in self.seen:
                self.seen.add(file)
                log.warning("image skipped: %s: %s", file, reason)
            if file not in self.written:
                self.written.add(file)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as out:
                    out.write(to_json_line({"image": file, "status": "failed", "reason": reason}))
        if len(self.seen) > self.max_share * self.total:
            raise WorkError(
                f"{len(self.seen)} of {self.total} images could not be read, more than --max_failed_share "
                f"{self.max_share}; they are listed in {self.path}"
            )
