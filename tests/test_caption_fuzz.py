"""Fuzzed lists, plans, receipts and rows: caption.py always ends with exit code 0, 1 or 2 and at most three lines."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from generation_helpers import run_caption
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ham.generation import engines
from ham.runtime import log

BOUNDED = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**40]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "0.png", "../x", "/etc/passwd", "\ud800", "\x00", "a" * 5000, "random", "accepted"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images and a finished job of the toy engine."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (4, 8), (40 * number, 5, 0)).save(folder / "images" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, "toy", "toy_engine")
        patch.setattr("ham.generation.plan.git_revision", lambda: "none")
        handlers, level, propagate = log.handlers[:], log.level, log.propagate
        assert run(folder, *words_of(folder))[0] == 0
        yield folder
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


def words_of(folder: Path) -> list[str]:
    words = ["--engine", "toy", "--model-path", "toy", "--image-root", str(folder / "images")]
    return [*words, "--out", str(folder / "out"), "--workers", "0", "--shard-size", "2"]


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Run caption.py; return its exit code and what it wrote to standard error without log lines."""
    said, written = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(written):
        code = run_caption(*words)
    lines = [line for line in said.getvalue().splitlines() if line[2:3] != ":"]
    return code, "\n".join(lines)


@contextlib.contextmanager
def copy_of(job: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(job, Path(folder) / "job")
        yield Path(folder) / "job"


def check(folder: Path, *words: str) -> None:
    code, said = run(folder, *words)
    assert code in (0, 1, 2), said
    assert said.count("\n") < 3 and "Traceback" not in said, said
    assert said or code == 0


def replaced(value: object, path: list[int], new: object) -> object:
    """Replace one inner value of a JSON value, chosen by numbers."""
    if not path or not isinstance(value, list | dict) or not value:
        return new
    if isinstance(value, list):
        at = path[0] % len(value)
        return [*value[:at], replaced(value[at], path[1:], new), *value[at + 1 :]]
    key = list(value)[path[0] % len(value)]
    return {**value, key: replaced(value[key], path[1:], new)}


def damaged(data: bytes, cut: int, flip: int, byte: int) -> bytes:
    """Cut a file short, or change one byte of it."""
    if cut % 3 == 0:
        return data[: cut % (len(data) + 1)]
    at = flip % max(len(data), 1)
    return data[:at] + bytes([byte]) + data[at + 1 :]


NUMBERS = st.integers(0, 10**6)


@BOUNDED
@given(
    st.one_of(st.binary(max_size=60), VALUES), st.sampled_from(["txt", "json", "jsonl", "csv", "lst", "tsv"])
)
def test_image_lists(job: Path, content: object, suffix: str) -> None:
    with copy_of(job) as folder:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"list.{suffix}").write_bytes(data)
        shutil.rmtree(folder / "out")
        check(folder, *words_of(folder), "--images", str(folder / f"list.{suffix}"))


@BOUNDED
@given(
    st.lists(NUMBERS, min_size=1, max_size=3), VALUES, st.sampled_from(["status", "merge", "resume", "retry"])
)
def test_values_of_plans(job: Path, path: list[int], new: object, command: str) -> None:
    with copy_of(job) as folder:
        file = folder / "out" / "plan.json"
        file.write_text(json.dumps(replaced(json.loads(file.read_text()), path, new)))
        words = words_of(folder) if command == "resume" else [command, str(folder / "out")]
        check(folder, *words)


@BOUNDED
@given(st.sampled_from(["00000.json", "00001.json"]), st.lists(NUMBERS, min_size=1, max_size=2), VALUES)
def test_values_of_receipts(job: Path, name: str, path: list[int], new: object) -> None:
    with copy_of(job) as folder:
        file = folder / "out" / name
        file.write_text(json.dumps(replaced(json.loads(file.read_text()), path, new)))
        check(folder, "status", str(folder / "out"))


@BOUNDED
@given(st.lists(NUMBERS, min_size=1, max_size=2), VALUES, st.booleans())
def test_values_of_rows(job: Path, path: list[int], new: object, is_partial: bool) -> None:
    with copy_of(job) as folder:
        file = folder / "out" / "00001.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        text = "".join(json.dumps(row) + "\n" for row in replaced(rows, path, new))
        if is_partial:
            file.unlink()
            (folder / "out" / "00001.jsonl.partial").write_text(text)
            check(folder, *words_of(folder))
        else:
            file.write_text(text)
            check(folder, "merge", str(folder / "out"))


@BOUNDED
@given(
    st.sampled_from(["plan.json", "00000.json", "00000.jsonl", "images.packed", "captions.json"]),
    NUMBERS,
    NUMBERS,
    st.integers(0, 255),
    st.sampled_from(["status", "merge", "resume", "retry"]),
)
def test_damaged_bytes(job: Path, name: str, cut: int, flip: int, byte: int, command: str) -> None:
    with copy_of(job) as folder:
        file = folder / "out" / name
        file.write_bytes(damaged(file.read_bytes(), cut, flip, byte))
        words = words_of(folder) if command == "resume" else [command, str(folder / "out")]
        check(folder, *words)
