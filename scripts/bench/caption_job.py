"""Measure the captioning job around the model, with a model that costs nothing: planning, bookkeeping, resuming, memory.

    python -m scripts.bench.caption_job                       a million images, about two minutes on 2 CPU cores

Aims for a million images: planning at most 20 s, 500 MB resident, 0.5 ms per caption, resuming a half-done job at most 30 s.
Planning needs no torch; what captions does, and its share of the memory is printed beside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ham.generation.engines import Caption, Result, Source
from ham.generation.image_lists import job_images
from ham.generation.plan import Plan, load_plan, settle_plan
from ham.generation.run import Run
from ham.generation.shards import receipt_file, rows_file, shard_range
from ham.generation.style_draws import Draw
from ham.records import to_json_line
from ham.runtime import exit_code_of

SETTINGS = {
    "styles": "random",
    "style_pool": [*range(3000)],
    "captions_per_image": 2,
    "max_redraws": 4,
    "seed": 0,
    "reject_slash_n": False,
}
PIXELS = np.zeros((3, 2, 2), dtype=np.float32)


def no_pixels(path: Path) -> np.ndarray:
    """Return the same pixels for every file, without reading it."""
    return PIXELS


def text(image: str, draw: Draw) -> str:
    """Return a caption; one in fifty is too short to be accepted."""
    if draw.style_id % 50 == 0:
        return "bad"
    return f"a person in {image} seen by annotator {draw.style_id} in the street"


class FreeEngine:
    """Captions that cost nothing; one in fifty is rejected."""

    load = staticmethod(no_pixels)
    batch_images = 64

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.info: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job with its captions at once."""
        while (job := source()) is not None:
            yield job, [Caption(text(job.image, draw), 60) for draw in job.draws]

    def close(self) -> None:
        """Nothing to release."""


class EnoughError(Exception):
    """The first image has arrived."""


class OneImage(FreeEngine):
    """An engine that stops the run when the first image arrives."""

    def run(self, source: Source) -> Iterator[Result]:
        """Read one image, then stop. Raises EnoughError."""
        source()
        raise EnoughError


def settle(folder: Path) -> Plan:
    """Write the plan, or check the one that is there."""
    return settle_plan(folder / "out", lambda: job_images(folder, folder / "list.json"), SETTINGS, {})


def plan_job(folder: Path) -> dict[str, float]:
    """Return the seconds of planning."""
    start = time.perf_counter()
    settle(folder)
    return {"planning_s": time.perf_counter() - start}


def caption_some(folder: Path, shards: int) -> dict[str, float]:
    """Caption the first shards; return the time per caption."""
    plan = load_plan(folder / "out")
    start, cpu = time.perf_counter(), time.process_time()
    Run(plan, FreeEngine(), folder, only=(0, shards)).work()
    captions = 2 * shards * plan.shard_size
    return {
        "ms_per_caption": 1000 * (time.perf_counter() - start) / captions,
        "cpu_ms_per_caption": 1000 * (time.process_time() - cpu) / captions,
    }


def resume(folder: Path) -> dict[str, float]:
    """Return the seconds until a half-done job has its first image again."""
    start = time.perf_counter()
    with contextlib.suppress(EnoughError):
        Run(settle(folder), OneImage(), folder).work()
    return {"resuming_s": time.perf_counter() - start}


def half_done(plan: Plan, begun: int) -> None:
    """Write the shards of the first half as a run would leave them, beyond those already there."""
    row = {
        "image": "",
        "caption": "a person in the street seen by somebody",
        "style_id": 1,
        "attempt": 0,
        "status": "accepted",
        "reason": None,
    }
    for shard in range(begun, plan.num_shards // 2):
        images = [plan.images[index] for index in shard_range(shard, plan.shard_size, len(plan.images))]
        rows_file(plan.folder, shard).write_text(
            "".join(
                to_json_line({**row, "image": image, "style_id": style_id})
                for image in images
                for style_id in (1, 2)
            )
        )
        receipt_file(plan.folder, shard).write_text(
            json.dumps(
                {
                    "shard": shard,
                    "images": len(images),
                    "accepted": 2 * len(images),
                    "rejected": 0,
                    "failed": 0,
                    "reasons": {},
                    "tokens": 0,
                    "resumed_rows": 0,
                    "seconds": 1.0,
                }
            )
        )


def alone(work: Callable[..., dict[str, float]], *args: object) -> dict[str, float]:
    """Run one part in a fresh process; adds its processor time, the most memory it held, and torch's share of that."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, work, args))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def _report(sender: Connection, work: Callable[..., dict[str, float]], args: Sequence[object]) -> None:
    start, torch_mb = time.process_time(), 0.0
    if work is not plan_job:
        before = peak_mb()
        import torch.utils.data  # noqa: F401

        torch_mb, start = peak_mb() - before, time.process_time()
    found = work(*args)
    sender.send(
        {**found, "cpu_s": time.process_time() - start, "resident_mb": peak_mb(), "of_it_torch_mb": torch_mb}
    )


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB of 10^6 bytes; unlike getrusage's, without its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def main(words: list[str] | None = None) -> int:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=10, help="shards to caption for the cost per caption")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        paths = [f"Part{1 + n % 11}/{n // 20}/{n % 20}.jpg" for n in range(args.images)]
        (folder / "list.json").write_text(json.dumps(paths))
        for title, work, more in (
            ("plan", plan_job, ()),
            ("caption", caption_some, (args.shards,)),
            ("resume", resume, ()),
        ):
            if title == "resume":
                half_done(load_plan(folder / "out"), args.shards)
            found = alone(work, folder, *more)
            print(f"{title:8s}", ", ".join(f"{key} {value:.3g}" for key, value in found.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
