"""Building the network for a source and streaming its weights in.

Parameters are made without memory and then take the tensors as they are read, one at a time, in the target dtype and on the
target device: a 7B model never needs twice its memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ham.llava import layouts
from ham.llava.model import LlavaModel, make_projector
from ham.llava.source import Source
from ham.llava.transformers_compat import build_llm, build_vision_tower, llm_config
from ham.llava.vision_tower import TowerSource, plain_tower_folder, tower_settings, tower_tensors
from ham.runtime import UsageError


def build_model(
    source: Source, tower: TowerSource, names: set[str], attention: str
) -> tuple[LlavaModel, int, int]:
    """Build the network with parameters on the meta device.

    Returns: the network, the image size in pixels and the tokens per image.
    """
    config = source.config
    check_presence(source, names, tower)
    settings = tower_settings(
        tower,
        config,
        lambda: shapes_of(source, layouts.TOWER),
        plain_tower_folder(source.folder, config.get("mm_vision_tower")),
    )
    num_layers = layers_looked_at(config.get("mm_vision_select_layer", -2), settings["num_hidden_layers"])
    with torch.device("meta"):
        projector = make_projector(settings["hidden_size"], config["hidden_size"])
    model = LlavaModel(
        build_llm(llm_config(config, attention)),
        build_vision_tower(settings, num_layers),
        projector,
        max_length=config.get("tokenizer_model_max_length"),
        padding_side=config.get("tokenizer_padding_side", "right"),
    )
    return model, settings["image_size"], (settings["image_size"] // settings["patch_size"]) ** 2


def check_presence(source: Source, names: set[str], tower: TowerSource) -> None:
    """Raise UsageError when a whole part is missing from the weights."""
    for part, start in (("projector", layouts.PROJECTOR), ("language model", "model.layers.")):
        if not any(name.startswith(start) for name in names):
            raise UsageError(f"{source.folder}: there is no {part} among its weights (no '{start}...')")


def shapes_of(source: Source, start: str) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors whose original names begin with `start`."""
    return {name: tuple(tensor.shape) for name, tensor in source.tensors(lambda name: name.startswith(start))}


def layers_looked_at(select_layer: int, num_layers: int) -> int:
    """Count the tower's layers up to the hidden state that LLaVA takes; state 0 is the embeddings."""
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
    empty = dict(model.named_parameters())
    from_inside = tower.folder is None
    skipped = set()

    def put(name: str, tensor: torch.Tensor, where: Path) -> None:
        key = layouts.module_name(name)
        parameter = empty.get(key)
        if parameter is None:
            if key.startswith("vision_tower."):  # layers behind the one that LLaVA looks at
                skipped.add(name)
                return
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
        set_parameter(model, key, own_copy(tensor, device, wanted))
        del empty[key]

    for name, tensor in source.tensors(
        lambda name: not layouts.is_unused(name) and (from_inside or not name.startswith(layouts.TOWER))
    ):
        put(name, tensor, source.folder)
    if tower.folder is not None:
        for name, tensor in tower_tensors(tower.folder):
            if not layouts.is_unused(name):
                put(name, tensor, tower.folder)
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


def own_copy(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Move a tensor that may be a view of a mapped file; the result never depends on the file."""
    if device.type == "cpu":
        return tensor.to(dtype, copy=True).contiguous()
    return tensor.to(device).to(dtype).contiguous()  # a GPU converts faster than the CPU


def set_parameter(model: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter on the meta device."""
    owner, _, name = key.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(tensor, requires_grad=False))
