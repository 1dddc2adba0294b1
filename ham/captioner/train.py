"""Style tuning, stage 2: learn the style prompts and the projector inside a frozen LLaVA.

    torchrun --nproc-per-node 4 -m ham.captioner.train --model_name_or_path DIR --data_path instructions.json \
        --image_folder DIR --output_dir checkpoints/ham [--deepspeed configs/deepspeed/zero3.json] [Trainer's options]
    python -m ham.captioner.train ... --estimate True        # memory that it would need, without loading anything

`scripts/v1_5/finetune_task.sh` calls this with the paper's values.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments, parse_options
from ham.captioner.checkpoint import DEFAULT_STYLE_TOKENS
from ham.captioner.data import InstructionFile
from ham.captioner.estimate import Settings
from ham.captioner.families import family_module, family_of
from ham.captioner.model import weights_digest
from ham.captioner.resume import TRAINING, sole_writer, trim_metrics
from ham.captioner.run_record import (
    checkpoint_to_resume,
    compare_with,
    finish_from,
    keep_order,
    settings_of,
    step_of,
    training_record,
)
from ham.captioner.trainer import CaptionerTrainer
from ham.distributed import leave
from ham.llava.lora import is_lora
from ham.records import DEFAULT_PROMPT, IMAGE_TEXT, write_json
from ham.runtime import UsageError, dist_info, exit_code_of, log, set_up_logging


def main() -> None:
    set_up_logging()
    model_args, data_args, args = parse_options()
    file = InstructionFile(data_args.data_path)
    num_styles = styles_wanted(model_args, file)
    if args.estimate:
        sys.stdout.write(estimate_for(model_args, args, file, num_styles) + "\n")
        return
    with sole_writer(args.output_dir) if dist_info().is_main else nullcontext():
        tune(model_args, data_args, args, file, num_styles)


def tune(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    file: InstructionFile,
    num_styles: int,
) -> None:
    """Find what to resume, load the base model, check the data, train, write the adapter."""
    family = family_of(model_args.model_name_or_path, model_args.family)
    made_of = settings_of(model_args, args, file, num_styles)
    checkpoint = checkpoint_to_resume(args, made_of)
    keep_order(checkpoint, args)
    prompt = instruction_of(file)
    tuning = family_module(family).prepare(model_args, data_args, args, file, num_styles, prompt)
    made_of["--model_name_or_path"] = weights_digest(tuning.model, lambda name: not is_lora(name))
    compare_with(checkpoint, made_of, args)
    if dist_info().is_main:
        write_json(
            Path(args.output_dir) / TRAINING,
            training_record(model_args, data_args, args, file, num_styles, made_of),
        )
        trim_metrics(Path(args.output_dir) / "metrics.jsonl", step_of(checkpoint))
    if checkpoint is not None and 0 < args.max_steps <= step_of(checkpoint):
        finish_from(checkpoint, Path(args.output_dir))
        return
    trainer = CaptionerTrainer(
        model=tuning.model,
        args=args,
        train_dataset=tuning.dataset,
        data_collator=tuning.collator,
        save_adapter=tuning.save,
        load_adapter=tuning.load,
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()
    trainer.save_state()
    log.info("adapter with %d styles: %s", tuning.captioner.num_styles, args.output_dir)
    log_peak_memory(args)


def log_peak_memory(args: TrainingArguments) -> None:
    """Log what a GPU needed at most."""
    if torch.cuda.is_available() and not args.use_cpu:
        log.info(
            "peak memory of GPU %d: %.1f GiB in tensors, %.1f GiB reserved",
            torch.cuda.current_device(),
            torch.cuda.max_memory_allocated() / 2**30,
            torch.cuda.max_memory_reserved() / 2**30,
        )


def styles_wanted(model_args: ModelArguments, file: InstructionFile) -> int:
    """Return the number of style prompts. Raises UsageError when the data asks for more than --style_count."""
    needed = file.styles_needed()
    if model_args.style_count is not None and model_args.style_count < needed:
        raise UsageError(
            f"--style_count {model_args.style_count}, but {file.path} uses class_id up to {needed - 1}: it needs "
            f"{needed} styles"
        )
    return model_args.style_count or max(needed, 1)


def instruction_of(file: InstructionFile) -> str:
    """Return the instruction of the first record, with which captions are requested by default.

    A record without one gives the paper's; the check of the file reports it.
    """
    record = file[0]
    turns = record.get("conversations") if isinstance(record, dict) else None
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("from") == "human" and isinstance(turn.get("value"), str):
            return turn["value"].replace(IMAGE_TEXT, "").strip()
    return DEFAULT_PROMPT


def estimate_for(
    model_args: ModelArguments, args: TrainingArguments, file: InstructionFile, num_styles: int
) -> str:
    """Format what these settings would need; reads configurations only."""
    deepspeed = json.loads(Path(args.deepspeed).read_text()) if isinstance(args.deepspeed, str) else {}
    zero = deepspeed.get("zero_optimization", {})
    settings = Settings(
        num_styles,
        model_args.style_tokens or DEFAULT_STYLE_TOKENS,
        args.per_device_train_batch_size,
        int(1.5 * abs(file.words).mean()) + 40,
        dist_info().world_size,
        zero.get("stage", 0),
        "offload_optimizer" in zero,
        args.gradient_checkpointing,
        2 if args.bf16 or args.fp16 else 4,
    )
    family = family_of(model_args.model_name_or_path, model_args.family)
    return family_module(family).estimate(model_args, settings)


if __name__ == "__main__":
    leave(exit_code_of(main))
