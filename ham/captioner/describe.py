"""What a checkpoint is and which file holds what, without loading it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from ham.captioner.adapter import ADAPTER_WEIGHTS, find_captioner
from ham.llava import layouts
from ham.llava.source import Source
from ham.llava.vision_tower import INSIDE, plain_tower_folder

PARTS = (
    (layouts.PROJECTOR, "projector"),
    (layouts.TOWER, "vision tower"),
    (layouts.STYLES, "style prompts"),
    ("model.image_newline", "image_newline (unused)"),
    ("model.", "language model"),
    ("lm_head.", "language model"),
)


def part_of(name: str) -> str:
    """Return the part of the captioner that a tensor, by any layout's name, belongs to."""
    original = layouts.original_name(name)
    return next((part for start, part in PARTS if original.startswith(start)), f"unknown ({name})")


def describe(path: str | Path, base_model: str | Path | None = None) -> str:
    """Return a few lines about a checkpoint: kind, sizes, template, vision tower, and the parts in each of its files."""
    path = Path(path)
    source = find_captioner(path, base_model)
    lines = [f"{path}: {kind_of(source, path)}"]
    config = source.config
    lines.append(
        f"language model: {config['num_hidden_layers']} layers, {config['hidden_size']} wide, vocabulary "
        f"{config['vocab_size']}"
    )
    prompt = source.manifest.get("prompt")
    lines.append(f"instruction: {prompt or 'not recorded: the one of the paper'}")
    named = config.get("mm_vision_tower")
    plain = plain_tower_folder(source.folder, named)
    chosen = source.recorded_tower() or (
        f"{named}, found at {plain}" if plain else f"{named}, not found here"
    )
    lines.append(f"vision tower: {'the one inside the checkpoint' if chosen == INSIDE else chosen}")
    lines.append(
        f"conversation template: {source.manifest.get('template', 'v1 (not recorded)')}; images: "
        f"{source.manifest.get('image_aspect_ratio') or config.get('image_aspect_ratio')}"
    )
    if path != source.folder and (path / ADAPTER_WEIGHTS).is_file():
        shapes = ", ".join(
            f"{part_of(name)} {shape_of(name, tensor, source)}" for name, tensor in source.replaced.items()
        )
        lines.append(f"{path / ADAPTER_WEIGHTS}: {shapes}")
    for file in source.index.files:
        parts = Counter(part_of(name) for name, info in source.index.items() if info.file == file)
        lines.append(
            f"{file}: " + ", ".join(f"{part} {count} tensors" for part, count in sorted(parts.items()))
        )
    return "\n".join(lines)


def shape_of(name: str, tensor: torch.Tensor, source: Source) -> list[int]:
    """Return a tensor's shape; that of the style prompts as [S, K, D] where the manifest records K."""
    shape = list(tensor.shape)
    tokens = source.manifest.get("style_tokens")
    if name == layouts.STYLES and tokens:
        return [shape[0] // tokens, tokens, shape[1]]
    return shape


def kind_of(source: Source, path: Path) -> str:
    """Return the layout, and what is on top of it."""
    layout = "llava-hf layout" if source.hf_layout else "original LLaVA layout"
    if path == source.folder:
        return layout
    return f"{'LoRA' if source.lora else 'adapter'} on {source.folder} ({layout})"
