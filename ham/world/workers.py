"""Draw and describe a world with several processes; the result does not depend on their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ham.runtime import UsageError, WorkError, log, progress
from ham.world.domains import DOMAINS
from ham.world.plan import WorldPlan
from ham.world.write import take_shot, write_texts

IMAGES_PER_TASK = 40
TEXTS_PER_TASK = 500
WORKERS_PER_CORE = 4  # more processes than that only take memory

Task = tuple[str, int, int]  # what ("shots" or "texts"), first, one past the last

_current: tuple[WorldPlan, Path] | None = None  # what this worker process builds


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None) -> int:
    """Return the number of processes to start. Raises UsageError below 1; far more than the cores are not started."""
    if asked is None:
        return core_count()
    if asked < 1:
        raise UsageError(f"--workers {asked}: expected 1 or more")
    most = WORKERS_PER_CORE * core_count()
    if asked > most:
        log.warning(
            "--workers %d: %d processes are started, as there are %d cores", asked, most, core_count()
        )
    return min(asked, most)


def draw_and_describe(
    plan: WorldPlan, out: Path, workers: int
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Make all images and texts. Returns the rows of each domain, in the plan's order, and the texts.

    Raises WorkError when a worker process was killed.
    """
    shots, texts_wanted = len(plan.shots), plan.preset.texts
    tasks = [
        ("shots", start, min(start + IMAGES_PER_TASK, shots)) for start in range(0, shots, IMAGES_PER_TASK)
    ]
    tasks += [
        ("texts", start, min(start + TEXTS_PER_TASK, texts_wanted))
        for start in range(0, texts_wanted, TEXTS_PER_TASK)
    ]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in DOMAINS}
    texts: list[str] = []
    results = progress(_results(plan, out, tasks, workers), len(tasks), "drawing the world", "task")
    for (kind, start, _), made in zip(tasks, results):
        if kind == "texts":
            texts += made
            continue
        for shot, row in zip(plan.shots[start:], made):
            rows[shot.domain].append(row)
    return rows, texts


def _results(plan: WorldPlan, out: Path, tasks: list[Task], workers: int) -> Iterator[list[Any]]:
    """Iterate over the results of tasks, in their order."""
    if workers == 1:
        _set_current(plan, out)
        yield from map(_run, tasks)
        return
    # A forked worker has the plan and the imports already; elsewhere than on Linux forking is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _begin_worker, (plan, out))
    try:
        yield from pool.map(_run, tasks)
    except BrokenProcessPool:
        raise WorkError(
            f"{out}: a worker process was killed (out of memory?); run the same command with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _run(task: Task) -> list[Any]:
    """Run one task in this process."""
    kind, start, stop = task
    assert _current is not None
    plan, out = _current
    if kind == "texts":
        return write_texts(plan, start, stop)
    return [take_shot(plan, shot, out) for shot in plan.shots[start:stop]]


def _set_current(plan: WorldPlan, out: Path) -> None:
    global _current
    _current = (plan, out)


def _begin_worker(plan: WorldPlan, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    _set_current(plan, out)


def _exit_with(parent: int) -> None:
    """End this worker once its parent is gone: a parent that was killed cannot stop its workers."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
