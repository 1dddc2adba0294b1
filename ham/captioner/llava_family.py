"""The `llava` family: style tuning of LLaVA-1.5/1.6 and HAM checkpoints, the paper's captioner."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ham.captioner.adapter import ADAPTER_STYLES, ADAPTER_WEIGHTS, find_captioner, save_adapter
from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments
from ham.captioner.check import check_instructions, check_used_styles
from ham.captioner.checkpoint import (
    DEFAULT_STYLE_TOKENS,
    OpenCheckpoint,
    add_styles,
    load_captioner,
    merge,
    open_checkpoint,
)
from ham.captioner.data import Collator, InstructionDataset, InstructionFile
from ham.captioner.describe import describe as describe_checkpoint
from ham.captioner.estimate import CLIP_LARGE_336, Settings, as_table
from ham.captioner.estimate import estimate as estimate_llava
from ham.captioner.families import Tuning
from ham.captioner.llava_export import export_llava
from ham.captioner.model import Captioner
from ham.llava.conversation import get_template
from ham.llava.lora import add_lora, is_lora, load_lora, save_lora
from ham.llava.source import Source
from ham.llava.transformers_compat import IS_LEGACY, set_checkpointing
from ham.llava.vision_tower import find_tower, tower_settings
from ham.records import read_json
from ham.runtime import UsageError, dist_info, log
from ham.tensor_files import index

BANK = "style_bank.prompts"
TYPES = ("llava", "llava_llama", "llava_next")


def recognizes(folder: Path) -> bool:
    """Return whether a config names a LLaVA with a Llama language model, in the original or the llava-hf layout."""
    if not (folder / "config.json").is_file():
        return False
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") not in TYPES:
        return False
    text = config.get("text_config")
    return not isinstance(text, dict) or text.get("model_type", "llama") == "llama"


def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    file: InstructionFile,
    num_styles: int,
    prompt: str,
) -> Tuning:
    """Check the data, load the base model with its styles and collect what the trainer needs.

    Everything that can be wrong is checked before the weights are read.
    """
    opened = open_base(model_args)
    if opened.num_styles == 0:
        check_used_styles(file, data_args.allow_unused_styles)
        tokens = model_args.style_tokens or DEFAULT_STYLE_TOKENS
    else:
        check_bank(opened, model_args, num_styles)
        num_styles, tokens = opened.num_styles, opened.style_tokens
    if dist_info().is_main:
        check_file(file, opened, data_args, num_styles, tokens, args.model_max_length)
    captioner = load_for_training(opened, model_args, args)
    if captioner.num_styles == 0:
        trained = captioner.model.projector[0].weight.dtype
        add_styles(captioner, num_styles, tokens, model_args.style_init, args.seed, trained)
        captioner.manifest["untrained_styles"] = file.unused_styles(num_styles)
    captioner.manifest["share_prefix"] = args.share_prefix
    lora = choose_what_trains(captioner, args)

    def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        write_tuned(folder, captioner, tensors, lora, prompt)

    dataset = InstructionDataset(
        file,
        data_args.image_folder,
        captioner.tokenizer,
        get_template(captioner.template),
        captioner.image_size_px,
    )
    is_shared = can_share(args.share_prefix, model_args.attn_implementation)
    collator = Collator(captioner.tokenizer.pad_token_id, is_shared)
    return Tuning(captioner, captioner.model, dataset, collator, save, read_tuned)


def check_file(
    file: InstructionFile,
    opened: OpenCheckpoint,
    data_args: DataArguments,
    num_styles: int,
    style_tokens: int,
    max_length: int,
) -> None:
    """Raise UsageError listing the records that cannot be trained on."""
    check_instructions(
        file,
        data_args.image_folder,
        opened.tokenizer,
        get_template(opened.template),
        num_styles,
        opened.num_image_tokens + style_tokens,
        max_length,
        data_args.max_violations,
        data_args.check_images,
    )


def write_tuned(
    folder: Path, captioner: Captioner, tensors: dict[str, torch.Tensor], lora: Any, prompt: str
) -> None:
    """Write the trained parameters: the adapter, and LoRA matrices in peft's format."""
    matrices = {name: tensor for name, tensor in tensors.items() if is_lora(name)}
    if lora is not None:
        save_lora(folder, lora, matrices, captioner.manifest["base_model"])
    others = {
        ADAPTER_STYLES if name == BANK else name: tensor
        for name, tensor in tensors.items()
        if name not in matrices
    }
    save_adapter(folder, captioner, others, prompt=prompt)


def read_tuned(folder: Path) -> dict[str, torch.Tensor]:
    """Read the trained parameters of a checkpoint under the parameters' names."""
    tensors = dict(index(folder / ADAPTER_WEIGHTS).stream())
    named = {BANK if name == ADAPTER_STYLES else name: tensor for name, tensor in tensors.items()}
    return named | load_lora(folder)


