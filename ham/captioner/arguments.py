"""The options of style tuning: three groups, under the names that LLaVA's and HAM's training scripts use.

All options of Hugging Face's Trainer are accepted too.
"""

from __future__ import annotations

import difflib
import math
import sys
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from transformers import HfArgumentParser

from ham.captioner.data import MAX_STYLES
from ham.captioner.trainer_compat import check_trackers, set_warmup_ratio, training_arguments
from ham.llava.conversation import get_template
from ham.llava.transformers_compat import ATTENTIONS, DEFAULT_ATTENTION, IS_LEGACY, check_attention
from ham.runtime import UsageError, log

# Options of the reference that have one supported value here: accepted so that its command lines run, refused otherwise.
FIXED_OPTIONS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "image_aspect_ratio": "pad",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "tune_mm_mlp_adapter": False,
    "pretrain_mm_mlp_adapter": None,
    "unfreeze_mm_vision_tower": False,
    "is_multimodal": True,
    "bits": 16,
    "lora_weight_path": "",
    "lora_bias": "none",
    "eval_strategy": "no",
    "evaluation_strategy": "no",
    "load_best_model_at_end": False,
    "auto_find_batch_size": False,
    "save_only_model": False,
    "push_to_hub": False,
}
# Trainer's own option under its earlier and its present name.
RENAMED = (
    {"--eval_strategy": "--evaluation_strategy"}
    if IS_LEGACY
    else {"--evaluation_strategy": "--eval_strategy"}
)


def option(default: Any, help_text: str) -> Any:
    """Declare one option; MISSING as its default makes it required."""
    return field(default=default, metadata={"help": help_text})


@dataclass
class ModelArguments:
    """Which model is tuned, and what of it."""

    model_name_or_path: str = option(
        MISSING, "folder of a LLaVA-1.5/1.6, HAM or llava-hf checkpoint, or one of our adapters"
    )
    version: str = option("v1", "conversation template: v1 (the paper's) | llava_v1 | llava_v0")
    vision_tower: str | None = option(
        None,
        "a CLIP folder, or 'checkpoint' for the tower inside the checkpoint; default: the plain tower its config names",
    )
    family: str | None = option(
        None, "llava | vlm (any image-text-to-text model); default: found from the files"
    )
    max_pixels: int | None = option(
        None,
        "vlm: largest number of pixels of an image, for models with variable resolution; default: the processor's",
    )
    projector_modules: str | None = option(
        None,
        "vlm: ends of the names of the modules that train beside the styles, comma-separated; default: the projector",
    )
    style_count: int | None = option(None, "number of style prompts; default: what the data holds")
    style_tokens: int | None = option(
        None, "tokens per style prompt; default: the checkpoint's, or 10 for a new style bank"
    )
    style_init: str = option(
        "normal",
        "normal: N(0, 1) as the reference; vocab: rows of the language model's embeddings (a tenth of the rate)",
    )
    attn_implementation: str = option(DEFAULT_ATTENTION, " | ".join(ATTENTIONS))
    mm_vision_select_layer: int | None = option(
        None, "the vision tower's hidden state that LLaVA uses; only the checkpoint's own value"
    )
    freeze_backbone: bool = option(True, "the language model is always frozen; see --lora_enable")
    mm_projector_type: str = option("mlp2x_gelu", "only mlp2x_gelu")
    mm_vision_select_feature: str = option("patch", "only patch")
    mm_patch_merge_type: str = option("flat", "only flat")
    mm_use_im_start_end: bool = option(False, "only False")
    mm_use_im_patch_token: bool = option(False, "only False")
    tune_mm_mlp_adapter: bool = option(False, "only False: the projector trains with the style prompts")
    pretrain_mm_mlp_adapter: str | None = option(None, "not supported: give a checkpoint with a projector")
    unfreeze_mm_vision_tower: bool = option(False, "only False")


@dataclass
class DataArguments:
    """Which data, and how it is checked."""

    data_path: str = option(MISSING, "instructions.json: LLaVA conversations with style_id and class_id")
    image_folder: str = option(MISSING, "folder that the records' image paths are relative to")
    image_aspect_ratio: str = option("pad", "only pad: the whole person on a square")
    is_multimodal: bool = option(True, "only True")
    lazy_preprocess: bool = option(True, "images and conversations are always read when they are needed")
    check_images: bool = option(False, "decode every image before the first step, not only look for its file")
    allow_unused_styles: bool = option(
        False, "accept class_id values without any record: their prompts stay untrained noise"
    )
    max_violations: int = option(20, "violations of the instruction file listed before the count")


