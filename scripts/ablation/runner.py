"""Run a graph of jobs, a few processes at a time, the most important job first; resumable.

Each job is a process with one thread; its output goes to WORK/seedN/log. Its result file is written last and atomically: a
job without one has not run.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ham.distributed import DieWithParent
from ham.records import read_json, write_json
from ham.runtime import UsageError, WorkError, exit_code_of, log, set_up_logging
from scripts.ablation.graph import Job, is_done, next_ready, result_file

Work = Callable[[Job], dict[str, Any]]
TAIL_LINES = 12


class Running(NamedTuple):
    job: Job
    process: Any
    since: float


def run_jobs(
    graph: dict[str, Job],
    work: Path,
    do: Work,
    processes: int = 2,
    still_good: Callable[[], None] = lambda: None,
) -> int:
    """Run all jobs that are not done. Returns their number. do: runs a job in its process; its figures are kept.

    still_good: called before each job; raises where the run must not go on. When a job fails, the others that run are
    finished, and WorkError (or UsageError, as the job had it) shows the end of its log.
    """
    if processes < 1:
        raise UsageError(f"--jobs {processes}: expected at least 1")
    with locked(work):
        done = {name for name, job in graph.items() if is_done(work, job)}
        log.info("%d of %d jobs were done before", len(done), len(graph))
        before, running, failed = len(done), {}, None
        try:
            while True:
                while (
                    failed is None
                    and len(running) < processes
                    and (job := next_ready(graph, done, set(running)))
                ):
                    still_good()
                    running[job.name] = start(job, work, do)
                if not running:
                    break
                wait([one.process.sentinel for one in running.values()], timeout=1.0)
                for name in [name for name, one in running.items() if not one.process.is_alive()]:
                    one = running.pop(name)
                    one.process.join()
                    if one.process.exitcode == 0 and is_done(work, one.job):
                        done.add(name)
                        log.info(
                            "%s: %.0f s; %s",
                            name,
                            time.monotonic() - one.since,
                            outlook(graph, work, done, processes),
                        )
                    else:
                        failed = failed or one
                        log.warning("%s failed", name)
        finally:
            for one in running.values():  # Ctrl-C, or an error of ours: nothing half done goes on
                one.process.terminate()
                one.process.join()
    if failed is not None:
        kind = UsageError if failed.process.exitcode == 2 else WorkError
        raise kind(
            f"{failed.job.name} ended with {failed.process.exitcode}; the end of {log_file(work, failed.job)}:\n"
            f"{tail(log_file(work, failed.job))}"
        )
    return len(done) - before


def start(job: Job, work: Path, do: Work) -> Running:
    """Start a job's process: forked where that is possible, which spares it the imports."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=run_job, args=(job, work, do, os.getpid()), name=job.name)
    process.start()
    return Running(job, process, time.monotonic())


def run_job(job: Job, work: Path, do: Work, parent: int) -> None:
    """Run a job in this process: redirect output to its log, do the work, write the result."""
    DieWithParent(parent)(0)
    os.setpgrp()  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    file = log_file(work, job)
    file.parent.mkdir(parents=True, exist_ok=True)
    out = file.open("w", buffering=1)
    for stream in (1, 2):  # what libraries in C write goes the same way
        os.dup2(out.fileno(), stream)
    sys.stdout = sys.stderr = out

    def work_and_write() -> None:
        set_up_logging()
        result, began = result_file(work, job.name), time.time()
        result.unlink(missing_ok=True)
        figures = do(job)
        write_json(
            result,
            {
                "job": job.name,
                "key": job.key,
                "seconds": round(time.time() - began, 1),
                "began": round(began),
                **figures,
            },
        )

    sys.exit(exit_code_of(work_and_write))


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Lock the folder against a second run. The lock ends with the process."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{work}: another run is using it; wait for it, or choose another --work"
            ) from None
        yield


# ---------------------------------------------------------------------------------------------------------------- reports


def status_table(graph: dict[str, Job], work: Path) -> str:
    """List all jobs: done with their seconds, missing, stale (made with other settings or inputs), what each needs."""
    words = {True: "done", False: "missing", None: "stale"}
    lines = []
    for name, job in graph.items():
        state = is_done(work, job)
        seconds = f"{seconds_of(work, job):8.1f} s" if state else " " * 10
        lines.append(f"{words[state]:8}{seconds}  {name:32}{' '.join(job.needs)}")
    done = {name for name, job in graph.items() if is_done(work, job)}
    return "\n".join([*lines, f"{len(done)} of {len(graph)} jobs done; {outlook(graph, work, done, 1)}"])


def outlook(graph: dict[str, Job], work: Path, done: set[str], processes: int) -> str:
    """Return the remaining jobs and time, from the times of finished jobs."""
    seconds = seconds_by_kind(graph, work, done)
    left = [job for name, job in graph.items() if name not in done]
    unknown = sum(job.kind not in seconds for job in left)
    rest = sum(seconds.get(job.kind, 0.0) / job.part for job in left) / processes
    return f"{len(left)} left, {rest / 60:.0f} min" + (
        f" and {unknown} jobs of kinds not timed yet" if unknown else ""
    )


def seconds_by_kind(graph: dict[str, Job], work: Path, done: set[str]) -> dict[str, float]:
    """Average the seconds of the jobs done, by kind; those on a part of the images are left out."""
    found: dict[str, list[float]] = {}
    for name in done:
        if graph[name].part == 1:
            found.setdefault(graph[name].kind, []).append(seconds_of(work, graph[name]))
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def seconds_of(work: Path, job: Job) -> float:
    return read_json(result_file(work, job.name))["seconds"]


def log_file(work: Path, job: Job) -> Path:
    seed, name = job.name.split("/")
    return work / seed / "log" / f"{name}.log"


def tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-TAIL_LINES:])
