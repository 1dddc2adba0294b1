"""The images of a job: every image below a root or a list in one of the usual formats, and a part of them."""

from __future__ import annotations

import csv
import heapq
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ham.image_folder import list_images
from ham.records import parse_json, read_json, read_text
from ham.runtime import UsageError, derive_seed

IMAGE_KEYS = ("image_path", "file_path", "img_path", "image", "file_name", "filename", "path")
LINES = {".txt", ".lst", ".list", ""}
TABLES = {".csv": ",", ".tsv": "\t"}
JSON_LINES = {".jsonl", ".ndjson"}


def job_images(
    image_root: str | Path,
    images: str | Path | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    report: bool = True,
) -> Iterator[str]:
    """Yield the job's image paths, relative to the root with forward slashes, each once, in order.

    images: a list file (see `read_image_list`); None lists the image files below the root. sample: choose N of them at random
    by `seed`. limit: stop after the first N. report: log which files of the root were passed over.
    Raises UsageError when there is nothing, or nothing readable, to list.
    """
    root = Path(image_root)
    if not root.is_dir():
        raise UsageError(f"--image-root {image_root}: no such folder")
    paths = list_images(root, report) if images is None else _first_seen(read_image_list(Path(images), root))
    if sample is not None:
        paths = iter(choose_sample(list(paths), sample, seed))
    count = 0
    for path in paths:
        if limit is not None and count >= limit:
            break
        count += 1
        yield path
    if not count:
        raise UsageError(f"{images or image_root}: no images to caption")


def choose_sample(paths: list[str], count: int, seed: int) -> list[str]:
    """Return `count` of the paths in their order; whether one is chosen depends on the seed and the set of paths only."""
    keyed = ((derive_seed(seed, "sample", path), index) for index, path in enumerate(paths))
    chosen = heapq.nsmallest(count, keyed)
    return [paths[index] for index in sorted(index for _, index in chosen)]


def read_image_list(file: Path, root: Path) -> Iterator[str]:
    """Yield the image paths of a list file, relative to the root.

    Lines (.txt, .lst), tables with a header (.csv, .tsv), JSON lines, or JSON: a list of paths or of records (CUHK-PEDES,
    ICFG-PEDES, RSTPReid, SYNTH-PEDES, LLaVA, Hugging Face metadata), an object of path to captions, or a COCO annotation.
    Raises UsageError naming the record that holds no path.
    """
    kind = file.suffix.lower()
    read = _reader_of(kind, file)
    tidy = _Tidy(root)
    for path in read(file):
        yield tidy(path)


def _reader_of(kind: str, file: Path) -> Callable[[Path], Iterator[str]]:
    if kind == ".json":
        return _from_json
    if kind in JSON_LINES:
        return _from_json_lines
    if kind in TABLES:
        return _from_table
    if kind in LINES:
        return _from_lines
    raise UsageError(
        f"--images {file}: a list in {kind} files is not known; expected .txt or .lst (a path a line), .csv, .tsv, .json "
        "or .jsonl"
    )


def _from_lines(file: Path) -> Iterator[str]:
    for line in _text_of(file).split("\n"):
        if line.strip():
            yield line.rstrip("\r")


def _from_table(file: Path) -> Iterator[str]:
    table = csv.reader(io.StringIO(_text_of(file)), delimiter=TABLES[file.suffix.lower()])
    try:
        rows = [row for row in table if row]
    except csv.Error as error:
        raise UsageError(f"--images {file}: not a table: {error}") from None
    if not rows:
        return
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(key) for key in IMAGE_KEYS if key in header), None)
    if column is None:
        raise UsageError(
            f"--images {file}: the header {','.join(rows[0])[:80]!r} names no image column; expected one of "
            f"{', '.join(IMAGE_KEYS)}"
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) <= column:
            raise UsageError(f"--images {file}, row {number}: no column {header[column]}")
        yield row[column]


def _from_json_lines(file: Path) -> Iterator[str]:
    for number, line in enumerate(_text_of(file).split("\n"), start=1):
        if line.strip():
            where = f"--images {file}, line {number}"
            yield _path_of(parse_json(line, where), where)


def _from_json(file: Path) -> Iterator[str]:
    rows = read_json(file)
    if isinstance(rows, dict):
        rows = _records_of_object(rows, file)
    if not isinstance(rows, list):
        raise UsageError(
            f"--images {file}: expected a list of paths or records, or an object of path to captions; "
            f"found {type(rows).__name__}"
        )
    for index, row in enumerate(rows):
        yield _path_of(row, f"--images {file}, record {index}")


def _records_of_object(value: dict[str, Any], file: Path) -> list[Any]:
    """Return the records of a JSON object: its keys when they are paths, the images of a COCO annotation."""
    images = value.get("images")
    if isinstance(images, list) and any(isinstance(row, dict) for row in images):
        return images
    for name, captions in value.items():
        texts = captions if isinstance(captions, list) else [captions]
        if not all(isinstance(text, str) for text in texts):
            found = next(type(text).__name__ for text in texts if not isinstance(text, str))
            raise UsageError(
                f"--images {file}, key {ascii(name)[:80]}: found {found}; an object must hold captions by image path, or "
                "the list `images` of a COCO annotation"
            )
    return list(value)


def _path_of(row: Any, where: str) -> str:
    if isinstance(row, dict):
        row = next((row[key] for key in IMAGE_KEYS if key in row), None)
    if not isinstance(row, str):
        raise UsageError(
            f"{where}: no image path; expected a string, or a record with one of the keys {', '.join(IMAGE_KEYS)}"
        )
    return row


def _text_of(file: Path) -> str:
    try:
        return read_text(file)
    except UsageError as error:
        raise UsageError(f"--images {error}") from None


class _Tidy:
    """Bring a path to one spelling: forward slashes, no `./`, relative to the root where it is below it."""

    def __init__(self, root: Path) -> None:
        spellings = (str(root), os.path.abspath(root), os.path.realpath(root))  # noqa: PTH100
        self.starts = [text.replace("\\", "/").rstrip("/") + "/" for text in dict.fromkeys(spellings)]

    def __call__(self, path: str) -> str:
        path = path.replace("\\", "/")
        if path.startswith("/"):
            start = next((start for start in self.starts if path.startswith(start) and start != "/"), "")
            path = path[len(start) :]
            if not start:
                return path
        parts = [part for part in path.split("/") if part not in ("", ".")]
        return "/".join(parts)


def _first_seen(paths: Iterable[str]) -> Iterator[str]:
    seen = set()
    for path in paths:
        if path not in seen:
            seen.add(path)
            yield path
