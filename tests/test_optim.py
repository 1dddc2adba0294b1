"""Parameter groups against the recorded reference; few fused groups against one plain group per parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ham.reid.optim import build_optimizer, parameter_groups, parameter_settings, set_lr_factor
from ham.runtime import UsageError

TOKEN_SELECTION = {"visul_emb_layer": 1e-3, "texual_emb_layer": 1e-3}


class Small(nn.Module):
    """Names that meet every rule, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(4, 4)
        self.cross_attn = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 3)
        self.visul_emb_layer = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.visul_emb_layer(self.cross_attn(self.base(values))).tanh()).square().sum()


def test_settings_equal_the_recorded_reference(parity: Path) -> None:
    recorded = json.loads((parity / "param_groups.json").read_text())
    options = recorded["args"]
    with safe_open(parity / "irra_tiny.safetensors", framework="pt") as weights:
        assert set(recorded["Adam"]["groups"]) <= set(weights.keys())
    for name, expected in recorded["Adam"]["groups"].items():
        found = parameter_settings(
            name,
            options["lr"],
            options["weight_decay"],
            options["bias_lr_factor"],
            options["weight_decay_bias"],
            options["lr_factor"],
        )
        assert found == (expected["lr"], expected["weight_decay"]), name
        assert parameter_settings(name, options["lr"]) == found, "the reference's options are our defaults"
    for name in ("Adam", "AdamW", "SGD"):
        optimizer = build_optimizer(Small(), name, options["lr"])
        for key in set(recorded[name]["defaults"]) - {"weight_decay"}:  # every group has its own decay
            value = optimizer.defaults[key]
            assert (list(value) if isinstance(value, tuple) else value) == recorded[name]["defaults"][key], (
                name,
                key,
            )


def test_rules_override_in_order() -> None:
    model = Small()
    settings = {
        name: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, 1e-5, own_lr=TOKEN_SELECTION)
        for name in group["names"]
    }
    assert settings == {
        "base.weight": (1e-5, 4e-5),
        "base.bias": (2e-5, 0.0),
        "cross_attn.weight": (5e-5, 4e-5),
        "cross_attn.bias": (2e-5, 0.0),
        "classifier.weight": (5e-5, 4e-5),
        "classifier.bias": (5e-5, 0.0),
        "visul_emb_layer.weight": (1e-3, 4e-5),
        "visul_emb_layer.bias": (1e-3, 0.0),
    }


def test_groups_hold_every_trainable_parameter_once() -> None:
    model = Small()
    groups = parameter_groups(model, 1e-5)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    settings = [(group["lr"], group["weight_decay"]) for group in groups]
    assert len(set(settings)) == len(settings) == 4


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_groups_step_like_one_plain_group_per_parameter(name: str) -> None:
    ours, plain = Small(), Small()
    fused = build_optimizer(ours, name, lr=1e-2)
    assert all(group["fused"] for group in fused.param_groups)
    groups = [
        {"params": [parameter], **dict(zip(("lr", "weight_decay"), parameter_settings(key, 1e-2)))}
        for key, parameter in plain.named_parameters()
        if parameter.requires_grad
    ]
    options = {key: value for key, value in fused.defaults.items() if key in ("betas", "eps", "momentum")}
    slow = type(fused)(groups, lr=1e-2, foreach=False, **options)
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        for model, optimizer in ((ours, fused), (plain, slow)):
            optimizer.zero_grad()
            model(values).backward()
            optimizer.step()
    for left, right in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


def test_factor_multiplies_the_base_rate_and_survives_a_checkpoint() -> None:
    model = Small()
    optimizer = build_optimizer(model, lr=1e-5)
    set_lr_factor(optimizer, 0.1)
    set_lr_factor(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [
        group["base_lr"] * 0.5 for group in optimizer.param_groups
    ]
    again = build_optimizer(model, lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    set_lr_factor(again, 1.0)
    assert again.param_groups[0]["lr"] == 1e-5


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="'lion' is not known; use one of adam, adamw, sgd"):
        build_optimizer(Small(), "lion")
    with pytest.raises(UsageError, match="no trainable parameter"):
        build_optimizer(Small().requires_grad_(False))
