"""Fonts for pictures: a font of this machine for every alphabet, or a description in place of what no font can show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont


@lru_cache
def load_font(size_px: int, file: str | None = None) -> ImageFont.FreeTypeFont:
    """Load a font; by default DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic."""
    return ImageFont.truetype(file or default_file(), size_px)


def default_file() -> str:
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def showable(text: str) -> tuple[str, str]:
    """Return a text that one font of this machine can show, and that font's file.

    The default font where it has all letters, else the first installed font that has them. Letters that no font has are
    replaced by a description such as `[CJK: 6 characters]`.
    """
    missing = {sign for sign in text if not sign.isspace() and ord(sign) not in _characters(default_file())}
    if not missing:
        return text, default_file()
    for file in _installed():
        if all(ord(sign) in _characters(file) for sign in text if not sign.isspace()):
            return text, file
    return "".join(_described(text, missing)), default_file()


def _described(text: str, missing: set[str]) -> Iterator[str]:
    for kind, signs in groupby(text, key=lambda sign: script_of(sign) if sign in missing else ""):
        letters = "".join(signs)
        yield letters if not kind else f"[{kind}: {len(letters)} character{'s' * (len(letters) > 1)}]"


def script_of(sign: str) -> str:
    """Return the first word of a character's Unicode name, such as CJK, HANGUL or ARABIC."""
    return unicodedata.name(sign, "unknown").split()[0]


@lru_cache
def _characters(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):  # a file that is no font, or of a kind that FreeType does not read
        return frozenset()


@lru_cache
def _installed() -> tuple[str, ...]:
    """Return the machine's font files, sans-serif ones first."""
    files = font_manager.findSystemFonts()
    return tuple(sorted(files, key=lambda file: ("Sans" not in Path(file).name, file)))
