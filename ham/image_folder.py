"""Listing the images of a folder, and which formats count as images; one implementation for every stage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath

from PIL import Image

from ham.runtime import UsageError, log

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
)
PLUGIN_SUFFIXES = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}  # read where Pillow or pillow-heif can
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "HEIF")


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats of FORMATS that this installation of Pillow decodes; no others are ever tried.

    Pillow's full list includes formats that start programs (EPS runs Ghostscript).
    """
    Image.preinit()
    for name in ("Tiff", "WebP", "Mpo", "Avif"):
        with suppress(ImportError):
            import_module(f"PIL.{name}ImagePlugin")
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def list_images(folder: str | Path, report: bool = True) -> Iterator[str]:
    """Yield the image files below a folder, relative to it with forward slashes, in a fixed order.

    A file is an image by its suffix. Hidden files and folders and `__MACOSX` are skipped; links to folders are followed, each
    folder is listed once. With `report`, what was passed over and which folders cannot be read is logged at the end.
    Raises UsageError when the folder does not exist or a name is not UTF-8.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    listing = _Listing(root)
    yield from listing.walk()
    if report:
        listing.report()


def stat_images(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the image files below a folder with their size and times; files that vanish meanwhile are left out."""
    for path in list_images(folder):
        with suppress(FileNotFoundError, NotADirectoryError):
            yield (
                path,
                Path(folder, path).lstat() if _is_dangling(folder, path) else Path(folder, path).stat(),
            )


def _is_dangling(folder: str | Path, path: str) -> bool:
    full = Path(folder, path)
    return full.is_symlink() and not full.exists()


class _Listing:
    """One pass over a folder's files, with what it passed over."""

    def __init__(self, root: Path) -> None:
        self.root, self.real_root = root, os.path.realpath(root)
        self.visited: set[tuple[int, int]] = set()
        self.hidden: list[str] = []
        self.unreadable: list[str] = []
        self.other_suffixes: Counter[str] = Counter()
        self.suffixes = SUFFIXES | {
            suffix for suffix, name in PLUGIN_SUFFIXES.items() if name in readable_formats()
        }

    def walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=self._note_unreadable):
            if not self._is_new(folder):
                folders[:] = []
                continue
            folders[:] = sorted(name for name in folders if self._enters(folder, name))
            for name in sorted(files):
                if self._is_image(folder, name):
                    yield self._relative(folder, name)

    def _is_new(self, folder: str) -> bool:
        try:
            facts = os.stat(folder)  # noqa: PTH116 - os.walk gives strings
        except OSError:
            return False
        key = (facts.st_dev, facts.st_ino)
        is_new = key not in self.visited
        self.visited.add(key)
        return is_new

    def _enters(self, folder: str, name: str) -> bool:
        path = os.path.join(folder, name)  # noqa: PTH118
        if _is_hidden(name):
            self.hidden.append(os.path.relpath(path, self.root))
            return False
        return not (os.path.islink(path) and self._is_listed_anyway(path))  # noqa: PTH114

    def _is_listed_anyway(self, link: str) -> bool:
        """Return whether a link leads to a folder below the root that the walk reaches without it."""
        target = os.path.realpath(link)
        if target == self.real_root:
            return True
        if not target.startswith(self.real_root + os.sep):
            return False
        return not any(map(_is_hidden, PurePosixPath(os.path.relpath(target, self.real_root)).parts))

    def _is_image(self, folder: str, name: str) -> bool:
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path per file costs seconds
        if _is_hidden(name):
            if suffix in self.suffixes:
                self.hidden.append(self._relative(folder, name))
            return False
        if suffix in self.suffixes:
            return True
        self.other_suffixes[suffix or "no suffix"] += 1
        return False

    def _relative(self, folder: str, name: str) -> str:
        path = os.path.relpath(os.path.join(folder, name), self.root).replace(os.sep, "/")  # noqa: PTH118
        if not path.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in path):
            raise UsageError(
                f"{path!r} below {self.root}: the name is not UTF-8; rename the file, or list the images"
            )
        return path

    def _note_unreadable(self, error: OSError) -> None:
        self.unreadable.append(f"{error.filename} ({error.strerror})")

    def report(self) -> None:
        if self.unreadable:
            log.warning(
                "%d folders cannot be read and are left out: %s", len(self.unreadable), _some(self.unreadable)
            )
        if self.hidden:
            log.info("%d hidden files or folders skipped: %s", len(self.hidden), _some(self.hidden))
        images = {suffix: self.other_suffixes.pop(suffix, 0) for suffix in PLUGIN_SUFFIXES}
        if sum(images.values()):
            log.warning(
                "%d images passed over, their format needs a plugin (pip install pillow-heif): %s",
                sum(images.values()),
                _counts(Counter(images)),
            )
        if self.other_suffixes:
            log.info(
                "%d files passed over, no images by their suffix: %s",
                self.other_suffixes.total(),
                _counts(self.other_suffixes),
            )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(ascii(name)[1:-1] for name in names[:3]) + more


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{ascii(name)[1:-1]} {count}" for name, count in counts.most_common(8) if count)
