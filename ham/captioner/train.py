"""Style tuning, stage 2: learn the style prompts and the projector inside a frozen LLaVA.

    torchrun --nproc-per-node 4 -m ham.captioner.train --model_name_or_path DIR --data_path instructions.json \
        --image_folder DIR --output_dir checkpoints/ham [--deepspeed configs/deepspeed/zero3.json] [Trainer's options]
    python -m ham.captioner.train ... --estimate True        # what it would need, without loading anything

`scripts/v1_5/finetune_task.sh` calls this with the paper's values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import HfArgumentParser

from ham.captioner.adapter import find_captioner
from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments, check_fixed_options
from ham.captioner.data import InstructionFile
from ham.captioner.estimate import CLIP_LARGE_336, Settings, as_table, estimate
from ham.captioner.families import family_of, prepare_tuning
from ham.captioner.trainer import CaptionerTrainer
from ham.distributed import leave
from ham.llava.vision_tower import find_tower, tower_settings
from ham.records import DEFAULT_PROMPT, IMAGE_TEXT, write_json
from ham.runtime import UsageError, dist_info, exit_code_of, git_revision, log, set_up_logging


def main() -> None:
    set_up_logging()
    model_args, data_args, args = parse_options()
    file = InstructionFile(data_args.data_path)
    num_styles = styles_wanted(model_args, file)
    if args.estimate:
        sys.stdout.write(estimate_for(model_args, args, file, num_styles) + "\n")
        return

    family = family_of(model_args.model_name_or_path, model_args.family)
    prompt = instruction_of(file)
    tuning = prepare_tuning(family, model_args, data_args, args, file, num_styles, prompt)
    trainer = CaptionerTrainer(
        model=tuning.model,
        args=args,
        train_dataset=tuning.dataset,
        data_collator=tuning.collator,
        save_adapter=tuning.save,
        load_adapter=tuning.load,
    )
    if dist_info().is_main:
        write_json(
            Path(args.output_dir) / "training.json",
            {
                "git_revision": git_revision(),
                "records": len(file),
                "num_styles": num_styles,
                "command": sys.argv,
                "model": vars(model_args),
                "data": vars(data_args),
                "training": json.loads(args.to_json_string()),
            },
        )
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
    trainer.save_model()
    trainer.save_state()
    log.info("adapter with %d styles: %s", num_styles, args.output_dir)
    if torch.cuda.is_available() and not args.use_cpu:
        log.info(
            "peak memory of GPU %d: %.1f GiB in tensors, %.1f GiB reserved",
            torch.cuda.current_device(),
            torch.cuda.max_memory_allocated() / 2**30,
            torch.cuda.max_memory_reserved() / 2**30,
        )


def parse_options() -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Read the command line. Raises UsageError for values that Trainer's or our own checks refuse."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments), description=__doc__)
    try:
        model_args, data_args, args = parser.parse_args_into_dataclasses()
    except (ValueError, ImportError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    check_fixed_options(model_args, data_args)
    return model_args, data_args, args


def styles_wanted(model_args: ModelArguments, file: InstructionFile) -> int:
    """Give the number of style prompts. Raises UsageError when the data asks for more than --style_count."""
    needed = file.styles_needed()
    if model_args.style_count is not None and model_args.style_count < needed:
        raise UsageError(
            f"--style_count {model_args.style_count}, but {file.path} uses class_id up to {needed - 1}: it needs "
            f"{needed} styles"
        )
    return model_args.style_count or max(needed, 1)


def instruction_of(file: InstructionFile) -> str:
    """Read the instruction of the first record: captions are asked for in the same words, unless told otherwise.

    A record without one gives the paper's; the check of the file reports it.
    """
    record = file[0]
    turns = record.get("conversations") if isinstance(record, dict) else None
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("from") == "human" and isinstance(turn.get("value"), str):
            return turn["value"].replace(IMAGE_TEXT, "").strip()
    return DEFAULT_PROMPT


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """Find the newest whole checkpoint in the output folder (its trainer_state.json is written last)."""
    if args.resume == "never":
        return None
    if args.resume != "auto":
        if not (Path(args.resume) / "trainer_state.json").is_file():
            raise UsageError(
                f"--resume {args.resume}: no trainer_state.json there; give auto, never or a checkpoint-N folder"
            )
        return args.resume
    whole = [path.parent for path in Path(args.output_dir).glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda folder: int(folder.name.split("-")[1]), default=None)
    if newest is not None:
        log.info("resuming from %s (--resume never starts again)", newest)
    return None if newest is None else str(newest)


def estimate_for(
    model_args: ModelArguments, args: TrainingArguments, file: InstructionFile, num_styles: int
) -> str:
    """Print what these settings would need; reads configurations only."""
    source = find_captioner(model_args.model_name_or_path)
    try:
        tower = find_tower(
            model_args.vision_tower, source.folder, source.config.get("mm_vision_tower"), has_inside=False
        )
        vision = tower_settings(tower, source.config, dict, None)
    except UsageError:
        log.warning(
            "the vision tower %s is not here; taken as CLIP-ViT-L/14-336",
            source.config.get("mm_vision_tower"),
        )
        vision = CLIP_LARGE_336
    deepspeed = json.loads(Path(args.deepspeed).read_text()) if isinstance(args.deepspeed, str) else {}
    zero = deepspeed.get("zero_optimization", {})
    settings = Settings(
        num_styles,
        model_args.style_tokens,
        args.per_device_train_batch_size,
        int(1.5 * abs(file.words).mean()) + 40,
        dist_info().world_size,
        zero.get("stage", 0),
        "offload_optimizer" in zero,
        args.gradient_checkpointing,
        2 if args.bf16 or args.fp16 else 4,
    )
    return as_table(estimate(source.config, vision, settings), settings)


if __name__ == "__main__":
    leave(exit_code_of(main))
