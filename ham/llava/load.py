"""Building the network for a source and streaming its weights in.

Parameters are created without memory and then replaced by the tensors as they are read, one at a time, in the target dtype and
on the target device: a 7B model never needs twice its memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ham.llava import layouts
from ham.llava.model import LlavaModel, make_projector
from ham.llava.source import Source, check_lora_on_tower
from ham.llava.transformers_compat import build_llm, build_vision_tower, llm_config
from ham.llava.vision_tower import TowerSource, tower_tensors
from ham.runtime import UsageError


def build_model(source: Source, settings: dict[str, Any], attention: str) -> LlavaModel:
    """Build the network with parameters on the meta device. settings: the vision tower's."""
    config = source.config
    num_layers = layers_looked_at(config.get("mm_vision_select_layer", -2), settings["num_hidden_layers"])
    with torch.device("meta"):
        projector = make_projector(settings["hidden_size"], config["hidden_size"])
    return LlavaModel(
        build_llm(llm_config(config, attention)),
        build_vision_tower(settings, num_layers),
        projector,
        max_length=config.get("tokenizer_model_max_length"),
        padding_side=config.get("tokenizer_padding_side", "right"),
    )


def check_shapes(source: Source, settings: dict[str, Any]) -> None:
    """Raise UsageError when the headers of the weights do not fit config.json, before a network of that size is built."""
    config, shapes = source.config, source.shapes()
    for part, start in (("projector", layouts.PROJECTOR), ("language model", "model.layers.")):
        if not any(name.startswith(start) for name in shapes):
            raise UsageError(f"{source.folder}: there is no {part} among its weights (no '{start}...')")
    layers = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
    if len(layers) < config["num_hidden_layers"]:
        raise UsageError(
            f"{source.folder}: its weights hold {len(layers)} layers, but config.json asks for "
            f"{config['num_hidden_layers']}"
        )
    width = config["hidden_size"]
    expected = {
        layouts.EMBEDDINGS: (shapes.get(layouts.EMBEDDINGS, (0,))[0], width),
        "model.layers.0.mlp.gate_proj.weight": (config["intermediate_size"], width),
        layouts.PROJECTOR + "0.weight": (width, settings["hidden_size"]),
        layouts.PROJECTOR + "2.weight": (width, width),
    }
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            raise UsageError(
                f"{source.folder}: '{name}' is {shapes[name]}, but config.json and the vision tower ask for {shape}"
            )
    rows = shapes.get(layouts.EMBEDDINGS, (config["vocab_size"],))[0]
    if rows < config["vocab_size"]:
        raise UsageError(
            f"{source.folder}: {rows} embeddings, but config.json asks for a vocabulary of {config['vocab_size']}"
        )
    styles = shapes.get(layouts.STYLES)
    if styles is not None and (len(styles) != 2 or styles[1] != width):
        raise UsageError(
            f"{source.top}: its style prompts are {styles}, but the language model is {width} wide; this is not the "
            "base model they were trained on"
        )


def layers_looked_at(select_layer: int, num_layers: int) -> int:
    """Return how many of the tower's layers run before the hidden state that LLaVA uses; state 0 is the embeddings."""
    count = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 0 <= count <= num_layers:
        raise UsageError(
            f"mm_vision_select_layer is {select_layer}, but the vision tower has {num_layers} layers"
        )
    return count


def fill(
    model: LlavaModel,
    source: Source,
    tower: TowerSource,
    device: torch.device,
    dtype: torch.dtype,
    trainable_dtype: torch.dtype,
    trainable: tuple[str, ...] = ("projector.",),
) -> None:
    """Stream the weights into the network.

    trainable: prefixes of the parameters that take `trainable_dtype`; the others take `dtype`.
    Raises UsageError for tensors that are missing, unknown or of another shape.
    """
    check_lora_on_tower(source, tower.folder is None)
    empty = dict(model.named_parameters())
    for name, tensor, where in used_tensors(source, tower):
        key = layouts.module_name(name)
        parameter = empty.get(key)
        if parameter is None and key.startswith("vision_tower."):  # layers above the one that LLaVA uses
            continue
        if parameter is None:
            raise UsageError(
                f"{where}: '{name}' has no place in this model; its config.json does not fit its weights"
            )
        if name == layouts.STYLES and tensor.numel() == parameter.numel():
            tensor = tensor.reshape(parameter.shape)  # [S*K, D] -> [S, K, D]
        if tensor.shape != parameter.shape:
            raise UsageError(
                f"{where}: '{name}' is {tuple(tensor.shape)}, but config.json asks for {tuple(parameter.shape)}"
            )
        wanted = trainable_dtype if key.startswith(trainable) else dtype
        copy = own_copy(tensor, device, wanted)
        check_finite(copy, tensor, name, where)
        set_parameter(model, key, copy)
        del empty[key]
    if "llm.lm_head.weight" in empty and model.llm.config.tie_word_embeddings:
        set_parameter(model, "llm.lm_head.weight", model.llm.get_input_embeddings().weight.detach())
        del empty["llm.lm_head.weight"]
    if empty:
        missing = sorted(empty)
        raise UsageError(
            f"{source.folder}: {len(missing)} tensors are missing from the weights, e.g. {', '.join(missing[:3])}"
        )
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def used_tensors(source: Source, tower: TowerSource) -> Iterator[tuple[str, torch.Tensor, Path]]:
    """Yield the tensors of the language model and of the vision tower that runs, each with the folder it comes from."""
    from_inside = tower.folder is None
    for name, tensor in source.tensors(
        lambda name: not layouts.is_unused(name) and (from_inside or not name.startswith(layouts.TOWER))
    ):
        yield name, tensor, source.folder
    if tower.folder is not None:
        for name, tensor in tower_tensors(tower.folder):
            if not layouts.is_unused(name):
                yield name, tensor, tower.folder


def own_copy(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Copy a tensor that may be a view of a mapped file to its device and dtype."""
    if device.type == "cpu":
        return tensor.to(dtype, copy=True).contiguous()
    return tensor.to(device).to(dtype).contiguous()  # a GPU converts faster than the CPU


def check_finite(copy: torch.Tensor, original: torch.Tensor, name: str, where: Path) -> None:
    """Raise UsageError for NaN or infinity in a weight: every caption would be empty.

    The extremes show both in one pass, without a temporary copy.
    """
    lowest, highest = torch.aminmax(copy)
    if math.isfinite(lowest.item()) and math.isfinite(highest.item()):
        return
    if bool(original.isfinite().all()):
        raise UsageError(
            f"{where}: '{name}' does not fit into {str(copy.dtype).removeprefix('torch.')} (largest value "
            f"{original.abs().max().item():.3g}); use bfloat16 or float32"
        )
    broken = int((~original.isfinite()).flatten(1).any(1).sum()) if original.dim() > 1 else 1
    raise UsageError(
        f"{where}: '{name}' holds NaN or infinity ({broken} of {len(original)} rows); the checkpoint is damaged or its "
        "training diverged"
    )


def set_parameter(model: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Replace a parameter on the meta device by a tensor."""
    owner, _, name = key.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(tensor, requires_grad=False))
