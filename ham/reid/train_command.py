"""The commands `pretrain` and `finetune` of train_reid.py."""

from __future__ import annotations

from ham.reid.config import TrainOptions
from ham.runtime import log


def run(config: TrainOptions) -> int:
    """Train as the config says, or with --estimate only print the memory that it needs."""
    from ham.reid.train import train

    result = train(config)
    best = ", ".join(f"{name} {value:.2f}" for name, value in result["best"].items())
    log.info("done: %s/last%s", result["output_dir"], f"; mean R1 of {best}" if best else "")
    return 0
