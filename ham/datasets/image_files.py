"""Find the image files of a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ham.runtime import UsageError, log

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_image_files(folder: Path) -> list[str]:
    """Return the paths of a folder's images at any depth, relative to it and sorted; hidden files and folders are left out.

    Links are followed, a folder reached twice is read once, special files (FIFOs, devices) are left out, and a folder that
    cannot be read is logged.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    unreadable: list[str] = []
    walk = os.walk(folder, onerror=lambda error: unreadable.append(str(error.filename)), followlinks=True)
    for place, inner, files in walk:
        state = Path(place).stat()
        if (state.st_dev, state.st_ino) in seen:
            inner[:] = []
            continue
        seen.add((state.st_dev, state.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        for name in files:
            if (
                name.lower().endswith(SUFFIXES)
                and not name.startswith(".")
                and _is_regular(Path(place, name))
            ):
                found.append(Path(place, name).relative_to(folder).as_posix())
    if unreadable:
        log.warning(
            "%d folders cannot be read and are left out; the first: %s", len(unreadable), unreadable[0]
        )
    return sorted(found)


def _is_regular(path: Path) -> bool:
    """Return whether a path is a regular file; a dangling link counts as one, so that reading it reports it."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:
        return False
