"""Read the person datasets into one record type; pack a million captions into one memory-mapped file.

    name           split   ids / images / captions      layout below the data root
    CUHK-PEDES     train   11003 / 34054 / 68126        CUHK-PEDES/imgs/..., reid_raw.json or caption_all.json
                   val      1000 /  3078 /  6158        (9 images have more than two captions; ids count from 1)
                   test     1000 /  3074 /  6156
    ICFG-PEDES     train    3102 / 34674 / 34674        ICFG-PEDES/imgs/..., ICFG_PEDES.json, ICFG-PEDES.json or ICFG-PDES.json
                   test     1000 / 19848 / 19848        (`train` and `test` inside imgs are MSMT17's folders, not the split)
    RSTPReid       train    3701 / 18505 / 37010        RSTPReid/imgs/..., data_captions.json
                   val       200 /  1000 /  2000
                   test      200 /  1000 /  2000
    SYNTH-PEDES    train    4.8 M images                SYNTH-PEDES/Part1..Part11/<id>/<n>.jpg, synthpedes_dataset.json
    LuPerson-MLLM  train    1 M images                  LuPerson-MLLM/*.json, each {path: caption}; images in imgs/ or beside
    HAM-PEDES      train    1 M images, 2 M captions    HAM-PEDES/*.json, {path: [caption, ...]}; images are SYNTH-PEDES'

ICFG-PEDES and RSTPReid are both cut from MSMT17: the same persons may stand in both, in different splits.
`python -m ham.datasets verify ROOT` compares a folder with this table (ham/datasets/verify.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ham.records import PersonImage, read_json
from ham.runtime import UsageError

Counts = tuple[
    int | str, int | str, int | str
]  # ids, images, captions; text where only a rough figure is published


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on disk and what its authors publish; image_key None: the annotations map path to captions."""

    annotations: tuple[str, ...]
    image_key: str | None
    published: dict[str, Counts]
    image_folders: tuple[str, ...] = ("{name}/imgs",)  # below the data root, the first that exists


LAYOUTS = {
    "CUHK-PEDES": Layout(
        ("reid_raw.json", "caption_all.json"),
        "file_path",
        {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    ),
    "ICFG-PEDES": Layout(
        ("ICFG_PEDES.json", "ICFG-PEDES.json", "ICFG-PDES.json"),
        "file_path",
        {"train": (3102, 34674, 34674), "test": (1000, 19848, 19848)},
    ),
    "RSTPReid": Layout(
        ("data_captions.json",),
        "img_path",
        {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
    ),
    "SYNTH-PEDES": Layout(
        ("synthpedes_dataset.json",), "file_path", {"train": ("?", "4.8 M", "?")}, ("{name}",)
    ),
    "LuPerson-MLLM": Layout(("*.json",), None, {"train": ("-", "1 M", "?")}, ("{name}/imgs", "{name}")),
    "HAM-PEDES": Layout(
        ("*.json",), None, {"train": ("?", "1 M", "2 M")}, ("{name}/imgs", "SYNTH-PEDES", "{name}")
    ),
}


# ---------------------------------------------------------------------------------------------------------------- readers


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise UsageError(f"dataset '{name}' is not known; use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def image_root(root: Path, name: str) -> Path:
    """Give the folder that the dataset's image paths are relative to. Raises UsageError when none of the candidates exists."""
    folders = [Path(root, folder.format(name=name)) for folder in _layout(name).image_folders]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UsageError(f"{name}: no image folder; looked for {', '.join(map(str, folders))}")


def annotation_files(root: Path, name: str) -> list[Path]:
    """Find a dataset's annotation: the first file of its known names, or every JSON file where it consists of several.

    Raises UsageError that lists the files looked for.
    """
    layout, folder = _layout(name), Path(root, name)
    for pattern in layout.annotations:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    looked_for = ", ".join(str(folder / pattern) for pattern in layout.annotations)
    raise UsageError(
        f"{name} is not below {root}: looked for {looked_for}; give the folder that holds {name}/"
    )


def read_dataset(root: Path, name: str, split: str | None = None) -> list[PersonImage]:
    """Read one dataset, or one split (train | val | test) of it, in the annotation's order.

    root: the folder that holds `CUHK-PEDES/` and the others. Paths are relative to `image_root(root, name)`. Raises UsageError
    naming file, record index, key and what was expected. The million images of HAM-PEDES are better served by `open_captions`.
    """
    layout, files = _layout(name), annotation_files(root, name)
    if layout.image_key is not None:
        records = _read_records(files[0], layout.image_key, has_splits=len(layout.published) > 1)
    else:
        records = [
            PersonImage(path, person_of_path(path), captions)
            for path, captions in merge_caption_files(files).items()
        ]
    if split is not None and split not in layout.published:
        raise UsageError(f"{name} has no split '{split}'; it has {', '.join(layout.published)}")
    return [record for record in records if split in (None, record.split)]


def _read_records(file: Path, image_key: str, has_splits: bool) -> list[PersonImage]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise UsageError(f"{file}: expected a JSON list of records, found {type(rows).__name__}")
    records = []
    for index, row in enumerate(rows):
        path = _field(row, image_key, str, "a path", file, index)
        person = _field(row, "id", int, "a whole number", file, index)
        captions = _field(row, "captions", list, "a list of strings", file, index)
        if not all(isinstance(caption, str) for caption in captions):
            raise UsageError(
                f"{file}, record {index}: 'captions' is {captions!r:.80}; expected a list of strings"
            )
        split = _field(row, "split", str, "train, val or test", file, index) if has_splits else "train"
        records.append(
            PersonImage(
                path.replace("\\", "/"),
                person,
                tuple(captions),
                split if split in ("train", "test") else "val",
            )
        )
    return records


def _field(row: Any, key: str, kind: type, expected: str, file: Path, index: int) -> Any:
    if not isinstance(row, dict) or key not in row:
        found = f"the keys {sorted(row)}" if isinstance(row, dict) else type(row).__name__
        raise UsageError(f"{file}, record {index}: no key '{key}' ({expected}); found {found}")
    if not isinstance(row[key], kind) or isinstance(row[key], bool):
        raise UsageError(f"{file}, record {index}: '{key}' is {row[key]!r:.80}; expected {expected}")
    return row[key]


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
    captions: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for file in files:
        for image, texts in read_captions_json(file).items():
            captions[image.replace("\\", "/")] += tuple(texts)
    return captions


def person_of_path(image_path: str) -> int:
    """Give the identity that SYNTH-PEDES' layout `Part1/<id>/<n>.jpg` names, else -1."""
    folders = image_path.split("/")[-3:-1]
    return (
        int(folders[1])
        if len(folders) == 2 and folders[0].startswith("Part") and folders[1].isdecimal()
        else -1
    )


def contiguous_labels(person_ids: Sequence[int] | Sequence[str]) -> tuple[np.ndarray, dict[Any, int]]:
    """Number identities 0..C-1 in their sorted order, for classifiers: (labels int64 [N], {person_id: label})."""
    names, labels = np.unique(np.asarray(person_ids), return_inverse=True)
    return labels.reshape(-1).astype(np.int64), {name: label for label, name in enumerate(names.tolist())}
