"""Optional int8 or FP8 weights of the language model's layers, through torchao.

    int8   weights in int8, products in the captioner's dtype: half the memory of bfloat16
    fp8    weights in FP8; on a GPU with FP8 units (H100, L40, ...) the products too, with activations rounded on the way

Image tower, projector, styles, embeddings and the output layer stay as they are. Captions may change, and close choices are
not checked again: they may depend on the batch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ham.runtime import UsageError

FULL = "full"
INSTALL = "pip install 'ham[quantize]', or pip install torchao"
FP8_CAPABILITY = (8, 9)


def check_weights(kind: str, device: torch.device) -> None:
    """Check that weights of this kind can be made. Raises UsageError with the line that installs what is missing."""
    if kind == FULL:
        return
    if find_spec("torchao") is None:
        raise UsageError(f"--weights {kind} needs torchao, which is not installed: {INSTALL}")
    if kind == "fp8" and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < FP8_CAPABILITY:
            raise UsageError(
                f"--weights fp8 needs a GPU of compute capability 8.9 or more (H100, L40); {device} has "
                f"{found[0]}.{found[1]}; use --weights int8"
            )


def quantize(llm: nn.Module, kind: str, device: torch.device) -> None:
    """Quantize the layers of a language model in place; `full` changes nothing. Raises UsageError."""
    check_weights(kind, device)
    if kind == FULL:
        return
    try:
        from torchao import quantization
    except ImportError as error:
        raise UsageError(
            f"--weights {kind}: torchao cannot be imported ({error}); its version may not fit torch "
            f"{torch.__version__}: pip install --upgrade torchao"
        ) from None
    quantization.quantize_(llm.model, _config(quantization, kind, device))


def is_quantized(model: nn.Module) -> bool:
    """Return whether any linear layer has weights that are not plain numbers."""
    linears = (module for module in model.modules() if isinstance(module, nn.Linear))
    return any(type(module.weight.data) is not torch.Tensor for module in linears)


def _config(quantization: Any, kind: str, device: torch.device) -> Any:
    if kind == "int8":
        return quantization.Int8WeightOnlyConfig()
    if device.type == "cuda":
        return quantization.Float8DynamicActivationFloat8WeightConfig()
    return quantization.Float8WeightOnlyConfig()
