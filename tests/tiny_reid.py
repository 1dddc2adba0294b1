"""Tiny CLIPs and recorded batches for the tests of retrieval methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ham.clip import CLIPConfig, tokenize

RED_COAT = tuple(tokenize("a man in a red coat")[0].tolist())


def tiny_clip(**more: Any) -> CLIPConfig:
    """Two layers of width 32, for images of 24 x 16, with the words of one caption; `more` overrides."""
    sizes = {
        "image_size_px": (24, 16),
        "patch_px": 8,
        "stride_px": 8,
        "embed_dim": 24,
        "vision_width": 32,
        "vision_layers": 2,
        "text_width": 24,
        "text_layers": 2,
        "vocab_size": 49408,
        "token_ids": RED_COAT,
    }
    return CLIPConfig(**{**sizes, **more})


def tall_clip(**more: Any) -> CLIPConfig:
    """The same for images of 48 x 16 and captions of 24 tokens, with every word."""
    sizes = {"image_size_px": (48, 16), "embed_dim": 32, "text_width": 32, "context_length": 24}
    return tiny_clip(**{**sizes, "token_ids": None, **more})


def load_recorded(model: torch.nn.Module, file: Path) -> Any:
    """Load the reference's weights into a method, in evaluation mode; only the logit scale, a constant there, is missing."""
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    assert (missing, unexpected) == (["base_model.logit_scale"], [])
    return model.eval()


def recorded_batch(recorded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch of a recording."""
    start = "batch."
    batch = {name.removeprefix(start): value for name, value in recorded.items() if name.startswith(start)}
    return batch | {"person_ids": batch["pids"]}
