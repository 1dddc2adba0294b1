"""The images and captions in work: slots of a SharedCache, filled, stepped and emptied.

Bookkeeping is on the host, tokens and lengths are on the device (steps.py). On a GPU the host reads the tokens of the step
before the one that it has just launched, so that the device never waits.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ham.captioner.engine import GROWTH, Decoder, Generated, ImageJob
from ham.captioner.steps import CLOSE, NOT_FINITE, Chosen, Steps

NOT_FINITE_REASON = (
    "the model's logits are NaN or infinite at token {}: its weights are damaged, or float16 is too narrow for them "
    "(use --dtype bfloat16 or float32)"
)


@dataclass(eq=False)
class Writing:
    """A caption in the making. close: numbers of the tokens that were too close to call; row: where it is written."""

    style_id: int
    uniform: torch.Tensor | None  # [max_new_tokens]
    made: Generated = field(default_factory=lambda: Generated([]))
    close: list[int] = field(default_factory=list)
    row: int = -1
    is_done: bool = False


@dataclass(eq=False)
class ImageInWork:
    """An image in a slot. waiting: captions that have no row yet."""

    job: ImageJob
    captions: list[Writing]
    waiting: deque[Writing]
    running: int = 0


class Report(NamedTuple):
    """Chosen tokens and the captions that they belong to: columns of `chosen`."""

    writing: list[tuple[int, Writing]]
    chosen: Chosen


class Slots:
    """`count` images at a time with `group` captions each.

    advance() makes one step and returns the images that are finished.
    """

    def __init__(
        self, decoder: Decoder, count: int, group: int, with_style: bool, use_graphs: bool = False
    ) -> None:
        self.decoder = decoder
        self.count = count
        self.group = group
        self.with_style = with_style
        self.is_gpu = decoder.captioner.device.type == "cuda"
        self.is_dense = self.is_gpu or use_graphs  # static shapes: rows that are not in use are computed too
        self.suffix_length = decoder.suffix_length(with_style)
        capacity = self.suffix_length + min(decoder.settings.max_new_tokens, GROWTH)
        with torch.inference_mode():
            cache = decoder.llama.empty_cache(
                count, group, decoder.prefix_length, capacity, decoder.text_prefix()
            )
            self.steps = Steps(decoder, cache, self.suffix_length, use_graphs and self.is_gpu)
        self.cache = cache
        self.images: list[ImageInWork | None] = [None] * count
        self.writing: list[Writing | None] = [None] * (count * group)
        self.lengths = [0] * (count * group)  # own positions of each row
        self.reports: deque[Report] = deque()
        self.sizes = sorted({max(1, -(-count // part)) for part in (1, 2, 4, 8)}) if self.is_dense else None

    @property
    def is_working(self) -> bool:
        return bool(self.reports) or any(image is not None for image in self.images)

    @property
    def least_refill(self) -> int:
        """Free slots that are worth a prefill: a GPU prefers a few images at a time."""
        return max(1, min(8, self.count // 4)) if self.is_gpu else 1

    def count_free(self) -> int:
        return self.images.count(None)

    # ------------------------------------------------------------------------------------------------------------- start

    def start(self, jobs: Sequence[ImageJob]) -> None:
        """Place images into free slots and run their prefixes and first suffixes."""
        free = [slot for slot, image in enumerate(self.images) if image is None][: len(jobs)]
        for slot, job in zip(free, jobs, strict=True):
            draws = self.decoder.uniform(job) or [None] * len(job.style_ids)
            captions = [Writing(style, draw) for style, draw in zip(job.style_ids, draws, strict=True)]
            self.images[slot] = ImageInWork(job, captions, deque(captions))
        at_a_time = self.decoder.images_per_prefill()
        for first in range(0, len(free), at_a_time):
            self._prefill(free[first : first + at_a_time])

    def _prefill(self, slots: list[int]) -> None:
        device = self.decoder.captioner.device
        images = [self.images[slot] for slot in slots]
        features = self.decoder.encode(torch.stack([image.job.pixels for image in images]))
        group = min(self.group, max(len(image.waiting) for image in images))
        rows = torch.tensor([[slot * self.group + place for place in range(group)] for slot in slots])
        for slot, image in zip(slots, images, strict=True):
            self._take_rows(image, [slot * self.group + place for place in range(group)])
        suffix = self._suffix(rows.tolist())
        tokens = features.shape[0] * features.shape[1] + suffix.shape[0] * suffix.shape[1] * suffix.shape[2]
        with self.decoder.phase("prefill", tokens):
            hidden = self.decoder.llama.prefill(self.cache, slots, features, suffix, rows.to(device))
            self._first(rows.flatten(), self.decoder.llama.logits(hidden.flatten(0, 1)))

    def _extend(self, slot: int, rows: list[int]) -> None:
        """Start the next captions of an image whose prefix is in the cache."""
        self._take_rows(self.images[slot], rows)
        suffix = self._suffix([rows])
        with self.decoder.phase("prefill", suffix.shape[1] * suffix.shape[2]):
            index = torch.tensor([rows], device=self.decoder.captioner.device)
            hidden = self.decoder.llama.extend(self.cache, [slot], suffix, index)
            self._first(index.flatten().cpu(), self.decoder.llama.logits(hidden.flatten(0, 1)))

    def _take_rows(self, image: ImageInWork, rows: list[int]) -> None:
        for row in rows:
            if not image.waiting:
                return
            caption = image.waiting.popleft()
            caption.row, self.writing[row], self.lengths[row] = row, caption, self.suffix_length
            image.running += 1
            if caption.uniform is not None:
                self.steps.uniform[row] = caption.uniform.to(self.steps.uniform)

    def _suffix(self, rows: list[list[int]]) -> torch.Tensor:
        """Return the suffixes [n, g, T, D] of the captions in rows [n][g]; a row without one repeats its first neighbor's."""
        styles = [
            (self.writing[row] or self.writing[own[0]]).style_id for own in rows for row in own
        ]  # the first of a slot's rows always has one
        return self.decoder.suffix(styles).unflatten(0, (len(rows), len(rows[0])))

    def _first(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        chosen = self.steps.first(rows.to(logits.device), logits)
        self._expect(chosen, rows.tolist())

    # -------------------------------------------------------------------------------------------------------------- step

    def advance(self) -> list[ImageInWork]:
        """Make one step and read the tokens that are known. Returns the images that are finished."""
        finished: list[ImageInWork] = []
        rows = [
            row for row, caption in enumerate(self.writing) if caption is not None and not caption.is_done
        ]
        if rows:
            self._step(rows)
        while len(self.reports) > (1 if self.is_gpu and rows else 0):
            finished += self._receive()
        return finished

    def _step(self, rows: list[int]) -> None:
        slots = rows[-1] // self.group + 1
        longest = max(self.lengths[row] for row in rows) + 1
        if longest > self.cache.capacity:
            self.steps.grow(self.cache.capacity + GROWTH)
        with self.decoder.phase("decode", len(rows)):
            if self.is_dense:
                slots = self._size(slots)
                chosen = self.steps.next(slots, None, None)
                self._expect(chosen, list(range(slots * self.group)))
            else:
                is_full = len(rows) == slots * self.group
                live = None if is_full else torch.tensor(rows)
                self._expect(self.steps.next(slots, live, longest), rows)
        for row in rows:
            self.lengths[row] += 1
        used = len({row // self.group for row in rows})
        self.decoder.tokens["decode steps"] += 1
        self.decoder.tokens["decode positions"] += used * self.cache.prefix + sum(
            self.lengths[row] for row in rows
        )

    def _expect(self, chosen: Chosen, rows: list[int]) -> None:
        writing = [
            (column, self.writing[row]) for column, row in enumerate(rows) if self.writing[row] is not None
        ]
        self.reports.append(Report(writing, chosen))

    def _receive(self) -> list[ImageInWork]:
        """Add the oldest unread tokens to their captions; free the rows of those that end."""
        report = self.reports.popleft()
        tokens, flags = report.chosen.read()
        ended = []
        for column, caption in report.writing:
            if not caption.is_done and self._add(caption, tokens[column], flags[column]):
                ended.append(caption)
        return self._leave(ended)

    def _add(self, caption: Writing, token: int, flags: int) -> bool:
        """Add a token to a caption. Returns whether the caption ends."""
        made = caption.made
        if flags & NOT_FINITE:
            made.failure = NOT_FINITE_REASON.format(len(made.ids) + 1)
            self.cache.clear(caption.row)
        else:
            if flags & CLOSE:
                caption.close.append(len(made.ids))
            made.ids.append(token)
        limit = self.decoder.settings.max_new_tokens
        caption.is_done = made.failure is not None or token in self.decoder.stop_ids or len(made.ids) == limit
        return caption.is_done

    def _leave(self, ended: list[Writing]) -> list[ImageInWork]:
        """Free the rows of captions that ended, for waiting captions of the same image; return the finished images."""
        finished, free = [], defaultdict(list)
        for caption in ended:
            self.writing[caption.row] = None
            free[caption.row // self.group].append(caption.row)
        for slot, rows in free.items():
            image = self.images[slot]
            image.running -= len(rows)
            if image.waiting:
                self._extend(slot, rows[: len(image.waiting)])
            elif image.running == 0:
                self.images[slot] = None
                finished.append(image)
        return finished

    # ----------------------------------------------------------------------------------------------------------- compact

    def compact(self) -> None:
        """Move images from the last slots into free ones, so that fewer slots are computed."""
        live = [slot for slot, image in enumerate(self.images) if image is not None]
        if not live or (self.sizes and self._size(len(live)) == self._size(live[-1] + 1)):
            return
        for target in range(len(live)):
            if self.images[target] is None:
                self._move(live.pop(), target)

    def _size(self, slots: int) -> int:
        return next(size for size in self.sizes if size >= slots)

    def _move(self, source: int, target: int) -> None:
        self.steps.move(source, target)
        self.images[target], self.images[source] = self.images[source], None
        for place in range(self.group):
            old = source * self.group + place
            new = target * self.group + place
            caption = self.writing[old]
            self.writing[new], self.writing[old], self.lengths[new] = caption, None, self.lengths[old]
            if caption is not None:
                caption.row = new
