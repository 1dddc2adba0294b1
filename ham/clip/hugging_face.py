"""Hugging Face's CLIP layout: tensor names in both directions, and what its config.json says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ham.runtime import UsageError

BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for kind in ("weight", "bias")
        for theirs, ours in (
            ("text_model.final_layer_norm", "ln_final"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
        )
    },
}
PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
TO_BLOCK = {ours: theirs for theirs, ours in BLOCK.items()}
TO_TOP = {ours: theirs for theirs, ours in TOP.items()}
TO_PROJECTIONS = {ours: theirs for theirs, ours in PROJECTIONS.items()}


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's CLIP tensors to OpenAI's; query, key and value become one, projections are transposed."""
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if match := re.match(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
            side, layer, part, kind = match.groups()
            stem = f"{'visual.' if side == 'vision' else ''}transformer.resblocks.{layer}."
            if part in ("self_attn.k_proj", "self_attn.v_proj"):
                continue
            if part == "self_attn.q_proj":
                names = [name.replace("q_proj", letter) for letter in ("q_proj", "k_proj", "v_proj")]
                packed = [tensors[one] for one in names if one in tensors]
                renamed[f"{stem}attn.in_proj_{kind}"] = torch.cat(packed)
            else:
                renamed[f"{stem}{BLOCK.get(part, part)}.{kind}"] = value
        elif name in PROJECTIONS:
            renamed[PROJECTIONS[name]] = value.t()
        else:
            renamed[TOP.get(name, name)] = value
    return renamed


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename OpenAI's CLIP tensors to Hugging Face's; the inverse of `from_hugging_face`."""
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if match := re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)$", name):
            side, layer, part, kind = match.groups()
            stem = f"{'vision' if side else 'text'}_model.encoder.layers.{layer}."
            if part == "attn.in_proj":
                for letter, piece in zip(("q", "k", "v"), value.chunk(3)):
                    renamed[f"{stem}self_attn.{letter}_proj.{kind}"] = piece
            else:
                renamed[f"{stem}{TO_BLOCK[part]}.{kind}"] = value
        elif name in TO_PROJECTIONS:
            renamed[TO_PROJECTIONS[name]] = value.t()
        else:
            renamed[TO_TOP.get(name, name)] = value
    return renamed


def facts_of_hugging_face(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return head counts and the activation from a config.json. Raises UsageError for what the towers cannot compute."""
    vision = section(config, "vision_config", where)
    text = section(config, "text_config", where)
    for part in (vision, text):
        if part.get("layer_norm_eps", 1e-5) != 1e-5:
            raise UsageError(
                f"{where}: layer_norm_eps is {part['layer_norm_eps']}; these towers compute with 1e-5 only"
            )
    activation = vision.get("hidden_act") or "quick_gelu"
    if activation not in ("quick_gelu", "gelu"):
        raise UsageError(f"{where}: hidden_act is {activation!r}; expected quick_gelu or gelu")
    facts = {"quick_gelu": activation == "quick_gelu"}
    heads = {"vision_heads": vision.get("num_attention_heads"), "text_heads": text.get("num_attention_heads")}
    return facts | {name: number for name, number in heads.items() if number is not None}


def config_for_hugging_face(config: Any, vision_heads: int, text_heads: int, eot_id: int) -> dict[str, Any]:
    """Build the config.json of a CLIP folder from a `CLIPConfig`."""
    activation = "quick_gelu" if config.quick_gelu else "gelu"
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": 2.6592,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": vision_heads,
            "image_size": config.image_size_px[0],
            "patch_size": config.patch_px,
            "projection_dim": config.embed_dim,
            "hidden_act": activation,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": config.text_width,
            "intermediate_size": 4 * config.text_width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": text_heads,
            "max_position_embeddings": config.context_length,
            "vocab_size": config.vocab_size,
            "projection_dim": config.embed_dim,
            "hidden_act": activation,
            "bos_token_id": eot_id - 1,
            "eos_token_id": eot_id,
            "pad_token_id": 0,
        },
    }


def section(config: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a part of a config. Raises UsageError when it is no object."""
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise UsageError(f"{where}: '{name}' is {str(value)[:40]!r}; expected an object")
    return value
