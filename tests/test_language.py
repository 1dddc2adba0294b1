"""The documents, messages and comments use plain technical English: no words of the code's former private vocabulary."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
METAPHORS = re.compile(
    r"\b(rooms?|doors?|house|referees?|dialects?|story|made anew|worked off|lies|mend(s|ed|ing)?|vouch\w*|is told"
    r"|stands? behind|by eye|at the door|anew|meet only)\b",
    re.IGNORECASE,
)
VERBS = re.compile(r'^\s*(class |def |async def )?.*?"""(Give|Tell|Say|Name|Let|Put|Lay|Take)\b')
CODE = [
    path
    for pattern in ("ham/**/*.py", "scripts/**/*.py", "caption.py", "train_reid.py")
    for path in sorted(TOP.glob(pattern))
]
TEXTS = [
    path
    for pattern in (
        "README.md",
        ".github/**/*.md",
        "ham/**/*.md",
        "scripts/**/*.md",
        "scripts/**/*.sh",
        "scripts/**/*.html",
        "configs/**/*.yaml",
        "transformers-4.31.0/*.md",
    )
    for path in sorted(TOP.glob(pattern))
]
# The simulated annotators have a habit of this name, and describe rooms and doors.
VOCABULARY = ("ham/world/", "ham/style/words", "ham/style/lexicon")


def prose_of(file: Path) -> list[tuple[int, str]]:
    """Return the comments and string literals of a Python file, or the lines of another one, with their line numbers."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return list(enumerate(text.splitlines(), start=1))
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        (token.start[0] + number, line)
        for token in tokens
        if token.type in kinds
        for number, line in enumerate(token.string.splitlines())
    ]


@pytest.mark.parametrize("file", [*CODE, *TEXTS], ids=lambda file: str(file.relative_to(TOP)))
def test_no_house_metaphors(file: Path) -> None:
    if str(file.relative_to(TOP)).startswith(VOCABULARY):
        pytest.skip("holds words that annotators use")
    found = [
        f"line {number}: {line.strip()[:120]}" for number, line in prose_of(file) if METAPHORS.search(line)
    ]
    assert not found


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(TOP)))
def test_docstrings_start_with_usual_verbs(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert not [f"line {number}: {line.strip()}" for number, line in enumerate(lines, 1) if VERBS.match(line)]


def test_the_words_are_found() -> None:
    assert METAPHORS.search("# at the door") and METAPHORS.search("the file lies there")
    assert not METAPHORS.search("warehouse, outdoors, relies, amended")
    assert VERBS.match('    """Give the file."""') and not VERBS.match('    """Given a file, ..."""')
