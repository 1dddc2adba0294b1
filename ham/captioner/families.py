"""Families of captioners: which kind of model a folder holds, and how each kind is tuned.

Adding a family touches its own file and one entry in FAMILIES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ham.captioner.adapter import MANIFEST
from ham.records import read_json
from ham.runtime import UsageError
from ham.vlm.load import is_vision_language_model

# name -> module with `prepare(model_args, data_args, args, file, num_styles, prompt) -> Tuning`
FAMILIES = {
    "llava": "ham.captioner.llava_family",
    "vlm": "ham.captioner.vlm_family",
}


LLAVA_TYPES = ("llava", "llava_llama", "llava_next")  # with a Llama language model


@dataclass
class Tuning:
    """What a family hands to the trainer.

    model: the module to train, with `style_bank.*` and `projector.*` among its trained parameters. save(folder, tensors)
    writes a checkpoint from the trained parameters, load(folder) reads them back, both under the parameters' names.
    """

    captioner: Any
    model: nn.Module
    dataset: Any
    collator: Callable[..., Any]
    save: Callable[[Path, dict[str, torch.Tensor]], None]
    load: Callable[[Path], dict[str, torch.Tensor]]


def family_of(path: str | Path, asked: str | None = None) -> str:
    """Return the name of the family that a folder belongs to, detected from its files.

    asked: a family to use instead, for LLaVA checkpoints in the llava-hf layout, which both families can run. Raises
    UsageError for a folder that no family knows.
    """
    if asked is not None and asked not in FAMILIES:
        raise UsageError(f"--family {asked}: expected one of {', '.join(FAMILIES)}")
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST)
        recorded = manifest.get("family", "llava") if isinstance(manifest, dict) else "llava"
        if asked not in (None, recorded):
            raise UsageError(f"--family {asked}: the adapter {folder} belongs to the family '{recorded}'")
        if recorded not in FAMILIES:
            raise UsageError(
                f"{folder / MANIFEST}: family is {recorded!r:.40}; expected one of {', '.join(FAMILIES)}"
            )
        return recorded
    if asked is not None:
        return asked
    if not is_llava(folder) and is_vision_language_model(folder):
        return "vlm"
    return "llava"


def is_llava(folder: Path) -> bool:
    """Return whether a config names a LLaVA with a Llama language model, in the original or the llava-hf layout."""
    if not (folder / "config.json").is_file():
        return False
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") not in LLAVA_TYPES:
        return False
    text = config.get("text_config")
    return not isinstance(text, dict) or text.get("model_type", "llama") == "llama"


def prepare_tuning(family: str, *arguments: Any) -> Tuning:
    """Call a family's `prepare`."""
    return importlib.import_module(FAMILIES[family]).prepare(*arguments)
