"""Loading a captioner from any layout, saving our adapter, and the command that merges one into the original LLaVA layout.

python -m ham.captioner.checkpoint show --model-path CHECKPOINT
python -m ham.captioner.checkpoint merge --model-path ADAPTER --out DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank, StyleInit, initialize
from ham.llava import layouts
from ham.llava.conversation import DEFAULT_TEMPLATE, get_template
from ham.llava.describe import describe
from ham.llava.export import merge
from ham.llava.load import DEFAULT_STYLE_TOKENS, build_model, fill
from ham.llava.source import (
    ADAPTER_FORMAT,
    ADAPTER_STYLES,
    ADAPTER_WEIGHTS,
    MANIFEST,
    check_aspect_ratio,
    find_source,
    fit_vocabulary,
)
from ham.llava.transformers_compat import DEFAULT_ATTENTION, load_tokenizer
from ham.llava.vision_tower import find_tower
from ham.records import write_json
from ham.runtime import exit_code_of, git_revision, log, set_up_logging


def load_captioner(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    vision_tower: str | None = None,
    *,
    base_model: str | Path | None = None,
    template: str | None = None,
    attention: str = DEFAULT_ATTENTION,
    image_aspect_ratio: str | None = None,
    style_tokens: int | None = None,
    trainable_dtype: torch.dtype | None = None,
) -> Captioner:
    """Load a captioner from a folder of any layout, frozen and in evaluation mode.

    vision_tower: None = what the checkpoint names (the plain CLIP; an adapter names what it was trained with), "checkpoint" =
    the one inside, or a path. base_model: where an adapter's base lies now. image_aspect_ratio: "pad" overrides a config that
    says otherwise. style_tokens: tokens per style where the checkpoint does not say (10). trainable_dtype: of style prompts
    and projector, where it differs from dtype.
    Weights are streamed to `device` and `dtype` one tensor at a time.
    Raises UsageError when anything is missing, unexpected or of another shape.
    """
    source = find_source(path, base_model)
    check_aspect_ratio(source, image_aspect_ratio)
    config = source.config
    tokenizer = load_tokenizer(source.folder, int(config.get("tokenizer_model_max_length") or 2048))
    fit_vocabulary(source, tokenizer)
    names = source.names()
    has_inside = any(name.startswith(layouts.TOWER) for name in names)
    tower = find_tower(
        vision_tower or source.recorded_tower(), source.folder, config.get("mm_vision_tower"), has_inside
    )
    log.info(
        "vision tower: %s",
        f"{tower.name} ({tower.folder})" if tower.folder else "the one inside the checkpoint",
    )

    model, image_size_px, num_patches = build_model(source, tower, names, attention, style_tokens)
    fill(model, source, tower, torch.device(device), dtype, trainable_dtype or dtype)
    model.eval().requires_grad_(False)
    template = get_template(template or source.manifest.get("template")).name
    manifest = {
        **source.manifest,
        "base_model": str(path if source.lora else source.folder),
        "vision_tower": tower.name,
        "template": template,
        "image_size_px": image_size_px,
        "image_aspect_ratio": "pad",
    }
    if model.style_bank is not None:
        manifest.update(num_styles=model.style_bank.num_styles, style_tokens=model.style_bank.style_tokens)
    if source.manifest.get("max_length"):
        model.max_length = source.manifest["max_length"]
    return Captioner(model, tokenizer, image_size_px, num_patches, template, manifest)


# ---------------------------------------------------------------------------------------------------- styles and adapter


def add_styles(
    captioner: Captioner,
    num_styles: int,
    style_tokens: int = DEFAULT_STYLE_TOKENS,
    init: StyleInit = "normal",
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> None:
    """Give a captioner a new style bank, in place of any it has, filled as `ham.captioner.style_bank.initialize` says."""
    embeddings = captioner.model.llm.get_input_embeddings().weight
    bank = StyleBank(
        num_styles, style_tokens, embeddings.shape[1], dtype or captioner.dtype, captioner.device
    )
    initialize(bank, init, seed, embeddings, frozenset(captioner.tokenizer.all_special_ids))
    captioner.model.style_bank = bank
    captioner.manifest.update(
        num_styles=num_styles, style_tokens=style_tokens, style_init=init, style_seed=seed
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
    beside = folder / f".{ADAPTER_WEIGHTS}.tmp"
    save_file(tensors, str(beside), metadata={"format": "pt"})
    beside.replace(folder / ADAPTER_WEIGHTS)
    base = Path(captioner.manifest["base_model"]).resolve()
    styles = tensors.get(ADAPTER_STYLES)
    shape = (0, 0) if styles is None else tuple(styles.shape[:2])
    write_json(
        folder / MANIFEST,
        {
            **captioner.manifest,
            **more,
            "format": ADAPTER_FORMAT,
            "version": 1,
            "base_model": str(base),
            "base_model_relative": os.path.relpath(base, folder.resolve()),
            "template": captioner.template or DEFAULT_TEMPLATE,
            "num_styles": shape[0],
            "style_tokens": shape[1],
            "max_length": captioner.model.max_length,
            "git_revision": git_revision(),
        },
    )


# ----------------------------------------------------------------------------------------------------------- the command


def main() -> None:
    """Run `show` (say what a checkpoint holds) or `merge` (write it as one folder in the original LLaVA layout)."""
    parser = argparse.ArgumentParser(
        prog="python -m ham.captioner.checkpoint", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser(
        "merge",
        help="write an adapter (or any other checkpoint) with its base model as one folder "
        "in the original LLaVA layout, which the reference's code reads too",
    )
    merging.add_argument(
        "--model-path", type=Path, required=True, help="our adapter, a LoRA folder, or a whole checkpoint"
    )
    merging.add_argument(
        "--out", type=Path, required=True, help="folder to make; must not exist, or be empty"
    )
    merging.add_argument(
        "--base-model", type=Path, help="where the adapter's base model lies now, if it was moved"
    )
    merging.add_argument(
        "--max-shard-gib", type=float, default=4.0, help="largest weight file (default %(default)s)"
    )
    showing = commands.add_parser("show", help="say what a checkpoint is and which file holds what")
    showing.add_argument("--model-path", type=Path, required=True, help="a checkpoint of any layout")
    showing.add_argument(
        "--base-model", type=Path, help="where the adapter's base model lies now, if it was moved"
    )
    options = parser.parse_args()
    set_up_logging()
    if options.command == "show":
        sys.stdout.write(describe(options.model_path, options.base_model) + "\n")
        return
    merge(options.model_path, options.out, options.base_model, options.max_shard_gib)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
