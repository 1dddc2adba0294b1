"""A captioner that costs nothing, and jobs to run it on: shared by the tests of captioning runs."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import caption
from ham.generation.engines import Caption, Result, Source
from ham.generation.image_lists import job_images
from ham.generation.merge import merge
from ham.generation.plan import Plan, load_plan, settle_plan
from ham.generation.run import Run
from ham.generation.shards import read_rows
from ham.generation.style_draws import Draw
from ham.llava.preprocess import open_image
from ham.records import CaptionRow
from ham.runtime import DistInfo, exit_code_of

SETTINGS = {
    "styles": "random",
    "style_pool": [*range(7)],
    "captions_per_image": 2,
    "max_redraws": 4,
    "seed": 0,
    "reject_slash_n": False,
    "fingerprint": "fake",
}


def tiny_pixels(path: Path) -> np.ndarray:
    return np.asarray(open_image(path).resize((2, 2)), dtype=np.float32)


class FakeEngine:
    """A text that depends on image, style and attempt alone; about one in `reject_every` is too short to be accepted."""

    def __init__(self, batch_images: int = 4, pause_s: float = 0.0, reject_every: int = 4) -> None:
        self.batch_images, self.pause_s, self.reject_every = batch_images, pause_s, reject_every
        self.load = tiny_pixels
        self.settings: dict[str, object] = {}
        self.info: dict[str, object] = {}
        self.seconds: dict[str, float] = {}
        self.calls: list[int] = []

    def run(self, source: Source) -> Iterator[Result]:
        while True:
            jobs = []
            while len(jobs) < self.batch_images and (job := source()) is not None:
                jobs.append(job)
            if not jobs:
                return
            captions = self.caption(
                [job.image for job in jobs], [job.pixels for job in jobs], [job.draws for job in jobs]
            )
            yield from zip(jobs, captions, strict=True)

    def caption(
        self, images: Sequence[str], pixels: Sequence[np.ndarray], draws: Sequence[Sequence[Draw]]
    ) -> list[list[Caption]]:
        time.sleep(self.pause_s)
        self.calls.append(len(images))
        return [
            [self._caption(image, square, draw) for draw in own]
            for image, square, own in zip(images, pixels, draws, strict=True)
        ]

    def close(self) -> None:
        """Nothing to release."""

    def _caption(self, image: str, square: np.ndarray, draw: Draw) -> Caption:
        number = int.from_bytes(hashlib.sha256(f"{image} {draw}".encode()).digest()[:4], "big")
        if number % self.reject_every == 0:
            return Caption(f"bad {number}", 2)
        return Caption(
            f"person of {image} with mean {square.mean():.1f} in style {draw.style_id} drawn {draw.attempt}",
            11,
        )


def run_caption(*words: str) -> int:
    """Run caption.py in this process; returns its exit code."""
    before, sys.argv = sys.argv, ["caption.py", *words]
    try:
        return exit_code_of(caption.main)
    finally:
        sys.argv = before


def all_rows(out: Path) -> list[CaptionRow]:
    """Return the rows of a job's finished shards."""
    return [row for file in sorted(out.glob("[0-9]*.jsonl")) for row in read_rows(file)]


def make_plan(out: Path, root: Path, shard_size: int = 5, **settings: object) -> Plan:
    return settle_plan(out, lambda: job_images(root), {**SETTINGS, **settings}, {}, shard_size)


def run_job(
    out: Path,
    root: Path,
    rank: int = 0,
    world_size: int = 1,
    engine: FakeEngine | None = None,
    workers: int = 0,
    **settings: object,
) -> Plan:
    """Do one process's share of a job; merge when everything is done."""
    plan = make_plan(out, root, **settings)
    # The helper's ranks are no torchrun: none waits for another, as a killed one would be waited for in vain.
    run = Run(plan, engine or FakeEngine(), root, DistInfo(rank, world_size), workers=workers)
    run.wait_for_others = False
    run.work()
    return load_plan(out)


def start(*args: object, **kwargs: object) -> multiprocessing.Process:
    """Run `run_job` in a forked process: no imports to repeat, and a SIGKILL hits it in the middle of its work."""
    process = multiprocessing.get_context("fork").Process(target=run_job, args=args, kwargs=kwargs)
    process.start()
    return process


def merged(out: Path) -> bytes:
    merge(load_plan(out))
    return (out / "captions.json").read_bytes()
