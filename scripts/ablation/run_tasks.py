"""Run tasks in processes of their own, several at a time; a failed task does not stop the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ham.records import read_json
from ham.runtime import log
from scripts.ablation.places import Task, figures_file, log_file

TOP = Path(__file__).resolve().parents[2]
STEP = [sys.executable, "-m", "scripts.ablation.steps"]


class Runner:
    """Runs stages of tasks; logs progress and the remaining time.

    stages: all of them, for the remaining time. processes: at a time, each with one thread. failed: the tasks that failed.
    """

    def __init__(self, work: Path, stages: list[list[Task]], processes: int) -> None:
        self.work, self.processes = work, processes
        self.tasks = [task for stage in stages for task in stage]
        self.failed: list[Task] = []
        self.running: set[subprocess.Popen[bytes]] = set()

    def run_stage(self, stage: list[Task]) -> None:
        """Run the tasks that are not done. An interruption ends those that run."""
        pool = ThreadPoolExecutor(self.processes)
        futures = {
            pool.submit(self.run_task, task): task
            for task in stage
            if not figures_file(self.work, task).is_file()
        }
        try:
            for future in as_completed(futures):
                self.report(futures[future], *future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self.running):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def run_task(self, task: Task) -> tuple[int, float]:
        """Run a task; return its exit code and its seconds. Its output goes to its log file."""
        file, began = log_file(self.work, task), time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        words = [str(self.work), str(task.seed), task.kind, task.name, str(os.getpid())]
        with file.open("wb") as out:
            process = subprocess.Popen(
                [*STEP, *words],
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            self.running.add(process)
            code = process.wait()
            self.running.discard(process)
        return code, time.monotonic() - began

    def report(self, task: Task, code: int, seconds: float) -> None:
        """Log the end of a task; keep a failed one, and show the end of its log."""
        if code == 0:
            log.info("%s: %.0f s; %s", task, seconds, self.outlook())
            return
        self.failed.append(task)
        file = log_file(self.work, task)
        last = file.read_text(errors="replace").splitlines()[-3:]
        log.warning("%s failed with exit code %d; the end of %s:\n%s", task, code, file, "\n".join(last))

    def outlook(self) -> str:
        """Return the number of tasks done and the remaining time, by the times of finished tasks of the same kind."""
        seconds: dict[str, list[float]] = {}
        left = []
        for task in self.tasks:
            file = figures_file(self.work, task)
            if file.is_file():
                seconds.setdefault(task.kind, []).append(read_json(file)["seconds"])
            elif task not in self.failed:
                left.append(task)
        timed = [task for task in left if task.kind in seconds]
        rest = sum(sum(seconds[task.kind]) / len(seconds[task.kind]) for task in timed) / self.processes
        time_left = f"about {rest / 60:.0f} min left" if timed or not left else "time left not known yet"
        text = f"{len(self.tasks) - len(left)} of {len(self.tasks)} tasks, {time_left}"
        unknown = len(left) - len(timed)
        return text + (f", without {unknown} tasks of kinds not timed yet" if timed and unknown else "")
