"""The bench of evaluation at ICFG-PEDES' size: our metrics against a full sort, each in a process of its own.

Run with `python -m` it is that process: it imports no more than it measures, and prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ham.reid.metrics import METRICS, retrieval_metrics
from ham.runtime import WorkError, torch_generator
from scripts.bench import reid_clock
from scripts.bench.reid_clock import timed

TOP = Path(__file__).resolve().parents[2]
BYTES_A_PAIR = 42  # of Q x G pairs: what the full sort was seen to hold, 38 to 40
FREE_SHARE = 0.6  # of the free memory that the full sort may take: others may be using the machine
Row = dict[str, Any]


def plain_metrics(
    query_feats: Tensor, gallery_feats: Tensor, query_ids: Tensor, gallery_ids: Tensor
) -> dict[str, float]:
    """Rank by a full argsort of the whole similarity matrix and cumulative sums over it; percent."""
    similarity = F.normalize(query_feats, dim=1) @ F.normalize(gallery_feats, dim=1).T  # [Q, G]
    order = similarity.argsort(dim=1, descending=True)
    matches = gallery_ids[order] == query_ids[:, None]
    hits = matches.cumsum(dim=1)
    positives = matches.sum(dim=1)
    result = {f"R{cut}": 100 * (hits[:, cut - 1] > 0).double().mean().item() for cut in (1, 5, 10)}
    places = torch.arange(1, matches.shape[1] + 1, device=matches.device)
    result["mAP"] = 100 * ((hits / places * matches).sum(dim=1).double() / positives).mean().item()
    last = (matches * places).amax(dim=1)
    return {**result, "mINP": 100 * (positives / last.double()).mean().item()}


def resident_gb(field: str) -> float:
    """Read this process's VmRSS (now) or VmHWM (the most so far) in GB."""
    lines = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return int(lines[field].split()[0]) * 1024 / 1e9


def evaluate_once(way: str, device: str, queries: int, gallery: int, threads: int, clock: str) -> Row:
    """Time one evaluation in this (fresh) process: seconds, extra memory in GB, the metrics."""
    torch.set_num_threads(threads)
    reid_clock.clock = clock
    draw, persons = (
        torch_generator(0, "bench evaluation"),
        max(1, gallery // 20),
    )  # 20 positives for each query
    centres = torch.randn(persons, 512, generator=draw)
    query_ids, gallery_ids = (torch.arange(count) % persons for count in (queries, gallery))
    query, image = (
        centres[ids] + 3.0 * torch.randn(len(ids), 512, generator=draw) for ids in (query_ids, gallery_ids)
    )
    query, image, query_ids, gallery_ids = (one.to(device) for one in (query, image, query_ids, gallery_ids))
    retrieval_metrics(query[:9], image[:9], query_ids[:9], gallery_ids[:9])  # libraries loaded
    cuda, found = device.startswith("cuda"), {}
    before = torch.cuda.memory_allocated() / 1e9 if cuda else resident_gb("VmRSS")
    rank = retrieval_metrics if way == "ours" else plain_metrics
    found["seconds"] = timed(
        lambda: found.update(rank(query, image, query_ids, gallery_ids)), torch.device(device)
    )
    return {
        **found,
        "gb": (torch.cuda.max_memory_allocated() / 1e9 if cuda else resident_gb("VmHWM")) - before,
    }


def in_own_process(way: str, device: torch.device, queries: int, gallery: int) -> Row:
    """Call `evaluate_once` in a fresh Python process, so that its memory is its own."""
    words = [way, str(device), str(queries), str(gallery), str(torch.get_num_threads()), reid_clock.clock]
    # by module name from the top of the repository, so that `ham` and `scripts` are found without an installation
    command = [sys.executable, "-m", "scripts.bench.reid_eval", *words]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    if done.returncode:
        raise WorkError(
            f"evaluation ({' '.join(words)}) ended with code {done.returncode}: {done.stderr[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure_eval(device: torch.device, quick: bool) -> list[Row]:
    """Compare our metrics with the full sort, each in a process of its own; the sort takes fewer queries if memory is short."""
    gallery = 1000 if quick else 19848
    free_gb = (
        next(
            int(line.split()[1]) * 1024 / 1e9
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable")
        )
        if device.type == "cpu"
        else 70.0
    )
    fits = min(gallery, int(FREE_SHARE * free_gb * 1e9 / (gallery * BYTES_A_PAIR)))
    ours, plain = (
        in_own_process("ours", device, gallery, gallery),
        in_own_process("obvious", device, fits, gallery),
    )
    same = ours if fits == gallery else in_own_process("ours", device, fits, gallery)
    scale = gallery / fits
    kind, plain_gb = device.type, scale * plain["gb"]
    what = f"{kind}, {gallery} x {gallery} x 512" + (
        f", the sort scaled up from {fits} queries" if scale > 1 else ""
    )
    differ = max(abs(same[name] - plain[name]) for name in METRICS)
    gain, share = scale * plain["seconds"] / ours["seconds"], ours["gb"] / plain_gb
    return [
        {
            "what": f"evaluation {what}",
            "unit": "s",
            "ours": ours["seconds"],
            "obvious": scale * plain["seconds"],
            "aim": ">= 5 x faster",
            "reached": gain >= 5,
            "metrics": {name: ours[name] for name in METRICS},
        },
        {
            "what": f"evaluation, extra memory, {kind}",
            "unit": "GB",
            "ours": ours["gb"],
            "obvious": plain_gb,
            "aim": "<= 1/10",
            "reached": share <= 0.1,
        },
        {
            "what": f"evaluation, largest difference of a metric, {kind}",
            "unit": "percent points",
            "ours": differ,
            "aim": "identical",
            "reached": differ < 1e-4,
        },
    ]


if __name__ == "__main__":
    way, device, queries, gallery, threads, clock = sys.argv[1:]
    print(json.dumps(evaluate_once(way, device, int(queries), int(gallery), int(threads), clock)))
