"""The layouts of CLIP weights: read any of them into OpenAI's tensor names, whatever the file is called.

Known: OpenAI's TorchScript archive, bare state dicts, open_clip and Hugging Face CLIP folders, Long-CLIP, IRRA / RDE / HAM
`.pth`, our own checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ham.clip.hugging_face import facts_of_hugging_face, from_hugging_face
from ham.clip.open_clip_config import facts_of_open_clip
from ham.clip.positions import merge_long_clip_positions
from ham.records import read_json
from ham.runtime import UsageError
from ham.tensor_files import TensorIndex, index, write_file

METADATA_KEY = "ham.clip"
BASE = "base_model."  # in front of the towers' names in the references' checkpoints
CLIP_NAMES = re.compile(
    r"(visual|transformer|token_embedding|ln_final)\.|"
    r"(positional_embedding|positional_embedding_res|text_projection|logit_scale|logit_bias)$"
)
NOT_WEIGHTS = re.compile(
    r"(base_model\.)?(input_resolution|context_length|vocab_size|attn_mask|logit_bias|mask1|mask2|.*embeddings\.position_ids)$"
)
# What changes features without being part of a plain CLIP: never left out without being asked to.
CHANGES_FEATURES = re.compile(
    r"adapter|adaptor|prompt|lora_|\bctx\b|prefix|attn_pool|\bls_?\d\b|layer_?scale|gamma|(^|\.)gate|positional|class_embedding"
)
TEXT_PARTS = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")


@dataclass
class Weights:
    """Tensors of one source. clip: OpenAI's names. others: everything else (heads), names as found, prefixes gone.

    facts: what the source records about itself beside shapes: vision_heads, text_heads, quick_gelu, image_size_px, stride_px,
    vocab_size, method; any may be absent. person_sized: positions were already resized for images of persons by a training.
    """

    path: Path
    layout: str
    clip: dict[str, Tensor]
    others: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    person_sized: bool = False


def read_weights(source: str | Path, ignore_tensors: Sequence[str] = ()) -> Weights:
    """Read a file or folder of weights.

    ignore_tensors: names, or beginnings of names, of tensors to leave out. Raises UsageError naming the path when it holds no
    CLIP, or tensors that change a CLIP's features and that these towers do not have.
    """
    path = Path(source)
    found = index(path)
    folder = path if path.is_dir() else path.parent
    tensors, facts = plain_tensors(found), recorded_facts(found)
    if ignore_tensors:
        tensors = without_ignored(tensors, ignore_tensors, path)
    weights = sort_tensors(path, folder, tensors, facts, found.torchscript)
    merge_long_clip(weights)
    unknown = [name for name in weights.others if CHANGES_FEATURES.search(name)]
    if unknown and "method" not in facts:
        refuse_unknown(path, weights.layout, unknown)
    return weights


def sort_tensors(
    path: Path, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], torchscript: bool
) -> Weights:
    """Recognize the layout and part the towers from everything else."""
    if any(name.startswith(BASE) for name in tensors):
        inside = {name.removeprefix(BASE): one for name, one in tensors.items() if name.startswith(BASE)}
        outside = {name: one for name, one in tensors.items() if not name.startswith(BASE)}
        return Weights(path, "IRRA / RDE / HAM checkpoint", inside, outside, facts, person_sized=True)
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        config = folder / "config.json"
        own = facts_of_hugging_face(json_object(config), str(config)) if config.is_file() else {}
        return Weights(path, "Hugging Face CLIP", from_hugging_face(tensors), {}, {**own, **facts})
    if any(name.startswith("text.transformer.") for name in tensors):  # open_clip's CustomTextCLIP
        tensors = {name.removeprefix("text."): value for name, value in tensors.items()}
    if not any(name.startswith("visual.") for name in tensors):
        raise UsageError(
            f"{path}: holds no CLIP; its tensors are {some(tensors)}; expected OpenAI, open_clip, Hugging Face or "
            "IRRA / RDE / HAM names"
        )
    clip = {name: value for name, value in tensors.items() if CLIP_NAMES.match(name)}
    others = {name: value for name, value in tensors.items() if name not in clip}
    if facts:
        return Weights(path, "our checkpoint", clip, others, facts, person_sized=True)
    config = folder / "open_clip_config.json"
    own = facts_of_open_clip(json_object(config), str(config)) if config.is_file() else {}
    return Weights(path, "OpenAI archive" if torchscript else "CLIP state dict", clip, others, own)


def plain_tensors(found: TensorIndex) -> dict[str, Tensor]:
    """Read all tensors but sizes and masks, without the prefixes of DataParallel and torch.compile."""
    tensors = dict(found.stream())
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not NOT_WEIGHTS.match(name)}


def without_ignored(tensors: Mapping[str, Tensor], ignored: Sequence[str], path: Path) -> dict[str, Tensor]:
    """Leave out the tensors whose name begins with one of `ignored`, with or without `base_model.` in front."""
    kept = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(tuple(ignored)) and not name.removeprefix(BASE).startswith(tuple(ignored))
    }
    if len(kept) == len(tensors):
        raise UsageError(
            f"{path}: no tensor begins with {', '.join(ignored)} (--ignore-tensors); its tensors are {some(tensors)}"
        )
    return kept


def merge_long_clip(weights: Weights) -> None:
    """Merge Long-CLIP's two tables of text positions. Raises UsageError when they do not belong together."""
    stretched = weights.clip.pop("positional_embedding_res", None)
    kept = weights.clip.get("positional_embedding")
    if stretched is None:
        return
    if kept is None or kept.shape != stretched.shape:
        shapes = (None if kept is None else tuple(kept.shape), tuple(stretched.shape))
        raise UsageError(
            f"{weights.path}: positional_embedding and positional_embedding_res have the shapes {shapes[0]} and {shapes[1]}; "
            "expected the two equal tables of Long-CLIP"
        )
    weights.clip["positional_embedding"] = merge_long_clip_positions(kept, stretched)
    weights.layout = f"{weights.layout} (Long-CLIP)"


