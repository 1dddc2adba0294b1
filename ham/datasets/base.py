"""What a dataset is to this package, and how annotation records are read whatever their keys."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ham.records import PersonImage, read_json
from ham.runtime import UsageError

UNKNOWN = -1  # the identity of an image whose person nobody knows; it never matches anything
SPLITS = ("train", "val", "test")
SPLIT_WORDS = {"train": "train", "val": "val", "validation": "val", "test": "test"}

# identities, images, captions of a split; text where only a rough figure is published
Counts = tuple[int | str, int | str, int | str]


@dataclass(frozen=True)
class PersonDataset:
    """A published dataset: where its files are below ROOT/NAME, how they are read, and what its authors publish.

    annotations: file names or patterns in the dataset's folder; the first that exists is read. image_folders: below the data
    root, the first that exists. own: a user's own dataset, for which missing captions are no problem.
    """

    name: str
    annotations: tuple[str, ...]
    read: Callable[[Sequence[Path]], list[PersonImage]]
    published: dict[str, Counts] = field(default_factory=dict)
    image_folders: tuple[str, ...] = ()


def read_record_list(
    files: Sequence[Path],
    image_key: str,
    captions_key: str = "captions",
    id_key: str = "id",
    has_splits: bool = True,
    no_split_hint: str = "",
) -> list[PersonImage]:
    """Read JSON lists of {image, captions, id, split} under the given keys.

    Raises UsageError naming file, record, key and what was expected.
    """
    records = []
    for file in files:
        rows = read_list(file)
        keys = {key for row in rows if isinstance(row, dict) for key in row}
        if has_splits and no_split_hint and keys and "split" not in keys:
            raise UsageError(f"{file}: no record has the key 'split'; {no_split_hint}")
        for index, row in enumerate(rows):
            where = f"{file}, record {index}"
            path = read_field(row, image_key, str, "a path", where)
            person = read_field(row, id_key, int, "a whole number", where)
            captions = read_field(row, captions_key, list, "a list of strings", where)
            split = "train"
            if has_splits:
                split = read_split(read_field(row, "split", str, "train, val or test", where), where)
            records.append(
                PersonImage(slashes(path), person_id(person), check_captions(captions, where), split)
            )
    return records


def read_list(file: Path) -> list[Any]:
    """Read a JSON file that holds a list of records. Raises UsageError for other contents."""
    rows = read_json(file)
    if not isinstance(rows, list):
        raise UsageError(f"{file}: expected a JSON list of records, found {type(rows).__name__}")
    return rows


def read_field(row: Any, key: str, kind: type, expected: str, where: str) -> Any:
    """Return row[key]. Raises UsageError when it is missing or of another type."""
    if not isinstance(row, dict) or key not in row:
        found = f"the keys {sorted(map(str, row))}" if isinstance(row, dict) else type(row).__name__
        raise UsageError(f"{where}: no key '{key}' ({expected}); found {found}")
    if not isinstance(row[key], kind) or isinstance(row[key], bool):
        raise UsageError(f"{where}: '{key}' is {row[key]!r:.80}; expected {expected}")
    return row[key]


def check_captions(captions: list[Any], where: str) -> tuple[str, ...]:
    """Return captions as a tuple. Raises UsageError unless all are strings."""
    if not all(isinstance(caption, str) for caption in captions):
        raise UsageError(f"{where}: 'captions' is {captions!r:.80}; expected a list of strings")
    return tuple(captions)


def read_split(word: str, where: str) -> str:
    """Return train, val or test. Raises UsageError for any other word: a misspelt split would move images silently."""
    if word in SPLIT_WORDS:
        return SPLIT_WORDS[word]
    near = difflib.get_close_matches(word.lower(), SPLIT_WORDS, 1)
    hint = f"; did you mean '{SPLIT_WORDS[near[0]]}'?" if near else ""
    raise UsageError(f"{where}: 'split' is {word!r:.80}; expected train, val or test{hint}")


def person_id(value: int) -> int:
    """Return an identity; every negative number means that it is not known."""
    return value if value >= 0 else UNKNOWN


def slashes(path: str) -> str:
    return path.replace("\\", "/")


# -------------------------------------------------------------------------------------------------- {image: captions}


def read_captions_json(path: Path) -> dict[str, list[str]]:
    """Read {image: [caption, ...]} or {image: caption} (HAM-PEDES, LuPerson-MLLM). Raises UsageError naming file and image."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(
            f"{path}: expected a JSON object of image path to captions, found {type(value).__name__}"
        )
    for image, captions in value.items():
        if isinstance(captions, str):
            value[image] = [captions]
        elif not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise UsageError(
                f"{path}, image '{image}': captions are {captions!r:.80}; expected a list of strings"
            )
    return value


def merge_caption_files(files: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Read caption files and join the captions of each image, in the order of the files."""
    captions: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for file in files:
        for image, texts in read_captions_json(file).items():
            captions[slashes(image)] += tuple(texts)
    return captions


def after_known_part(path: str, parts: Sequence[str]) -> str:
    """Return what follows a known folder in a path of another machine: `/data0/x/LUPerson/a.jpg` -> `a.jpg`.

    parts: folder names, tried in this order. A path without any of them is returned as it is.
    """
    pieces = slashes(path).split("/")
    for part in parts:
        if part in pieces[:-1]:
            last = len(pieces) - 2 - pieces[-2::-1].index(part)
            return "/".join(pieces[last + 1 :])
    return slashes(path)
