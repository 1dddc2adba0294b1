"""kill -9 at random times, again and again, with changing world sizes and batch sizes: the captions must not change."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from generation_helpers import FakeEngine, make_plan, merged, run_job, start
from PIL import Image

from ham.generation.shards import read_partial, read_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number in range(120):
        Image.new("RGB", (4, 8), (2 * number, 5, 0)).save(root / f"{number:03d}.png")
    (root / "120.png").write_bytes(b"no picture")
    return root


def check_no_row_repeats(out: Path) -> int:
    """Look at everything on disk; returns the number of rows."""
    rows = [row for file in out.glob("[0-9]*.jsonl") for row in read_rows(file)]
    for file in out.glob("*.partial"):
        if not file.with_suffix("").exists():
            rows += read_partial(file)[0]
    assert len({(row.image, row.style_id, row.attempt) for row in rows}) == len(rows)
    return len(rows)


@pytest.mark.parametrize(("world_size", "seed"), [(1, 0), (1, 1), (2, 2), (3, 3)])
def test_killed_again_and_again_equals_uninterrupted(root: Path, tmp_path: Path, world_size: int, seed: int) -> None:
    chance = random.Random(seed)
    run_job(tmp_path / "calm", root)
    expected = merged(tmp_path / "calm")
    out = tmp_path / "stormy"
    make_plan(out, root)
    kills, before = 0, 0
    for attempt in range(200):
        ranks = 1 + (world_size + attempt) % world_size if attempt % 3 else world_size
        engine = FakeEngine(batch_images=chance.randint(1, 6), pause_s=0.01)
        jobs = [start(out, root, rank, ranks, engine, chance.choice([0, 0, 0, 1])) for rank in range(ranks)]
        time.sleep(chance.uniform(0.01, 0.12))
        for job in jobs:
            if job.is_alive():
                job.kill()
            job.join()
            assert job.exitcode in (0, -signal.SIGKILL)
            kills += job.exitcode == -signal.SIGKILL
        rows = check_no_row_repeats(out)
        assert rows >= before, "a restart must not lose rows that were written"
        before = rows
        if all((out / f"{shard:05d}.jsonl").exists() for shard in range(25)):
            break
    run_job(out, root)
    assert kills >= 8, "the job must be killed in the middle for this test to say anything"
    assert merged(out) == expected
    assert not list(out.glob("*.partial")) and not list(out.glob(".*.tmp")) and not (out / "locks").exists()
    for file in (tmp_path / "calm").glob("[0-9]*.jsonl"):
        assert file.read_bytes() == (out / file.name).read_bytes()
