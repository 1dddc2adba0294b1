"""The choice between the fused kernels and the plain code."""

from __future__ import annotations

from types import ModuleType

import torch
from torch.nn import functional as F

from ham.llava.rotary import rotate
from ham.llava.shared_attention import attend_step
from ham.runtime import log


def load_kernels(head_dim: int, like: torch.Tensor) -> ModuleType | None:
    """Return the fused kernels where they run: on a GPU with Triton, after comparing them with the plain code."""
    if not like.is_cuda:
        return None
    try:
        from ham.llava import kernels

        worst = largest_difference(kernels, head_dim, like) if kernels.is_supported(head_dim) else 0.0
    except Exception as error:  # a compiler that does not run here raises almost any type
        log.warning("captioning without fused kernels: %s", str(error).strip().split("\n")[-1])
        return None
    if not worst < 0.05:
        log.warning("captioning without fused kernels: they differ by %.3g from the plain code", worst)
        return None
    return kernels if kernels.is_supported(head_dim) else None


def largest_difference(kernels: ModuleType, head_dim: int, like: torch.Tensor) -> float:
    """Compare the kernels with the plain code on random numbers."""
    numbers = torch.Generator(like.device).manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=numbers, device=like.device, dtype=like.dtype)

    lengths = torch.tensor([3, 0, 69, 20], device=like.device)
    visible = torch.arange(70, device=like.device) <= lengths[:, None]
    q = new(4, 2, head_dim)
    prefix = new(2, 2, 2, 70, head_dim)
    own = new(2, 4, 2, 70, head_dim)
    x = new(2, 5, 3, head_dim)
    cos = new(5, head_dim)
    sin = new(5, head_dim)
    gates = new(3, 999)
    up = new(3, 999)
    cos[:, head_dim // 2 :], sin[:, head_dim // 2 :] = cos[:, : head_dim // 2], sin[:, : head_dim // 2]
    differences = [
        kernels.attend_step(q, *prefix, *own, lengths) - attend_step(q, *prefix, *own, visible),
        kernels.rotate(x, cos, sin) - rotate(x, cos[:, None], sin[:, None]),
        kernels.gate(gates, up) - F.silu(gates) * up,
    ]
    return max(one.float().abs().max().item() for one in differences)
