"""Families of captioners: which kind of model a folder holds, and how each kind is tuned, estimated, shown and exported.

Adding a family touches its own file (the functions of `FamilyModule`) and one entry in FAMILIES.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from ham.captioner.adapter import MANIFEST
from ham.records import read_json
from ham.runtime import UsageError

# Checked in this order; imported when needed, because a family's module imports this one.
FAMILIES = {
    "llava": "ham.captioner.llava_family",
    "vlm": "ham.captioner.vlm_family",
}
DEFAULT = "llava"  # reports what is wrong with a folder that no family recognizes


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


class FamilyModule(Protocol):
    """The functions of a family's module."""

    def recognizes(self, folder: Path) -> bool:
        """Return whether a base model or an export belongs to the family, from its config.json; adapters record theirs."""

    def prepare(
        self, model_args: Any, data_args: Any, args: Any, file: Any, num_styles: int, prompt: str
    ) -> Tuning:
        """Check the data, load the base model with its styles and collect what the trainer needs."""

    def estimate(self, model_args: Any, settings: Any) -> str:
        """Format what tuning with these `ham.captioner.estimate.Settings` will need, without loading weights."""

    def describe(self, path: Path, base_model: Path | None) -> str:
        """Format what a checkpoint is, without loading it."""

    def export(self, options: argparse.Namespace) -> None:
        """Write model and styles as one folder: the options of `python -m ham.captioner.checkpoint merge`."""


def family_of(path: str | Path, asked: str | None = None) -> str:
    """Return the name of the family that a folder belongs to, detected from its files.

    asked: a family to use instead, for LLaVA checkpoints in the llava-hf layout, which both families can run. Raises
    UsageError for an adapter of a family that is not known or not the one asked for.
    """
    if asked is not None and asked not in FAMILIES:
        raise UsageError(f"--family {asked}: expected one of {', '.join(FAMILIES)}")
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST)
        recorded = manifest.get("family", DEFAULT) if isinstance(manifest, dict) else DEFAULT
        if asked not in (None, recorded):
            raise UsageError(f"--family {asked}: the adapter {folder} belongs to the family '{recorded}'")
        if recorded not in FAMILIES:
            raise UsageError(
                f"{folder / MANIFEST}: family is {recorded!r:.40}; expected one of {', '.join(FAMILIES)}"
            )
        return recorded
    if asked is not None:
        return asked
    return next((name for name in FAMILIES if family_module(name).recognizes(folder)), DEFAULT)


def family_module(name: str) -> FamilyModule:
    """Import a family's module."""
    return cast(FamilyModule, importlib.import_module(FAMILIES[name]))
