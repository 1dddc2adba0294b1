"""Open a checkpoint for the commands that encode with it."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState

from ham.clip.layouts import read_weights
from ham.reid.config import EvalConfig, SearchConfig
from ham.reid.encode import EncodeSettings
from ham.reid.protocol import RetrievalMethod
from ham.reid.weights import load_method
from ham.runtime import UsageError, dist_info, resolve_device, resolve_dtype


def open_model(config: EvalConfig | SearchConfig) -> tuple[RetrievalMethod, EncodeSettings, torch.device]:
    """Load a checkpoint on the device for encoding."""
    device = resolve_device(config.device)
    if dist_info().world_size > 1:
        PartialState(cpu=device.type == "cpu")
    weights = read_weights(config.checkpoint)
    model = load_method(weights, config.method, config.image_size_px, config.stride_px).to(device)
    clip = model.base_model.config
    settings = EncodeSettings(
        clip.image_size_px,
        min(config.text_length, clip.context_length),
        config.batch_size,
        config.num_workers,
        resolve_dtype(config.precision, device),
    )
    return model, settings, device


def require(config: Any, *names: str) -> None:
    """Raise UsageError for the first of the options that is missing."""
    for name in names:
        if not getattr(config, name):
            raise UsageError(f"--{name} is missing; set it in the YAML file or on the command line")
