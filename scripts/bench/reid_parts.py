"""The bench of everything but the training step: reading images, evaluation at ICFG-PEDES' size, search over 100,000 images."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import reid_step
import torch
from PIL import Image
from reid_plain import plain_metrics, plain_sample
from reid_step import SIZE_PX, timed

from ham.reid.augment import augment_images, draw_images
from ham.reid.data import image_loader, pack_pairs
from ham.reid.images import read_image
from ham.reid.metrics import METRICS, retrieval_metrics
from ham.reid.search import SearchIndex
from ham.runtime import numpy_generator, torch_generator

CPU = torch.device("cpu")
SHAPES_PX = {"64 x 128 (Market-1501)": (64, 128), "150 x 360 (MSMT17)": (150, 360), "200 x 500": (200, 500)}
BYTES_A_PAIR = 42           # of Q x G pairs: what the full sort was seen to hold, 38 to 40
FREE_SHARE = 0.6            # of the free memory that the full sort may take: others may be using the machine
Row = dict[str, Any]


# -------------------------------------------------------------------------------------------------------------------- data


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[str]:
    """Write images with a person's amount of detail: coarse patches of colour, and noise (quality 90)."""
    draw, paths = numpy_generator(0, "bench images", width), []
    for number in range(count):
        patches = Image.fromarray(draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        pixels = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)) + draw.normal(0, 6, (height, width, 3))
        paths.append(str(folder / f"{width}_{number}.jpg"))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def measure_reading(name: str, paths: list[str], rounds: int) -> Row:
    """Measure one core: decode and resize, against decode, resize and augment per image."""
    draw, count = random.Random(0), len(paths)
    ours = min(timed(lambda: [read_image(path) for path in paths], CPU) for _ in range(rounds))
    plain = min(timed(lambda: [plain_sample(path, SIZE_PX, draw) for path in paths], CPU) for _ in range(rounds))
    size_kb = sum(Path(path).stat().st_size for path in paths) / count / 1000
    return {"what": f"read a JPEG, {name}, {size_kb:.0f} kB", "unit": "images/s/core", "ours": count / ours,
            "obvious": count / plain, "aim": ">= 500", "reached": count / ours >= 500}


def measure_loader(paths: list[str], folder: Path, batches: int) -> Row:
    """Measure what one worker process delivers, from its first batch on, by the wall clock: the work is another process's."""
    pairs = pack_pairs(lambda: ((path, path, "a man") for path in paths[:32] * batches), folder / "pairs")
    loader = iter(image_loader(pairs, np.arange(len(pairs)).reshape(batches, 32), SIZE_PX, 1))
    next(loader)
    start = time.perf_counter()
    images = sum(len(pixels) for pixels, _, _ in loader)
    return {"what": "loader, one worker, 150 x 360 (wall clock)", "unit": "images/s",
            "ours": images / (time.perf_counter() - start)}


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
    return [*rows, {"what": "augmentation of a batch of 64 on the CPU", "unit": "images/s", "ours": 64 / seconds}]


# -------------------------------------------------------------------------------------------------------------- evaluation


def resident_gb(field: str) -> float:
    """Read this process's VmRSS (now) or VmHWM (the most so far) in GB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024 / 1e9


def evaluate_once(way: str, device: str, queries: int, gallery: int, threads: int, clock: str) -> Row:
    """Time one evaluation in this (fresh) process: seconds, extra memory in GB, the metrics."""
    torch.set_num_threads(threads)
    reid_step.clock = clock
    draw, persons = torch_generator(0, "bench evaluation"), max(1, gallery // 20)   # 20 positives for each query
    centres = torch.randn(persons, 512, generator=draw)
    query_ids, gallery_ids = (torch.arange(count) % persons for count in (queries, gallery))
    query, image = (centres[ids] + 3.0 * torch.randn(len(ids), 512, generator=draw) for ids in (query_ids, gallery_ids))
    query, image, query_ids, gallery_ids = (one.to(device) for one in (query, image, query_ids, gallery_ids))
    retrieval_metrics(query[:9], image[:9], query_ids[:9], gallery_ids[:9])          # libraries loaded
    cuda, found = device.startswith("cuda"), {}
    before = torch.cuda.memory_allocated() / 1e9 if cuda else resident_gb("VmRSS")
    rank = retrieval_metrics if way == "ours" else plain_metrics
    found["seconds"] = timed(lambda: found.update(rank(query, image, query_ids, gallery_ids)), torch.device(device))
    return {**found, "gb": (torch.cuda.max_memory_allocated() / 1e9 if cuda else resident_gb("VmHWM")) - before}


def measure_eval(device: torch.device, quick: bool) -> list[Row]:
    """Hold our metrics against the full sort, each in a process of its own; the sort takes fewer queries if memory is short."""
    gallery = 1000 if quick else 19848
    free_gb = next(int(line.split()[1]) * 1024 / 1e9 for line in Path("/proc/meminfo").read_text().splitlines()
                   if line.startswith("MemAvailable")) if device.type == "cpu" else 70.0
    fits = min(gallery, int(FREE_SHARE * free_gb * 1e9 / (gallery * BYTES_A_PAIR)))
    common = (gallery, torch.get_num_threads(), reid_step.clock)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours = pool.apply(evaluate_once, ("ours", str(device), gallery, *common))
        plain = pool.apply(evaluate_once, ("obvious", str(device), fits, *common))
        same = ours if fits == gallery else pool.apply(evaluate_once, ("ours", str(device), fits, *common))
    scale = gallery / fits
    kind, plain_gb = device.type, scale * plain["gb"]
    what = f"{kind}, {gallery} x {gallery} x 512" + (f", the sort scaled up from {fits} queries" if scale > 1 else "")
    differ = max(abs(same[name] - plain[name]) for name in METRICS)
    gain, share = scale * plain["seconds"] / ours["seconds"], ours["gb"] / plain_gb
    return [{"what": f"evaluation {what}", "unit": "s", "ours": ours["seconds"], "obvious": scale * plain["seconds"],
             "aim": ">= 5 x faster", "reached": gain >= 5, "metrics": {name: ours[name] for name in METRICS}},
            {"what": f"evaluation, extra memory, {kind}", "unit": "GB", "ours": ours["gb"], "obvious": plain_gb,
             "aim": "<= 1/10", "reached": share <= 0.1},
            {"what": f"evaluation, largest difference of a metric, {kind}", "unit": "percent points", "ours": differ,
             "aim": "identical", "reached": differ < 1e-4}]


# ------------------------------------------------------------------------------------------------------------------ search


def measure_search(device: torch.device, quick: bool) -> list[Row]:
    """Measure queries per second for the ten best of 100,000 features, one query at a time and many."""
    images, rows = 5000 if quick else 100_000, []
    draw = torch_generator(0, "bench search")
    feats, queries = (torch.nn.functional.normalize(torch.randn(n, 512, generator=draw), dim=1).to(device)
                      for n in (images, 256))
    index = SearchIndex(Path(), [str(number) for number in range(images)], feats)
    for count in (1, 256):
        some = queries[:count]
        index.top(some)
        ours = min(timed(lambda some=some: index.top(some), device) for _ in range(2 if quick else 5))
        few = some[:4]
        plain = min(timed(lambda few=few: [(one @ feats.T).argsort(descending=True)[:10] for one in few], device)
                    for _ in range(2 if quick else 3)) / len(few)
        rows.append({"what": f"search {images} images, {count} at a time, {device.type}", "unit": "queries/s",
                     "ours": count / ours, "obvious": 1 / plain})
    return rows
