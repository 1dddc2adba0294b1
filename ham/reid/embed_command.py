"""The command `embed` of train_reid.py."""

from __future__ import annotations

from pathlib import Path

from ham.reid.embed import DTYPES, caption_items, image_items, join_parts, plan_embedding, run_job
from ham.reid.eval_config import EmbedConfig
from ham.reid.open_model import open_model, require
from ham.runtime import UsageError, log


def run(config: EmbedConfig) -> int:
    """Write the features of images or captions; each process encodes its parts, and the last one joins them."""
    require(config, "checkpoint", "out")
    if (config.images is None) == (config.captions is None):
        raise UsageError("give either --images DIR or --captions FILE")
    items = caption_items(config.captions) if config.captions else image_items(Path(str(config.images)))
    model, settings, _ = open_model(config, grouped=False)
    job = plan_embedding(model, items, config.images, Path(str(config.out)), settings)
    run_job(model, job, settings, DTYPES[config.dtype])
    out = join_parts(job, config.max_failed_share)
    if out is None:
        log.info("embed: this process is done, others are not; the last one writes %s", config.out)
    else:
        log.info("embed: features %s, rows %s", out, out.with_suffix(".jsonl"))
    return 0
