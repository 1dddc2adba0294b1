"""The command `search` of train_reid.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ham.images import check_png_path
from ham.reid.eval_config import SearchConfig
from ham.reid.open_model import open_model, require
from ham.reid.queries import Query, check_queries, read_queries
from ham.reid.search import search, to_json
from ham.runtime import UsageError, dist_info, log


def run(config: SearchConfig, draw: Callable[..., Path]) -> int:
    """Print the best images of each query, or JSON; draw them where --output names a picture."""
    require(config, "checkpoint", "gallery")
    queries = queries_of(config)
    if config.output is not None:
        check_png_path(config.output)
    model, settings, _ = open_model(config)
    rows = search(
        model,
        Path(str(config.gallery)),
        queries,
        config.top,
        settings,
        config.index,
        config.threshold,
        config.refresh,
        config.max_failed_share,
    )
    if not dist_info().is_main:
        return 0
    sys.stdout.write(f"{to_json(rows)}\n" if config.json else answers_text(rows))
    if config.output is not None:
        log.info("picture: %s", draw(rows, config.output))
    return 0


def queries_of(config: SearchConfig) -> list[Query]:
    """Return the queries of the options and of the file; a picture joins every sentence of the command line.

    Raises UsageError when there is none, or one that cannot be searched for.
    """
    queries = [Query(text, config.image) for text in config.query]
    if config.image is not None and not queries:
        queries = [Query(image=config.image)]
    if config.queries is not None:
        queries += read_queries(config.queries)
    if not queries:
        raise UsageError(
            "nothing to search for: give a sentence in quotes, --image FILE, or --queries FILE (in the YAML file `query:`, "
            "`image:`, `queries:`)"
        )
    check_queries(queries, config.top)
    return queries


def answers_text(rows: list[dict[str, Any]]) -> str:
    """Return a line for each query, and one for each of its images below it."""
    lines = []
    for row in rows:
        lines.append(row["query"])
        lines += [f"  {hit['score']:.3f}  {hit['image']}" for hit in row["hits"]]
        if not row["hits"]:
            lines.append("  no image reaches the threshold")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace").decode()
