"""The memory estimate of a training run: exact parameters, counted activations, no memory used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_reid_train import config_for, world  # noqa: F401  (the fixture)

from ham.clip import build_clip
from ham.reid.config import TrainConfig
from ham.reid.estimate import activation_bytes, estimate, tower_sizes
from ham.reid.methods import build_method
from ham.reid.train import set_up
from ham.runtime import UsageError
from train_reid import main


@pytest.mark.parametrize("method", ["sdm", "irra", "rde"])
def test_parameters_and_activations_are_those_of_the_real_model(
    world: Path, tmp_path: Path, method: str
) -> None:
    config = config_for(world, tmp_path, method=method)
    run = set_up(config)
    found = estimate(config)
    counted = sum(value.numel() for name, value in run.method.named_parameters() if "classifier" not in name)
    classifier = 0 if method != "irra" else 10_000 * 33
    assert found.parameters == counted + classifier
    sizes = tower_sizes(config)
    real = build_method(method, build_clip(sizes), 10)
    two, four = (activation_bytes(real, sizes, pairs, torch.float32) for pairs in (2, 4))
    assert found.per_pair == (four - two) // 2 > 0


def test_less_memory_with_checkpointing_and_smaller_steps() -> None:
    whole = TrainConfig(batch_size=64, weights=Path("not there.pt"))
    plain, checkpointed = estimate(whole), estimate(replace(whole, gradient_checkpointing=True))
    assert checkpointed.per_pair < plain.per_pair / 3 and checkpointed.fixed == plain.fixed
    assert estimate(replace(whole, accumulation_steps=4)).pairs == 16
    assert plain.largest_batch(80) > plain.largest_batch(24) > 0 == plain.largest_batch(1)
    assert 140e6 < plain.parameters < 160e6  # ViT-B/16


def test_the_command_prints_a_table_and_trains_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "finetune",
        "--estimate",
        "--weights",
        str(world / "clip"),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    size = ["--image-size-px", "48", "16", "--stride-px", "8", "--text-length", "24", "--precision", "fp32"]
    assert main([*words, *size]) == 0
    text = capsys.readouterr().out
    assert "in all, per process" in text and "largest number of pairs" in text
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--lr is -1"):
        main([*words, "--lr", "-1"])
