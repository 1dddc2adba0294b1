"""LoRA on the language model: an option that the paper does not use, off by default.

Matrices are stored in peft's own format: a LoRA folder, or `lora/` inside one of our adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ham.llava import layouts
from ham.runtime import UsageError
from ham.tensor_files import index, read_settings, write_file

LORA_FOLDER = "lora"  # inside an adapter, in peft's own format
# What peft writes before the names of the language model's parameters, and what the training model has there.
IN_MODEL, IN_FILE = "llm.", "base_model.model."
UNSUPPORTED = (
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
)


@dataclass
class LowRank:
    """One low-rank update: weight + scale * up @ down. down [r, in], up [out, r]."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


# ---------------------------------------------------------------------------------------------------------------- reading


def read_lora(folder: Path) -> dict[str, LowRank]:
    """Read peft's matrices by the original name of the weight that they update.

    Raises UsageError for kinds of LoRA that are not plain, and for matrices that are missing, empty or of the wrong shape.
    """
    settings = read_settings(folder / "adapter_config.json")
    scale = scale_of(settings, folder)
    places = [folder / "adapter_model.safetensors", folder / "adapter_model.bin"]
    weights = next((place for place in places if place.is_file()), None)
    if weights is None:
        raise UsageError(
            f"{folder}: neither adapter_model.safetensors nor adapter_model.bin beside adapter_config.json"
        )
    tensors = dict(index(weights).stream())
    downs = [name for name in tensors if ".lora_A." in name]
    pairs = {name: name.replace(".lora_A.", ".lora_B.") for name in downs}
    alone = sorted(set(tensors) ^ (set(pairs) | set(pairs.values())))
    if alone or not downs:
        raise UsageError(
            f"{weights}: {len(tensors)} tensors, {len(downs)} of them lora_A; expected pairs of lora_A and lora_B"
            + (f", but '{alone[0]}' has no partner" if alone else "")
        )
    updates = {}
    for name, partner in pairs.items():
        down, up = tensors[name], tensors[partner]
        check_pair(weights, name, down, up, settings["r"])
        updates[layouts.original_name(name.replace(".lora_A.default.", ".").replace(".lora_A.", "."))] = (
            LowRank(down, up, scale)
        )
    return updates


def scale_of(settings: dict[str, Any], folder: Path) -> float:
    """Check peft's settings and compute the factor of up @ down."""
    file = folder / "adapter_config.json"
    odd = [key for key in UNSUPPORTED if settings.get(key)]
    kind = settings.get("peft_type", "LORA")
    bias = settings.get("bias", "none")
    if kind != "LORA" or odd or bias != "none":
        raise UsageError(
            f"{file}: adapter of type {kind} with {odd or f'bias {bias}'}; only plain LoRA without biases is supported"
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UsageError(f"{file}: 'r' is {rank!r}; expected the rank, a whole number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise UsageError(f"{file}: 'lora_alpha' is {alpha!r}; expected a number")
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def check_pair(file: Path, name: str, down: torch.Tensor, up: torch.Tensor, rank: int) -> None:
    """Raise UsageError unless two matrices are [r, in] and [out, r]."""
    if 0 in (down.numel(), up.numel()):
        raise UsageError(
            f"{file}: '{name}' is empty: it was saved from ZeRO-3 without gathering its shards; save the LoRA again"
        )
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != rank or up.shape[1] != rank:
        raise UsageError(
            f"{file}: '{name}' is {tuple(down.shape)} and its partner {tuple(up.shape)}; expected [{rank}, in] and "
            f"[out, {rank}]"
        )


# --------------------------------------------------------------------------------------------------------------- training


def add_lora(llm: nn.Module, rank: int, alpha: int, dropout: float) -> Any:
    """Add trainable low-rank matrices to every linear layer of the language model but its head; returns peft's config."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError(
            f"--lora_enable needs peft 0.5 or newer, here is {version('peft')}; install it with transformers 5"
        ) from None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    inject_adapter_in_model(config, llm)
    for name, parameter in llm.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return config


def is_lora(name: str) -> bool:
    """Return whether a parameter of the training model is a LoRA matrix."""
    return ".lora_A." in name or ".lora_B." in name


def save_lora(folder: Path, config: Any, tensors: dict[str, torch.Tensor], base_model: str) -> None:
    """Write `folder/lora/` as peft does: adapter_model.safetensors and adapter_config.json."""
    config.base_model_name_or_path = base_model
    (folder / LORA_FOLDER).mkdir(parents=True, exist_ok=True)
    named = {
        IN_FILE + name.removeprefix(IN_MODEL).replace(".default.", "."): tensor
        for name, tensor in tensors.items()
    }
    write_file(folder / LORA_FOLDER / "adapter_model.safetensors", named)
    config.save_pretrained(str(folder / LORA_FOLDER))


def load_lora(folder: Path) -> dict[str, torch.Tensor]:
    """Read the matrices of `folder/lora/` under the names that the training model gives them; {} where there are none."""
    file = folder / LORA_FOLDER / "adapter_model.safetensors"
    if not file.is_file():
        return {}
    return {
        IN_MODEL + name.removeprefix(IN_FILE).replace(".weight", ".default.weight"): tensor
        for name, tensor in index(file).stream()
    }
