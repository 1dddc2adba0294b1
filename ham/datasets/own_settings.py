"""dataset.yaml: what a dataset of one's own may say about its files and columns. README.md beside this file is the manual."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from ham.runtime import UsageError

SETTINGS_FILE = "dataset.yaml"


@dataclass(frozen=True)
class OwnSettings:
    """What a dataset.yaml may say. Paths are relative to the YAML file.

    Attributes:
        annotation: the annotation file; by default the only one in the folder
        images: the folder that image paths are relative to; by default imgs/, images/ or the folder itself
        image: name of the column or key that holds the image path
        caption: name of the column or key that holds one caption or a list of captions
        identity: name of the column or key that holds the person
        split: name of the column or key that holds train, val or test
        strip_prefix: start of image paths that is removed, for paths of another machine
        after_folder: keep what follows this folder name in image paths, for paths of another machine
    """

    annotation: str | None = None
    images: str | None = None
    image: str | None = None
    caption: str | None = None
    identity: str | None = None
    split: str | None = None
    strip_prefix: str = ""
    after_folder: str | None = None


DEFAULTS = OwnSettings()


def read_settings(path: Path) -> tuple[OwnSettings, Path]:
    """Read the dataset.yaml at or beside `path`, defaults without one; also return the folder its paths are relative to."""
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix in (".yaml", ".yml") else folder / SETTINGS_FILE
    if not file.is_file():
        return OwnSettings(), folder
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not valid YAML: {error}") from None
    names = [known.name for known in fields(OwnSettings)]
    wrong = [key for key in values if key not in names] if isinstance(values, dict) else [values]
    if wrong:
        raise UsageError(f"{file}: '{wrong[0]}' is not known; the keys are {', '.join(names)}")
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{file}: '{key}' is {value!r:.80}; expected text")
    return OwnSettings(**{key: value for key, value in values.items() if value is not None}), file.parent
