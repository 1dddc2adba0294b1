"""The contracts on disk: the records that stages exchange, how they are read and written.

Every file is written to a temporary name, flushed to disk and renamed. Every reader names the file, the record and the key
when something is wrong.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from ham.locks import FileLock as FileLock  # moved; still importable from here
from ham.runtime import UsageError

Row = TypeVar("Row")

IMAGE_TEXT = "<image>"  # stands for the image in the text of a conversation
NO_STYLE = -1  # a style id that adds no style tokens: a plain LLaVA, or a control
DEFAULT_PROMPT = (  # the paper's instruction
    "Describe the person in the image without referring to the background or any additional context. Focus on their physical "
    "appearance, including their hairstyle, clothing, shoes, any noticeable accessories they may be wearing, and any "
    "belongings they may be carrying."
)
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SURROGATE = re.compile("[\ud800-\udfff]")
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


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


def style_token(style: int, k: int) -> str:
    """Return the name that the k-th token of a style has in the vocabulary of an exported captioner."""
    return f"<|style_{style}_{k}|>"


# ------------------------------------------------------------------------------------------------------------ whole files


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears at `path` only when the block ends well; on an error nothing is left behind.

    mode: "w" (UTF-8 text, `\\n` line ends) or "wb".
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise _named(error, path) from None
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
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, beside):
            raise _named(error, path) from None
        raise


def _named(error: OSError, path: Path) -> OSError:
    """Return a file-system error that names the file asked for, not the temporary one beside it."""
    if error.errno is None:  # NumPy's "5082 requested and 936 written"
        return (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) if "written" in str(error) else error
        )
    return OSError(error.errno, error.strerror, str(path))


def read_text(path: str | Path) -> str:
    """Read a text file: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises UsageError naming the file, and for other encodings the first line that is not UTF-8.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; expected a file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    encoding = "utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: not UTF-8 text (byte {data[error.start]:#04x}); convert the file first, for example "
            f"with `iconv -f LATIN1 -t UTF-8`"
        ) from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Raises UsageError naming the file when it is missing, is not JSON, or holds what no other stage could write again: nesting
    beyond Python's limit, integers of thousands of digits, halves of surrogate pairs.
    """
    try:
        return parse_json(read_text(path), str(path))
    except UsageError as error:
        if "not UTF-8" in str(error):
            raise UsageError(f"{path}: not valid JSON: {str(error).removeprefix(f'{path}, ')}") from None
        raise


def parse_json(text: str, where: str) -> Any:
    """Parse JSON text. Raises UsageError beginning with `where`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = (
            "; it looks like JSON lines: give the file the suffix .jsonl"
            if _is_json_lines(text, error)
            else ""
        )
        raise UsageError(f"{where}: not valid JSON: {error}{hint}") from None
    except RecursionError:
        raise UsageError(f"{where}: not valid JSON for this program: nested too deeply") from None
    except ValueError as error:  # integers above Python's limit of digits
        raise UsageError(f"{where}: not valid JSON for this program: {error}") from None
    if SURROGATE_ESCAPE.search(text):
        check_encodable(value, where)
    return value


def _is_json_lines(text: str, error: json.JSONDecodeError) -> bool:
    return error.msg == "Extra data" and error.lineno > 1 and text.lstrip().startswith("{")


def check_encodable(value: Any, where: str) -> None:
    """Check that the strings of a JSON value can be written as UTF-8. Raises UsageError naming the record."""
    waiting: list[tuple[Any, str]] = [(value, "")]
    while waiting:
        item, place = waiting.pop()
        if isinstance(item, str):
            if SURROGATE.search(item):
                raise UsageError(
                    f"{where}{place and ', record ' + place}: half of a surrogate pair in {ascii(item)[:80]}; "
                    "such text cannot be written as UTF-8"
                )
        elif isinstance(item, dict):
            waiting += [(name, f"{place}/key") for name in item]
            waiting += [
                (inner, f"{place}{'/' if place else ''}{ascii(name)[1:-1]}") for name, inner in item.items()
            ]
        elif isinstance(item, list):
            waiting += [(inner, f"{place}{'/' if place else ''}{index}") for index, inner in enumerate(item)]


def check_kind(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    """Return `value` if it is of the JSON kind expected. Raises UsageError naming `where` and both kinds."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    is_bool = isinstance(value, bool) and bool not in kinds
    if is_bool or not isinstance(value, kinds):
        names = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}
        expected = " or ".join(names.get(one, one.__name__) for one in kinds)
        found = "null" if value is None else names.get(type(value), type(value).__name__)
        raise UsageError(f"{where}: expected {expected}, found {found}")
    return value


def check_int(value: Any, where: str, low: int, high: int) -> int:
    """Return `value` if it is a whole number from low to high. Raises UsageError naming `where`."""
    check_kind(value, int, where)
    if not low <= value <= high:
        shown = value if abs(value) < 10**30 else "a number of more than 30 digits"
        raise UsageError(f"{where}: {shown}; expected {low} to {high}")
    return value


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file whole, UTF-8, keys in the order given."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=indent)
        file.write("\n")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file. Raises UsageError naming file and line where one is broken."""
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    with file:
        for number, data in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{where}: not valid JSON: not UTF-8 text ({error.reason})") from None
            yield check_kind(parse_json(text, where), dict, where)


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Write dictionaries or record dataclasses, one JSON object a line, whole."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(to_json_line(row))


def to_json_line(row: Any) -> str:
    """Return one line of JSON, newline included, for a dictionary or a record dataclass."""
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
