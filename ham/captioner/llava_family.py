"""The `llava` family: style tuning of LLaVA-1.5/1.6 and HAM checkpoints, the paper's captioner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ham.captioner.adapter import ADAPTER_STYLES, ADAPTER_WEIGHTS, save_adapter
from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments
from ham.captioner.check import check_instructions
from ham.captioner.checkpoint import add_styles, load_captioner
from ham.captioner.data import Collator, InstructionDataset, InstructionFile
from ham.captioner.families import Tuning
from ham.captioner.model import Captioner
from ham.llava.conversation import get_template
from ham.llava.lora import add_lora, is_lora, load_lora, save_lora
from ham.llava.transformers_compat import set_checkpointing
from ham.runtime import UsageError, dist_info, log

BANK = "style_bank.prompts"


def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    file: InstructionFile,
    num_styles: int,
    prompt: str,
) -> Tuning:
    """Load the base model with its styles, check the data and collect what the trainer needs."""
    captioner = load_for_training(model_args, args, num_styles)
    if dist_info().is_main:
        check_instructions(
            file,
            data_args.image_folder,
            captioner.tokenizer,
            get_template(captioner.template),
            captioner.num_styles,
            captioner.num_image_tokens + captioner.style_tokens,
            args.model_max_length,
            data_args.max_violations,
        )
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
        tensors = load_file(str(folder / ADAPTER_WEIGHTS))
        return {
            BANK if name == ADAPTER_STYLES else name: tensor for name, tensor in tensors.items()
        } | load_lora(folder)

    collator = Collator(captioner.tokenizer.pad_token_id)
    return Tuning(captioner, captioner.model, dataset, collator, save, load)


def load_for_training(model_args: ModelArguments, args: TrainingArguments, num_styles: int) -> Captioner:
    """Load the base: frozen parts in the compute dtype, trained ones in float32 (DeepSpeed keeps float32 masters itself)."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    trained = dtype if args.deepspeed else torch.float32
    captioner = load_captioner(
        model_args.model_name_or_path,
        "cpu",
        dtype,
        model_args.vision_tower,
        template=model_args.version,
        attention=model_args.attn_implementation,
        trainable_dtype=trained,
        image_aspect_ratio="pad",
    )
    if captioner.num_styles == 0:
        add_styles(captioner, num_styles, model_args.style_tokens, model_args.style_init, args.seed, trained)
    elif captioner.num_styles < num_styles:
        raise UsageError(
            f"{model_args.model_name_or_path} has {captioner.num_styles} styles, but the data asks for "
            f"{num_styles}; start from the base model, or mend the data"
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
