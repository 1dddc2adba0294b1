"""A dataset of one's own: `NAME=PATH` is accepted wherever a benchmark's name is. README.md beside this file is the manual.

PATH is a folder, an annotation file, or a dataset.yaml. Annotations are a JSON list of records (as IRRA's), JSON lines, a JSON
object {image: [captions]}, or a CSV / TSV table with a header. A missing split means test, a missing identity means that every
image is a person of its own.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ham.datasets.base import SPLITS, PersonDataset, after_known_part, read_captions_json, read_split, slashes
from ham.records import PersonImage, read_json
from ham.runtime import UsageError

SETTINGS_FILE = "dataset.yaml"
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
IMAGE_FOLDERS = ("imgs", "images")
COLUMNS = {
    "image": ("image", "file_path", "img_path", "image_path", "file_name", "filename", "path", "img"),
    "caption": ("captions", "caption", "description", "descriptions", "text", "sentence"),
    "identity": ("identity", "id", "person_id", "pid", "person"),
    "split": ("split",),
}
PROBED = 50  # records whose image files decide which folder the paths are relative to
Cells = tuple[str, dict[str, Any]]  # where (file and line or record), column -> value


@dataclass(frozen=True)
class OwnSettings:
    """What a dataset.yaml may say. Paths are relative to the YAML file.

    Attributes:
        annotation: the annotation file; by default the only one in the folder
        images: the folder that image paths are relative to; by default imgs/, images/ or the folder itself
        image: name of the column or key that holds the image path
        caption: name of the column or key that holds one caption or a list of captions
        identity: name of the column or key that holds the person
        split: name of the column or key that holds train, val or test
        strip_prefix: start of image paths that is removed, for paths of another machine
        after_folder: keep what follows this folder name in image paths, for paths of another machine
    """

    annotation: str | None = None
    images: str | None = None
    image: str | None = None
    caption: str | None = None
    identity: str | None = None
    split: str | None = None
    strip_prefix: str = ""
    after_folder: str | None = None


@dataclass(frozen=True)
class OwnDataset:
    """A resolved `NAME=PATH`: its annotation, its image folder and its records."""

    name: str
    annotation: Path
    images: Path
    records: tuple[PersonImage, ...] = field(repr=False)

    def entry(self) -> PersonDataset:
        """Return the dataset as an entry like the published ones, with nothing published."""
        return PersonDataset(self.name, (self.annotation.name,), lambda _: list(self.records))


def is_own(spec: str) -> bool:
    return "=" in spec


def open_own(spec: str) -> OwnDataset:
    """Resolve `NAME=PATH` and read it; files that have not changed are read once per process.

    Raises UsageError naming what was looked for, and file and line or record where an entry is wrong.
    """
    name, _, where = spec.partition("=")
    if not name.strip() or not where.strip() or "/" in name:
        raise UsageError(
            f"dataset '{spec}': expected NAME=PATH, such as mine=photos, where PATH is a folder with an annotation, "
            "an annotation file, or a dataset.yaml"
        )
    path = Path(where).expanduser()
    if not path.exists():
        raise UsageError(f"dataset '{spec}': {path}: no such file or folder")
    settings, folder = _settings_of(path)
    annotation = _annotation_of(spec, path, folder, settings)
    stamp = (annotation.stat().st_size, annotation.stat().st_mtime_ns)
    return _read_own(name, annotation, folder, settings, stamp)


@lru_cache(maxsize=8)
def _read_own(
    name: str, annotation: Path, folder: Path, settings: OwnSettings, stamp: tuple[int, int]
) -> OwnDataset:
    records = read_own_annotation(annotation, settings)
    if not records:
        raise UsageError(f"{annotation}: holds no record")
    images = _image_folder(folder, settings, records)
    return OwnDataset(name, annotation, images, tuple(records))


# ------------------------------------------------------------------------------------------------------- which files


def _settings_of(path: Path) -> tuple[OwnSettings, Path]:
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix in (".yaml", ".yml") else folder / SETTINGS_FILE
    if not file.is_file():
        return OwnSettings(), folder
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not valid YAML: {error}") from None
    names = [known.name for known in fields(OwnSettings)]
    wrong = [key for key in values if key not in names] if isinstance(values, dict) else [values]
    if wrong:
        raise UsageError(f"{file}: '{wrong[0]}' is not known; the keys are {', '.join(names)}")
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{file}: '{key}' is {value!r:.80}; expected text")
    return OwnSettings(**{key: value for key, value in values.items() if value is not None}), file.parent


def _annotation_of(spec: str, path: Path, folder: Path, settings: OwnSettings) -> Path:
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        if path.suffix not in SUFFIXES:
            raise UsageError(
                f"dataset '{spec}': {path} is not an annotation file; expected {', '.join(SUFFIXES)}"
            )
        return path
    if settings.annotation:
        file = folder / settings.annotation
        if not file.is_file():
            raise UsageError(f"{folder / SETTINGS_FILE}: annotation: {file}: no such file")
        return file
    found = annotations_in(folder)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"dataset '{spec}': {folder} holds no annotation (*{', *'.join(SUFFIXES)}); write one with "
            f"`python -m ham.datasets template {folder} --images DIR`"
        )
    raise UsageError(
        f"dataset '{spec}': {folder} holds several annotations ({', '.join(file.name for file in found)}); choose one "
        f"with NAME={found[0]}, or with `annotation:` in {SETTINGS_FILE}"
    )


def annotations_in(folder: Path) -> list[Path]:
    """Return the annotation files that are directly in a folder."""
    files = sorted(folder.iterdir())
    return [
        file for file in files if file.suffix in SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]


def _image_folder(folder: Path, settings: OwnSettings, records: Sequence[PersonImage]) -> Path:
    if settings.images is not None:
        images = folder / Path(settings.images).expanduser()
        if not images.is_dir():
            raise UsageError(f"{folder / SETTINGS_FILE}: images: {images}: no such folder")
        return images
    candidates = [folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()] + [folder]
    step = max(1, len(records) // PROBED)
    probed = [record.image_path for record in records[::step]]
    hits = [sum(_is_file(candidate, image) for image in probed) for candidate in candidates]
    return candidates[hits.index(max(hits))]


def _is_file(folder: Path, image: str) -> bool:
    try:
        return (folder / image).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


# -------------------------------------------------------------------------------------------------------- annotations


def read_own_annotation(file: Path, settings: OwnSettings = OwnSettings()) -> list[PersonImage]:
    """Read an annotation of any of the accepted formats; rows of one image are joined, in the order of the file."""
    if file.suffix in (".csv", ".tsv"):
        rows: Iterator[Cells] = _table_rows(file)
    elif file.suffix == ".jsonl":
        rows = _line_rows(file)
    else:
        rows = _json_rows(file)
    return _join_rows(rows, file, settings)


def _json_rows(file: Path) -> Iterator[Cells]:
    value = read_json(file)
    if isinstance(value, dict):
        if {"images", "annotations"} <= value.keys() or not any(
            isinstance(item, str) or _is_text_list(item) for item in value.values()
        ):
            raise UsageError(
                f"{file}: expected {{image: [captions]}} or a list of records, found an object with the keys "
                f"{sorted(value)[:6]}; is this another format (COCO)?"
            )
        value = [{"image": image, "captions": texts} for image, texts in read_captions_json(file).items()]
        yield from ((f"{file}, image '{row['image']:.200}'", row) for row in value)
        return
    if not isinstance(value, list):
        raise UsageError(f"{file}: expected a JSON list or object, found {type(value).__name__}")
    for index, row in enumerate(value):
        yield f"{file}, record {index}", _object(row, f"{file}, record {index}")


def _line_rows(file: Path) -> Iterator[Cells]:
    for number, line in enumerate(io.StringIO(_text_of(file)), start=1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not valid JSON: {error}") from None
        yield where, _object(row, where)


def _table_rows(file: Path) -> Iterator[Cells]:
    text = _text_of(file)
    header = text.split("\n", 1)[0]
    separator = "\t" if file.suffix == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    names = [(name or "").strip() for name in reader.fieldnames or []]
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise UsageError(f"{file}, line 1: the column '{doubled[0]}' is there twice")
    reader.fieldnames = names
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row:
                raise UsageError(
                    f"{where}: {len(names) + len(row[None])} cells for {len(names)} columns; captions with a "
                    f"'{separator}' must be in double quotes"
                )
            if any(value is None for value in row.values()):
                raise UsageError(f"{where}: fewer cells than the {len(names)} columns {names}")
            yield where, {name: value.strip() for name, value in row.items() if name}
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num}: {error}") from None


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected an object with keys, found {type(row).__name__}")
    return row


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# --------------------------------------------------------------------------------------------------- rows to records


@dataclass
class _Image:
    where: str
    captions: list[str]
    identity: str | None
    split: str | None


def _join_rows(rows: Iterator[Cells], file: Path, settings: OwnSettings) -> list[PersonImage]:
    images: dict[str, _Image] = {}
    columns: dict[str, str | None] | None = None
    for where, row in rows:
        if columns is None:
            columns = find_columns(list(row), settings, where)
        path = _image_path(row, columns["image"], settings, where)
        captions = _captions(row, columns["caption"], where)
        identity = _cell(row, columns["identity"], where)
        split = _cell(row, columns["split"], where)
        split = read_split(split, where) if split is not None else None
        known = images.setdefault(path, _Image(where, [], identity, split))
        for what, old, new in (("identity", known.identity, identity), ("split", known.split, split)):
            if old != new:
                raise UsageError(f"{where}: image '{path}' has {what} {new!r}, but {old!r} at {known.where}")
        known.captions += captions
    return _with_numbers(images)


def find_columns(found: list[str], settings: OwnSettings, where: str) -> dict[str, str | None]:
    """Choose the column of each part. Raises UsageError when a needed one is missing or several fit."""
    chosen: dict[str, str | None] = {}
    by_lower = {name.strip().lower(): name for name in found}
    for part, names in COLUMNS.items():
        asked = getattr(settings, part)
        if asked is not None:
            if asked not in found:
                raise UsageError(f"{where}: no column '{asked}' ({part} in {SETTINGS_FILE}); found {found}")
            chosen[part] = asked
            continue
        fitting = [by_lower[name] for name in names if name in by_lower]
        if len(fitting) > 1:
            raise UsageError(
                f"{where}: {' and '.join(map(repr, fitting))} could each be the {part}; choose one with "
                f"`{part}: {fitting[0]}` in {SETTINGS_FILE}"
            )
        if not fitting and part in ("image", "caption"):
            raise UsageError(
                f"{where}: no column for the {part}; found {found}, expected one of {list(names)}, or "
                f"`{part}: COLUMN` in {SETTINGS_FILE}"
            )
        chosen[part] = fitting[0] if fitting else None
    return chosen


def _image_path(row: dict[str, Any], column: str | None, settings: OwnSettings, where: str) -> str:
    path = row.get(column or "")
    if not isinstance(path, str) or not path.strip():
        raise UsageError(f"{where}: '{column}' is {path!r:.80}; expected an image path")
    path = slashes(path.strip()).removeprefix(slashes(settings.strip_prefix))
    if settings.strip_prefix:
        path = path.lstrip("/")
    if settings.after_folder:
        path = after_known_part(path, (settings.after_folder,))
    return path.removeprefix("./")


def _captions(row: dict[str, Any], column: str | None, where: str) -> list[str]:
    value = row.get(column or "")
    if isinstance(value, str):
        return [value] if value.strip() else []
    if not _is_text_list(value):
        raise UsageError(f"{where}: '{column}' is {value!r:.80}; expected a sentence or a list of sentences")
    return list(value)


def _cell(row: dict[str, Any], column: str | None, where: str) -> str | None:
    """Return a cell as text, None where it is missing or empty."""
    value = row.get(column) if column is not None else None
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"{where}: '{column}' is {value!r:.80}; expected text or a whole number")
    return str(value).strip() or None


def _with_numbers(images: dict[str, _Image]) -> list[PersonImage]:
    """Number the identities: whole numbers stay, other words and images without an identity get numbers of their own."""
    splits = {image.split for image in images.values()}
    if None in splits and len(splits) > 1:
        where = next(image.where for image in images.values() if image.split is None)
        raise UsageError(
            f"{where}: no split, though other images have one; give it to all ({', '.join(SPLITS)}) or to none "
            "(all is test)"
        )
    number_of: dict[str, int] = {}
    words = {image.identity for image in images.values() if image.identity is not None}
    numeric = all(word.isdecimal() and len(word) < 19 for word in words)
    if numeric:
        number_of = {word: int(word) for word in words}
    free = max(number_of.values(), default=-1) + 1
    records = []
    for path, image in images.items():
        key = image.identity if image.identity is not None else f"\0{path}"
        if key not in number_of:
            number_of[key] = free
            free += 1
        records.append(PersonImage(path, number_of[key], tuple(image.captions), image.split or "test"))
    return records
