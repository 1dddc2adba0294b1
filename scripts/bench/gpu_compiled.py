"""Measure the retrieval step with `torch.compile` beside the eager one, ViT-B/16, SDM, bf16: part of gpu.sh."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import reid_step
from reid_clock import timed

from ham.clip import CLIPConfig
from ham.reid.methods import build_method


def rate(
    device: torch.device, size: int, config: CLIPConfig, is_compiled: bool, repeats: int
) -> dict[str, float]:
    """Time steps after two untimed ones; compiling happens in the first."""

    def build(*words: object) -> torch.nn.Module:
        method = build_method(*words)
        if is_compiled:
            method.compile()
        return method

    reid_step.build_method = build
    batch = reid_step.make_batch(size, device)
    step = reid_step.our_step(config, batch, torch.bfloat16)
    start = time.perf_counter()
    step()
    step()
    first_s = time.perf_counter() - start
    seconds = sorted(timed(step, device) for _ in range(repeats))
    return {"pairs_per_s": size / seconds[len(seconds) // 2], "first_two_steps_s": first_s}


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--out", type=Path, required=True, help="file that a line of JSON per row is added to"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="not used: one measurement")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    args = parser.parse_args()
    device = torch.device(args.device)
    config = CLIPConfig(vision_layers=1, text_layers=1) if args.quick else CLIPConfig()
    size, repeats = (2, 1) if args.quick else (128, 10)
    peak = reid_step.matmul_tflops(device, torch.bfloat16, args.quick)
    for is_compiled in (False, True):
        row = {"case": "retrieval step, bf16", "compiled": is_compiled, "batch": size}
        row |= rate(device, size, config, is_compiled, repeats)
        done = reid_step.pair_flop(config, True) / 1e12
        row["share_of_matmul"] = row["pairs_per_s"] * done / peak
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
