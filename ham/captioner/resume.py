"""Resuming style tuning: what a run was made of, which of its checkpoints are whole, and who may write its folder.

    output_dir/training.json       the options, and what the run was made of (`made_of`)
    output_dir/checkpoint-N/       an adapter with Trainer's state beside it
    output_dir/checkpoint-N/files.json   size and SHA-256 of every other file in it

Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ham.locks import FileLock
from ham.records import atomic_write, read_json, to_json_line, write_json
from ham.runtime import UsageError, log
from ham.tensor_files import index

TRAINING = "training.json"
RECEIPT = "files.json"
STATE = "trainer_state.json"
LOCK = ".training.lock"
UNFINISHED = ".unfinished"  # checkpoints are written here, then renamed
LENGTHS = ("--num_train_epochs", "--max_steps")  # the two that --extend may raise


# ------------------------------------------------------------------------------------------------------- one writer


@contextmanager
def sole_writer(output_dir: str | Path) -> Iterator[None]:
    """Acquire the folder's lock, and remove a half-written checkpoint. Raises UsageError when another training holds it."""
    folder = Path(output_dir)
    lock = FileLock(folder / LOCK)
    if not lock.try_acquire():
        raise UsageError(
            f"{folder}: another training is writing to this folder; wait until it ends, or choose another --output_dir"
        )
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # left by a kill
    try:
        yield
    finally:
        lock.release()


# -------------------------------------------------------------------------------------------------- what it was made of


def compare_runs(recorded: dict[str, Any], made_of: dict[str, Any], where: Path, may_extend: bool) -> None:
    """Raise UsageError naming every setting in which a run to be resumed differs from these options."""
    different = []
    for name in made_of:
        if name not in recorded:  # an older version, or one that did not get so far
            continue
        before, now = recorded[name], made_of[name]
        if before == now:
            continue
        if name in LENGTHS and may_extend and is_longer(before, now):
            log.info("%s extended from %s to %s", name, before, now)
            continue
        different.append(f"  {name}: it was {shown(before)}, now {shown(now)}")
    if not different:
        return
    only_longer = all(line.split(":")[0].strip() in LENGTHS for line in different)
    hint = "; --extend True continues it to the greater length" if only_longer else ""
    raise UsageError(
        f"{where}: this run was started with other settings:\n"
        + "\n".join(different)
        + f"\nUse the same settings, another --output_dir, or --resume never to start again{hint}"
    )


def recorded_settings(output_dir: Path) -> dict[str, Any] | None:
    """Read what a folder's run was made of; None where no run that recorded it has written there."""
    file = output_dir / TRAINING
    if not file.is_file():
        return None
    content = read_json(file)
    made_of = content.get("made_of") if isinstance(content, dict) else None
    return made_of if isinstance(made_of, dict) else None


def is_longer(before: Any, now: Any) -> bool:
    """Return whether a length grew. -1 max_steps means "by epochs"."""
    return before is not None and now is not None and before > 0 and now > before


def shown(value: Any) -> str:
    """Format a setting for a message; digests are cut short."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def file_digest(path: str | Path) -> str:
    """Compute a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------- whole checkpoints


def seal(folder: Path) -> None:
    """Write the receipt of a checkpoint's files and flush them to disk."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, file_digest(path)]
    write_json(folder / RECEIPT, files)


def put_in_place(unfinished: Path, place: Path, limit: int | None) -> None:
    """Seal a finished checkpoint, rename it to its place, and remove the oldest beyond `limit`."""
    seal(unfinished)
    if place.exists():  # one that was found broken
        shutil.rmtree(place)
    unfinished.replace(place)
    if limit is not None:
        for _, old in numbered(place.parent)[:-limit]:
            shutil.rmtree(old)


def numbered(output_dir: Path) -> list[tuple[int, Path]]:
    """List the folders checkpoint-N by their step; other names are left out."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if path.is_dir() and number.isdecimal():
            found.append((int(number), path))
    return sorted(found)


def newest_whole(output_dir: Path, world_size: int) -> Path | None:
    """Find the newest checkpoint of which every file can be read; the log names those that are passed over."""
    for step, folder in reversed(numbered(output_dir)):
        reason = what_is_broken(folder, step, world_size)
        if reason is None:
            return folder
        log.warning("%s is not whole (%s); trying the one before it", folder, reason)
    return None


def what_is_broken(folder: Path, step: int | None = None, world_size: int = 1) -> str | None:
    """Check a checkpoint by reading all of it. Returns the first thing that is wrong, or None."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return f"{STATE} is not a trainer's state"
        if step is not None and state["global_step"] != step:
            return f"{STATE} is of step {state['global_step']}"
        if (folder / RECEIPT).is_file():
            return broken_by_receipt(folder)
        return broken_by_reading(folder, world_size)
    except Exception as error:  # every reader here raises its own kinds on a damaged file
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


def broken_by_receipt(folder: Path) -> str | None:
    """Compare every file with the size and digest that were recorded when it was written."""
    for name, (size, digest) in json.loads((folder / RECEIPT).read_text(encoding="utf-8")).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
        if file_digest(path) != digest:
            return f"{name} was changed after it was written"
    return None


def broken_by_reading(folder: Path, world_size: int) -> str | None:
    """Read the files of a checkpoint without receipt, as older versions wrote it."""
    rng = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    needed = ["manifest.json", "adapter.safetensors", "scheduler.pt", *rng]
    if not list(folder.glob("global_step*")):  # DeepSpeed keeps the optimizer there
        needed.append("optimizer.pt")
    for name in needed:
        if not (folder / name).is_file():
            return f"{name} is missing"
    if "num_styles" not in read_json(folder / "manifest.json"):
        return "manifest.json is not an adapter's"
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            for name, tensor in index(path).stream():
                if not bool(tensor.isfinite().all()):
                    return f"{path.name}: '{name}' holds NaN or infinity"
        elif path.suffix in (".pt", ".pth"):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                return f"{path.name} is damaged ({broken})"
            if path.suffix == ".pt" and path.parent == folder:
                torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".json":
            read_json(path)
        elif path.is_file() and path.stat().st_size == 0:
            return f"{path.name} is empty"
    return None


# --------------------------------------------------------------------------------------------------------- starting again


def set_aside(output_dir: Path) -> None:
    """Move an earlier run's files into `earlier-N/`, so that a new run in the same folder never mixes with it."""
    names = ("training.json", "metrics.jsonl", "manifest.json", "adapter.safetensors", STATE, "lora")
    found = [path for _, path in numbered(output_dir)]
    found += [output_dir / name for name in names if (output_dir / name).exists()]
    if not found:
        return
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    aside = output_dir / f"earlier-{number}"
    aside.mkdir(parents=True)
    for path in found:
        path.replace(aside / path.name)
    log.info("the earlier run's files were moved to %s", aside)


def trim_metrics(path: Path, step: int) -> None:
    """Drop the rows of later steps and of a run's end from metrics.jsonl: the resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut by a kill
            continue
        if isinstance(row, dict) and "loss" in row and row.get("step", math.inf) <= step:
            kept.append(row)
    with atomic_write(path) as file:
        for row in kept:
            file.write(to_json_line(row))
