"""Kill a small job at every file-system call of planning, captioning, merging and drawing samples: the result never changes.

The calls are seen through Python's audit events (open, rename, remove, mkdir, ...) and wrappers around those that have none
(write, fsync, ftruncate). A forked process runs the job and kills itself before its n-th call; then the job is run to its end.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from generation_helpers import FakeEngine, make_plan
from PIL import Image

from ham.generation.merge import merge
from ham.generation.plan import load_plan
from ham.generation.retry import reopen_shards
from ham.generation.run import Run
from ham.generation.samples import describe_job, draw_samples
from ham.report.samples import write_samples

EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "os.link",
    "fcntl.flock",
}
UNSEEN = ("write", "fsync", "ftruncate")
FINAL = ("captions.json", "failed.jsonl", "summary.json", "samples.html", "plan.json", "images.packed")


@pytest.fixture(autouse=True)
def cheap_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no git, wait for no disk: what a killed process wrote is safe in the page cache."""
    monkeypatch.setattr("ham.generation.plan.git_revision", lambda: "none")
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 8), (40 * number, 5, 0)).save(path)
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    return tmp_path / "images"


def whole_job(out: Path, root: Path) -> None:
    plan = make_plan(out, root, shard_size=2)
    Run(plan, FakeEngine(batch_images=2), root).work()
    merge(plan)
    write_samples(out / "samples.html", draw_samples(plan), root, len(plan.images), describe_job(plan))


def retried_job(out: Path, root: Path) -> None:
    plan = load_plan(out)
    reopen_shards(plan)
    Run(plan, FakeEngine(batch_images=2), root).work()
    merge(plan)


class Countdown:
    """Count this process's file-system calls below a folder; kill the process before call number `at`."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.count = str(folder), at, 0
        sys.addaudithook(self.on_event)
        for name in UNSEEN:
            setattr(os, name, self.counted(getattr(os, name)))

    def on_event(self, event: str, arguments: tuple) -> None:
        if event not in EVENTS:
            return
        if event == "open" and not (isinstance(arguments[0], str) and arguments[0].startswith(self.folder)):
            return
        self.tick()

    def counted(self, call: Callable) -> Callable:
        def wrapper(*arguments: object) -> object:
            self.tick()
            return call(*arguments)

        return wrapper

    def tick(self) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def run_counted(
    job: Callable[[Path, Path], None], out: Path, root: Path, at: int | None, told: object
) -> None:
    counter = Countdown(out, at)
    job(out, root)
    told.send(counter.count)


def in_process(job: Callable[[Path, Path], None], out: Path, root: Path, at: int | None) -> int | None:
    """Run the job in a forked process that dies at call `at`. Returns the number of its calls, or None when it died."""
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(False)
    process = context.Process(target=run_counted, args=(job, out, root, at, writing))
    process.start()
    writing.close()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return reading.recv() if process.exitcode == 0 else None


def results(out: Path) -> dict[str, str]:
    files = [file for file in out.iterdir() if file.name in FINAL or file.name.endswith(".jsonl")]
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != "metrics.jsonl"
    }


def check_every_kill(
    job: Callable[[Path, Path], None], start: Callable[[Path], None], tmp_path: Path, root: Path
) -> int:
    calm = tmp_path / "calm" / "out"
    start(calm)
    calls = in_process(job, calm, root, None)
    expected = results(calm)
    assert calls and set(FINAL) - {"samples.html"} <= set(expected)
    for at in range(calls):
        out = tmp_path / f"{at}" / "out"
        start(out)
        assert in_process(job, out, root, at) is None, at
        for file in out.glob("[0-9]*.jsonl"):
            assert file.read_bytes().endswith(b"\n"), (at, file.name)
        assert in_process(job, out, root, None) is not None, at
        assert results(out) == expected, at
        assert not list(out.glob("*.partial")) and not list(out.glob(".*.tmp")), at
        assert not (out / "locks").exists(), at
    return calls


@pytest.mark.slow
def test_a_job_killed_at_any_call_ends_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    calls = check_every_kill(whole_job, lambda out: out.parent.mkdir(), tmp_path / "a", root)
    assert calls > 80, "the calls must have been seen for this test to say anything"


@pytest.mark.slow
def test_a_retry_killed_at_any_call_ends_the_same(root: Path, tmp_path: Path) -> None:
    def start(out: Path) -> None:
        out.parent.mkdir()
        whole_job(out, root)

    (tmp_path / "b").mkdir()
    missing = root / "3.png"

    def job(out: Path, root: Path) -> None:
        if not (out / "plan.json").exists():
            whole_job(out, root)
        retried_job(out, root)

    assert missing.exists()
    calls = check_every_kill(job, start, tmp_path / "b", root)
    assert calls > 30
