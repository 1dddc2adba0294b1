"""The command `eval` of train_reid.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ham.reid.checkpoints import write_config
from ham.reid.config import EvalConfig
from ham.reid.data import require_datasets
from ham.reid.evaluate import evaluate, format_table, pick_examples
from ham.reid.open_model import open_model, require
from ham.runtime import dist_info, log


def run(config: EvalConfig, draw: Callable[..., Path]) -> int:
    """Print one table for all test sets; write it as evaluation.json, and a picture of queries with their ten best images."""
    require(config, "checkpoint", "data_root", "test_datasets")
    require_datasets(config.data_root, config.test_datasets, config.split)
    model, settings, device = open_model(config)
    out = (
        config.output_dir
        or (config.checkpoint if config.checkpoint.is_dir() else config.checkpoint.parent) / "eval"
    )
    rows, encoded = evaluate(
        model,
        config.data_root,
        config.test_datasets,
        config.split,
        config.image_to_text,
        settings,
        out,
        device,
    )
    if dist_info().is_main:
        write_config(out / "config.yaml", config)
        sys.stdout.write(f"{format_table(rows)}\n")
        for split in encoded if config.pictures else ():
            examples = pick_examples(split, config.pictures, seed=config.seed)
            picture = draw(examples, out / f"gallery_{split.dataset}.png", f"{split.dataset}, {split.split}")
            log.info("picture: %s", picture)
        log.info("figures: %s", out / "evaluation.json")
    return 0
