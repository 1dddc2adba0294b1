"""Measure captioning on a GPU, random weights, one process: part of gpu.sh, also against an older commit's code.

main        64 and 40 tokens, two captions an image, with CUDA graphs and without; shares of the machine's rates
before      64 and 40 tokens with whatever code PYTHONPATH names
agreement   bf16 captions: eagerly, in another batch, and beside float32
kernels     where the time of a step and of a prefill goes
batches     other numbers of captions at a time and per image
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `scripts` may be that of an older commit

from gpu_bench import SHAPES, Bench
from gpu_kernels import kernel_cases


def machine_rates(bench: Bench) -> tuple[float, float]:
    """Measure FLOP/s of a large matmul and bytes/s of a large copy (read and written)."""
    size, large = (8192, 2**31) if bench.is_gpu else (512, 2**24)
    a, b = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    source = torch.ones(large, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    repeats = 20 if bench.is_gpu else 2

    def seconds(work: Callable[[], Any]) -> float:
        work()
        return bench.timed(lambda: [work() for _ in range(repeats)])[0] / repeats

    flops = 2 * size**3 / seconds(lambda: torch.mm(a, b))
    copied = 2 * large / seconds(lambda: target.copy_(source))
    bench.write(case="machine", matmul_tflops=flops / 1e12, copy_gb_s=copied / 1e9)
    return flops, copied


def stream_case(
    bench: Bench, tokens: int, each: int, rows: int, use_graphs: bool, waves: int = 1, fused: bool = True
) -> dict[str, Any]:
    """Measure the stream: a first run that allocates and captures, then a timed one."""
    from ham.captioner.stream import CaptionStream

    bench.free()
    decoder = bench.decoder(tokens)
    if not fused:
        decoder.llama.kernels = None
    stream = CaptionStream(decoder, rows, each, use_graphs)
    count = stream.max_slots * waves
    few = min(count, stream.max_slots)
    warm_s, _ = bench.timed(lambda: stream.caption(bench.images(few), bench.styles(few, each)))
    decoder.seconds.clear()
    decoder.tokens.clear()
    spent, _ = bench.timed(lambda: stream.caption(bench.images(count), bench.styles(count, each)))
    row = {
        "tokens": tokens,
        "captions_an_image": each,
        "rows": stream.rows,
        "graphs": use_graphs,
        "fused_kernels": decoder.llama.kernels is not None,
        "images": count,
        "images_per_s": count / spent,
        "captions_per_s": count * each / spent,
        "seconds": spent,
        "first_run_s": warm_s,
        "peak_gib": bench.peak_gib(),
    }
    bench.write(case="captions", **row)
    return row


def phases_case(bench: Bench, tokens: int, each: int, rows: int, rates: tuple[float, float]) -> None:
    """Measure the phases, the device drained after each: shares of the matmul rate and of the copy rate."""
    from ham.captioner.stream import CaptionStream

    bench.free()
    decoder = bench.decoder(tokens)
    stream = CaptionStream(decoder, rows, each)
    count = stream.max_slots
    stream.caption(bench.images(count), bench.styles(count, each))
    decoder.seconds.clear()
    decoder.tokens.clear()
    decoder.synchronize = bench.is_gpu
    stream.caption(bench.images(count), bench.styles(count, each))
    blocks = sum(
        parameter.numel() for name, parameter in decoder.model.llm.named_parameters() if ".layers." in name
    )
    head = decoder.model.llm.lm_head.weight.numel()
    seconds, done = decoder.seconds, decoder.tokens
    prefill = 2 * blocks * done["prefill"] / seconds["prefill"]
    moved = (
        done["decode steps"] * (blocks + head) * bench.dtype.itemsize
        + done["decode positions"] * decoder.llama.bytes_per_position()
    ) / seconds["decode"]
    bench.write(
        case="phases",
        tokens=tokens,
        captions_an_image=each,
        images=count,
        vision_ms_an_image=1e3 * seconds["vision"] / count,
        prefill_ms_an_image=1e3 * seconds["prefill"] / count,
        step_ms=1e3 * seconds["decode"] / max(done["decode steps"], 1),
        prefill_tflops=prefill / 1e12,
        prefill_share_of_matmul=prefill / rates[0],
        decode_gb_s=moved / 1e9,
        decode_share_of_copy=moved / rates[1],
    )


def main_cases(bench: Bench) -> None:
    """The figures that the claims rest on."""
    rates = machine_rates(bench)
    stream_case(bench, 64, 2, bench.rows, bench.is_gpu)
    stream_case(bench, 40, 2, bench.rows, bench.is_gpu)
    phases_case(bench, 64, 2, bench.rows, rates)
    if not bench.out_of_time(15):
        stream_case(bench, 64, 2, bench.rows, bench.is_gpu, fused=False)
    if not bench.out_of_time(15):
        stream_case(bench, 64, 2, bench.rows, False)
    if not bench.out_of_time(30):
        stream_case(bench, 64, 2, bench.rows, bench.is_gpu, waves=3)


def before_cases(bench: Bench) -> None:
    """The same work with the code of an older commit, in batches of 64 images."""
    for tokens in (64, 40):
        if bench.out_of_time(20):
            return
        bench.free()
        decoder = bench.decoder(tokens)
        for count in (8, len(bench.pixels)):
            spent, _ = bench.timed(
                lambda count=count, decoder=decoder: decoder.caption(
                    bench.images(count), bench.styles(count, 2)
                )
            )
        bench.write(
            case="captions before",
            tokens=tokens,
            captions_an_image=2,
            rows=2 * count,
            images_per_s=count / spent,
            captions_per_s=2 * count / spent,
            seconds=spent,
            peak_gib=bench.peak_gib(),
        )
        del decoder


def agreement_cases(bench: Bench) -> None:
    """Captions of random weights have tiny margins: the shares are a lower bound for a trained model."""
    from ham.captioner.stream import CaptionStream

    count, tokens = (24, 40) if bench.is_gpu else (4, 8)
    images, styles = bench.images(count), bench.styles(count, 2)

    def ids(rows: int, group: int, use_graphs: bool) -> list[list[int]]:
        made = CaptionStream(bench.decoder(tokens), rows, group, use_graphs).caption(images, styles)
        bench.free()
        return [one.ids for own in made for one in own]

    usual = ids(2 * count, 2, bench.is_gpu)
    again = ids(2 * count, 2, bench.is_gpu)
    bench.write(case="agreement", of="the same run twice", **compare(usual, again))
    bench.write(case="agreement", of="eager", **compare(usual, ids(2 * count, 2, False)))
    bench.write(case="agreement", of="16 rows at a time", **compare(usual, ids(16, 2, bench.is_gpu)))
    bench.captioner.model.float()
    bench.write(case="agreement", of="float32", **compare(usual, ids(2 * count, 2, bench.is_gpu)))


def compare(first: list[list[int]], second: list[list[int]]) -> dict[str, float]:
    """Return the share of equal captions and of tokens before the first difference."""
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    shared = 0
    for a, b in zip(first, second, strict=True):
        differing = [number for number, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]]
        shared += differing[0] if differing else len(a)
    return {"captions_equal": equal / len(first), "tokens_before_difference": shared / sum(map(len, first))}


def batch_cases(bench: Bench) -> None:
    """Other numbers of captions at a time, and per image."""
    sizes = [(256, 2), (128, 2), (192, 1), (192, 4)] if bench.is_gpu else [(4, 2), (4, 4)]
    for rows, each in sizes:
        if bench.out_of_time(15):
            return
        stream_case(bench, 64 if bench.is_gpu else 4, each, rows, bench.is_gpu)


CASES = {
    "main": main_cases,
    "before": before_cases,
    "agreement": agreement_cases,
    "kernels": kernel_cases,
    "batches": batch_cases,
}


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--cases", choices=CASES, default="main")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--out", type=Path, required=True, help="file that a line of JSON per row is added to"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="start no case after this")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    shape = SHAPES[args.shape]
    if args.device == "cpu":
        shape = dataclasses.replace(shape, new_tokens=4)
    CASES[args.cases](Bench(shape, torch.device(args.device), args.out, end))


if __name__ == "__main__":
    main()
