"""What is wrong with a weight file, and how it is said to the user."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from ham.runtime import UsageError

EXPECTED = "expected .safetensors, a PyTorch .bin/.pt/.pth or a TorchScript archive"


class UnreadableError(Exception):
    """The file is not what it should be. found: what it is. advice: what to do about it."""

    def __init__(self, found: str, advice: str = "copy or download the file again") -> None:
        super().__init__(f"{found}; {advice}")
        self.found, self.advice = found, advice


def refuse(path: Path, error: UnreadableError) -> NoReturn:
    """Raise UsageError for a file that cannot be read: what was found, what was expected, what to do."""
    raise UsageError(
        f"{path}: cannot be read as weights: it is {error.found}; {EXPECTED}; {error.advice}"
    ) from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without control characters."""
    text = str(error).strip().split("\n")[0][:200]
    return "".join(letter for letter in text if letter.isprintable())
