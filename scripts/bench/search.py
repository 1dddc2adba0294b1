"""Measure the search index of a large gallery: opening, refreshing, and queries, against exact ranking and faiss.

    python scripts/bench/search.py --images 1000000 --threads 2

The features are random unit vectors (the time does not depend on their values); the exact top 10 of every query is compared
with a float32 ranking of the same stored rows. faiss is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ham.reid.search_index import SEGMENT_ROWS, SearchIndex, Segment, keep_current, load_segments
from ham.runtime import torch_generator

WIDTH = 512
TOP = 10
QUERIES = 20


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), options.images)
        figures = measure(Path(folder), options.images)
    for name, value in figures.items():
        print(f"{name:42} {value}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["queries with the exact top 10"] == QUERIES else 1


def write_index(folder: Path, images: int) -> None:
    """Write an index of random unit rows, as a refresh of a gallery does."""
    for start in range(0, images, SEGMENT_ROWS):
        count = min(SEGMENT_ROWS, images - start)
        entries = [
            (f"camera_{start % 40:02d}/{row:09d}.jpg", (9000, row)) for row in range(start, start + count)
        ]
        rows = unit_rows(count, "gallery", start)
        Segment.write(folder / f"{start // SEGMENT_ROWS:08d}.safetensors", rows, entries)


def unit_rows(count: int, *purpose: str | int) -> torch.Tensor:
    draw = torch_generator(0, "bench search", *purpose)
    return torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=draw), dim=1)


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Return the figures, in milliseconds where nothing else is said."""
    opening, index = timed(lambda: SearchIndex(Path(), load_segments(folder, WIDTH)))
    queries = unit_rows(QUERIES, "queries")
    first, _ = timed(lambda: index.top(queries[:1], TOP))
    times, found = [], []
    for query in queries.split(1):
        seconds, (_, rows) = timed(lambda query=query: index.top(query, TOP))
        times.append(seconds)
        found.append(rows[0].tolist())
    together, _ = timed(lambda: index.top(queries, TOP))
    present = {path: stamp for segment in index.segments for path, stamp in segment.entries()}
    refresh, _ = timed(lambda: keep_current(index.segments, present))
    exact = exact_top(index, queries)
    figures = {
        "images": images,
        "threads": torch.get_num_threads(),
        "index, MB": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6),
        "open": ms(opening),
        "first query (pages read from the disk)": ms(first),
        "query, median": ms(sorted(times)[len(times) // 2]),
        "query, slowest": ms(max(times)),
        f"query, {QUERIES} at a time": ms(together / QUERIES),
        "compare with an unchanged gallery": ms(refresh),
        "queries with the exact top 10": sum(ours == theirs for ours, theirs in zip(found, exact)),
    }
    if importlib.util.find_spec("faiss"):
        figures |= measure_faiss(index, queries, exact)
    return figures


def exact_top(index: SearchIndex, queries: torch.Tensor) -> list[list[int]]:
    scores = torch.cat([segment.feats.float() @ queries.T for segment in index.segments])
    return scores.sort(dim=0, descending=True, stable=True).indices[:TOP].T.tolist()


def measure_faiss(index: SearchIndex, queries: torch.Tensor, exact: list[list[int]]) -> dict[str, Any]:
    """Measure faiss' exact inner-product index with float16 storage; it holds a copy in memory."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)

    def build() -> None:
        flat.train(index.segments[0].feats.float().numpy())
        for segment in index.segments:
            flat.add(segment.feats.float().numpy())

    building, _ = timed(build)
    times = []
    found = []
    for query in queries.split(1):
        seconds, (_, rows) = timed(lambda query=query: flat.search(query.numpy(), TOP))
        times.append(seconds)
        found.append(rows[0].tolist())
    return {
        "faiss fp16: open (copy into memory)": ms(building),
        "faiss fp16: query, median": ms(sorted(times)[len(times) // 2]),
        "faiss fp16: queries with the exact top 10": sum(
            set(ours) == set(theirs) for ours, theirs in zip(found, exact)
        ),
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


if __name__ == "__main__":
    sys.exit(main())
