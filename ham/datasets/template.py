"""Write the skeleton of a dataset of one's own: `python -m ham.datasets template FOLDER --images DIR`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from ham.datasets.own import annotations_in
from ham.datasets.own_settings import SETTINGS_FILE
from ham.image_folder import list_images
from ham.records import atomic_write
from ham.runtime import UsageError

FORMATS = ("csv", "json", "jsonl")
HEADER = ("image", "caption", "identity", "split")


def write_template(folder: Path, images: Path, format: str = "csv") -> Path:
    """Write FOLDER/annotations.<format> with a row for each image of `images`, and FOLDER/dataset.yaml; return the first.

    Raises UsageError when the folder holds an annotation already, or `images` holds no image.
    """
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder")
    there = annotations_in(folder) if folder.is_dir() else []
    if there or (folder / SETTINGS_FILE).exists():
        name = there[0] if there else folder / SETTINGS_FILE
        raise UsageError(f"{name} is there already and is not overwritten; choose another folder")
    found = list(list_images(images))
    if not found:
        raise UsageError(f"--images {images}: no image found")
    out = folder / f"annotations.{format}"
    with atomic_write(out) as file:
        file.write(_skeleton(found, format))
    relative = os.path.relpath(images.resolve(), folder.resolve())
    with atomic_write(folder / SETTINGS_FILE) as file:
        file.write("# where this dataset's files are; see ham/datasets/README.md\n")
        yaml.safe_dump(
            {"annotation": out.name, "images": relative}, file, sort_keys=False, allow_unicode=True
        )
    return out


def _skeleton(images: Sequence[str], format: str) -> str:
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((image, "", "", "") for image in images)
        return text.getvalue()
    rows = [{"image": image, "captions": [], "identity": "", "split": ""} for image in images]
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
