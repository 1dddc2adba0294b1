"""The command `search` of train_reid.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ham.reid.config import SearchConfig
from ham.reid.open_model import open_model, require
from ham.reid.search import search
from ham.runtime import log


def run(config: SearchConfig, draw: Callable[..., Path]) -> int:
    """Print the best images of each query and write them as a picture."""
    require(config, "checkpoint", "gallery", "query")
    model, settings, _ = open_model(config)
    rows = search(model, config.gallery, config.query, config.top, settings, config.index)
    for row in rows:
        sys.stdout.write(f"{row['query']}\n")
        for hit in row["hits"]:
            sys.stdout.write(f"  {hit['score']:.3f}  {hit['image']}\n")
    log.info("picture: %s", draw(rows, config.output))
    return 0