def can_share(wanted: bool, attention: str) -> bool:
    """Return whether prefixes are shared: the attention must take a mask of its own per sequence."""
    is_able = not IS_LEGACY and attention != "flash_attention_2"
    if wanted and not is_able:
        log.info(
            "each record computes its image's prefix itself: attention %s takes no mask for sharing it",
            attention,
        )
    return wanted and is_able


def open_base(model_args: ModelArguments) -> OpenCheckpoint:
    """Open the checkpoint to be tuned. Raises UsageError for options that contradict it."""
    for name, given in (
        ("--max_pixels", model_args.max_pixels),
        ("--projector_modules", model_args.projector_modules),
    ):
        if given is not None:
            raise UsageError(
                f"{name} is for other models than LLaVA, whose images have one size and whose projector is known; leave it "
                "out, or use --family vlm with a checkpoint in the llava-hf layout"
            )
    opened = open_checkpoint(
        model_args.model_name_or_path,
        model_args.vision_tower,
        template=model_args.version,
        image_aspect_ratio="pad",
    )
    layer = opened.source.config.get("mm_vision_select_layer", -2)
    if model_args.mm_vision_select_layer not in (None, layer):
        raise UsageError(
            f"--mm_vision_select_layer {model_args.mm_vision_select_layer}, but {model_args.model_name_or_path} was trained "
            f"with {layer}; leave the option out"
        )
    return opened


def check_bank(opened: OpenCheckpoint, model_args: ModelArguments, num_styles: int) -> None:
    """Raise UsageError when the options or the data ask for another style bank than the checkpoint has."""
    path = model_args.model_name_or_path
    if opened.num_styles < num_styles:
        raise UsageError(
            f"{path} has {opened.num_styles} styles, but the data asks for {num_styles}; start from the base model, or "
            "correct the data"
        )
    if model_args.style_count not in (None, opened.num_styles):
        raise UsageError(
            f"--style_count {model_args.style_count}, but {path} has {opened.num_styles} styles; leave the option out to "
            "continue with them"
        )
    if model_args.style_tokens not in (None, opened.style_tokens):
        raise UsageError(
            f"--style_tokens {model_args.style_tokens}, but the styles of {path} have {opened.style_tokens} tokens; leave "
            "the option out, or start from the base model"
        )


def load_for_training(
    opened: OpenCheckpoint, model_args: ModelArguments, args: TrainingArguments
) -> Captioner:
    """Load the base: frozen parts in the compute dtype, trained ones in float32 (DeepSpeed keeps float32 masters itself)."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    captioner = load_captioner(
        opened,
        "cpu",
        dtype,
        attention=model_args.attn_implementation,
        trainable_dtype=dtype if args.deepspeed else torch.float32,
    )
    captioner.model.max_length = args.model_max_length
    return captioner


def choose_what_trains(captioner: Captioner, args: TrainingArguments) -> Any:
    """Freeze by module, then list what trains. Returns peft's LoRA configuration, or None."""
    model = captioner.model
    model.requires_grad_(False)
    model.style_bank.requires_grad_(True)
    model.projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    lora = add_lora(model.llm, args.lora_r, args.lora_alpha, args.lora_dropout) if args.lora_enable else None
    if args.gradient_checkpointing:
        set_checkpointing(model.llm)
        for name in (
            "gradient_checkpointing",
            "activation_checkpointing",
        ):  # Trainer would ask the whole network for it
            if hasattr(args, name):
                setattr(args, name, False)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "LoRA" if is_lora(name) else name.split(".")[0]
            parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    log.info(
        "trains: %s; frozen: %s parameters",
        ", ".join(f"{part} {count:,}" for part, count in parts.items()),
        f"{total - sum(parts.values()):,}",
    )
    return lora


def estimate(model_args: ModelArguments, settings: Settings) -> str:
    """Format what tuning will need."""
    source = find_captioner(model_args.model_name_or_path)
    return as_table(estimate_llava(source.config, vision_settings(model_args, source), settings), settings)


def vision_settings(model_args: ModelArguments, source: Source) -> dict[str, Any]:
    """Read the vision tower's configuration; CLIP-ViT-L/14-336's where the tower is not on this machine."""
    named = source.config.get("mm_vision_tower")
    try:
        tower = find_tower(model_args.vision_tower, source.folder, named, has_inside=False)
        return tower_settings(tower, source.config, dict, None)
    except UsageError:
        log.warning("the vision tower %s is not here; estimated as CLIP-ViT-L/14-336", named)
        return CLIP_LARGE_336


def describe(path: Path, base_model: Path | None) -> str:
    """Format what a checkpoint is."""
    return describe_checkpoint(path, base_model)


def export(options: argparse.Namespace) -> None:
    """Write a checkpoint with its base model in the original or the llava-hf layout."""
    if options.layout == "llava-hf":
        export_llava(
            options.model_path, options.out, options.base_model, options.vision_tower, options.max_shard_gib
        )
        return
    if options.vision_tower is not None:
        raise UsageError("--vision-tower: only for --layout llava-hf; the original layout names its tower")
    merge(options.model_path, options.out, options.base_model, options.max_shard_gib)
