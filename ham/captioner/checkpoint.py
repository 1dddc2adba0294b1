"""Loading a captioner from any layout, saving our adapter, and the command that merges one into the original LLaVA layout.

python -m ham.captioner.checkpoint show --model-path CHECKPOINT
python -m ham.captioner.checkpoint merge --model-path ADAPTER --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ham.captioner.adapter import find_captioner, save_adapter
from ham.captioner.describe import describe
from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank, StyleInit, initialize
from ham.llava import layouts
from ham.llava.conversation import get_template
from ham.llava.export import write_original
from ham.llava.load import build_model, fill, shapes_of
from ham.llava.source import Source, check_aspect_ratio, fit_vocabulary
from ham.llava.transformers_compat import DEFAULT_ATTENTION, load_tokenizer
from ham.llava.vision_tower import find_tower
from ham.runtime import UsageError, exit_code_of, log, set_up_logging

__all__ = ["add_styles", "load_captioner", "merge", "save_adapter"]

DEFAULT_STYLE_TOKENS = 10  # M of the paper; the original layout stores [S*M, D] and does not record M


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
    source = find_captioner(path, base_model)
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

    llava, image_size_px, num_patches = build_model(source, tower, names, attention)
    with torch.device("meta"):
        bank = empty_bank(source, style_tokens) if layouts.STYLES in names else None
    model = CaptionerModel(
        llava.llm, llava.vision_tower, llava.projector, bank, llava.max_length, llava.padding_side
    )
    trainable = ("projector.", "style_bank.")
    fill(model, source, tower, torch.device(device), dtype, trainable_dtype or dtype, trainable)
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


def empty_bank(source: Source, style_tokens: int | None) -> StyleBank:
    """Build an empty style bank of the checkpoint's size. Raises UsageError when its rows do not divide into styles."""
    rows, width = shapes_of(source, layouts.STYLES)[layouts.STYLES]
    tokens = style_tokens or source.manifest.get("style_tokens") or DEFAULT_STYLE_TOKENS
    if rows % tokens:
        raise UsageError(
            f"{source.folder}: {rows} rows of style prompts do not divide into styles of {tokens} tokens"
        )
    return StyleBank(rows // tokens, tokens, width)


def merge(
    model_path: str | Path, out: str | Path, base_model: str | Path | None = None, max_shard_gib: float = 4.0
) -> None:
    """Write the checkpoint at `model_path`, base model included, to the new folder `out` in the original layout."""
    source = find_captioner(model_path, base_model)
    write_original(source, out, max_shard_gib)
    log.info("merged %s on %s into %s", model_path, source.folder, out)


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