def refuse_unknown(path: Path, layout: str, names: Sequence[str]) -> None:
    """Raise UsageError for tensors that the towers do not have, naming the option that leaves them out."""
    raise UsageError(
        f"{path} ({layout}): {len(names)} tensors are not part of a plain CLIP vision transformer: {some(names, 4)}; without "
        f"them the features would be others than this model's; --ignore-tensors '[{common_stem(names)}]' loads the rest "
        "all the same"
    )


def common_stem(names: Sequence[str]) -> str:
    """Return a beginning that covers the first of the names: up to its last part, or the whole name."""
    stem, dot, _ = names[0].rpartition(".")
    return f"{stem}." if dot else names[0]


# ------------------------------------------------------------------------------------------------------------------ facts


def recorded_facts(found: TensorIndex) -> dict[str, Any]:
    """Return what our own writer recorded beside the tensors. Raises UsageError when it is damaged."""
    facts = found.metadata.get(METADATA_KEY, {})
    try:
        return dict(json.loads(facts) if isinstance(facts, str) else facts)
    except (ValueError, TypeError):
        raise UsageError(
            f"{found.source}: its metadata '{METADATA_KEY}' is damaged; copy the file again"
        ) from None


def check_facts(weights: Weights) -> dict[str, Any]:
    """Return the facts. Raises UsageError when one has a wrong kind, from a damaged config.json for example."""
    for name in ("vision_heads", "text_heads", "stride_px", "vocab_size"):
        value = weights.facts.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(
                f"{weights.path}: {name} is recorded as {value!r}; expected a whole number from 1"
            )
    size = weights.facts.get("image_size_px")
    if size is not None and not is_size(size):
        raise UsageError(f"{weights.path}: image_size_px is recorded as {size!r}; expected [height, width]")
    return weights.facts


def is_size(value: Any) -> bool:
    """Check that a value is (height, width) in whole pixels."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(one) is int and one > 0 for one in value)
    )


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UsageError when the file holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a JSON object, found {str(value)[:40]!r}")
    return value


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a safetensors file whole, with what the tensors' shapes do not say about the model."""
    write_file(path, tensors, {"format": "pt", METADATA_KEY: json.dumps(dict(facts))})


def some(names: Iterable[str], most: int = 6) -> str:
    """List the first few of many names."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
