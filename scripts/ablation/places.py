"""The tasks of the experiment, and the files of one seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ham.runtime import WorkError
from scripts.ablation.rows import CLUSTERINGS, ROWS
from scripts.ablation.settings import Settings


class Task(NamedTuple):
    """One step for one seed. name: a clustering, a row, or ROW-1ofN for a part of the images; "" for prepare."""

    seed: int
    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"seed{self.seed}/{self.kind}" + (f"-{self.name}" if self.name else "")


def plan_tasks(settings: Settings, seeds: list[int], rows: list[str]) -> list[list[Task]]:
    """Return the stages in the order in which they are run; the tasks of a stage do not need each other."""
    clusterings = {ROWS[row].clustering for row in rows}
    writers = list(dict.fromkeys(ROWS[row].captions_of or row for row in rows if ROWS[row].source))
    curve = [(row, part) for row in settings.curve.rows if row in rows for part in settings.curve.parts]
    stages = []
    for seed in seeds:
        stages += [
            [Task(seed, "prepare")],
            [Task(seed, "tune", name) for name in CLUSTERINGS if name in clusterings],
            [Task(seed, "captions", row) for row in writers],
            [Task(seed, "retrieval", row) for row in rows],
            [Task(seed, "finetune", row) for row in settings.finetune.rows if row in rows],
        ]
    stages.append([Task(seed, "curve", f"{row}-1of{part}") for seed in seeds for row, part in curve])
    return stages


@dataclass(frozen=True)
class Places:
    """The files of one seed: WORK/seed0/{world, styles, tune, captions, reid, figures, log}."""

    work: Path
    seed: int

    @property
    def folder(self) -> Path:
        return self.work / f"seed{self.seed}"

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def pool_list(self) -> Path:
        """The pool images of all rows."""
        return self.folder / "pool.json"

    def styles(self, clustering: str) -> Path:
        return self.folder / "styles" / clustering

    def tuned(self, clustering: str) -> Path:
        return self.folder / "tune" / clustering

    def caption_job(self, row: str) -> Path:
        return self.folder / "caption_jobs" / row

    def captions(self, row: str) -> Path:
        return self.folder / "captions" / f"{row}.json"

    def retrieval(self, name: str) -> Path:
        return self.folder / "reid" / name

    def figures(self, kind: str, name: str = "") -> Path:
        """The figures of a task, written last: without this file a task is not done."""
        return self.folder / "figures" / (f"{kind}-{name}.json" if name else f"{kind}.json")

    def require(self, kind: str, name: str = "") -> None:
        """Raise WorkError unless a task is done whose output is needed."""
        if not self.figures(kind, name).is_file():
            raise WorkError(f"needs {Task(self.seed, kind, name)}, which is not done")


def figures_file(work: Path, task: Task) -> Path:
    return Places(work, task.seed).figures(task.kind, task.name)


def log_file(work: Path, task: Task) -> Path:
    return Places(work, task.seed).folder / "log" / f"{figures_file(work, task).stem}.log"
