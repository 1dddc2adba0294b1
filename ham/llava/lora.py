"""LoRA on the language model: an option that the paper does not use, off by default.

The matrices are kept in peft's own format, in the folder `lora/` of an adapter; `ham.llava.source` merges them at load.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ham.runtime import UsageError

LORA_FOLDER = "lora"  # inside an adapter, in peft's own format
IN_MODEL, IN_FILE = (
    "llm.",
    "base_model.model.",
)  # what peft puts before the names of the language model's parameters


def add_lora(llm: nn.Module, rank: int, alpha: int, dropout: float) -> Any:
    """Put trainable low-rank matrices beside every linear layer of the language model but its head; returns peft's config."""
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
    return ".lora_A." in name or ".lora_B." in name


def save_lora(folder: Path, config: Any, tensors: dict[str, torch.Tensor], base_model: str) -> None:
    """Write `folder/lora/` as peft does: adapter_model.safetensors and adapter_config.json."""
    config.base_model_name_or_path = base_model
    (folder / LORA_FOLDER).mkdir(parents=True, exist_ok=True)
    save_file(
        {
            IN_FILE + name.removeprefix(IN_MODEL).replace(".default.", "."): tensor
            for name, tensor in tensors.items()
        },
        str(folder / LORA_FOLDER / "adapter_model.safetensors"),
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder / LORA_FOLDER))


def load_lora(folder: Path) -> dict[str, torch.Tensor]:
    """Read the matrices of `folder/lora/` under the names that the training model gives them; {} where there are none."""
    file = folder / LORA_FOLDER / "adapter_model.safetensors"
    if not file.is_file():
        return {}
    return {
        IN_MODEL + name.removeprefix(IN_FILE).replace(".weight", ".default.weight"): tensor
        for name, tensor in load_file(str(file)).items()
    }
