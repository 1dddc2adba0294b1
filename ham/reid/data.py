"""Training pairs: captions tokenized once into memory-mapped arrays, under the cache folder.

Workers hold no Python object per caption or image: paths are packed strings, everything else is an array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
from ham.records import atomic_write, path_below
from ham.reid.sampler import SAMPLERS
from ham.runtime import UsageError, WorkError, log, numpy_generator, progress

if TYPE_CHECKING:
    from ham.reid.config import TrainConfig

TOKENIZED_AT_ONCE = 4096
Pair = tuple[str, str, str]  # image file, person, caption
ARRAYS = ("image", "person", "ids")


@dataclass(frozen=True)
class Pairs:
    """All training pairs: row i is one caption with its image. Pickles as its path; workers share the memory pages.

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
        """Map what `pack_pairs` wrote. Raises ValueError when the arrays do not fit each other."""
        image, person, ids = (np.load(f"{stem}.{name}.npy", mmap_mode="r") for name in ARRAYS)
        paths = PackedStrings(f"{stem}.images")
        if image.ndim != 1 or ids.ndim != 2 or not len(image) == len(person) == len(ids) > 0:
            raise ValueError(f"shapes {image.shape}, {person.shape} and {ids.shape} of image, person and ids")
        if (image.dtype, person.dtype, ids.dtype) != (np.int32, np.int32, np.uint16):
            raise ValueError(f"types {image.dtype}, {person.dtype} and {ids.dtype} of image, person and ids")
        if not 0 <= image.min() <= image.max() < len(paths) or person.min() < 0:
            raise ValueError(f"image numbers {image.min()} to {image.max()} for {len(paths)} images")
        return cls(paths, image, person, ids, int(person.max()) + 1, stem)

    def __reduce__(self) -> tuple[Callable[[Path], Pairs], tuple[Path]]:
        return Pairs.open, (self.stem,)

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of some pairs: caption_ids int64 [B, T], person_ids, image_ids and index int64 [B]."""
        return {
            "caption_ids": self.ids[index].astype(np.int64),
            "person_ids": self.person[index].astype(np.int64),
            "image_ids": self.image[index].astype(np.int64),
            "index": index.astype(np.int64),
        }

    def digest(self, *roots: object) -> str:
        """Compute a digest of captions, persons and image files, the latter relative to `roots`: 16 hex digits."""
        digest = hashlib.sha256()
        for values in (self.image, self.person, self.ids):
            digest.update(repr(values.shape).encode())
            digest.update(np.ascontiguousarray(values).data)
        prefixes = [f"{Path(str(root)).resolve()}/" for root in roots if root is not None]
        prefixes += [f"{root}/" for root in roots if root is not None]
        for path in self.image_paths:
            for prefix in prefixes:
                path = path.removeprefix(prefix)
            digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------------- sources


def require_datasets(root: Path | None, names: Sequence[str], split: str) -> None:
    """Raise UsageError unless every dataset is below `root` with its images and has records of the split."""
    for name in names:
        image_root(root, name)
        if not read_dataset(root, name, split):
            raise UsageError(f"{name}: its annotation holds no record of the split '{split}'")


def dataset_pairs(root: Path, name: str, split: str = "train") -> Iterator[Pair]:
    """Iterate over the pairs of one benchmark's split. Persons are named `dataset/id`, so that datasets never share one."""
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
    strip_prefix: str = "",
) -> Iterator[Pair]:
    """Iterate over the pairs of caption files ({image: [caption, ...]}) whose images lie below `folder`.

    person_is: "image" makes each image a person; "folder" takes the image's folder, as in SYNTH-PEDES' layout
    `Part1/<id>/<n>.jpg`. limit: number of images, a random choice that is always the same. strip_prefix: removed from the
    start of image paths.
    """
    rows = open_captions(files, cache_dir)
    chosen = range(len(rows))
    if limit is not None:
        chosen = np.sort(
            numpy_generator(0, "images of a caption file").permutation(len(rows))[:limit]
        ).tolist()
    for image, captions in (rows[number] for number in chosen):
        if strip_prefix:
            image = image.removeprefix(strip_prefix).lstrip("/")
        elif image.startswith("/"):
            raise UsageError(
                f"{files[0]}: '{image}' is a path of another machine; give --strip_prefix, the part of it that is not "
                f"below {folder}"
            )
        file = str(path_below(folder, image))
        person = image if person_is == "image" else image.rpartition("/")[0]
        for caption in captions:
            yield file, person, caption


