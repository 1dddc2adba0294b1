"""Per-parameter learning rates, and the optimizer over as few parameter groups as they need.

The reference has one group per parameter, which keeps an optimizer from fusing its work. Here parameters of equal settings
share a group; each parameter's settings are the reference's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ham.runtime import UsageError

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-3}),
    "adamw": (torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


def parameter_settings(
    name: str,
    lr: float,
    weight_decay: float = 4e-5,
    bias_lr_factor: float = 2.0,
    weight_decay_bias: float = 0.0,
    new_layer_lr_factor: float = 5.0,
    own_lr: Mapping[str, float] | None = None,
) -> tuple[float, float]:
    """Return the learning rate and weight decay of one parameter by its name; a later rule overrides an earlier one's rate.

    "cross" in the name: lr * new_layer_lr_factor. "bias": lr * bias_lr_factor, and weight_decay_bias. "classifier" or
    "mlm_head": lr * new_layer_lr_factor. own_lr: {part of a name: its rate}, a method's own rules.
    Source: IRRA, solver/build.py, build_optimizer; RDE's adds the last rule.
    """
    rate, decay = lr, weight_decay
    if "cross" in name:
        rate = lr * new_layer_lr_factor
    if "bias" in name:
        rate, decay = lr * bias_lr_factor, weight_decay_bias
    if "classifier" in name or "mlm_head" in name:
        rate = lr * new_layer_lr_factor
    for part, own in (own_lr or {}).items():
        if part in name:
            rate = own
    return rate, decay


def parameter_groups(model: nn.Module, lr: float, **settings: Any) -> list[dict[str, Any]]:
    """Group the trainable parameters of a model by equal settings, in the order of their first appearance.

    Each group: params, names, lr, base_lr (what a schedule multiplies) and weight_decay. settings: see `parameter_settings`.
    Raises UsageError when nothing is trainable.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate, decay = parameter_settings(name, lr, **settings)
            empty = {"params": [], "names": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
            group = groups.setdefault((rate, decay), empty)
            group["params"].append(parameter)
            group["names"].append(name)
    if not groups:
        raise UsageError("the model has no trainable parameter; nothing to optimize")
    return list(groups.values())


def build_optimizer(
    model: nn.Module, name: str = "adam", lr: float = 1e-5, fused: bool = True, **settings: Any
) -> torch.optim.Optimizer:
    """Build adam | adamw | sgd with the reference's hyperparameters (Adam: eps 1e-3) over `parameter_groups`.

    fused: one kernel for a whole group, on CPUs and GPUs. Raises UsageError for an unknown name.
    """
    if name.lower() not in OPTIMIZERS:
        raise UsageError(f"optimizer '{name}' is not known; use one of {', '.join(OPTIMIZERS)}")
    kind, hyperparameters = OPTIMIZERS[name.lower()]
    return kind(parameter_groups(model, lr, **settings), lr=lr, fused=fused, **hyperparameters)


def set_lr_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
