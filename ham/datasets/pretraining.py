"""The large machine-annotated sets for pre-training; every record is in the split `train`.

    SYNTH-PEDES    4.8 M images                SYNTH-PEDES/Part1..Part11/<id>/<n>.jpg, synthpedes_dataset.json
    HAM-PEDES      1 M images, 2 M captions    HAM-PEDES/*.json, {path: [caption, ...]}; images are SYNTH-PEDES'
    LuPerson-MLLM  1 M images                  LuPerson-MLLM/*.json or caption/*.json, each {path: caption}; images in imgs/
                                               or LUPerson-MLLM/
    MALS           1.5 M images and captions   MALS/gene_attrs/*.json, lists of {image, caption, image_id, label};
                                               images in gene_crop/

Sources: LuPerson-MLLM, github.com/WentaoTan/MLLM4Text-ReID, datasets/luperson.py (keys hold the authors' folders; images are
matched by name); MALS, README of github.com/Shuyu-XJTU/APTM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ham.datasets.base import (
    UNKNOWN,
    PersonDataset,
    after_known_part,
    merge_caption_files,
    read_field,
    read_list,
    read_record_list,
    slashes,
)
from ham.records import PersonImage

LUPERSON_FOLDERS = ("LUPerson-MLLM", "LuPerson-MLLM", "LUPerson_images", "LUPerson-T", "LUPerson")


def read_synth_pedes(files: Sequence[Path]) -> list[PersonImage]:
    return read_record_list(files, image_key="file_path", has_splits=False)


def read_ham_pedes(files: Sequence[Path]) -> list[PersonImage]:
    merged = merge_caption_files(files)
    return [PersonImage(path, person_of_path(path), captions) for path, captions in merged.items()]


def read_luperson_mllm(files: Sequence[Path]) -> list[PersonImage]:
    """Read {path: caption} files. Of an absolute path, the part after the authors' image folder is kept, else the name."""
    merged: dict[str, tuple[str, ...]] = {}
    for path, captions in merge_caption_files(files).items():
        name = after_known_part(path, LUPERSON_FOLDERS)
        if name.startswith("/") or name[1:2] == ":":
            name = name.rpartition("/")[2]
        merged[name] = merged.get(name, ()) + captions
    return [PersonImage(path, UNKNOWN, captions) for path, captions in merged.items()]


def read_mals(files: Sequence[Path]) -> list[PersonImage]:
    """Read lists of {image, caption, image_id}; an image_id names one image, so that identities are not known."""
    merged: dict[str, tuple[str, ...]] = {}
    for file in files:
        rows = read_list(file)
        for index, row in enumerate(rows):
            where = f"{file}, record {index}"
            path = slashes(read_field(row, "image", str, "a path", where))
            merged[path] = (
                *merged.get(path, ()),
                read_field(row, "caption", str, "a sentence", where),
            )
    return [PersonImage(path, UNKNOWN, captions) for path, captions in merged.items()]


def person_of_path(image_path: str) -> int:
    """Return the identity that SYNTH-PEDES' layout `Part1/<id>/<n>.jpg` names, else -1 (not known)."""
    folders = image_path.split("/")[-3:-1]
    if len(folders) == 2 and folders[0].startswith("Part") and folders[1].isdecimal():
        return int(folders[1])
    return UNKNOWN


SYNTH_PEDES = PersonDataset(
    "SYNTH-PEDES",
    ("synthpedes_dataset.json", "synthpedes-dataset.json"),
    read_synth_pedes,
    {"train": ("?", "4.8 M", "?")},
    ("SYNTH-PEDES",),
)
LUPERSON_MLLM = PersonDataset(
    "LuPerson-MLLM",
    ("*.json", "caption/*.json", "captions/*.json"),
    read_luperson_mllm,
    {"train": ("-", "1 M", "?")},
    ("LuPerson-MLLM/imgs", "LuPerson-MLLM/LUPerson-MLLM", "LuPerson-MLLM"),
)
HAM_PEDES = PersonDataset(
    "HAM-PEDES",
    ("*.json",),
    read_ham_pedes,
    {"train": ("?", "1 M", "2 M")},
    ("HAM-PEDES/imgs", "SYNTH-PEDES", "HAM-PEDES"),
)
MALS = PersonDataset(
    "MALS",
    ("gene_attrs/*.json", "*.json"),
    read_mals,
    {"train": ("-", "1510330", "1510330")},
    ("MALS/imgs", "MALS"),
)
