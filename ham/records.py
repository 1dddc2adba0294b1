"""The contracts on disk: the records that stages hand to each other, and how they are read and written.

Every file appears whole: it is written beside its place, flushed to disk and renamed. Every reader names the file, the record
and the key when something is wrong.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from ham.runtime import UsageError

Row = TypeVar("Row")

IMAGE_TEXT = "<image>"  # stands for the image in the text of a conversation
NO_STYLE = -1  # a style id that adds no style tokens: a plain LLaVA, or a control
DEFAULT_PROMPT = (  # the paper's instruction
    "Describe the person in the image without referring to the background or any additional context. Focus on their physical "
    "appearance, including their hairstyle, clothing, shoes, any noticeable accessories they may be wearing, and any "
    "belongings they may be carrying."
)


@dataclass(frozen=True)
class PersonImage:
    """One pedestrian image with its captions: what every dataset is read into.

    image_path: relative to the dataset's image root, with forward slashes. person_id: the identity as the dataset numbers
    it; -1 where it is not known. split: train | val | test.
    """

    image_path: str
    person_id: int
    captions: tuple[str, ...]
    split: str = "train"


@dataclass(frozen=True)
class StyleAssignment:
    """One human caption and the styles (clusters) it belongs to: a row of `styles/assignments.jsonl`."""

    image: str
    caption: str
    style_ids: tuple[int, ...]


@dataclass(frozen=True)
class CaptionRow:
    """One attempt to caption one image in one style: a row of a caption shard.

    status: accepted | rejected | failed. reason: why, for the last two. An image that cannot be read has one row, failed,
    with style_id None. attempt counts from 0; (image, style_id, attempt) never repeats.
    """

    image: str
    caption: str
    style_id: int | None
    attempt: int
    status: str
    reason: str | None = None


# ------------------------------------------------------------------------------------------------------------ whole files


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears at `path` only when the block ends well; on an error nothing is left behind.

    mode: "w" (UTF-8 text, `\\n` line ends) or "wb".
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(beside).chmod(0o666 & ~umask)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UsageError naming the file when it is missing or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from None


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file whole, UTF-8, keys in the order given."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=indent)
        file.write("\n")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file. Raises UsageError naming file and line where one is broken."""
    path = Path(path)
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{path}, line {number}: not valid JSON: {error}") from None


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Write dictionaries or record dataclasses, one JSON object a line, whole."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(to_json_line(row))


def to_json_line(row: Any) -> str:
    """Give one line of JSON, newline included, for a dictionary or a record dataclass."""
    return json.dumps(row if isinstance(row, dict) else asdict(row), ensure_ascii=False) + "\n"


def from_dict(kind: type[Row], row: dict[str, Any], where: str) -> Row:
    """Build a record dataclass from a JSON object; lists become tuples. Raises UsageError naming `where` and the key."""
    names = {field.name for field in fields(kind)}
    try:
        return kind(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in row.items()
                if name in names
            }
        )
    except (TypeError, AttributeError) as error:
        raise UsageError(
            f"{where}: not a {kind.__name__}: {error}; expected the keys {sorted(names)}"
        ) from None


# ------------------------------------------------------------------------------------------------------------------ paths


def path_below(root: str | Path, relative: str) -> Path:
    """Join a data file's path to its root. Raises UsageError when it is absolute or leaves the root.

    Symbolic links inside the root are the user's own business and are followed.
    """
    pieces = relative.replace("\\", "/").split("/")
    outside = relative.startswith(("/", "\\")) or ".." in pieces or relative[1:2] == ":"
    if not relative or outside or "\0" in relative:
        raise UsageError(f"image path '{relative}' leaves its root {root}; expected a path below it")
    return Path(root, *pieces)
