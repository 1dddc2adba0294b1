"""Build a world on disk: beside its folder, which appears whole by a rename; `world.json` is written last.

A build that was stopped leaves only its `.NAME.building` folder; the next build removes that and starts over.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ham.locks import FileLock
from ham.records import read_json, write_json
from ham.runtime import UsageError, WorkError, log
from ham.world.annotation_files import write_annotators, write_domains, write_foundation
from ham.world.domains import FOUNDATION, PRESETS, WORLD_VERSION
from ham.world.plan import WorldPlan, plan_world
from ham.world.sheet import write_contact_sheet
from ham.world.workers import draw_and_describe, worker_count


def build_world(
    out: Path, preset: str, seed: int = 0, workers: int | None = None, foundation: bool = True
) -> bool:
    """Build the world of `preset` and `seed` in the folder `out`; the same for every number of workers.

    workers: processes; None = one for each core. foundation: False leaves out the images and texts that only the stand-in
    weights are made of, half of the work; all other files are the same bytes, and world.json records it. Returns False where
    the folder already holds this very world. Raises UsageError for an unknown preset and for a folder that holds anything
    else, WorkError when another process builds there.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: not known; use one of {', '.join(PRESETS)}")
    count = worker_count(workers)
    out = Path(out).absolute()
    settings: dict[str, Any] = {
        "preset": preset,
        "seed": seed,
        "version": WORLD_VERSION,
        "settings": _as_json(asdict(PRESETS[preset])),
        **({} if foundation else {"without": [FOUNDATION]}),
    }
    if _is_complete(out, settings):
        log.info("%s is complete: the world of preset %s and seed %d", out, preset, seed)
        return False
    with _only_builder(out):
        if _is_complete(out, settings):  # built by another process meanwhile
            return False
        _build(out, settings, count, foundation)
    return True


@contextmanager
def _only_builder(out: Path) -> Iterator[None]:
    """Acquire the lock beside a world's folder. Raises WorkError when another process has it."""
    lock = FileLock(out.parent / f".{out.name}.lock")
    if not lock.try_acquire():
        raise WorkError(
            f"--out {out}: another process builds a world there; wait for it, or pass another folder"
        )
    try:
        yield
    finally:
        lock.release(remove=True)


def _build(out: Path, settings: dict[str, Any], workers: int, foundation: bool) -> None:
    """Build beside `out` and move the result there."""
    beside = out.parent / f".{out.name}.building"
    if beside.exists():
        log.info("%s: starting over a build that was stopped", out)
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    plan = plan_world(PRESETS[settings["preset"]], settings["seed"])
    if not foundation:
        plan = _without_foundation(plan)
    rows, texts = draw_and_describe(plan, beside, workers)
    counts = write_domains(beside, plan, rows)
    if foundation:
        counts[FOUNDATION] = write_foundation(beside, rows[FOUNDATION], texts)
    write_annotators(beside, plan)
    write_contact_sheet(beside, plan)
    write_json(beside / "world.json", {**settings, "counts": counts})
    _publish(beside, out)
    log.info("%s: %d images, %d texts", out, len(plan.shots), len(texts))


def _publish(beside: Path, out: Path) -> None:
    """Move a whole build to its place: one rename; file by file, world.json last, into an empty folder that must stay."""
    try:
        beside.replace(out)  # also over an empty folder
    except OSError:
        if not out.is_dir():
            raise
        entries = sorted(beside.iterdir(), key=lambda path: (path.name == "world.json", path.name))
        for entry in entries:
            entry.replace(out / entry.name)
        beside.rmdir()


def _without_foundation(plan: WorldPlan) -> WorldPlan:
    """Return the plan without the images and texts that only the stand-in weights are made of."""
    shots = [shot for shot in plan.shots if shot.domain != FOUNDATION]
    return replace(plan, shots=shots, preset=replace(plan.preset, texts=0))


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return settings as they read back from JSON: lists for tuples."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            item = _as_json(item)
        found[key] = list(item) if isinstance(item, tuple) else item
    return found


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Return whether `out` is this very world (True) or free (False). Raises UsageError where it is neither."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; expected a folder that is new or empty")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / "world.json").is_file():
        raise UsageError(
            f"--out {out}: not empty and not a complete world (no world.json); expected a folder that is new or "
            "empty, or a world"
        )
    found = read_json(out / "world.json")
    settings = {**settings, "without": settings.get("without", [])}
    found = {"without": [], **found} if isinstance(found, dict) else {}
    other = [key for key, value in settings.items() if found.get(key) != value]
    if not other:
        return True
    key = other[0]
    raise UsageError(
        f"--out {out}: holds a world of other settings ({key} {found.get(key)!r:.60} instead of "
        f"{settings[key]!r:.60}); delete it or pass another folder"
    )
