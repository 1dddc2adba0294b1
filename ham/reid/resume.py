"""Find the run that a command continues, and refuse to continue it with other options or other data."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from ham.reid.checkpoints import LAST, find_folder, plain, previous_folder
from ham.reid.config import FREE_ON_RESUME, TrainConfig, upgrade_options
from ham.reid.methods import method_types
from ham.reid.trainer_state import read_arrays, read_progress
from ham.runtime import UsageError, log


def find_run(config: TrainConfig) -> tuple[Path | None, TrainConfig]:
    """Find the checkpoint to resume from; return its folder, or None, and the config to go on with.

    A damaged `last/` is passed over where a kill left its predecessor beside it. Options that did not exist when the run began
    keep the behavior of then. Raises UsageError when the run cannot be resumed, or was made with other options.
    """
    out = Path(config.output_dir)
    last = find_folder(out / LAST)
    if last is None:
        return None, config
    if not config.resume:
        raise UsageError(
            f"{out} holds a run already; give another --output_dir, or --resume true to continue it"
        )
    folder = first_whole(last, previous_folder(last))
    return folder, compatible_config(folder / "config.yaml", config)


def first_whole(last: Path, previous: Path) -> Path:
    """Return the newer of two checkpoint folders that is whole. Raises UsageError with the newest one's damage."""
    try:
        check_folder(last)
        return last
    except UsageError as error:
        if not previous.exists():
            best = [name for name in ("val-best", "test-best") if (last.parent / name).exists()]
            others = f" or {last.parent / best[0]}" if best else ""
            raise UsageError(
                f"{last} cannot be resumed: {error}. Start a new run with another --output_dir; --weights may be the old "
                f"weights{others}"
            ) from None
        log.warning("%s cannot be resumed (%s); the checkpoint before it is used", last, error)
    check_folder(previous)
    return previous


def check_folder(folder: Path) -> None:
    """Raise UsageError unless a checkpoint's small files can be read and its large ones look whole."""
    read_config(folder / "config.yaml")
    read_progress(folder / "trainer_state")
    read_arrays(folder / "trainer_state")
    model = folder / "model.safetensors"
    try:
        with safe_open(model, "np"):  # reads the header and compares it with the file's length
            pass
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{model} is damaged or missing ({error})") from None
    optimizer = folder / "trainer_state/optimizer.pt"
    if not zipfile.is_zipfile(optimizer):
        raise UsageError(f"{optimizer} is damaged or missing")


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml with options of earlier versions at their present place. Raises UsageError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first_line = str(error).split("\n")[0]
        raise UsageError(f"{path} is damaged or missing ({first_line})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: expected options, found {type(values).__name__}")
    return upgrade_options(values)


def compatible_config(path: Path, config: TrainConfig) -> TrainConfig:
    """Return the config with old behavior where the run's config.yaml lacks an option.

    Raises UsageError naming the options that differ from the run's.
    """
    old = read_config(path)
    for key, kind in method_types().items():
        group = old.get(key)
        if not isinstance(group, Mapping):
            continue
        before = {name: value for name, value in kind.options_before.items() if name not in group}
        if before:
            config = replace(config, **{key: replace(getattr(config, key), **before)})
            if config.method == key:
                log.info("this run began before the options %s; it continues with %s", list(before), before)
    new, default = plain(config), plain(type(config)())
    changed = []
    for key, value in new.items():
        if key in FREE_ON_RESUME:
            continue
        there = old.get(key, default[key])
        if isinstance(value, dict) and isinstance(there, dict):
            there = value | {name: there[name] for name in value if name in there}
        if there != value:
            changed.append((key, there, value))
    if changed:
        listed = "; ".join(f"{key}: {there} there, {value} now" for key, there, value in changed)
        raise UsageError(
            f"{path.parent.parent} holds a run with other options ({listed}); give another --output_dir, or the same "
            f"options to resume it{hint(changed, path.parent)}"
        )
    return config


def hint(changed: list[tuple[str, Any, Any]], folder: Path) -> str:
    """Return advice for options that users often change on purpose."""
    if any(key == "epochs" for key, _, _ in changed):
        return (
            f". The learning-rate schedule depends on --epochs: to train longer, start a new run with --weights {folder} "
            "and another --output_dir"
        )
    return ""


def refuse_other_data(saved: str, now: str, folder: Path) -> None:
    """Raise UsageError when the training pairs are not those of the run; old runs recorded no digest."""
    if saved and saved != now:
        raise UsageError(
            f"{folder.parent} was trained on other pairs: captions, persons or images have changed since (digest {saved} "
            f"there, {now} now); restore the data, or start a new run with another --output_dir"
        )
