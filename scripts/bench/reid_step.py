"""The training step at ViT-B/16, 384x128, random weights: pairs per second and the fraction of this machine's matmul rate.

Floating-point operations of one pair, forward, for a tower of L layers, n tokens, width d (one multiply-add is two):

    a whole layer          24 n d^2 (qkv 6, output 2, MLP 16)  +  4 n^2 d (scores and their product with the values)
    the last layer         only one token is needed: 4 n d^2 (keys, values) + 20 d^2 + 4 n d
    patches                2 P (3 * 16 * 16) d        projection   2 d D

Image: n = 193, d = 768; text: n = 77, d = 512; L = 12, D = 512. Backward costs twice the forward, except that pixels need no
gradient. Softmax, norms, activations, loss and the optimizer count as nothing, as usual; causal attention counts whole.
`nominal` counts every token in the last layer too; the fraction is of what is really computed, the stricter figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ham.clip import CLIPConfig, build_clip
from ham.reid.batch import augment_images, draw_images
from ham.reid.images import SIZE_PX
from ham.reid.methods import build_method
from ham.reid.optim import build_optimizer
from ham.runtime import numpy_generator, torch_generator
from scripts.bench.reid_clock import timed
from scripts.bench.reid_plain import PlainSDM, plain_optimizer

AIMS = {
    ("cpu", "fp32"): 0.6,
    ("cuda", "bf16"): 0.45,
}  # shares of the matmul rate; a GPU's is meant for the H100 class


def tower_flop(layers: int, tokens: int, width: int, one_token_last: bool) -> float:
    whole = 24 * tokens * width**2 + 4 * tokens**2 * width
    last = (4 * tokens + 20) * width**2 + 4 * tokens * width if one_token_last else whole
    return (layers - 1) * whole + last


def pair_flop(config: CLIPConfig, one_token_last: bool) -> float:
    """Count forward and backward of one pair."""
    rows, columns = config.grid
    patches = 2 * rows * columns * 3 * config.patch_px**2 * config.vision_width
    towers = (
        tower_flop(config.vision_layers, 1 + rows * columns, config.vision_width, one_token_last)
        + tower_flop(config.text_layers, config.context_length, config.text_width, one_token_last)
        + 2 * (config.vision_width + config.text_width) * config.embed_dim
    )
    return 3 * towers + 2 * patches


def matmul_tflops(device: torch.device, dtype: torch.dtype, quick: bool = False) -> float:
    """Measure the best rate of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 1024 if quick else 3072
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(timed(lambda: left @ right, device) for _ in range(2 if quick else 6))
    return 2 * side**3 / best / 1e12


def make_batch(size: int, device: torch.device) -> dict[str, Tensor]:
    draw = torch_generator(0, "bench batch")
    return {
        "pixels": torch.randint(256, (size, *SIZE_PX, 3), generator=draw, dtype=torch.uint8).to(device),
        "caption_ids": torch.randint(1, 49000, (size, 77), generator=draw).to(device),
        "person_ids": torch.arange(size, device=device),
    }


def our_step(config: CLIPConfig, batch: dict[str, Tensor], dtype: torch.dtype) -> Callable[[], float]:
    """Build one step of ours: augmentation of the uint8 batch, forward, backward, fused optimizer."""
    device = batch["pixels"].device
    method = build_method("sdm", build_clip(config)).to(device).train()
    optimizer = build_optimizer(method)
    draw = numpy_generator(0, "bench augmentation")

    def step() -> float:
        images = augment_images(batch["pixels"], draw_images(len(batch["pixels"]), SIZE_PX, draw))
        with torch.autocast(
            device.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32
        ):
            losses = method({"images": images, **batch})
        loss = sum(value for name, value in losses.items() if name.endswith("_loss"))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def plain_step(config: CLIPConfig, batch: dict[str, Tensor], dtype: torch.dtype) -> Callable[[], float]:
    """Build one step of the obvious way; its augmentation runs in workers and is timed with the data."""
    device = batch["pixels"].device
    model = PlainSDM(build_clip(config)).to(device).train()
    optimizer = plain_optimizer(model)
    images = batch["pixels"].permute(0, 3, 1, 2).float() / 255

    def step() -> float:
        with torch.autocast(
            device.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32
        ):
            loss = model(images, batch["caption_ids"], batch["person_ids"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measure_way(
    build: Callable[..., Callable[[], Any]],
    config: CLIPConfig,
    batch: dict[str, Tensor],
    dtype: torch.dtype,
    repeats: int,
    quick: bool,
) -> tuple[float, float, float]:
    """Return the median and the best pairs/s, and the matmul rate (the better of right before and right after)."""
    device, size = batch["pixels"].device, len(batch["pixels"])
    step = build(config, batch, dtype)
    step()  # warm-up: allocations, kernel choice, optimizer state
    before = matmul_tflops(device, dtype, quick)
    seconds = sorted(timed(step, device) for _ in range(repeats))
    return (
        size / seconds[len(seconds) // 2],
        size / seconds[0],
        max(before, matmul_tflops(device, dtype, quick)),
    )


def measure_step(device: torch.device, batch_size: int, repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Measure ours and the obvious way in fp32 and bf16, each beside the matmul rate."""
    config = CLIPConfig(vision_layers=1, text_layers=1) if quick else CLIPConfig()
    batch = make_batch(batch_size, device)
    done, nominal = (pair_flop(config, short) / 1e12 for short in (True, False))
    rows, rates = [], {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        rate, best, peak = measure_way(our_step, config, batch, dtype, repeats, quick)
        plain, _, plain_peak = measure_way(plain_step, config, batch, dtype, repeats, quick)
        share, aim, rates[name] = rate * done / peak, AIMS.get((device.type, name)), rate
        what = f"{device.type} {name}, batch {batch_size}"
        rows += [
            {
                "what": f"training step, {what}",
                "unit": "pairs/s",
                "ours": rate,
                "best": best,
                "obvious": plain,
            },
            {
                "what": f"share of the matmul rate, {what}",
                "unit": "fraction",
                "ours": share,
                "obvious": plain * nominal / plain_peak,
                "matmul_tflops": peak,
                "nominal_share": rate * nominal / peak,
                "tflop_per_pair": done,
                "nominal_tflop_per_pair": nominal,
                **({"aim": f">= {aim}", "reached": share >= aim} if aim else {}),
            },
        ]
    if device.type == "cpu":
        gain = rates["bf16"] / rates["fp32"]
        rows.append(
            {
                "what": "bf16 against fp32, cpu",
                "unit": "times",
                "ours": gain,
                "aim": ">= 1.5",
                "reached": gain >= 1.5,
            }
        )
    return rows
