"""Loading a captioner from any layout, and the command that describes a checkpoint or merges it into one folder.

python -m ham.captioner.checkpoint show --model-path CHECKPOINT
python -m ham.captioner.checkpoint merge --model-path ADAPTER --out DIR [--layout llava-hf]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ham.captioner.adapter import find_captioner, save_adapter
from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank, StyleInit, initialize
from ham.llava import layouts
from ham.llava.conversation import get_template
from ham.llava.export import write_original
from ham.llava.load import build_model, check_shapes, fill
from ham.llava.source import Source, check_aspect_ratio, fit_vocabulary
from ham.llava.transformers_compat import DEFAULT_ATTENTION, load_tokenizer
from ham.llava.vision_tower import TowerSource, find_tower, plain_tower_folder, tower_settings
from ham.runtime import UsageError, exit_code_of, log, set_up_logging

if TYPE_CHECKING:
    from ham.captioner.families import FamilyModule

__all__ = ["add_styles", "load_captioner", "merge", "open_checkpoint", "save_adapter"]

DEFAULT_STYLE_TOKENS = 10  # M of the paper; the original layout stores [S*M, D] and does not record M


@dataclass
class OpenCheckpoint:
    """A checkpoint whose configuration, tokenizer and headers were read and checked, and whose weights were not.

    num_styles, style_tokens: 0 for a plain LLaVA. num_image_tokens: P.
    """

    path: Path
    source: Source
    tokenizer: Any
    tower: TowerSource
    tower_settings: dict[str, Any]
    template: str
    num_styles: int
    style_tokens: int

    @property
    def image_size_px(self) -> int:
        return self.tower_settings["image_size"]

    @property
    def num_image_tokens(self) -> int:
        return (self.tower_settings["image_size"] // self.tower_settings["patch_size"]) ** 2


def open_checkpoint(
    path: str | Path,
    vision_tower: str | None = None,
    *,
    base_model: str | Path | None = None,
    template: str | None = None,
    image_aspect_ratio: str | None = None,
    style_tokens: int | None = None,
) -> OpenCheckpoint:
    """Read everything about a captioner but its weights: seconds, whatever its size. For the options see `load_captioner`.

    Raises UsageError when anything is missing, damaged or does not fit together.
    """
    source = find_captioner(path, base_model)
    check_aspect_ratio(source, image_aspect_ratio)
    config = source.config
    tokenizer = load_tokenizer(source.folder, int(config.get("tokenizer_model_max_length") or 2048))
    fit_vocabulary(source, tokenizer)
    has_inside = any(name.startswith(layouts.TOWER) for name in source.names())
    named = config.get("mm_vision_tower")
    tower = find_tower(vision_tower or source.recorded_tower(), source.folder, named, has_inside, source.top)
    log.info(
        "vision tower: %s",
        f"{tower.name} ({tower.folder})" if tower.folder else "the one inside the checkpoint",
    )
    settings = tower_settings(
        tower, config, lambda: source.shapes(layouts.TOWER), plain_tower_folder(source.folder, named)
    )
    check_shapes(source, settings)
    template = get_template(template or source.manifest.get("template")).name
    num_styles, tokens = bank_size(source, style_tokens)
    return OpenCheckpoint(Path(path), source, tokenizer, tower, settings, template, num_styles, tokens)


def load_captioner(
    path: str | Path | OpenCheckpoint,
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

    path: a folder, or what `open_checkpoint` returned for one (then only device, dtype, attention and trainable_dtype apply).
    vision_tower: None = what the checkpoint names (the plain CLIP; an adapter names what it was trained with), "checkpoint" =
    the one inside, or a path. base_model: path of an adapter's base model, if it has moved since training.
    image_aspect_ratio: "pad" overrides a config with another value. style_tokens: tokens per style where the checkpoint does
    not record them (10). trainable_dtype: of style prompts and projector, where it differs from dtype.
    Weights are streamed to `device` and `dtype` one tensor at a time.
    Raises UsageError when anything is missing, unexpected, not finite or of another shape.
    """
    opened = path
    if not isinstance(opened, OpenCheckpoint):
        opened = open_checkpoint(
            opened,
            vision_tower,
            base_model=base_model,
            template=template,
            image_aspect_ratio=image_aspect_ratio,
            style_tokens=style_tokens,
        )
    source = opened.source
    llava = build_model(source, opened.tower_settings, attention)
    bank = None
    if opened.num_styles:
        with torch.device("meta"):
            bank = StyleBank(opened.num_styles, opened.style_tokens, source.config["hidden_size"])
    model = CaptionerModel(
        llava.llm, llava.vision_tower, llava.projector, bank, llava.max_length, llava.padding_side
    )
    trainable = ("projector.", "style_bank.")
    fill(model, source, opened.tower, torch.device(device), dtype, trainable_dtype or dtype, trainable)
    model.eval().requires_grad_(False)
    if source.manifest.get("max_length"):
        model.max_length = source.manifest["max_length"]
    return Captioner(
        model,
        opened.tokenizer,
        opened.image_size_px,
        opened.num_image_tokens,
        opened.template,
        manifest_of(opened),
    )