def fingerprint(
    root: Path | None, datasets: Sequence[str], captions: Sequence[str | Path], *settings: object
) -> str:
    """Compute a digest of the annotation files' paths, sizes and modification times, and of the settings."""
    files = [file for name in datasets for file in annotation_files(root, name)] + [
        Path(file) for file in captions
    ]
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((facts, settings)).encode()).hexdigest()[:16]


def pack_pairs(pairs: Callable[[], Iterable[Pair]], stem: Path, text_length: int = 77) -> Pairs:
    """Tokenize and pack pairs into `stem`.images and `stem`.*.npy, or open what is there; damaged files are written again.

    pairs: called only when there is something to pack. Files appear by rename, `stem`.images last, so that processes may race.
    Raises UsageError when there is no pair, WorkError when the files cannot be written.
    """
    if Path(f"{stem}.images").exists():
        try:
            return Pairs.open(stem)
        except (ValueError, OSError, EOFError, UsageError) as error:
            log.warning("%s.* is damaged (%s) and is written again", stem, error)
            Path(f"{stem}.images").unlink(missing_ok=True)
    try:
        _write_pairs(pairs(), stem, text_length)
    except OSError as error:
        raise WorkError(
            f"{stem}.* could not be written: {error.strerror or error}; free some space, or give another --cache_dir"
        ) from error
    return Pairs.open(stem)


def _write_pairs(pairs: Iterable[Pair], stem: Path, text_length: int) -> None:
    image_of: dict[str, int] = {}
    images, persons, ids = [], [], []
    stream = iter(progress(pairs, what="tokenizing captions", unit="caption"))
    while chunk := list(islice(stream, TOKENIZED_AT_ONCE)):
        images += [image_of.setdefault(file, len(image_of)) for file, _, _ in chunk]
        persons += [person for _, person, _ in chunk]
        ids.append(tokenize([caption for _, _, caption in chunk], text_length).numpy().astype(np.uint16))
    if not images:
        raise UsageError("the training data holds no caption; check --train_datasets and --train_captions")
    arrays = {
        "image": np.array(images, np.int32),
        "person": contiguous_labels(persons)[0].astype(np.int32),
        "ids": np.concatenate(ids),
    }
    for name in ARRAYS:
        with atomic_write(f"{stem}.{name}.npy", "wb") as out:
            np.save(out, arrays[name])
    PackedStrings.write(Path(f"{stem}.images"), image_of)


# ------------------------------------------------------------------------------------------------------------------- a run's


def open_pairs(config: TrainConfig) -> Pairs:
    """Open the training pairs of all datasets and caption files of a run, packed under its cache folder.

    Raises UsageError when they do not fill one batch, or are all of one person.
    """
    cache = Path(config.cache_dir or Path(config.output_dir) / "cache")

    def all_pairs() -> Iterator[Pair]:
        datasets = (dataset_pairs(config.data_root, name) for name in config.train_datasets)
        files = caption_file_pairs(
            config.train_captions,
            config.train_images,
            config.person_is,
            cache,
            config.caption_images,
            config.strip_prefix,
        )
        return chain(*datasets, files if config.train_captions else ())

    key = fingerprint(
        config.data_root,
        config.train_datasets,
        config.train_captions,
        str(config.train_images),
        str(config.data_root),
        config.person_is,
        config.caption_images,
        *([config.strip_prefix] if config.strip_prefix else []),
        config.text_length,
    )
    pairs = pack_pairs(all_pairs, cache / f"pairs-{key}", config.text_length)
    if pairs.num_persons < 2:
        raise UsageError(
            f"all {len(pairs)} training pairs are of one person; there is nothing to tell apart"
            + (", try --person_is image" if config.train_captions and config.person_is == "folder" else "")
        )
    if len(plan_of(config, pairs, 0)) == 0:
        raise UsageError(
            f"{len(pairs)} training pairs of {pairs.num_persons} persons do not fill one batch of "
            f"{config.batch_size} ({config.sampler} sampler); choose a smaller --batch_size"
        )
    return pairs


def plan_of(config: TrainConfig, pairs: Pairs, epoch: int) -> np.ndarray:
    """Return the epoch's batches, int64 [batches, batch_size]."""
    more = {"instances": config.instances} if config.sampler == "identity" else {}
    return SAMPLERS[config.sampler](pairs.person, config.batch_size, config.seed, epoch, **more)
