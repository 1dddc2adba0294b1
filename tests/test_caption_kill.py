"""kill -9 at random times, again and again, with changing world sizes and batch sizes: the captions must not change."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from generation_helpers import FakeEngine, all_rows, make_plan, merged, run_job, start
from PIL import Image

from ham.generation.shards import read_partial


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number in range(48):
        Image.new("RGB", (4, 8), (5 * number, 5, 0)).save(root / f"{number:02d}.png")
    (root / "48.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process wrote is safe in the page cache; waiting for the disk only matters when the machine dies."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def check_no_row_repeats(out: Path) -> int:
    """Look at everything on disk; returns the number of rows."""
    rows = all_rows(out)
    for file in out.glob("*.partial"):
        if not file.with_suffix("").exists():
            rows += [row for row, _ in read_partial(file)[0]]
    assert len({(row.image, row.style_id, row.attempt) for row in rows}) == len(rows)
    return len(rows)


def wait_for_progress(out: Path, jobs: list, num_bytes: int) -> None:
    """Wait until the jobs have written so much more, or are done: a busy machine must not turn every kill into an early one."""

    def written() -> int:
        return sum(entry.stat().st_size for entry in os.scandir(out) if ".jsonl" in entry.name)

    start = written()
    while any(job.is_alive() for job in jobs):
        try:
            if written() - start >= num_bytes:
                return
        except FileNotFoundError:  # renamed while we looked
            pass
        time.sleep(0.001)


@pytest.mark.parametrize(("world_size", "seed"), [(1, 0), (2, 1)])
def test_killed_again_and_again_equals_uninterrupted(
    root: Path, tmp_path: Path, world_size: int, seed: int
) -> None:
    chance = random.Random(seed)
    run_job(tmp_path / "calm", root)
    expected = merged(tmp_path / "calm")
    out = tmp_path / "stormy"
    make_plan(out, root)
    kills, before = 0, 0
    for attempt in range(40):
        ranks = 1 + (world_size + attempt) % world_size if attempt % 3 else world_size
        engine = FakeEngine(batch_images=chance.randint(1, 6), pause_s=0.012)
        jobs = [start(out, root, rank, ranks, engine, chance.choice([0, 0, 0, 1])) for rank in range(ranks)]
        if chance.random() < 0.8:
            wait_for_progress(out, jobs, chance.randint(0, 1000))
        time.sleep(chance.uniform(0, 0.02))
        for job in jobs:
            if job.is_alive():
                job.kill()
            job.join()
            assert job.exitcode in (0, -signal.SIGKILL)
            kills += job.exitcode == -signal.SIGKILL
        rows = check_no_row_repeats(out)
        assert rows >= before, "a restart must not lose rows that were written"
        before = rows
        if all((out / f"{shard:05d}.jsonl").exists() for shard in range(10)):
            break
    run_job(out, root)
    assert kills >= 8, "the job must be killed in the middle for this test to say anything"
    assert merged(out) == expected
    assert not list(out.glob("*.partial")) and not list(out.glob(".*.tmp")) and not (out / "locks").exists()
    for file in (tmp_path / "calm").glob("[0-9]*.jsonl"):
        assert file.read_bytes() == (out / file.name).read_bytes()
