"""Linear layers with weights packed for oneDNN: faster on a CPU in float32, most of all with few rows.

    rows                      1     16    64    642
    512 x 32000, plain        6     36    66          GFLOP/s of one AMD EPYC core
    512 x 32000, packed       7     70    98
    512 x 1376, plain               75    97    98
    512 x 1376, packed              104   112   110

The operators are those of torch.compile and not part of torch's public interface. Therefore a packed layer is compared with
the plain one first, and the plain ones are used where the operators are absent or differ.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ham.runtime import log

MAX_PARAMETERS = 2_000_000_000  # packed weights are a copy: above this the memory matters more
TOLERANCE = 1e-4  # of the largest output
ROWS = 3


class PackedLinears:
    """Apply the linear layers of a model, packed where that serves: `linear(layer, x)` computes `layer(x)`.

    The weights must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        plain = [module for module in model.modules() if _can_pack(module)]
        self._packed: dict[nn.Module, torch.Tensor] = {}
        if sum(module.weight.numel() for module in plain) > MAX_PARAMETERS:
            return
        for module in plain:
            packed = _pack(module)
            if packed is None:
                self._packed.clear()
                return
            self._packed[module] = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __call__(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        packed = self._packed.get(module)
        return module(x) if packed is None else _apply(packed, module, x)


def _can_pack(module: nn.Module) -> bool:
    """Return whether a module is an ordinary float32 linear layer on a CPU with oneDNN."""
    if type(module) is not nn.Linear or type(module.weight.data) is not torch.Tensor:
        return False
    weight = module.weight
    is_plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
    return is_plain and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


@torch.inference_mode()
def _pack(module: nn.Linear) -> torch.Tensor | None:
    """Pack a layer's weight; None, with a warning, where this torch cannot or computes something else."""
    x = torch.linspace(-1, 1, ROWS * module.in_features).view(ROWS, -1)
    expected = F.linear(x, module.weight, module.bias)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
        worst = (_apply(packed, module, x) - expected).abs().max().item()
    except (AttributeError, RuntimeError, TypeError) as error:
        log.warning("captioning without packed weights: %s", str(error).strip().split("\n")[0])
        return None
    largest = expected.abs().max().item()
    if worst <= TOLERANCE * largest or largest != largest:
        return packed
    log.warning("captioning without packed weights: they differ by %.3g from the plain ones", worst)
    return None


def _apply(packed: torch.Tensor, module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, module.bias, "none", [], "")
