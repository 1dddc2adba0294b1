"""Guardians of the house: who may import whom, and no print in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
SINGLE_FILES = {
    "errors",
    "runtime",
    "locks",
    "records",
    "distributed",
    "images",
    "image_folder",
    "options",
    "tensor_files",
}
STAGE = SINGLE_FILES | {"datasets", "clip"}
ALLOWED = {
    "errors": set(),
    "runtime": {"errors"},
    "locks": {"runtime"},
    "records": {"locks", "runtime"},
    "distributed": {"runtime"},
    "image_folder": {"runtime"},
    "options": {"records", "runtime"},
    "images": {"image_folder", "runtime"},
    "tensor_files": {"records", "runtime"},
    "datasets": SINGLE_FILES,
    "clip": SINGLE_FILES,
    "llava": SINGLE_FILES,
    "vlm": SINGLE_FILES,
    "style": STAGE,
    "reid": STAGE,
    "world": STAGE,
    "report": STAGE,
    "captioner": STAGE | {"llava", "vlm"},
    "api": STAGE | {"captioner", "reid"},  # above the stages
    "generation": STAGE | {"llava", "captioner"},
}
ONLY_IN = {"transformers": {"llava", "vlm", "captioner", "style"}, "open_clip": {"clip"}}
FILES = sorted((TOP / "ham").rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(TOP / "ham").parts[0].removesuffix(".py")


def imported_modules(file: Path) -> list[tuple[int, str]]:
    """Absolute names of everything that a file imports, at any depth, with the line."""
    package = ["ham", *file.relative_to(TOP / "ham").parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names = (
                [".".join([*stem, alias.name]) for alias in node.names]
                if stem == ["ham"]
                else [".".join(stem)]
            )
            found += [(node.lineno, name) for name in names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TOP)))
def test_imports_follow_the_table(file: Path) -> None:
    room = room_of(file)
    wrong = []
    for line, name in imported_modules(file):
        parts = name.split(".")
        if parts[0] == "ham" and len(parts) > 1 and parts[1] not in ALLOWED[room] | {room}:
            wrong.append(f"line {line}: {room} may not import ham.{parts[1]}")
        if room not in ONLY_IN.get(parts[0], {room}):
            wrong.append(f"line {line}: only {sorted(ONLY_IN[parts[0]])} may import {parts[0]}")
        if parts[0] in ("scripts", "caption", "train_reid", "tests"):
            wrong.append(f"line {line}: nothing in the package imports a script")
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TOP)))
def test_package_does_not_print(file: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not calls


def test_every_room_is_in_the_table() -> None:
    assert {room_of(file) for file in FILES} - {"__init__"} <= set(ALLOWED)
