"""The graph of jobs: names, dependencies, and which are done; independent of what a job does.

A job is done when its result file has the key of the same settings, inputs and dependencies: a changed setting repeats
what depends on it, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ham.records import read_json
from ham.runtime import UsageError
from ham.world.domains import WORLD_VERSION
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import Settings

KINDS = ("world", "pool", "styles", "tune", "captions", "reid", "eval")


@dataclass(frozen=True)
class Job:
    """One piece of work. what: a clustering (styles, tune) or a row (captions, reid, eval), else "". part: of the images."""

    kind: str
    seed: int
    what: str
    part: int
    needs: tuple[str, ...]
    key: str

    @property
    def name(self) -> str:
        return job_name(self.kind, self.seed, self.what, self.part)


def job_name(kind: str, seed: int, what: str = "", part: int = 1) -> str:
    return f"seed{seed}/{kind}" + (f"-{what}" if what else "") + (f"-1of{part}" if part > 1 else "")


def result_file(work: Path, name: str) -> Path:
    """Return the file that says that a job is done."""
    seed, job = name.split("/")
    return work / seed / "results" / f"{job}.json"


def make_graph(settings: Settings, seeds: Sequence[int], rows: Sequence[str]) -> dict[str, Job]:
    """Return all jobs by name, the most important first: seed by seed, row by row, each behind its needs; curve last."""
    graph: dict[str, Job] = {}
    weights = {name: digest_of(Path(getattr(settings, name))) for name in ("llava", "clip")}
    for seed in seeds:
        for row in (row for row in ROWS if row in rows):
            _add(graph, settings, weights, "eval", seed, row)
    for seed in seeds:
        for row in (row for row in settings.curve.rows if row in rows):
            for part in settings.curve.parts:
                _add(graph, settings, weights, "eval", seed, row, part)
    return graph


def is_done(work: Path, job: Job) -> bool | None:
    """Return whether a job's result is there (True), missing (False), or of other settings or inputs (None)."""
    file = result_file(work, job.name)
    if not file.is_file():
        return False
    return True if read_json(file).get("key") == job.key else None


def next_ready(graph: dict[str, Job], done: set[str], started: set[str]) -> Job | None:
    """Return the most important job that nobody has begun and whose needs are done."""
    return next(
        (
            job
            for name, job in graph.items()
            if name not in done and name not in started and all(need in done for need in job.needs)
        ),
        None,
    )


# ------------------------------------------------------------------------------------------------------------------ parts


def _add(
    graph: dict[str, Job],
    settings: Settings,
    weights: dict[str, str],
    kind: str,
    seed: int,
    what: str = "",
    part: int = 1,
) -> str:
    """Add a job behind its needs, unless it is there. Returns its name."""
    name = job_name(kind, seed, what, part)
    if name in graph:
        return name
    needs = tuple(_add(graph, settings, weights, *need) for need in _needs_of(kind, seed, what, part))
    facts = [name, _facts_of(settings, weights, kind, what, part), [graph[need].key for need in needs]]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    graph[name] = Job(kind, seed, what, part, needs, key)
    return name


def _needs_of(kind: str, seed: int, what: str, part: int) -> list[tuple[Any, ...]]:
    if kind == "world":
        return []
    if kind == "pool":
        return [("world", seed)]
    if kind == "styles":
        return [("styles", seed, "both") if what == "random_clusters" else ("world", seed)]
    if kind == "tune":
        return [("styles", seed, what)]
    if kind == "captions":
        clustering = ROWS[what].clustering
        maker = (
            ("captions", seed, "both") if ROWS[what].writes == "first_of_both" else ("tune", seed, clustering)
        )
        return [("pool", seed)] + ([maker] if clustering else [])
    if kind == "reid":
        return [("captions", seed, what)]
    return [("world", seed) if what == "none" else ("reid", seed, what, part)]


def _facts_of(settings: Settings, weights: dict[str, str], kind: str, what: str, part: int) -> Any:
    """Return the settings that decide a job's result, beside what its needs decide."""
    facts = {
        "world": lambda: [WORLD_VERSION, settings.preset],
        "pool": lambda: [settings.images, settings.reid.image_size_px],
        "styles": lambda: [asdict(settings.styles), settings.instruction],
        "tune": lambda: [asdict(settings.tuning), weights["llava"]],
        "captions": lambda: [asdict(settings.captions), settings.instruction, weights["llava"]],
        "reid": lambda: [asdict(settings.reid), weights["clip"], settings.curve.fixed if part > 1 else ""],
        "eval": lambda: [
            weights["clip"] if what == "none" else "",
            settings.reid.image_size_px,
            settings.reid.text_length,
        ],
    }
    return facts[kind]()


def digest_of(folder: Path) -> str:
    """Return a digest of all files of a folder, names and bytes. Raises UsageError for an empty or missing one."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        raise UsageError(f"{folder}: holds no files; expected weights")
    digest = hashlib.sha256()
    for file in files:
        digest.update(
            f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode() + file.read_bytes()
        )
    return digest.hexdigest()[:16]
