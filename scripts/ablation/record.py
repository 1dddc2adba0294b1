"""The record of a work folder: its settings, and copies of the weights and of the fine-tuning config."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ham.records import read_json, read_text, write_json
from ham.runtime import UsageError
from ham.world.domains import WORLD_VERSION
from scripts.ablation.settings import Settings

FILE = "settings.json"
FREE = (
    "seeds",
    "curve",
    "work",
    "llava",
    "clip",
)  # may differ from those of the work folder; weights by digest


def record_settings(settings: Settings) -> Settings:
    """Write the settings and their inputs into the work folder; return them with the inputs' copies.

    Weights and config are copied, so that what changes during the run does not mix two experiments. Raises UsageError where
    the folder holds results of other settings or inputs.
    """
    work = Path(settings.work).resolve()
    inputs = {"llava": settings.llava, "clip": settings.clip}
    record = {
        "settings": asdict(settings),
        "weights": {name: folder_digest(Path(folder)) for name, folder in inputs.items()},
        "finetuning": yaml.safe_load(read_text(Path(settings.finetune.config)))
        if settings.finetune.rows
        else {},
        "world": WORLD_VERSION,
    }
    check_unchanged(work, record)
    for name, folder in inputs.items():
        if not (work / "inputs" / name).exists():
            shutil.copytree(folder, work / "inputs" / f"{name}.partial", dirs_exist_ok=True)
            (work / "inputs" / f"{name}.partial").rename(work / "inputs" / name)
    write_json(work / "inputs" / "finetune.json", record["finetuning"])
    write_json(work / FILE, record)
    return load_settings(work)


def check_unchanged(work: Path, record: dict[str, Any]) -> None:
    """Raise UsageError where the work folder's record differs in what must stay the same."""
    if not (work / FILE).is_file():
        return
    before, now = (
        flatten(fixed_part(one)) for one in (read_json(work / FILE), json.loads(json.dumps(record)))
    )
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    if names:
        changes = ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names[:3])
        raise UsageError(
            f"{work}: holds an experiment with other settings ({changes}); name another --work, or delete it"
        )


def load_settings(work: Path) -> Settings:
    """Load the settings of a work folder, with its copies of weights and config."""
    values = read_json(work / FILE)["settings"]
    values |= {"work": str(work), "llava": str(work / "inputs/llava"), "clip": str(work / "inputs/clip")}
    values["finetune"]["config"] = str(work / "inputs/finetune.json")
    parts = {one.name: one.default_factory for one in fields(Settings) if is_dataclass(one.default_factory)}
    values["reid"]["image_size_px"] = tuple(values["reid"]["image_size_px"])
    return Settings(
        **{name: parts[name](**value) if name in parts else value for name, value in values.items()}
    )


def fixed_part(record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a record must stay for an experiment to continue."""
    settings = {name: value for name, value in record["settings"].items() if name not in FREE}
    finetune = {name: value for name, value in settings["finetune"].items() if name == "epochs"}
    return {**record, "settings": {**settings, "finetune": finetune}}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options as the command line has them: {"reid": {"lr": 1}} is {"reid.lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def folder_digest(folder: Path) -> str:
    """Return a digest of all files of a folder, names and bytes. Raises UsageError for an empty one."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        raise UsageError(f"{folder}: holds no files; expected weights")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
