"""The adapter of the `vlm` family on disk: the same two files as LLaVA's (ham/captioner/adapter.py).

adapter.safetensors    style_prompts [S, K, D], projector.<module>.<parameter>
manifest.json          base model, its type and width, the first style token, projector modules, instruction, pixel budget
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ham.captioner.adapter import ADAPTER_STYLES, ADAPTER_WEIGHTS, MANIFEST, write_manifest
from ham.captioner.vlm_model import VlmCaptioner, build_captioner
from ham.records import read_json
from ham.runtime import UsageError
from ham.tensor_files import index, write_file
from ham.vlm.load import load_model

BANK = "style_bank.prompts"
WRITTEN = "projector."


def load_vlm_captioner(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    base_model: str | Path | None = None,
    trainable_dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> VlmCaptioner:
    """Load an adapter of this family on its base model, in evaluation mode.

    base_model: path of the base model, if it has moved since training. Raises UsageError for a base of another type or
    width, and for tensors that are missing or left over.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    base_folder = find_base(folder, manifest, base_model)
    base = load_model(base_folder, device, dtype, manifest.get("max_pixels"), attention)
    for name, found in (("width", base.width), ("model_type", base.network.config.model_type)):
        if manifest[name] != found:
            raise UsageError(
                f"{folder}: its styles were tuned on a model with {name} {manifest[name]}, but {base_folder} has {found}; "
                "style prompts belong to one base model"
            )
    captioner = build_captioner(
        base,
        manifest["num_styles"],
        manifest["style_tokens"],
        manifest["prompt"],
        trainable_dtype or dtype,
        ",".join(manifest["projector_modules"]),
    )
    if captioner.model.first_style_token != manifest["first_style_token"]:
        raise UsageError(
            f"{folder}: style tokens begin at id {manifest['first_style_token']}, but the tokenizer of {base_folder} "
            f"puts them at {captioner.model.first_style_token}; it is not the tokenizer of training"
        )
    fill(captioner, read_adapter(folder), folder)
    captioner.model.to(device)
    captioner.manifest = {**captioner.manifest, **manifest, "base_model": str(base_folder)}
    return captioner


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read an adapter's manifest. Raises UsageError for a folder without one, of another family or with wrong fields."""
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder}: {what_it_is(folder)}; expected an adapter, which style tuning writes")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("family") != "vlm":
        raise UsageError(f"{folder / MANIFEST}: not an adapter of the family 'vlm'")
    kinds = {
        "num_styles": int,
        "style_tokens": int,
        "first_style_token": int,
        "width": int,
        "model_type": str,
        "prompt": str,
        "projector_modules": list,
    }
    for name, kind in kinds.items():
        value = manifest.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{folder / MANIFEST}: '{name}' is {value!r:.60}; expected {kind.__name__}")
    return manifest


def what_it_is(folder: Path) -> str:
    """Return what a folder without manifest is, for a message."""
    if not (folder / "config.json").is_file():
        return "no captioner (neither manifest.json nor config.json)"
    config = read_json(folder / "config.json")
    is_export = isinstance(config, dict) and "ham" in config
    return "an export, for servers (--engine server)" if is_export else "a base model without styles"


def find_base(folder: Path, manifest: dict[str, Any], base_model: str | Path | None) -> Path:
    """Return the folder of an adapter's base model: the one given, the recorded one, or the recorded relative path."""
    recorded = [manifest.get("base_model"), folder / str(manifest.get("base_model_relative"))]
    candidates = [base_model] if base_model is not None else recorded
    for candidate in candidates:
        if candidate and (Path(candidate) / "config.json").is_file():
            return Path(candidate)
    raise UsageError(
        f"{folder}: its base model is not at {' nor '.join(str(one) for one in candidates)}; pass --base-model"
    )


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors under the names of the trained parameters."""
    tensors = dict(index(folder / ADAPTER_WEIGHTS).stream())
    return {BANK if name == ADAPTER_STYLES else name: tensor for name, tensor in tensors.items()}


@torch.no_grad()
def fill(captioner: VlmCaptioner, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy an adapter's tensors into the model. Raises UsageError for missing, unknown or misshapen ones."""
    parameters = {
        name: parameter
        for name, parameter in captioner.model.named_parameters()
        if name == BANK or name.startswith(WRITTEN)
    }
    for name in sorted(parameters.keys() ^ tensors.keys()):
        where = "missing" if name in parameters else "unknown"
        raise UsageError(f"{folder / ADAPTER_WEIGHTS}: the tensor {name} is {where}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise UsageError(
                f"{folder / ADAPTER_WEIGHTS}: {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise UsageError(f"{folder / ADAPTER_WEIGHTS}: {name} holds values that are not finite")
        parameter.copy_(tensors[name])


def save_vlm_adapter(folder: Path, captioner: VlmCaptioner, tensors: dict[str, torch.Tensor]) -> None:
    """Write adapter.safetensors, then manifest.json (a folder without manifest is not a checkpoint)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {ADAPTER_STYLES if name == BANK else name: tensor for name, tensor in tensors.items()}
    write_file(folder / ADAPTER_WEIGHTS, tensors)
    write_manifest(folder, captioner.manifest)
