"""Annotations of one's own: JSON, JSON lines, CSV and TSV files as one list of person images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham.datasets.base import SPLITS, after_known_part, read_captions_json, read_split, slashes
from ham.datasets.own_settings import DEFAULTS, SETTINGS_FILE, OwnSettings
from ham.records import PersonImage, read_json
from ham.runtime import UsageError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
COLUMNS = {
    "image": ("image", "file_path", "img_path", "image_path", "file_name", "filename", "path", "img"),
    "caption": ("captions", "caption", "description", "descriptions", "text", "sentence"),
    "identity": ("identity", "id", "person_id", "pid", "person"),
    "split": ("split",),
}
Cells = tuple[str, dict[str, Any]]  # where (file and line or record), column -> value


def read_own_annotation(file: Path, settings: OwnSettings = DEFAULTS) -> list[PersonImage]:
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
