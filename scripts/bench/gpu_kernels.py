"""Measure where a step and a prefill of the captioner spend their time: part of gpu_captions.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from scripts.bench.gpu_bench import Bench


def kernel_cases(bench: Bench) -> None:
    """Where a step and a prefill spend their time, by kernel, and ways of a step's attention."""
    from torch.profiler import ProfilerActivity, profile

    from ham.captioner.stream import CaptionStream

    activities = [ProfilerActivity.CUDA] if bench.is_gpu else [ProfilerActivity.CPU]
    decoder = bench.decoder(4 if bench.is_gpu else 3)
    stream = CaptionStream(decoder, bench.rows, 2, False)
    count = stream.max_slots
    stream.caption(bench.images(count), bench.styles(count, 2))
    for name, images in (("prefill and 4 steps", count),):
        with profile(activities=activities) as profiler:
            stream.caption(bench.images(images), bench.styles(images, 2))
            bench.sync()
        which = "self_device_time_total" if bench.is_gpu else "self_cpu_time_total"
        for event in sorted(profiler.key_averages(), key=lambda one: -getattr(one, which))[:24]:
            bench.write(case=name, kernel=event.key[:90], ms=getattr(event, which) / 1e3, calls=event.count)
    del stream, decoder
    bench.free()
    attention_cases(bench)


def attention_cases(bench: Bench) -> None:
    """Time one layer's step attention in several ways."""
    from ham.llava.shared_attention import attend_step

    shape, slots, group = bench.shape, bench.rows // 2, 2
    heads, width = shape.heads, shape.width // shape.heads
    prefix, own = shape.before + shape.image_tokens, shape.style_tokens + shape.after + 64
    new = {"device": bench.device, "dtype": bench.dtype}
    sets = [
        (
            torch.randn(slots, heads, prefix, width, **new),
            torch.randn(slots, heads, prefix, width, **new),
            torch.randn(slots * group, heads, own, width, **new),
            torch.randn(slots * group, heads, own, width, **new),
        )
        for _ in range(3 if bench.is_gpu else 1)
    ]
    q = torch.randn(slots * group, heads, width, **new)
    visible = torch.ones(slots * group, own, dtype=torch.bool, device=bench.device)
    bytes_read = sum(tensor.numel() * tensor.element_size() for tensor in sets[0])
    ways: dict[str, Callable[..., Any]] = {
        "attend_step": lambda pk, pv, k, v: attend_step(q, pk, pv, k, v, visible)
    }
    if bench.is_gpu:
        from ham.llava import kernels

        last = torch.full((slots * group,), own - 1, device=bench.device)
        ways["fused kernel"] = lambda pk, pv, k, v: kernels.attend_step(q, pk, pv, k, v, last)
    grouped = q.view(slots, group, heads, width).transpose(1, 2)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    ways["prefix by sdpa"] = lambda pk, pv, k, v: sdpa(grouped, pk, pv)
    ways["prefix by matmul"] = lambda pk, pv, k, v: (grouped @ pk.transpose(-1, -2)).softmax(-1) @ pv
    ways["own by sdpa"] = lambda pk, pv, k, v: sdpa(q[:, :, None], k, v)
    ways["own by matmul"] = lambda pk, pv, k, v: (q[:, :, None] @ k.transpose(-1, -2)).softmax(-1) @ v
    for name, way in ways.items():
        with torch.inference_mode():
            way(*sets[0])
            repeats = 12 if bench.is_gpu else 1
            spent, _ = bench.timed(
                lambda way=way, repeats=repeats: [way(*sets[number % len(sets)]) for number in range(repeats)]
            )
        bench.write(
            case="attention of a step", way=name, ms=1e3 * spent / repeats, both_parts_gb=bytes_read / 1e9
        )
