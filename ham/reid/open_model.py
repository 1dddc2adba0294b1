"""Open a checkpoint for the commands that encode with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ham.clip.layouts import read_weights
from ham.reid.encode import EncodeSettings
from ham.reid.eval_config import ModelConfig
from ham.reid.protocol import RetrievalMethod
from ham.reid.weights import load_method
from ham.runtime import UsageError, dist_info, resolve_device, resolve_dtype


def open_model(
    config: ModelConfig, checkpoint: Path | None = None, grouped: bool = True
) -> tuple[RetrievalMethod, EncodeSettings, torch.device]:
    """Load a checkpoint on the device for encoding; its file is opened once.

    checkpoint: by default the config's. grouped: processes share the work of each call; False: each works alone.
    """
    check_options(config)
    device = resolve_device(config.device)
    if grouped and dist_info().world_size > 1:
        PartialState(cpu=device.type == "cpu")
    weights = read_weights(checkpoint or config.checkpoint, config.ignore_tensors)
    model = load_method(weights, config.method, config.image_size_px, config.stride_px, config.heads).to(
        device
    )
    clip = model.base_model.config
    settings = EncodeSettings(
        clip.image_size_px,
        min(config.text_length or clip.context_length, clip.context_length),
        config.batch_size,
        config.num_workers,
        resolve_dtype(config.precision, device),
        config.max_failed_share,
    )
    return model, settings, device


def check_options(config: ModelConfig) -> None:
    """Raise UsageError for a number out of its range."""
    ranges = {
        "batch_size": (1, None),
        "num_workers": (0, None),
        "text_length": (3, None),
        "stride_px": (1, None),
        "max_failed_share": (0, 1),
    }
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and (value < least or (most is not None and value > most)):
            limit = f"{least} to {most}" if most is not None else f"at least {least}"
            raise UsageError(f"--{name} is {value}; expected {limit}")


def require(config: Any, *names: str) -> None:
    """Raise UsageError for the first of the options that is missing."""
    for name in names:
        if not getattr(config, name):
            raise UsageError(f"--{name} is missing; set it in the YAML file or on the command line")
