"""What a style-tuning run is made of, as training.json records it, and which checkpoint it continues from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ham.captioner.adapter import ADAPTER_WEIGHTS, MANIFEST
from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments
from ham.captioner.checkpoint import DEFAULT_STYLE_TOKENS
from ham.captioner.data import InstructionFile
from ham.captioner.resume import (
    STATE,
    compare_runs,
    file_digest,
    newest_whole,
    recorded_settings,
    set_aside,
    what_is_broken,
)
from ham.llava.lora import LORA_FOLDER
from ham.records import write_json
from ham.runtime import UsageError, dist_info, git_revision, log

# Options that decide what a run learns, in order of how often they are changed by mistake.
DECISIVE = (
    "learning_rate",
    "style_prompt_lr",
    "mm_projector_lr",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "model_max_length",
    "group_by_modality_length",
    "freeze_mm_mlp_adapter",
    "lora_enable",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "dataloader_drop_last",
)


def training_record(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    file: InstructionFile,
    num_styles: int,
    made_of: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of training.json."""
    return {
        "git_revision": git_revision(),
        "records": len(file),
        "num_styles": num_styles,
        "made_of": made_of,
        "command": sys.argv,
        "model": vars(model_args),
        "data": vars(data_args),
        "training": json.loads(args.to_json_string()),
    }


def finish_from(checkpoint: Path, output_dir: Path) -> None:
    """Copy the adapter of a checkpoint that already has all its steps: nothing is left to train."""
    log.info("%s has all the steps: nothing is left to train", checkpoint)
    if not dist_info().is_main:
        return
    if (checkpoint / LORA_FOLDER).is_dir():
        shutil.copytree(checkpoint / LORA_FOLDER, output_dir / LORA_FOLDER, dirs_exist_ok=True)
    for name in (ADAPTER_WEIGHTS, STATE):
        shutil.copyfile(checkpoint / name, output_dir / f".{name}.tmp")
        (output_dir / f".{name}.tmp").replace(output_dir / name)
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    write_json(output_dir / MANIFEST, manifest)


def settings_of(
    model_args: ModelArguments,
    args: TrainingArguments,
    file: InstructionFile,
    num_styles: int,
) -> dict[str, Any]:
    """Return what this run is made of, by option: a run is only resumed with the same."""
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    options = json.loads(args.to_json_string())
    return {
        "--data_path": {"records": len(file), "sha256": file_digest(file.path)},
        "--version": model_args.version,
        "--style_count": num_styles,
        "--style_tokens": model_args.style_tokens or DEFAULT_STYLE_TOKENS,
        "--style_init": model_args.style_init,
        "--max_pixels": model_args.max_pixels,
        "--projector_modules": model_args.projector_modules,
        "processes": dist_info().world_size,
        f"--{length}": options[length],
        **{f"--{name}": options.get(name) for name in DECISIVE},
    }


def checkpoint_to_resume(args: TrainingArguments, made_of: dict[str, Any]) -> Path | None:
    """Find the checkpoint to continue from: the newest whole one in the output folder, or the one given.

    Raises UsageError when the run that wrote it was made of something else.
    """
    output_dir, wanted = Path(args.output_dir), args.resume
    if args.resume_from_checkpoint:  # Trainer's own option
        if args.resume != "auto":
            raise UsageError(
                "--resume and --resume_from_checkpoint are two names of one option; give one of them"
            )
        wanted = {"True": "auto", "true": "auto", "False": "never", "false": "never"}.get(
            args.resume_from_checkpoint, args.resume_from_checkpoint
        )
    if wanted == "never":
        if dist_info().is_main:
            set_aside(output_dir)
        return None
    if wanted == "auto":
        newest = newest_whole(output_dir, dist_info().world_size)
        has_result = newest is not None or (output_dir / ADAPTER_WEIGHTS).is_file()
        if has_result:
            compare_with(newest or output_dir / ADAPTER_WEIGHTS, made_of, args)
        if newest is not None:
            log.info("resuming from %s (--resume never starts again)", newest)
        return newest
    folder = Path(wanted)
    if not (folder / STATE).is_file():
        raise UsageError(f"--resume {wanted}: no {STATE} there; give auto, never or a checkpoint-N folder")
    reason = what_is_broken(folder, world_size=dist_info().world_size)
    if reason is not None:
        raise UsageError(
            f"--resume {wanted}: the checkpoint is not whole: {reason}; give another one, or auto"
        )
    compare_with(folder, made_of, args)
    log.info("resuming from %s", folder)
    return folder


def compare_with(checkpoint: Path | None, made_of: dict[str, Any], args: TrainingArguments) -> None:
    """Raise UsageError when the run of a checkpoint was made of something else."""
    if checkpoint is None:
        return
    recorded = recorded_settings(checkpoint.parent)
    if recorded is None:
        log.warning(
            "%s: an older version wrote it, without a record of its settings to compare", checkpoint.parent
        )
        return
    compare_runs(recorded, made_of, checkpoint.parent, args.extend)


def keep_order(checkpoint: Path | None, args: TrainingArguments) -> None:
    """Keep --share_prefix as the run began: it decides the order of the records. Older versions did not share."""
    if checkpoint is None:
        return
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    began = manifest.get("share_prefix", False)
    if began != args.share_prefix:
        log.info("--share_prefix %s, as the run to be resumed began", began)
        args.share_prefix = began


def step_of(checkpoint: Path | None) -> int:
    """Return how many steps a whole checkpoint has made."""
    if checkpoint is None:
        return 0
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"]
