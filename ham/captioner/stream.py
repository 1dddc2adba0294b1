"""Continuous batching: a batch whose slots take the next image as soon as their image's captions are finished.

    source() -> ImageJob ─▶ slot: prefix once, a row per caption ─▶ step, step, ... ─▶ (job, captions)

A slot holds an image, its rows the captions that are being written; an image with more captions than rows writes them in turn.
Images leave in the order in which they finish; those with a close choice are checked by recheck.py first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from ham.captioner.engine import Decoder, Generated, ImageJob
from ham.captioner.recheck import Recheck
from ham.captioner.slots import ImageInWork, Slots, Writing
from ham.records import NO_STYLE
from ham.runtime import UsageError, log

Source = Callable[[], ImageJob | None]
Result = tuple[ImageJob, list[Generated]]


class CaptionStream:
    """Caption images with at most `rows` captions at a time, at most `group` of them of one image.

    Out of memory halves the rows, with a line, and starts the images in work again. use_graphs: None means on a GPU.
    """

    def __init__(self, decoder: Decoder, rows: int, group: int = 1, use_graphs: bool | None = None) -> None:
        self.decoder = decoder
        self.rows = rows
        self.group = max(1, min(group, rows))
        self.is_gpu = decoder.captioner.device.type == "cuda"
        self.use_graphs = self.is_gpu if use_graphs is None else use_graphs
        self.recheck = Recheck(decoder)
        self._slots: Slots | None = None
        self._in_work: dict[int, ImageJob] = {}  # jobs taken from the source whose captions are not complete

    @property
    def max_slots(self) -> int:
        """How many images are in work at a time."""
        return max(1, self.rows // self.group)

    def caption(
        self,
        pixels: torch.Tensor,
        style_ids: Sequence[Sequence[int]],
        sampling_keys: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Generated]]:
        """Caption images [I, 3, s, s], each in its own list of styles, and return the captions in order."""
        flat = [style_id for styles in style_ids for style_id in styles]
        self.decoder.check_styles(flat)
        jobs = deque(
            ImageJob(image, styles, None if sampling_keys is None else sampling_keys[number], number)
            for number, (image, styles) in enumerate(zip(pixels, style_ids, strict=True))
        )
        captions: list[list[Generated]] = [[] for _ in style_ids]
        for job, made in self.run(lambda: jobs.popleft() if jobs else None, len(jobs)):
            captions[job.tag] = made
        return captions

    def run(self, source: Source, expected: int | None = None) -> Iterator[Result]:
        """Yield each job of the source with its captions, until the source has none and nothing is in work.

        source: is asked whenever a slot is free; None means that it has nothing now. expected: how many images will come.
        """
        again: deque[ImageJob] = deque()
        self._in_work.clear()
        self.recheck.waiting.clear()
        if self._slots is not None and self._slots.is_working:
            self._slots = None  # an earlier run was left unfinished

        def take() -> ImageJob | None:
            job = again.popleft() if again else source()
            if job is not None:
                self._in_work[id(job)] = job
            return job

        while True:
            try:
                yield from self._run(take, expected)
                return
            except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
                rows = min(self.rows, sum(len(job.style_ids) for job in self._in_work.values()))
                if rows < 2 or not is_out_of_memory(error):
                    raise
            self.rows = rows // 2
            self.group = min(self.group, rows // 2)
            self._slots = None
            log.warning("out of memory: %d captions at a time from now on", self.rows)
            again.extendleft(reversed(self._in_work.values()))
            self._in_work.clear()
            if self.is_gpu:
                torch.cuda.empty_cache()  # outside the except block, where the traceback still holds tensors

    @torch.inference_mode()
    def _run(self, source: Source, expected: int | None) -> Iterator[Result]:
        finished: deque[ImageInWork] = deque()
        while True:
            self._refill(source, expected, finished)
            is_working = self._slots is not None and self._slots.is_working
            if is_working:
                finished += self._slots.advance()
            elif not finished and not self.recheck.waiting:
                return
            while finished:
                image = finished.popleft()
                del self._in_work[id(image.job)]
                if any(caption.close for caption in image.captions):
                    self.recheck.add(image)
                else:
                    yield image.job, self._texts(image.captions)
            if self.recheck.is_full or (not is_working and self.recheck.waiting):
                for image in self.recheck.run():
                    yield image.job, self._texts(image.captions)

    def _refill(self, source: Source, expected: int | None, finished: deque[ImageInWork]) -> None:
        """Start new images in free slots."""
        slots = self._slots
        if slots is not None and not slots.is_working and slots.count < min(self.max_slots, expected or 1):
            slots = self._slots = None  # a larger batch than before
        wanted = self.max_slots if expected is None else min(self.max_slots, expected)
        free = wanted if slots is None else slots.count_free()
        if slots is not None and slots.is_working and free < slots.least_refill:
            return
        jobs: list[ImageJob] = []
        while len(jobs) < free and (job := source()) is not None:
            self.decoder.check_styles(job.style_ids)
            if job.style_ids:
                jobs.append(job)
            else:
                finished.append(ImageInWork(job, [], deque()))
        if not jobs:
            if slots is not None:
                slots.compact()
            return
        with_style = _with_style(jobs)
        if slots is None or (slots.with_style != with_style and not slots.is_working):
            self._slots = slots = Slots(self.decoder, wanted, self.group, with_style, self.use_graphs)
        if slots.with_style != with_style:
            raise UsageError("one batch mixes captions with and without style")
        slots.start(jobs)

    def _texts(self, captions: list[Writing]) -> list[Generated]:
        for caption in captions:
            if caption.made.failure is None:
                caption.made.text = self.decoder.text(caption.made.ids)
        return [caption.made for caption in captions]


def _with_style(jobs: Sequence[ImageJob]) -> bool:
    """Return whether the jobs' captions have styles. Raises UsageError when some have and some have not."""
    kinds = {style_id != NO_STYLE for job in jobs for style_id in job.style_ids}
    if len(kinds) > 1:
        raise UsageError("one batch mixes captions with and without style")
    return kinds.pop()


def mean_count(style_ids: Sequence[Sequence[int]]) -> int:
    """Return the captions per image, rounded up, at least 1."""
    return max(1, -(-sum(len(styles) for styles in style_ids) // max(len(style_ids), 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on a GPU or a CPU."""
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
