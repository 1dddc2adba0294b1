"""The bench of reading images, at the benchmarks' sizes, and of search over 100,000 images."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ham.reid.batch import augment_images, draw_images
from ham.reid.data import pack_pairs
from ham.reid.images import SIZE_PX, read_image
from ham.reid.loader import image_loader
from ham.reid.search_index import SearchIndex, Segment
from ham.runtime import numpy_generator, torch_generator
from scripts.bench.reid_clock import timed
from scripts.bench.reid_plain import plain_sample

CPU = torch.device("cpu")
SHAPES_PX = {"64 x 128 (Market-1501)": (64, 128), "150 x 360 (MSMT17)": (150, 360), "200 x 500": (200, 500)}
Row = dict[str, Any]


# -------------------------------------------------------------------------------------------------------------------- data


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[str]:
    """Write images with a person's amount of detail: coarse patches of colour, and noise (quality 90)."""
    draw, paths = numpy_generator(0, "bench images", width), []
    for number in range(count):
        patches = Image.fromarray(draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        pixels = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)) + draw.normal(
            0, 6, (height, width, 3)
        )
        paths.append(str(folder / f"{width}_{number}.jpg"))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def measure_reading(name: str, paths: list[str], rounds: int) -> Row:
    """Measure one core: decode and resize, against decode, resize and augment per image."""
    draw, count = random.Random(0), len(paths)
    ours = min(timed(lambda: [read_image(path) for path in paths], CPU) for _ in range(rounds))
    plain = min(
        timed(lambda: [plain_sample(path, SIZE_PX, draw) for path in paths], CPU) for _ in range(rounds)
    )
    size_kb = sum(Path(path).stat().st_size for path in paths) / count / 1000
    return {
        "what": f"read a JPEG, {name}, {size_kb:.0f} kB",
        "unit": "images/s/core",
        "ours": count / ours,
        "obvious": count / plain,
        "aim": ">= 500",
        "reached": count / ours >= 500,
    }


def measure_loader(paths: list[str], folder: Path, batches: int) -> Row:
    """Measure what one worker process delivers, from its first batch on, by the wall clock: the work is another process's."""
    pairs = pack_pairs(lambda: ((path, path, "a man") for path in paths[:32] * batches), folder / "pairs")
    loader = iter(image_loader(pairs, np.arange(len(pairs)).reshape(batches, 32), SIZE_PX, 1))
    next(loader)
    start = time.perf_counter()
    images = sum(len(pixels) for pixels, _, _ in loader)
    return {
        "what": "loader, one worker, 150 x 360 (wall clock)",
        "unit": "images/s",
        "ours": images / (time.perf_counter() - start),
    }


def measure_data(quick: bool) -> list[Row]:
    """Measure reading at the benchmarks' sizes, the loader, and the augmentation of a batch."""
    count, rounds, rows = (32, 1, []) if quick else (200, 3, [])
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, height) in SHAPES_PX.items():
            rows.append(measure_reading(name, write_jpegs(Path(folder), count, width, height), rounds))
        rows.append(measure_loader(write_jpegs(Path(folder), 32, 150, 360), Path(folder), 4 if quick else 40))
    pixels = torch.randint(256, (64, *SIZE_PX, 3), dtype=torch.uint8)
    draws = draw_images(64, SIZE_PX, numpy_generator(0, "bench"))
    seconds = min(timed(lambda: augment_images(pixels, draws), CPU) for _ in range(1 + rounds))
    return [
        *rows,
        {"what": "augmentation of a batch of 64 on the CPU", "unit": "images/s", "ours": 64 / seconds},
    ]


# ------------------------------------------------------------------------------------------------------------------ search


def measure_search(device: torch.device, quick: bool) -> list[Row]:
    """Measure queries per second for the ten best of 100,000 features, one query at a time and many."""
    images, rows = 5000 if quick else 100_000, []
    draw = torch_generator(0, "bench search")
    feats, queries = (
        torch.nn.functional.normalize(torch.randn(n, 512, generator=draw), dim=1).to(device)
        for n in (images, 256)
    )
    index = SearchIndex(Path(), [Segment.of(feats, [(str(number), (0, 0)) for number in range(images)])])
    for count in (1, 256):
        some = queries[:count]
        index.top(some)
        ours = min(timed(lambda some=some: index.top(some), device) for _ in range(2 if quick else 5))
        few = some[:4]
        plain = min(
            timed(lambda few=few: [(one @ feats.T).argsort(descending=True)[:10] for one in few], device)
            for _ in range(2 if quick else 3)
        ) / len(few)
        rows.append(
            {
                "what": f"search {images} images, {count} at a time, {device.type}",
                "unit": "queries/s",
                "ours": count / ours,
                "obvious": 1 / plain,
            }
        )
    return rows
