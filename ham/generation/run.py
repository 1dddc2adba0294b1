"""The captioning run: claim shards, keep the engine's batches full across shard borders, write rows as they come.

Knows nothing of models: an engine loads pixels and captions a batch of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ham.generation.engines import Caption, Engine, Job
from ham.generation.filters import reject_reason
from ham.generation.loading import ImageFiles, LoadedImage, load_images
from ham.generation.plan import Plan
from ham.generation.shards import OpenShard, claim, count_rows, is_done, shards_of
from ham.generation.status import JobWatch, Reporter
from ham.generation.style_draws import Draw
from ham.records import CaptionRow
from ham.runtime import DistInfo, log


@dataclass
class Run:
    """One process's share of a job."""

    plan: Plan
    engine: Engine
    image_root: Path
    place: DistInfo = field(default_factory=DistInfo)
    only: tuple[int, int] | None = None
    workers: int = 0
    locks: bool = True
    report_every_s: float = 15.0
    wait_for_others: bool = True  # rank 0 of several stays until all ranks are done
    seconds: dict[str, float] = field(default_factory=lambda: {"load": 0.0, "caption": 0.0, "write": 0.0})

    def __post_init__(self) -> None:
        self.shards = shards_of(self.place.rank, self.place.world_size, self.plan.num_shards, self.only)
        self.open: dict[int, OpenShard] = {}
        self.again: deque[Job] = deque()
        self.reporter = Reporter(self.plan, self.place, self.report_every_s)

    def work(self) -> int:
        """Caption this process's shards. Returns how many of them other processes hold."""
        files = ImageFiles(self.plan.images, self.image_root, self.engine.load)
        with ExitStack() as stack:
            stack.callback(self._close_all)
            stack.enter_context(self.reporter)
            loaded = load_images(files, self._indices(), self.workers)
            stack.callback(loaded.close)
            while True:
                start = time.perf_counter()
                count = self._caption_images(loaded)
                self.seconds["caption"] += time.perf_counter() - start
                if not count:
                    break
            if self.place.is_main and self.place.world_size > 1 and self.wait_for_others:
                wait_for_others(self.plan, self.only, self.reporter)
        self.seconds["caption"] -= self.seconds["load"] + self.seconds["write"]
        return sum(not is_done(self.plan.folder, shard) for shard in self.shards)

    def _caption_images(self, loaded: Iterator[LoadedImage]) -> int:
        """Caption what there is, redraws included. Returns the number of images."""
        count = 0
        for job, captions in self.engine.run(lambda: self._next_job(loaded)):
            self._write(job, captions)
            count += 1
            self.reporter.tick()
        return count

    def _next_job(self, loaded: Iterator[LoadedImage]) -> Job | None:
        """Return the next image to caption: one whose caption was rejected, else the next that can be read."""
        if self.again:
            return self.again.popleft()
        while True:
            start = time.perf_counter()
            image = next(loaded, None)
            self.seconds["load"] += time.perf_counter() - start
            if image is None:
                return None
            job = self._receive(image)
            if job is not None:
                return job

    def _indices(self) -> Iterator[int]:
        """Claim shard after shard and yield the indices of the images that they still lack."""
        for shard in self.shards:
            opened = claim(self.plan, shard, self.locks)
            if opened is None:
                if not is_done(self.plan.folder, shard):
                    log.info("shard %05d is being written by another process", shard)
                continue
            self.open[shard] = opened
            unfinished = set(opened.unfinished)
            for offset, image in enumerate(opened.images):
                if image in unfinished:
                    yield shard * self.plan.shard_size + offset
            self._finish_if_done(opened)

    def _receive(self, loaded: LoadedImage) -> Job | None:
        """Return the job of a loaded image; one that could not be read becomes a row."""
        shard = self.open[loaded.index // self.plan.shard_size]
        image = shard.images[loaded.index % self.plan.shard_size]
        if loaded.pixels is not None:
            return Job(image, loaded.pixels, shard.next_draws(image), shard)
        shard.add([(CaptionRow(image, "", None, 0, "failed", loaded.reason), 0)])
        self.reporter.add(images=1, failed=1)
        self._finish_if_done(shard)
        return None

    def _write(self, job: Job, captions: list[Caption]) -> None:
        """Write an image's rows; put it back in the queue when a caption was rejected."""
        start = time.perf_counter()
        rows = [
            (self._row(job.image, draw, caption), caption.tokens)
            for draw, caption in zip(job.draws, captions, strict=True)
        ]
        job.shard.add(rows)
        job.draws = job.shard.next_draws(job.image)
        counts = count_rows(row for row, _ in rows)
        tokens = sum(caption.tokens for caption in captions)
        self.reporter.add(images=not job.draws, tokens=tokens, **counts)
        if job.draws:
            self.again.append(job)
        else:
            self._finish_if_done(job.shard)
        self.seconds["write"] += time.perf_counter() - start

    def _row(self, image: str, draw: Draw, caption: Caption) -> CaptionRow:
        if caption.failure is not None:
            return CaptionRow(image, "", draw.style_id, draw.attempt, "failed", caption.failure)
        reason = reject_reason(caption.text, self.plan.settings["reject_slash_n"])
        status = "rejected" if reason else "accepted"
        return CaptionRow(image, caption.text, draw.style_id, draw.attempt, status, reason)

    def _finish_if_done(self, shard: OpenShard) -> None:
        if not shard.unfinished and shard.shard in self.open:
            shard.finish()
            del self.open[shard.shard]

    def _close_all(self) -> None:
        for shard in self.open.values():
            shard.close()


def wait_for_others(
    plan: Plan, only: tuple[int, int] | None, reporter: Reporter, patience_s: float = 600.0
) -> None:
    """Make rank 0 wait until every rank's shards are done, or nothing has moved for `patience_s`."""
    watch, state, since = JobWatch(plan), None, time.monotonic()
    everybodys = shards_of(0, 1, plan.num_shards, only)
    while not all(is_done(plan.folder, shard) for shard in everybodys):
        status = watch.scan()
        now = (status.shards_done, status.accepted, status.rejected, status.failed)
        if now != state:
            state, since = now, time.monotonic()
        if time.monotonic() - since > patience_s:
            log.warning(
                "no rank has written anything for %.0f s; shards are missing, see `caption.py status %s`",
                patience_s,
                plan.folder,
            )
            return
        reporter.tick()
        time.sleep(0.5)
