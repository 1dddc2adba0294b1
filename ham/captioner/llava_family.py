"""The `llava` family: style tuning of LLaVA-1.5/1.6 and HAM checkpoints, the paper's captioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ham.captioner.adapter import ADAPTER_STYLES, ADAPTER_WEIGHTS, save_adapter
from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments
from ham.captioner.check import check_instructions, check_used_styles
from ham.captioner.checkpoint import (
    DEFAULT_STYLE_TOKENS,
    OpenCheckpoint,
    add_styles,
    load_captioner,
    open_checkpoint,
)
from ham.captioner.data import Collator, InstructionDataset, InstructionFile
from ham.captioner.families import Tuning
from ham.captioner.model import Captioner
from ham.llava.conversation import get_template
from ham.llava.lora import add_lora, is_lora, load_lora, save_lora
from ham.llava.transformers_compat import IS_LEGACY, set_checkpointing
from ham.runtime import UsageError, dist_info, log
from ham.tensor_files import index

BANK = "style_bank.prompts"


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
        check_instructions(
            file,
            data_args.image_folder,
            opened.tokenizer,
            get_template(opened.template),
            num_styles,
            opened.num_image_tokens + tokens,
            args.model_max_length,
            data_args.max_violations,
            data_args.check_images,
        )
    captioner = load_for_training(opened, model_args, args)
    if captioner.num_styles == 0:
        trained = captioner.model.projector[0].weight.dtype
        add_styles(captioner, num_styles, tokens, model_args.style_init, args.seed, trained)
        captioner.manifest["untrained_styles"] = file.unused_styles(num_styles)
    captioner.manifest["share_prefix"] = args.share_prefix
    lora = choose_what_trains(captioner, args)

    dataset = InstructionDataset(
        file,
        data_args.image_folder,
        captioner.tokenizer,
        get_template(captioner.template),
        captioner.image_size_px,
    )

    def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        matrices = {name: tensor for name, tensor in tensors.items() if is_lora(name)}
        if lora is not None:
            save_lora(folder, lora, matrices, captioner.manifest["base_model"])
        others = {
            ADAPTER_STYLES if name == BANK else name: tensor
            for name, tensor in tensors.items()
            if name not in matrices
        }
        save_adapter(folder, captioner, others, prompt=prompt)

    def load(folder: Path) -> dict[str, torch.Tensor]:
        tensors = dict(index(folder / ADAPTER_WEIGHTS).stream())
        named = {BANK if name == ADAPTER_STYLES else name: tensor for name, tensor in tensors.items()}
        return named | load_lora(folder)

    collator = Collator(
        captioner.tokenizer.pad_token_id, can_share(args.share_prefix, model_args.attn_implementation)
    )
    return Tuning(captioner, captioner.model, dataset, collator, save, load)


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
