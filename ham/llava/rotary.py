"""Llama's rotary positions: the settings of a config, and the rotation."""

from __future__ import annotations

from typing import Any

import torch

from ham.runtime import UsageError


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys [..., d] by their positions' angles, which broadcast to them."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def read_rotary(config: Any) -> tuple[float, float]:
    """Read the rotary base and the linear scaling factor of a Llama config of any transformers version."""
    rope = {
        **(getattr(config, "rope_scaling", None) or {}),
        **(getattr(config, "rope_parameters", None) or {}),
    }
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise UsageError(
            f"rotary scaling '{kind}' is not supported by the captioning engine; it supports default and linear"
        )
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0
    return float(theta), float(rope.get("factor", 1.0)) if kind == "linear" else 1.0
