"""Read any dataset into one record type. A dataset is a published name (an entry of DATASETS) or `NAME=PATH`, one's own.

Adding a dataset touches its own file and one entry below. Not readable, because no description of their files was found:
LuPerson-T (Arrow tables of UniPT) and WebPerson; write their captions as JSON lines and read them as `NAME=PATH`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ham.datasets.base import SPLITS, PersonDataset
from ham.datasets.benchmarks import CUHK_PEDES, ICFG_PEDES, RSTPREID, UFINE6926
from ham.datasets.own import is_own, open_own
from ham.datasets.person_search import CUHK_SYSU_TBPS, PRW_TBPS
from ham.datasets.pretraining import HAM_PEDES, LUPERSON_MLLM, MALS, SYNTH_PEDES
from ham.records import PersonImage
from ham.runtime import UsageError

BENCHMARKS = ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid")  # what the paper reports on

DATASETS: dict[str, PersonDataset] = {
    dataset.name: dataset
    for dataset in (
        CUHK_PEDES,
        ICFG_PEDES,
        RSTPREID,
        UFINE6926,
        PRW_TBPS,
        CUHK_SYSU_TBPS,
        SYNTH_PEDES,
        LUPERSON_MLLM,
        HAM_PEDES,
        MALS,
    )
}


def display_name(spec: str) -> str:
    """Return how a dataset is called in tables and file names: the published name, or NAME of `NAME=PATH`."""
    return spec.partition("=")[0]


def needs_root(specs: Sequence[str]) -> bool:
    """Return whether any of the datasets is looked for below the data root; `NAME=PATH` is not."""
    return any(not is_own(spec) for spec in specs)


def check_names(specs: Sequence[str]) -> None:
    """Raise UsageError for a dataset that is not known, or for two of one name."""
    for spec in specs:
        if not is_own(spec):
            _published(spec)
    names = [display_name(spec) for spec in specs]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise UsageError(f"two datasets are called '{doubled[0]}'; give each a name of its own")


def image_root(root: Path | None, spec: str) -> Path:
    """Return the folder that a dataset's image paths are relative to. Raises UsageError when none of the candidates exists."""
    if is_own(spec):
        return open_own(spec).images
    folders = [Path(_root(root, spec), folder) for folder in _published(spec).image_folders]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UsageError(f"{spec}: no image folder; looked for {', '.join(map(str, folders))}")


def annotation_files(root: Path | None, spec: str) -> list[Path]:
    """Return a dataset's annotation: the first file of its known names, or all files where it consists of several.

    Raises UsageError that lists the files looked for.
    """
    if is_own(spec):
        return [open_own(spec).annotation]
    dataset = _published(spec)
    folder = Path(_root(root, spec), spec)
    for pattern in dataset.annotations:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    looked_for = ", ".join(str(folder / pattern) for pattern in dataset.annotations)
    raise UsageError(
        f"{spec} is not below {root}: looked for {looked_for}; give the folder that holds {spec}/"
    )


def read_dataset(root: Path | None, spec: str, split: str | None = None) -> list[PersonImage]:
    """Read one dataset, or one split (train | val | test) of it, in the annotation's order.

    root: the folder that holds `CUHK-PEDES/` and the others; not used for `NAME=PATH`. Paths are relative to
    `image_root(root, spec)`. Raises UsageError naming file, record, key and what was expected. The million images of HAM-PEDES
    are better served by `open_captions`.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split '{split}' is not known; use one of {', '.join(SPLITS)}")
    if is_own(spec):
        records = list(open_own(spec).records)
        splits = dict.fromkeys(record.split for record in records)
    else:
        dataset = _published(spec)
        files = annotation_files(root, spec)
        records = dataset.read(files)
        splits = dict.fromkeys(dataset.published)
    if split is not None and split not in splits:
        raise UsageError(f"{display_name(spec)} has no split '{split}'; it has {', '.join(splits)}")
    return [record for record in records if split in (None, record.split)]


def _published(name: str) -> PersonDataset:
    if name not in DATASETS:
        raise UsageError(
            f"dataset '{name}' is not known; use one of {', '.join(DATASETS)}, or NAME=PATH for a dataset of your own"
        )
    return DATASETS[name]


def _root(root: Path | None, name: str) -> Path:
    if root is None:
        raise UsageError(f"--data_root is missing: the folder that holds {name}/")
    return Path(root)


def contiguous_labels(person_ids: Sequence[int] | Sequence[str]) -> tuple[np.ndarray, dict[Any, int]]:
    """Number identities 0..C-1 in their sorted order, for classifiers: (labels int64 [N], {person_id: label})."""
    names, labels = np.unique(np.asarray(person_ids), return_inverse=True)
    return labels.reshape(-1).astype(np.int64), {name: label for label, name in enumerate(names.tolist())}


def image_prefix(root: Path, spec: str) -> str:
    """Return a dataset's image folder relative to `root`, for files in which image paths start at one common folder.

    Raises UsageError for a dataset of one's own whose images are elsewhere.
    """
    folder, root = image_root(root, spec), Path(root)
    for below, top in (
        (folder, root),
        (folder.absolute(), root.absolute()),
        (folder.resolve(), root.resolve()),
    ):
        if below.is_relative_to(top):  # as written first: links inside the root are the user's own business
            return below.relative_to(top).as_posix()
    raise UsageError(
        f"{display_name(spec)}: its images are in {folder}, which is not below {root}; move or link them there, or give a "
        "common folder of both"
    )