def manifest_of(opened: OpenCheckpoint) -> dict[str, Any]:
    """Return what is known of a captioner, for the manifest of an adapter that is trained from it."""
    source = opened.source
    manifest = {
        **source.manifest,
        "base_model": str(opened.path if source.lora else source.folder),
        "vision_tower": opened.tower.name,
        "template": opened.template,
        "image_size_px": opened.image_size_px,
        "image_aspect_ratio": "pad",
    }
    if opened.num_styles:
        manifest.update(num_styles=opened.num_styles, style_tokens=opened.style_tokens)
    return manifest


def bank_size(source: Source, style_tokens: int | None) -> tuple[int, int]:
    """Return the number of styles and tokens per style; 0, 0 for a plain LLaVA.

    Raises UsageError when the rows do not divide into styles.
    """
    shape = source.shapes(layouts.STYLES).get(layouts.STYLES)
    if shape is None:
        return 0, 0
    tokens = style_tokens or source.manifest.get("style_tokens") or DEFAULT_STYLE_TOKENS
    if shape[0] % tokens:
        raise UsageError(
            f"{source.top}: {shape[0]} rows of style prompts do not divide into styles of {tokens} tokens"
        )
    return shape[0] // tokens, tokens


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
    """Replace a captioner's style bank by a new one, filled as `ham.captioner.style_bank.initialize` describes."""
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


def write_merged(options: argparse.Namespace) -> None:
    """Write one folder in the layout that was asked for."""
    if not 0 < options.max_shard_gib < float("inf"):
        raise UsageError(f"--max-shard-gib {options.max_shard_gib}: expected a number above 0")
    family_at(options.model_path).export(options)


def family_at(folder: Path) -> FamilyModule:
    """Return the module of the family that a folder belongs to."""
    from ham.captioner.families import family_module, family_of  # its modules import this one

    return family_module(family_of(folder))


def main() -> None:
    """Run `show` (describe a checkpoint) or `merge` (write it as one folder)."""
    parser = argparse.ArgumentParser(
        prog="python -m ham.captioner.checkpoint", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser(
        "merge",
        help="write an adapter (or any other checkpoint) with its base model as one folder",
    )
    merging.add_argument(
        "--model-path", type=Path, required=True, help="our adapter, a LoRA folder, or a whole checkpoint"
    )
    merging.add_argument(
        "--out", type=Path, required=True, help="folder to make; must not exist, or be empty"
    )
    merging.add_argument(
        "--layout",
        choices=("original", "llava-hf"),
        help="original: LLaVA's and HAM's own (default for LLaVA); llava-hf: styles as added tokens, for transformers, vLLM, "
        "SGLang; captioners of other models are always written this way, in the layout of their base model",
    )
    merging.add_argument(
        "--vision-tower", help="llava-hf: the vision tower to write (default: the one that captioning uses)"
    )
    merging.add_argument(
        "--base-model", type=Path, help="path of the adapter's base model, if it has moved since training"
    )
    merging.add_argument(
        "--max-shard-gib", type=float, default=4.0, help="largest weight file (default %(default)s)"
    )
    showing = commands.add_parser("show", help="describe a checkpoint: its kind, and which file holds what")
    showing.add_argument("--model-path", type=Path, required=True, help="a checkpoint of any layout")
    showing.add_argument(
        "--base-model", type=Path, help="path of the adapter's base model, if it has moved since training"
    )
    options = parser.parse_args()
    set_up_logging()
    if options.command == "show":
        family = family_at(options.model_path)
        sys.stdout.write(family.describe(options.model_path, options.base_model) + "\n")
        return
    write_merged(options)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
