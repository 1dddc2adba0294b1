"""What a checkpoint of the `vlm` family is, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ham.captioner.adapter import ADAPTER_WEIGHTS, MANIFEST
from ham.captioner.vlm_adapter import find_base, read_adapter, read_manifest
from ham.records import check_kind, read_json


def describe_vlm(path: Path, base_model: Path | None = None) -> str:
    """Return a few lines about an adapter, an export or a base model."""
    if not (path / MANIFEST).is_file():
        return describe_folder(path)
    manifest = read_manifest(path)
    base = find_base(path, manifest, base_model)
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in read_adapter(path).items())
    lines = [
        f"{path}: adapter of the family 'vlm' on {base} ({manifest['model_type']}, {manifest['width']} wide)",
        f"styles: {manifest['num_styles']} of {manifest['style_tokens']} tokens, from id {manifest['first_style_token']}",
        f"instruction: {manifest['prompt']}",
        f"pixels of an image: {manifest.get('max_pixels') or 'as the processor of the base model limits them'}",
        f"{path / ADAPTER_WEIGHTS}: {shapes}",
    ]
    return "\n".join(lines)


def describe_folder(path: Path) -> str:
    """Return a few lines about a folder in transformers' layout: an export, or a base model."""
    config: dict[str, Any] = check_kind(read_json(path / "config.json"), dict, str(path / "config.json"))
    text = config.get("text_config")
    sizes = text if isinstance(text, dict) else config
    mark = config.get("ham")
    kind = "an export" if mark else "a base model without styles"
    lines = [f"{path}: {kind} of type {config.get('model_type')}"]
    if all(name in sizes for name in ("num_hidden_layers", "hidden_size", "vocab_size")):
        lines.append(
            f"language model: {sizes['num_hidden_layers']} layers, {sizes['hidden_size']} wide, vocabulary "
            f"{sizes['vocab_size']}"
        )
    if isinstance(mark, dict):
        lines.append(f"styles: {mark.get('num_styles')} of {mark.get('style_tokens')} tokens")
        lines.append(f"instruction: {mark.get('prompt')}")
    return "\n".join(lines)
