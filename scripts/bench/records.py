"""Measure how a million captioned images open: time and memory, in the parent and in forked workers.

    python -m scripts.bench.records [--images 1000000] [--captions 2] [--workers 4] [--out records.json]

Prints one table: the first opening (parses the JSON and writes the cache), the plain way (a list of Python records), the
opening from the cache in a fresh process, and each worker after reading a random tenth of all rows. `grew by` is RSS against
the start of that line; the cache's pages in it are shared, so the machine holds them once. `private` is what a process has
for itself (/proc/self/smaps_rollup); about 280 MiB of it is torch, before any row is read.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ham.datasets import open_captions, read_captions_json
from ham.records import PersonImage, write_json
from ham.runtime import exit_code_of

WORDS = (
    "red",
    "orange",
    "green",
    "blue",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
    "navy",
    "jacket",
    "coat",
    "shirt",
    "hoodie",
    "sweater",
    "blouse",
    "trousers",
    "jeans",
    "shorts",
    "skirt",
    "backpack",
    "handbag",
    "sandals",
    "boots",
    "in",
)


def memory_mib() -> dict[str, float]:
    """Read this process's resident and private memory in MiB."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        fields[key] = int(value.split()[0]) / 1024
    return {"rss_mib": fields["Rss"], "private_mib": fields["Private_Clean"] + fields["Private_Dirty"]}


def write_captions(path: Path, images: int, captions: int) -> None:
    """Write {path: [caption, ...]} with captions of 25 to 45 words, row by row."""
    draw = random.Random(0)
    with path.open("w") as file:
        for image in range(images):
            texts = [" ".join(draw.choices(WORDS, k=draw.randint(25, 45))) for _ in range(captions)]
            row = json.dumps({f"Part{image // 100000 + 1}/{image // 15}/{image % 15}.jpg": texts})[1:-1]
            file.write(("{" if image == 0 else ",\n") + row)
        file.write("}\n")


def in_fresh_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call `work` in a new Python process, so that nothing that this one holds is counted."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=_put, args=(results, work, arguments))
    process.start()
    result = results.get()
    process.join()
    return result


def _put(results: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    results.put(work(*arguments))


def open_timed(path: Path) -> dict[str, Any]:
    start, before = time.perf_counter(), memory_mib()
    rows = open_captions(path)
    return {
        "seconds": time.perf_counter() - start,
        "images": len(rows),
        "before_mib": before["rss_mib"],
        **memory_mib(),
    }


def open_plainly(path: Path) -> dict[str, Any]:
    start, before = time.perf_counter(), memory_mib()
    records = [
        PersonImage(image, index, tuple(texts))
        for index, (image, texts) in enumerate(read_captions_json(path).items())
    ]
    return {
        "seconds": time.perf_counter() - start,
        "images": len(records),
        "before_mib": before["rss_mib"],
        **memory_mib(),
    }


def worker(rows: Any, seed: int, results: Any) -> None:
    """Read a random tenth of all rows, as a data loader's worker does."""
    draw, start, before = random.Random(seed), time.perf_counter(), memory_mib()
    count = max(1, len(rows) // 10)
    captions = sum(len(rows[draw.randrange(len(rows))][1]) for _ in range(count))
    results.put(
        {
            "seconds": time.perf_counter() - start,
            "images": count,
            "captions": captions,
            "before_mib": before["rss_mib"],
            **memory_mib(),
        }
    )


def fork_workers(path: Path, workers: int) -> dict[str, Any]:
    """Open from the cache, fork workers and collect what each needed."""
    parent, rows = open_timed(path), open_captions(path)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    processes = [fork.Process(target=worker, args=(rows, seed, results)) for seed in range(workers)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return {"parent": parent, "workers": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.json"
        write_captions(path, options.images, options.captions)
        first = in_fresh_process(open_timed, path)
        plain = in_fresh_process(open_plainly, path)
        forked = in_fresh_process(fork_workers, path, options.workers)
        sizes = {
            "json_mib": path.stat().st_size / 2**20,
            "cache_mib": sum(file.stat().st_size for file in Path(folder).glob(".captions.json.*")) / 2**20,
        }
    lines = [
        ("first opening, writes the cache", first),
        ("plain list of Python records", plain),
        ("opening from the cache", forked["parent"]),
        *(
            (f"worker {number}, {row['images']} random rows", row)
            for number, row in enumerate(forked["workers"])
        ),
    ]
    print(
        f"{options.images} images x {options.captions} captions, JSON {sizes['json_mib']:.0f} MiB, "
        f"cache {sizes['cache_mib']:.0f} MiB, {platform.machine()}, Python {platform.python_version()}"
    )
    print(f"{'':38}{'seconds':>9}{'RSS MiB':>9}{'grew by':>9}{'private MiB':>13}")
    for what, row in lines:
        growth = row["rss_mib"] - row["before_mib"]
        print(f"{what:38}{row['seconds']:9.3f}{row['rss_mib']:9.0f}{growth:9.0f}{row['private_mib']:13.0f}")
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        write_json(options.out, {"settings": settings, **sizes, "first": first, "plain": plain, **forked})


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
