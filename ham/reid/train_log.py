"""A training run's figures: means over steps and processes, speed, and the stop at a loss that is not finite."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from ham.distributed import sum_over_ranks
from ham.reid.checkpoints import advice_after_nan
from ham.reid.config import TrainConfig
from ham.reid.run import Run
from ham.runtime import WorkError, dist_info, log


class Meter:
    """Average the figures of steps over all processes, and stop at a loss that is not finite.

    A step's figures are read when the next step is under way, so that the device need not wait.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.start = time.perf_counter()
        self.waited_s = 0.0
        self.steps = 0
        self.sums: Tensor | float = 0.0
        self.pending: tuple[int, list[str], Tensor] | None = None

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Add a step's figures of this process."""
        names = sorted(values)
        stacked = sum_over_ranks(torch.stack([values[name] for name in names])) / dist_info().world_size
        self.check()
        self.pending = (step, names, stacked)
        self.sums = self.sums + stacked
        self.steps = self.steps + 1

    def check(self) -> None:
        """Raise WorkError naming the step when the newest figures hold a loss that is not finite."""
        if self.pending is not None:
            step, names, stacked = self.pending
            broken = [
                f"{name} is {value}"
                for name, value in zip(names, stacked.tolist())
                if name.endswith("_loss") and not math.isfinite(value)
            ]
            if broken:
                raise WorkError(
                    f"step {step}: {', '.join(broken)}; training stopped. {advice_after_nan(self.config)}"
                )

    def means(self) -> dict[str, float]:
        """Return the means over all steps added."""
        self.check()
        return dict(zip(self.pending[1], (self.sums / self.steps).tolist()))


def report(run: Run, meter: Meter, epoch: int, factor: float) -> None:
    """Write the figures since the last report to the log, metrics.jsonl and the trackers."""
    means = meter.means()
    seconds = time.perf_counter() - meter.start
    speed = {
        "pairs_per_s": round(meter.steps * run.config.batch_size / seconds, 1),
        "data_wait_pct": round(100 * meter.waited_s / seconds, 1),
    }
    figures = {"lr": run.config.lr * factor, **means, **speed}
    run.accelerator.log(figures, step=run.state.step)
    if run.accelerator.is_main_process:
        run.metrics.write(event="step", step=run.state.step, epoch=epoch + 1, **figures)
        log.info(
            "epoch %d, step %d: %s",
            epoch + 1,
            run.state.step,
            ", ".join(f"{k} {v:.4g}" for k, v in figures.items()),
        )
