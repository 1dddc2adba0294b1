"""Tiny CLIPs, recorded batches, command lines and interruptions for the tests of retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ham.clip import CLIPConfig, tokenize
from ham.reid.train_log import Meter

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


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Interrupt the training in the block at a step, as Ctrl-C does."""
    original = Meter.add

    def add(meter: Meter, number: int, values: dict) -> None:
        if number == step:
            raise KeyboardInterrupt
        original(meter, number, values)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Meter, "add", add)
        yield


def eval_words(world: Path, checkpoint: Path, *more: str) -> list[str]:
    """Return the words of `train_reid.py eval` on one benchmark of the tests' dataset."""
    words = ["eval", "--checkpoint", str(checkpoint), "--data-root", str(world)]
    return [*words, "--test-datasets", "[RSTPReid]", "--num-workers", "0", "--device", "cpu", *more]
