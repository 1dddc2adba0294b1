"""Our adapter: what style tuning trains (style prompts, projector, maybe LoRA) beside a manifest that names its base model.

adapter.safetensors    style_prompts [S, K, D], projector.{0,2}.{weight,bias}
manifest.json          base model, vision tower, template, instruction, sizes
lora/                  peft's format, only where LoRA was trained
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ham.captioner.model import Captioner, CaptionerModel
from ham.llava import layouts
from ham.llava.config import HAM_KEYS
from ham.llava.conversation import DEFAULT_TEMPLATE
from ham.llava.lora import LORA_FOLDER
from ham.llava.source import Source, apply_lora, base_folder, find_source
from ham.records import write_json
from ham.runtime import UsageError, git_revision
from ham.tensor_files import index, read_settings, write_file

MANIFEST = "manifest.json"
ADAPTER_FORMAT = "ham-captioner-adapter"
ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_STYLES = "style_prompts"


def find_captioner(
    path: str | Path, base_model: str | Path | None = None, above: tuple[Path, ...] = ()
) -> Source:
    """Detect what kind of checkpoint a folder holds: our adapter, a LoRA, or a whole checkpoint of any layout.

    base_model: path of the base model of an adapter or LoRA, if it has moved since training. above: the adapters on top of
    this one, which cannot be its base.
    """
    path = Path(path)
    if path.resolve() in above:
        raise UsageError(f"{above[0]}: its base models name each other; give the base with --base-model")
    above = (*above, path.resolve())
    if (path / MANIFEST).is_file():
        return adapter_source(path, base_model, above)
    return find_source(path, base_model, find_base=lambda base: find_captioner(base, above=above))


def adapter_source(path: Path, base_model: str | Path | None, above: tuple[Path, ...]) -> Source:
    """Read an adapter's tensors on top of its base model."""
    manifest = read_settings(path / MANIFEST)
    if manifest.get("format") != ADAPTER_FORMAT:
        raise UsageError(
            f"{path / MANIFEST}: format is {manifest.get('format')!r}; expected '{ADAPTER_FORMAT}'"
        )
    check_manifest(manifest, path / MANIFEST)
    base = base_folder(path, base_model, manifest.get("base_model"), manifest.get("base_model_relative"))
    source = find_captioner(base, above=above)
    weights = path / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise UsageError(f"{weights}: no such file; the adapter is incomplete")
    tensors = dict(index(weights).stream())
    if ADAPTER_STYLES in tensors:
        styles = tensors.pop(ADAPTER_STYLES)
        expected = (manifest.get("num_styles"), manifest.get("style_tokens"))
        if styles.dim() != 3:
            raise UsageError(f"{weights}: style prompts of shape {tuple(styles.shape)}; expected [S, K, D]")
        if tuple(styles.shape[:2]) != expected:
            raise UsageError(
                f"{weights}: {styles.shape[0]} styles of {styles.shape[1]} tokens, but {MANIFEST} says "
                f"{expected[0]} of {expected[1]}"
            )
        source.replaced[layouts.STYLES] = styles.flatten(0, 1)  # [S*K, D], as the original layout has it
    source.replaced.update({layouts.original_name("mm_" + name): tensor for name, tensor in tensors.items()})
    if (path / LORA_FOLDER / "adapter_config.json").is_file():
        apply_lora(source, path / LORA_FOLDER)
    source.manifest = manifest
    source.top = path
    return source


def check_manifest(manifest: dict[str, Any], file: Path) -> None:
    """Raise UsageError for a manifest whose values are of the wrong kind."""
    for key, kind in {**HAM_KEYS, "base_model": str, "base_model_relative": str, "num_styles": int}.items():
        value = manifest.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UsageError(
                f"{file}: '{key}' is {value!r:.60}; expected {'text' if kind is str else 'a whole number'}"
            )


def adapter_tensors(model: CaptionerModel) -> dict[str, torch.Tensor]:
    """Collect what the adapter holds: `style_prompts` [S, K, D] and the projector's tensors."""
    tensors = {f"projector.{name}": tensor for name, tensor in model.projector.state_dict().items()}
    if model.style_bank is not None:
        tensors[ADAPTER_STYLES] = model.style_bank.prompts.detach()
    return tensors


def save_adapter(
    folder: str | Path, captioner: Captioner, tensors: dict[str, torch.Tensor] | None = None, **more: Any
) -> None:
    """Write the adapter: adapter.safetensors, then manifest.json (a folder without manifest is not a checkpoint).

    tensors: in place of the model's own, with the names of `adapter_tensors`, where those are gathered from several processes
    (ZeRO-3). more: further JSON fields of the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = adapter_tensors(captioner.model) if tensors is None else tensors
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(folder / ADAPTER_WEIGHTS, tensors, metadata={"format": "pt"})
    styles = tensors.get(ADAPTER_STYLES)
    shape = (0, 0) if styles is None else tuple(styles.shape[:2])
    write_manifest(
        folder,
        {
            **captioner.manifest,
            **more,
            "template": captioner.template or DEFAULT_TEMPLATE,
            "num_styles": shape[0],
            "style_tokens": shape[1],
            "max_length": captioner.model.max_length,
        },
    )


def write_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write an adapter's manifest: `fields`, the format, and the paths of the base model that they name."""
    base = Path(fields["base_model"]).resolve()
    write_json(
        folder / MANIFEST,
        {
            **fields,
            "format": ADAPTER_FORMAT,
            "version": 1,
            "base_model": str(base),
            "base_model_relative": os.path.relpath(base, folder.resolve()),
            "git_revision": git_revision(),
        },
    )
