"""A captioner with random weights on a GPU, and the rows of what is measured on it; see gpu_captions.py.

Also runs against the code of an older commit, which PYTHONPATH then names; so its neighbors import it by file name.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if importlib.util.find_spec("ham.captioner.engine"):
    from ham.captioner.engine import Decoder, DecodeSettings
    from scripts.bench.shapes import SHAPES, Shape, build, prompt
else:  # the layout before 2026-11-27
    from ham.captioner.decoder import Decoder, DecodeSettings

    from scripts.bench.captions import SHAPES, Shape, build, prompt

__all__ = ["SHAPES", "Bench"]
ROWS = 192  # captions at a time on a GPU


class Bench:
    """A captioner and the rows of its measurements, written as they come."""

    def __init__(self, shape: Shape, device: torch.device, out: Path, end: float) -> None:
        self.shape, self.device, self.out, self.end = shape, device, out, end
        self.is_gpu = device.type == "cuda"
        self.dtype = torch.bfloat16 if self.is_gpu else torch.float32
        self.captioner = build(shape, device, self.dtype)
        self.rows = ROWS if self.is_gpu else 8
        chance = torch.Generator().manual_seed(0)
        count = 64 if self.is_gpu else 8
        self.pixels = torch.rand(count, 3, shape.image_px, shape.image_px, generator=chance)

    def write(self, **row: Any) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def out_of_time(self, needed_s: float = 10.0) -> bool:
        return time.monotonic() + needed_s > self.end

    def sync(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the seconds of a call and its result."""
        self.sync()
        start = time.perf_counter()
        result = work()
        self.sync()
        return time.perf_counter() - start, result

    def decoder(self, tokens: int) -> Any:
        return Decoder(self.captioner, DecodeSettings(max_new_tokens=tokens), prompt(self.shape))

    def images(self, count: int) -> torch.Tensor:
        return self.pixels.repeat(-(-count // len(self.pixels)), 1, 1, 1)[:count]

    def styles(self, count: int, each: int) -> list[list[int]]:
        """Return `each` styles for every of `count` images."""
        return [[(image + number) % 16 for number in range(each)] for image in range(count)]

    def free(self) -> None:
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**30 if self.is_gpu else None
