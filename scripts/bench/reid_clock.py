"""The one stopwatch of the retrieval bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = "wall"  # set once, by the command line


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Time one call in seconds, the device's queue drained before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = CLOCKS[clock]()
    work()
    wait()
    return CLOCKS[clock]() - start
