"""The commands `pretrain` and `finetune` of train_reid.py."""

from __future__ import annotations

import sys

from ham.reid.config import TrainOptions
from ham.runtime import log


def run(config: TrainOptions) -> int:
    """Train as the config says, or with --estimate only print the memory that it needs."""
    if config.estimate:
        from ham.reid.estimate import estimate, format_estimate

        sys.stdout.write(format_estimate(estimate(config), config) + "\n")
        return 0
    from ham.reid.train import train

    result = train(config)
    best = ", ".join(f"{name} {value:.2f}" for name, value in result["best"].items())
    log.info("done: %s/last%s", result["output_dir"], f"; mean R1 of {best}" if best else "")
    return 0
