"""Weight files as they are found: read any of them, by content, into OpenAI's tensor names.

Known: OpenAI's TorchScript archive, bare state dicts, open_clip and Hugging Face CLIP folders, IRRA / RDE / HAM `.pth`, our own
checkpoints. The path's words decide nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ham.runtime import UsageError
from ham.tensor_files import TensorIndex, index, write_file

METADATA_KEY = "ham.clip"
CLIP_NAMES = re.compile(
    r"(visual|transformer|token_embedding|ln_final)\.|(positional_embedding|text_projection|logit_scale)$"
)
NOT_WEIGHTS = re.compile(
    r"(input_resolution|context_length|vocab_size|attn_mask|.*embeddings\.position_ids)$"
)


@dataclass
class Weights:
    """Tensors of one source. clip: OpenAI's names. others: everything else (heads), names as found, prefixes gone.

    facts: what the source says about itself beside shapes: vision_heads, text_heads, quick_gelu, image_size_px, stride_px,
    vocab_size; any may be absent. person_sized: positions were already resized to a person's input by an earlier training.
    """

    path: Path
    layout: str
    clip: dict[str, Tensor]
    others: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    person_sized: bool = False


def read_weights(source: str | Path) -> Weights:
    """Read a file or folder of weights. Raises UsageError naming the path when it holds no CLIP."""
    path = Path(source)
    found = index(path)
    folder = path if path.is_dir() else path.parent
    tensors, facts = tower_tensors(found), recorded_facts(found)
    if any(name.startswith("base_model.") for name in tensors):
        clip, others = split(tensors, "base_model.")
        return Weights(path, "IRRA / RDE / HAM checkpoint", clip, others, facts, person_sized=True)
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        facts = {**facts_of_hugging_face(folder), **facts}
        return Weights(path, "Hugging Face CLIP", from_hugging_face(tensors), {}, facts)
    if any(name.startswith("text.transformer.") for name in tensors):  # open_clip's CustomTextCLIP
        tensors = {name.removeprefix("text."): value for name, value in tensors.items()}
    if not any(name.startswith("visual.") for name in tensors):
        raise UsageError(
            f"{path}: holds no CLIP; its tensors are {some(tensors)}; expected OpenAI, open_clip, Hugging Face or "
            "IRRA / RDE / HAM names"
        )
    clip = {name: value for name, value in tensors.items() if CLIP_NAMES.match(name)}
    others = {name: value for name, value in tensors.items() if name not in clip}
    layout = "OpenAI archive" if found.torchscript else "our checkpoint" if facts else "CLIP state dict"
    facts = {**facts_of_open_clip(folder), **facts}
    return Weights(path, layout, clip, others, facts, person_sized=layout == "our checkpoint")


def tower_tensors(found: TensorIndex) -> dict[str, Tensor]:
    """Read all tensors but sizes and masks, without the prefixes of DataParallel and torch.compile."""
    tensors = without_prefixes(dict(found.stream()))
    return {name: value for name, value in tensors.items() if not NOT_WEIGHTS.match(name)}


def recorded_facts(found: TensorIndex) -> dict[str, Any]:
    """Return what our own writer recorded beside the tensors. Raises UsageError when it is damaged."""
    facts = found.metadata.get(METADATA_KEY, {})
    try:
        facts = json.loads(facts) if isinstance(facts, str) else facts
        return dict(facts)
    except (ValueError, TypeError):
        raise UsageError(
            f"{found.source}: its metadata '{METADATA_KEY}' is damaged; copy the file again"
        ) from None


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a safetensors file whole, with what the tensors' shapes do not say about the model."""
    write_file(path, tensors, {"format": "pt", METADATA_KEY: json.dumps(dict(facts))})


# ------------------------------------------------------------------------------------------------------------------ names


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
                packed = [
                    tensors[name.replace("q_proj", letter)]
                    for letter in ("q_proj", "k_proj", "v_proj")
                    if name.replace("q_proj", letter) in tensors
                ]
                renamed[f"{stem}attn.in_proj_{kind}"] = torch.cat(packed)
            else:
                renamed[f"{stem}{HF_BLOCK.get(part, part)}.{kind}"] = value
        elif name in ("text_projection.weight", "visual_projection.weight"):
            renamed["text_projection" if name.startswith("text") else "visual.proj"] = value.t()
        else:
            renamed[HF_TOP.get(name, name)] = value
    return renamed


HF_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
HF_TOP = {
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


def split(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part the tensors below a prefix, which is taken off, from the others."""
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return inside, {name: value for name, value in tensors.items() if not name.startswith(prefix)}


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what DataParallel and torch.compile put in front of every name."""
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


# ------------------------------------------------------------------------------------------------------------------ facts


def facts_of_hugging_face(folder: Path) -> dict[str, Any]:
    """Read head counts and the activation from the config.json beside Hugging Face weights, where there is one."""
    config = json_of(folder, "config.json")
    if not config:
        return {}
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    facts = {"quick_gelu": (vision.get("hidden_act") or "quick_gelu") == "quick_gelu"}
    heads = {"vision_heads": vision.get("num_attention_heads"), "text_heads": text.get("num_attention_heads")}
    return facts | {name: number for name, number in heads.items() if number}


def facts_of_open_clip(folder: Path) -> dict[str, Any]:
    """Read head counts and the activation from the open_clip_config.json beside open_clip's weights, where there is one."""
    model = json_of(folder, "open_clip_config.json").get("model_cfg")
    if not model:
        return {}
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    facts: dict[str, Any] = {"quick_gelu": bool(model.get("quick_gelu", False))}
    if "width" in vision:
        facts["vision_heads"] = vision["width"] // vision.get("head_width", 64)
    if "heads" in text:
        facts["text_heads"] = text["heads"]
    return facts


def json_of(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object; nothing where there is no such file. Raises UsageError when it is not JSON."""
    if not (folder / name).is_file():
        return {}
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{folder / name}: not a JSON object: {error}") from None


def some(names: Iterable[str], most: int = 6) -> str:
    """Name the first few of many."""
    names = list(names)
    return (", ".join(names[:most]) or "none") + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
