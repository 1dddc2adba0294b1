"""Weight files as they are found: read any of them, by content, into OpenAI's tensor names.

Known: OpenAI's TorchScript archive, bare state dicts, open_clip and Hugging Face CLIP folders, IRRA / RDE / HAM `.pth`, our own
checkpoints. The path's words decide nothing.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ham.runtime import UsageError

METADATA_KEY = "ham.clip"
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    OSError,
)
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
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
    file = weight_file_of(path)
    tensors, facts, from_archive = read_tensors(file)
    tensors = {name: value for name, value in tensors.items() if not NOT_WEIGHTS.match(name)}
    if any(name.startswith("base_model.") for name in tensors):
        clip, others = split(tensors, "base_model.")
        return Weights(path, "IRRA / RDE / HAM checkpoint", clip, others, facts, person_sized=True)
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        facts = {**facts_of_hugging_face(file.parent), **facts}
        return Weights(path, "Hugging Face CLIP", from_hugging_face(tensors), {}, facts)
    if any(name.startswith("text.transformer.") for name in tensors):  # open_clip's CustomTextCLIP
        tensors = {name.removeprefix("text."): value for name, value in tensors.items()}
    if not any(name.startswith("visual.") for name in tensors):
        raise UsageError(
            f"{file}: holds no CLIP; its tensors are {some(tensors)}; expected OpenAI, open_clip, Hugging Face or "
            "IRRA / RDE / HAM names"
        )
    clip = {name: value for name, value in tensors.items() if CLIP_NAMES.match(name)}
    others = {name: value for name, value in tensors.items() if name not in clip}
    layout = "OpenAI archive" if from_archive else "our checkpoint" if facts else "CLIP state dict"
    facts = {**facts_of_open_clip(file.parent), **facts}
    return Weights(path, layout, clip, others, facts, person_sized=layout == "our checkpoint")


def weight_file_of(path: Path) -> Path:
    """Find the weights in a folder (a file is itself). Raises UsageError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder; expected CLIP weights or a checkpoint")
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path}: no weights here; expected one of {', '.join(FOLDER_FILES)}")


def read_tensors(file: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Read one weight file: its tensors by name, what it says about itself, and whether it is a TorchScript archive.

    The wrappings {"model": ...} and {"state_dict": ...} and the prefixes `module.` and `_orig_mod.` are taken off.
    """
    file = Path(file)
    try:
        if file.name.endswith(".index.json"):
            parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
            read = [read_tensors(file.parent / part) for part in parts]
            return {name: value for tensors, _, _ in read for name, value in tensors.items()}, {}, False
        if is_safetensors(file):
            with safe_open(file, "pt") as opened:
                facts = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
                return (
                    without_prefixes({name: opened.get_tensor(name) for name in opened.keys()}),
                    facts,
                    False,
                )
        if is_torchscript(file):
            # The one exception to weights_only: OpenAI publishes CLIP as a TorchScript archive, which torch.load refuses to
            # read that way. torch.jit.load builds a graph and tensors, it runs no pickled Python, and nothing calls the graph.
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # newer torch calls all of torch.jit deprecated
                return dict(torch.jit.load(str(file), map_location="cpu").state_dict()), {}, True
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # RDE keeps its options beside the weights
            found = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # a seek before the start: the file was cut
            raise
        raise UsageError(
            f"{file}: cannot be read as weights ({type(error).__name__}: {first_line(error)}); is the file "
            "complete? expected safetensors, a torch state dict or OpenAI's archive"
        ) from error
    facts = dict(found.get(METADATA_KEY, {})) if isinstance(found, Mapping) else {}
    for wrapping in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapping), Mapping):
            found = found[wrapping]
    tensors = (
        {name: value for name, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise UsageError(f"{file}: holds no tensors; expected a state dict or {{'model': state dict}}")
    return without_prefixes(tensors), facts, False


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a safetensors file whole (beside its place, flushed, renamed), with what it says about itself."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    try:
        save_file(plain, beside, metadata={"format": "pt", METADATA_KEY: json.dumps(dict(facts))})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(f"{path}: {first_line(error)}") from error
    finally:
        beside.unlink(missing_ok=True)


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


def is_safetensors(file: Path) -> bool:
    """Look for a JSON header behind an 8-byte length, as safetensors files begin."""
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def is_torchscript(file: Path) -> bool:
    """Look for compiled code, which a TorchScript archive holds and a saved state dict does not."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def some(names: Iterable[str], most: int = 6) -> str:
    """Name the first few of many."""
    names = list(names)
    return (", ".join(names[:most]) or "none") + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
