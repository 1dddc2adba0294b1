"""The learning rate as a pure function of the epoch: a warm-up, then a decay.

Source: IRRA, solver/lr_scheduler.py, LRSchedulerWithWarmup; RDE's file is the same.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from ham.runtime import UsageError

# ratio: how much of the time after the warm-up has passed, 0 to 1; power: 0.9 by default
DECAYS: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda ratio, power: 0.5 * (1.0 + math.cos(math.pi * ratio)),
    "linear": lambda ratio, power: 1.0 - ratio,
    "exp": lambda ratio, power: power**ratio,
    "poly": lambda ratio, power: power ** (1.0 - ratio),
    # deviation: an addition; the reference's "poly" swaps base and exponent, so that it rises from 0.9 to 1
    "polynomial": lambda ratio, power: (1.0 - ratio) ** power,
}
MODES = (*DECAYS, "step")
WITH_TARGET = ("cosine", "poly", "polynomial")
WARMUPS = ("linear", "constant")


def lr_factor(
    epoch: float,
    total_epochs: int,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.1,
    mode: str = "cosine",
    *,
    warmup_mode: str = "linear",
    target_factor: float = 0.0,
    power: float = 0.9,
    milestones: Sequence[int] = (20, 50),
    gamma: float = 0.1,
) -> float:
    """Return the factor on the base learning rate during `epoch`, which counts from 0 (and may be a fraction).

    Warm-up: from warmup_factor, linearly to 1 over warmup_epochs (warmup_mode linear) or flat until then (constant).
    mode: cosine | linear | exp | poly | polynomial | step. cosine, poly and polynomial approach target_factor (the target
    rate over the base rate) and reach it at total_epochs, one epoch after the last; step multiplies by gamma at each of the
    milestones. poly is the reference's, which rises; polynomial falls.
    Raises UsageError for an unknown mode.
    """
    if mode not in MODES:
        raise UsageError(f"learning rate schedule '{mode}' is not known; use one of {', '.join(MODES)}")
    if warmup_mode not in WARMUPS:
        raise UsageError(f"warm-up '{warmup_mode}' is not known; use one of {', '.join(WARMUPS)}")
    rise = 1.0
    if epoch < warmup_epochs:
        passed = epoch / warmup_epochs if warmup_mode == "linear" else 0.0
        rise = warmup_factor * (1.0 - passed) + passed
    if mode == "step":
        return rise * gamma ** bisect_right(sorted(milestones), epoch)
    if epoch < warmup_epochs:
        return rise
    ratio = min(1.0, (epoch - warmup_epochs) / max(1, total_epochs - warmup_epochs))
    target = target_factor if mode in WITH_TARGET else 0.0
    return target + (1.0 - target) * DECAYS[mode](ratio, power)
