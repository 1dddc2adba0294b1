"""A dataset of one's own: `NAME=PATH` is accepted wherever a benchmark's name is. README.md beside this file is the manual.

PATH is a folder, an annotation file, or a dataset.yaml. Annotations are a JSON list of records (as IRRA's), JSON lines, a JSON
object {image: [captions]}, or a CSV / TSV table with a header. A missing split means test, a missing identity means that every
image is a person of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ham.datasets.base import PersonDataset
from ham.datasets.own_annotation import SUFFIXES, read_own_annotation
from ham.datasets.own_settings import SETTINGS_FILE, OwnSettings, read_settings
from ham.records import PersonImage
from ham.runtime import UsageError

IMAGE_FOLDERS = ("imgs", "images")
PROBED = 50  # records whose image files decide which folder the paths are relative to


@dataclass(frozen=True)
class OwnDataset:
    """A resolved `NAME=PATH`: its annotation, its image folder and its records."""

    name: str
    annotation: Path
    images: Path
    records: tuple[PersonImage, ...] = field(repr=False)

    def entry(self) -> PersonDataset:
        """Return the dataset as an entry like the published ones, with nothing published."""
        return PersonDataset(self.name, (self.annotation.name,), lambda _: list(self.records))


def is_own(spec: str) -> bool:
    return "=" in spec


def open_own(spec: str) -> OwnDataset:
    """Resolve `NAME=PATH` and read it; files that have not changed are read once per process.

    Raises UsageError naming what was looked for, and file and line or record where an entry is wrong.
    """
    name, _, where = spec.partition("=")
    if not name.strip() or not where.strip() or "/" in name:
        raise UsageError(
            f"dataset '{spec}': expected NAME=PATH, such as mine=photos, where PATH is a folder with an annotation, "
            "an annotation file, or a dataset.yaml"
        )
    path = Path(where).expanduser()
    if not path.exists():
        raise UsageError(f"dataset '{spec}': {path}: no such file or folder")
    settings, folder = read_settings(path)
    annotation = _annotation_of(spec, path, folder, settings)
    stamp = (annotation.stat().st_size, annotation.stat().st_mtime_ns)
    return _read_own(name, annotation, folder, settings, stamp)


@lru_cache(maxsize=8)
def _read_own(
    name: str, annotation: Path, folder: Path, settings: OwnSettings, stamp: tuple[int, int]
) -> OwnDataset:
    records = read_own_annotation(annotation, settings)
    if not records:
        raise UsageError(f"{annotation}: holds no record")
    images = _image_folder(folder, settings, records)
    return OwnDataset(name, annotation, images, tuple(records))


# ------------------------------------------------------------------------------------------------------- which files


def _annotation_of(spec: str, path: Path, folder: Path, settings: OwnSettings) -> Path:
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        if path.suffix not in SUFFIXES:
            raise UsageError(
                f"dataset '{spec}': {path} is not an annotation file; expected {', '.join(SUFFIXES)}"
            )
        return path
    if settings.annotation:
        file = folder / settings.annotation
        if not file.is_file():
            raise UsageError(f"{folder / SETTINGS_FILE}: annotation: {file}: no such file")
        return file
    found = annotations_in(folder)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"dataset '{spec}': {folder} holds no annotation (*{', *'.join(SUFFIXES)}); write one with "
            f"`python -m ham.datasets template {folder} --images DIR`"
        )
    raise UsageError(
        f"dataset '{spec}': {folder} holds several annotations ({', '.join(file.name for file in found)}); choose one "
        f"with NAME={found[0]}, or with `annotation:` in {SETTINGS_FILE}"
    )


def annotations_in(folder: Path) -> list[Path]:
    """Return the annotation files that are directly in a folder."""
    files = sorted(folder.iterdir())
    return [
        file for file in files if file.suffix in SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]


def _image_folder(folder: Path, settings: OwnSettings, records: Sequence[PersonImage]) -> Path:
    if settings.images is not None:
        images = folder / Path(settings.images).expanduser()
        if not images.is_dir():
            raise UsageError(f"{folder / SETTINGS_FILE}: images: {images}: no such folder")
        return images
    candidates = [folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()] + [folder]
    step = max(1, len(records) // PROBED)
    probed = [record.image_path for record in records[::step]]
    hits = [sum(_is_file(candidate, image) for image in probed) for candidate in candidates]
    return candidates[hits.index(max(hits))]


def _is_file(folder: Path, image: str) -> bool:
    try:
        return (folder / image).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False
