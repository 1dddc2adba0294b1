"""Write a copy of an export with wider attention heads, for servers that support only some head widths.

    python -m scripts.bench.pad_heads EXPORT OUT --head-dim 32

vLLM on a CPU takes heads of 32, 64, 80, 96, 112 or 128; the synthetic dataset's LLaVA has 24. The added dimensions are zero,
the query absorbs the other softmax scale, and rope_theta keeps the frequencies, so the captions stay the same.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham import tensor_files
from ham.records import read_json, write_json
from ham.runtime import UsageError, exit_code_of, set_up_logging

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def main(words: list[str] | None = None) -> int:
    """Parse the options and write the copy."""
    set_up_logging()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", type=Path, help="folder written by the export")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--head-dim", type=int, default=32, help="width of a head in the copy")
    options = parser.parse_args(words)
    pad_export(options.export, options.out, options.head_dim)
    return 0


def pad_export(export: Path, out: Path, head_dim: int) -> None:
    """Write `export` to `out` with heads of `head_dim`. Raises UsageError for a width that is no wider, or odd."""
    config = read_json(export / "config.json")
    text = config["text_config"]
    old_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if head_dim <= old_dim or head_dim % 2:
        raise UsageError(f"--head-dim {head_dim}: expected an even number above the export's {old_dim}")
    out.mkdir(parents=True)
    for file in export.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copy(file, out / file.name)
    weights = tensor_files.index(export)
    tensors = {name: pad_tensor(name, weights.read(name), old_dim, head_dim) for name in weights}
    tensor_files.write_file(out / "model.safetensors", tensors)
    write_json(out / "config.json", padded_config(config, old_dim, head_dim))


def padded_config(config: dict[str, Any], old_dim: int, head_dim: int) -> dict[str, Any]:
    """Return the config of the copy: frequency i of a head is theta ** (-2 i / width), whatever the width."""
    text = config["text_config"]
    theta = (text.get("rope_theta") or 10000.0) ** (head_dim / old_dim)
    text = {**text, "head_dim": head_dim, "rope_theta": theta, "dtype": "float32", "torch_dtype": "float32"}
    return {**config, "text_config": text, "dtype": "float32", "torch_dtype": "float32"}


def pad_tensor(name: str, tensor: Tensor, old_dim: int, head_dim: int) -> Tensor:
    """Return a language model's attention projection with wider heads; any other tensor as it is."""
    projection = name.rpartition(".self_attn.")[2].removesuffix(".weight")
    if not name.startswith("language_model.") or projection not in PROJECTIONS:
        return tensor
    if projection == "o_proj":
        return pad_rows(tensor.T.float(), old_dim, head_dim).T.contiguous()
    wide = pad_rows(tensor.float(), old_dim, head_dim)
    if projection == "q_proj":
        wide = wide * math.sqrt(head_dim / old_dim)  # softmax divides by the root of the wider head
    return wide


def pad_rows(weight: Tensor, old_dim: int, head_dim: int) -> Tensor:
    """Pad each head's rows, [heads * old_dim, D] to [heads * head_dim, D], keeping the halves that RoPE rotates together."""
    heads = weight.unflatten(0, (-1, 2, old_dim // 2))  # [heads, 2, old_dim / 2, D]
    wide = torch.zeros(heads.shape[0], 2, head_dim // 2, weight.shape[1])
    wide[:, :, : old_dim // 2] = heads
    return wide.flatten(0, 2)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
