"""An engine in a file of its own, as a user would add one: the captioner that costs nothing, behind caption.py's options."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from generation_helpers import FakeEngine, tiny_pixels

from ham.generation.config import JobOptions
from ham.generation.engines import Caption
from ham.generation.style_draws import Draw

SWITCHES = {"reject_every": 4, "empty": False, "rejects": ""}  # what tests change


def count_styles(options: JobOptions) -> int:
    return 7


def deadly_pixels(path: Path) -> np.ndarray:
    """Die at an image named `deadly`; die once at one named `fragile`."""
    if path.stem == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.stem == "fragile" and not (path.parent.parent / "died").exists():
        (path.parent.parent / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tiny_pixels(path)


class ToyEngine(FakeEngine):
    def _caption(self, image: str, square: np.ndarray, draw: Draw) -> Caption:
        if SWITCHES["empty"]:
            return Caption("", 1)
        if SWITCHES["rejects"] and SWITCHES["rejects"] in image:
            return Caption("bad", 1)
        return super()._caption(image, square, draw)


def open_engine(options: JobOptions, captions_per_image: int) -> ToyEngine:
    engine = ToyEngine(options.batch_size or 4, reject_every=SWITCHES["reject_every"])
    engine.load = deadly_pixels
    engine.settings = {
        "engine": "toy",
        "model": "toy",
        "dtype": "none",
        "prompt": options.prompt,
        "template": "v1",
    }
    return engine