@dataclass
class TrainingArguments(training_arguments()):
    """Trainer's options, with the ones that style tuning adds."""

    model_max_length: int = option(2048, "tokens of text, image included, before truncation")
    warmup_ratio: float = option(0.0, "fraction of all steps for the linear warm-up")
    style_prompt_lr: float | None = option(None, "learning rate of the style prompts; default: learning_rate")
    mm_projector_lr: float | None = option(None, "learning rate of the projector; default: learning_rate")
    freeze_mm_mlp_adapter: bool = option(False, "keep the projector as it is; train the style prompts alone")
    group_by_modality_length: bool = option(False, "batches of samples of similar length")
    share_prefix: bool = option(
        True,
        "compute an image's prefix once for its records in a batch, which then stand together (LLaVA only)",
    )
    lora_enable: bool = option(False, "also train LoRA matrices in the language model (not in the paper)")
    lora_r: int = option(128, "rank of the LoRA matrices")
    lora_alpha: int = option(256, "scale of the LoRA matrices")
    lora_dropout: float = option(0.05, "dropout before the LoRA matrices")
    lora_bias: str = option("none", "only none")
    lora_weight_path: str = option("", "not supported: give the LoRA folder as --model_name_or_path")
    bits: int = option(16, "only 16: weights are not quantized")
    resume: str = option(
        "auto", "auto: from the newest whole checkpoint in output_dir, if any; never; or a path"
    )
    extend: bool = option(
        False, "continue a run to a larger --num_train_epochs or --max_steps than it was started with"
    )
    estimate: bool = option(False, "print parameters and bytes per GPU for these settings, then stop")

    def __post_init__(self) -> None:
        self.remove_unused_columns = False
        self.disable_tqdm = not sys.stderr.isatty()  # a bar on a terminal, plain lines elsewhere
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every trained parameter takes part in every step
        if not torch.cuda.is_available() and not self.use_cpu:
            self.use_cpu = True
            log.warning("no GPU found: training on the CPU")
        if self.tf32 and self.use_cpu:
            self.tf32 = None
            log.warning("--tf32 has no effect without an NVIDIA GPU (Ampere or newer)")
        set_warmup_ratio(self, self.warmup_ratio)
        super().__post_init__()


def parse_options() -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Read the command line. Raises UsageError for unknown options and for values that cannot work."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments),
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    words = [renamed(word) for word in sys.argv[1:]]
    try:
        model, data, training, unknown = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    if unknown:
        raise UsageError(unknown_options(unknown))
    for group in (model, data, training):
        check_fixed_options(group)
    check_ranges(model, data, training)
    check_attention(model.attn_implementation)
    get_template(model.version)
    check_trackers(training.report_to)
    return model, data, training


def renamed(word: str) -> str:
    """Return an option under its present name; `--name=value` too."""
    name, equals, value = word.partition("=")
    return RENAMED.get(name, name) + equals + value


def unknown_options(words: list[str]) -> str:
    """Describe options that nobody declares, with the nearest known name."""
    known = [
        f"--{one.name}"
        for group in (ModelArguments, DataArguments, TrainingArguments)
        for one in fields(group)
    ]
    lines = []
    for word in words:
        name = word.split("=")[0]
        if not name.startswith("-"):
            continue
        near = difflib.get_close_matches(name.replace("-", "_").replace("__", "--", 1), known, n=1)
        lines.append(f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return "; ".join(lines) or f"unexpected words on the command line: {' '.join(words)}"


def check_fixed_options(*groups: object) -> None:
    """Raise UsageError for a value that the reference's options name but that this method does not use."""
    for group in groups:
        for name, only in FIXED_OPTIONS.items():
            value = getattr(group, name, only)
            value = getattr(value, "value", value)  # Trainer's enumerations
            if value != only:
                raise UsageError(f"--{name} {value}: only {only} is supported{WHY_FIXED.get(name, '')}")


WHY_FIXED = {
    "eval_strategy": "; style tuning has no evaluation set, judge the captions instead",
    "evaluation_strategy": "; style tuning has no evaluation set, judge the captions instead",
    "load_best_model_at_end": "; style tuning has no evaluation set, the last step is kept",
    "pretrain_mm_mlp_adapter": "; give --model_name_or_path a checkpoint that holds its projector",
    "lora_weight_path": "; give --model_name_or_path the LoRA folder",
    "bits": "; quantized training is not supported",
}
# option -> (smallest, largest, whether the smallest itself is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "style_count": (1, MAX_STYLES, True),
    "style_tokens": (1, 1000, True),
    "max_violations": (1, math.inf, True),
    "model_max_length": (16, 1_000_000, True),
    "warmup_ratio": (0, 1, True),
    "learning_rate": (0, math.inf, True),
    "style_prompt_lr": (0, math.inf, True),
    "mm_projector_lr": (0, math.inf, True),
    "weight_decay": (0, math.inf, True),
    "lora_r": (1, 65536, True),
    "lora_alpha": (0, math.inf, False),
    "lora_dropout": (0, 0.999, True),
    "per_device_train_batch_size": (1, math.inf, True),
    "gradient_accumulation_steps": (1, math.inf, True),
    "num_train_epochs": (0, math.inf, False),
    "dataloader_num_workers": (0, 4096, True),
    "max_grad_norm": (0, math.inf, True),
    "adam_beta1": (0, 0.999999999, True),
    "adam_beta2": (0, 0.999999999, True),
    "adam_epsilon": (0, math.inf, False),
    "save_steps": (0, math.inf, False),
    "logging_steps": (0, math.inf, False),
    "save_total_limit": (1, math.inf, True),
    "seed": (0, 2**63 - 1, True),
}


def check_ranges(model: ModelArguments, data: DataArguments, training: TrainingArguments) -> None:
    """Raise UsageError for a number that no run can work with, before anything is loaded."""
    for group in (model, data, training):
        for name, (low, high, included) in RANGES.items():
            value = getattr(group, name, None)
            if value is None:
                continue
            fits = low <= value <= high if included else low < value <= high
            if not fits or not math.isfinite(value):
                bound = "at least" if included else "more than"
                top = "" if math.isinf(high) else f" and at most {high:g}"
                raise UsageError(f"--{name} {value}: expected a number of {bound} {low:g}{top}")
    if training.max_steps == 0 or training.max_steps < -1:
        raise UsageError(
            f"--max_steps {training.max_steps}: expected at least 1, or -1 to train for --num_train_epochs"
        )
    if model.style_init not in ("normal", "vocab"):
        raise UsageError(f"--style_init {model.style_init}: expected normal or vocab")
    if not training.output_dir:
        raise UsageError("--output_dir is missing: give the folder for the adapter and its checkpoints")
