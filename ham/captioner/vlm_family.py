"""The `vlm` family: style tuning of any image-text-to-text model of transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ham.captioner.adapter import MANIFEST
from ham.captioner.check import check_used_styles
from ham.captioner.checkpoint import DEFAULT_STYLE_TOKENS
from ham.captioner.data import InstructionFile
from ham.captioner.estimate import Settings
from ham.captioner.families import Tuning
from ham.captioner.style_bank import initialize
from ham.captioner.vlm_adapter import load_vlm_captioner, read_adapter, save_vlm_adapter
from ham.captioner.vlm_check import check_records
from ham.captioner.vlm_data import VlmCollator, VlmInstructionDataset
from ham.captioner.vlm_describe import describe_vlm
from ham.captioner.vlm_estimate import estimate_vlm
from ham.captioner.vlm_export import export_vlm
from ham.captioner.vlm_model import VlmCaptioner, build_captioner
from ham.runtime import UsageError, dist_info, log
from ham.vlm.load import is_vision_language_model, load_model


def recognizes(folder: Path) -> bool:
    """Return whether transformers maps the folder's model to image-text-to-text."""
    return is_vision_language_model(folder)


def prepare(
    model_args: Any, data_args: Any, args: Any, file: InstructionFile, num_styles: int, prompt: str
) -> Tuning:
    """Load the base model, add the styles, check the data and collect what the trainer needs.

    Raises UsageError for options that this family does not have and for records that cannot be trained on.
    """
    refuse_llava_options(model_args, args)
    if (Path(model_args.model_name_or_path) / MANIFEST).is_file():
        captioner = continue_from(model_args, args, num_styles)
    else:
        check_used_styles(file, data_args.allow_unused_styles)
        captioner = begin_from(model_args, args, num_styles, prompt)
    dataset = VlmInstructionDataset(file, data_args.image_folder, captioner.writer, args.model_max_length)
    if dist_info().is_main:
        check_records(dataset, captioner.num_styles, data_args.max_violations, data_args.check_images)
    choose_what_trains(captioner, args)

    def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        save_vlm_adapter(folder, captioner, tensors)

    pad = captioner.tokenizer.pad_token_id
    collator = VlmCollator(captioner.base.end_ids[0] if pad is None else pad)
    return Tuning(captioner, captioner.model, dataset, collator, save, read_adapter)


def refuse_llava_options(model_args: Any, args: Any) -> None:
    """Refuse options that only LLaVA has, by name."""
    given = {
        "--vision_tower": model_args.vision_tower is not None,
        "--version": model_args.version != "v1",
        "--mm_vision_select_layer": model_args.mm_vision_select_layer is not None,
        "--lora_enable": args.lora_enable,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} belongs to LLaVA; a model of the family 'vlm' brings its own. Leave it out"
            )


def begin_from(model_args: Any, args: Any, num_styles: int, prompt: str) -> VlmCaptioner:
    """Load a base model and add new styles."""
    base = load_model(
        model_args.model_name_or_path,
        "cpu",
        compute_dtype(args),
        model_args.max_pixels,
        model_args.attn_implementation,
    )
    tokens = model_args.style_tokens or DEFAULT_STYLE_TOKENS
    captioner = build_captioner(base, num_styles, tokens, prompt, torch.float32, model_args.projector_modules)
    captioner.manifest["max_pixels"] = model_args.max_pixels
    table = base.network.get_input_embeddings().weight[: captioner.model.first_style_token]
    special = frozenset(base.tokenizer.all_special_ids)
    initialize(captioner.model.style_bank, model_args.style_init, args.seed, table, special)
    return captioner


def continue_from(model_args: Any, args: Any, num_styles: int) -> VlmCaptioner:
    """Load an adapter whose styles are trained further. Raises UsageError for options that contradict it."""
    path = model_args.model_name_or_path
    captioner = load_vlm_captioner(
        path, "cpu", compute_dtype(args), None, torch.float32, model_args.attn_implementation
    )
    if captioner.num_styles < num_styles:
        raise UsageError(
            f"{path} has {captioner.num_styles} styles, but the data asks for {num_styles}; start from the base model, or "
            "fix the data"
        )
    kept = {
        "--style_count": (model_args.style_count, captioner.num_styles),
        "--style_tokens": (model_args.style_tokens, captioner.style_tokens),
        "--max_pixels": (model_args.max_pixels, captioner.manifest.get("max_pixels")),
        "--projector_modules": (model_args.projector_modules, captioner.manifest["projector_modules"]),
    }
    for name, (given, recorded) in kept.items():
        given = given.split(",") if isinstance(recorded, list) and given is not None else given
        if given not in (None, recorded):
            raise UsageError(
                f"{name}: the adapter {path} was trained with {recorded}, here is {given}; leave the option out to "
                "continue with it, or start from the base model"
            )
    return captioner


def compute_dtype(args: Any) -> torch.dtype:
    """Return the dtype of the frozen weights."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def choose_what_trains(captioner: VlmCaptioner, args: Any) -> None:
    """Freeze everything but the style bank and, unless --freeze_mm_mlp_adapter, the projector."""
    model = captioner.model
    model.requires_grad_(False)
    model.style_bank.requires_grad_(True)
    model.projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    if args.gradient_checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            if hasattr(args, name):
                setattr(args, name, False)  # Trainer would ask the wrapper for it
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    log.info("trained: %s parameters; frozen: %s", f"{trained:,}", f"{total - trained:,}")


def estimate(model_args: Any, settings: Settings) -> str:
    """Format what tuning will need."""
    refused = {"--vision_tower": model_args.vision_tower, "--version": model_args.version != "v1"}
    for name, given in refused.items():
        if given:
            raise UsageError(f"{name} belongs to LLaVA; leave it out")
    folder = model_args.model_name_or_path
    return estimate_vlm(folder, settings, model_args.max_pixels, model_args.projector_modules)


def describe(path: Path, base_model: Path | None) -> str:
    """Format what a checkpoint is."""
    return describe_vlm(path, base_model)


def export(options: argparse.Namespace) -> None:
    """Write an adapter with its base model in the base model's own layout."""
    if options.layout == "original":
        raise UsageError(
            f"--layout original is LLaVA's own; {options.model_path} is exported in the layout of its base model: leave the "
            "option out"
        )
    if options.vision_tower is not None:
        raise UsageError("--vision-tower belongs to LLaVA; the base model brings its own. Leave it out")
    export_vlm(options.model_path, options.out, options.base_model, options.max_shard_gib)
