"""The options of style tuning: three groups, under the names that LLaVA's and HAM's training scripts use.

Everything that Hugging Face's Trainer takes is taken too.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, field
from typing import Any

from ham.llava.transformers_compat import ATTENTIONS, DEFAULT_ATTENTION, set_warmup_ratio, training_arguments
from ham.runtime import UsageError

# Options of the reference that have one supported value here: accepted so that its command lines run, refused otherwise.
FIXED_OPTIONS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "is_multimodal": True,
}


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
    style_tokens: int = option(10, "tokens per style prompt")
    style_init: str = option(
        "normal",
        "normal: N(0, 1) as the reference; vocab: rows of the language model's embeddings (a tenth of the rate)",
    )
    attn_implementation: str = option(DEFAULT_ATTENTION, " | ".join(ATTENTIONS))
    mm_projector_type: str = option("mlp2x_gelu", "only mlp2x_gelu")
    mm_vision_select_feature: str = option("patch", "only patch")
    mm_use_im_start_end: bool = option(False, "only False")
    mm_use_im_patch_token: bool = option(False, "only False")


@dataclass
class DataArguments:
    """Which data, and how it is checked."""

    data_path: str = option(MISSING, "instructions.json: LLaVA conversations with style_id and class_id")
    image_folder: str = option(MISSING, "folder that the records' image paths are relative to")
    image_aspect_ratio: str = option("pad", "only pad: the whole person on a square")
    is_multimodal: bool = option(True, "only True")
    max_violations: int = option(20, "violations of the instruction file listed before the count")


@dataclass
class TrainingArguments(training_arguments()):
    """Trainer's options, with the ones that style tuning adds."""

    model_max_length: int = option(2048, "tokens of text, image included, before truncation")
    warmup_ratio: float = option(0.0, "share of all steps for the linear warm-up")
    style_prompt_lr: float | None = option(None, "learning rate of the style prompts; default: learning_rate")
    mm_projector_lr: float | None = option(None, "learning rate of the projector; default: learning_rate")
    freeze_mm_mlp_adapter: bool = option(False, "keep the projector as it is; train the style prompts alone")
    group_by_modality_length: bool = option(False, "batches of samples of like length")
    lora_enable: bool = option(False, "also train LoRA matrices in the language model (not in the paper)")
    lora_r: int = option(128, "rank of the LoRA matrices")
    lora_alpha: int = option(256, "scale of the LoRA matrices")
    lora_dropout: float = option(0.05, "dropout before the LoRA matrices")
    resume: str = option("auto", "auto: from the newest checkpoint in output_dir, if any; never; or a path")
    estimate: bool = option(False, "print parameters and bytes per GPU for these settings, then stop")

    def __post_init__(self) -> None:
        self.remove_unused_columns = False
        self.disable_tqdm = not sys.stderr.isatty()  # a bar on a terminal, plain lines elsewhere
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every trained parameter takes part in every step
        set_warmup_ratio(self, self.warmup_ratio)
        super().__post_init__()


def check_fixed_options(*groups: object) -> None:
    """Refuse a value that the reference's options name but that no checkpoint of this method uses."""
    for group in groups:
        for name, only in FIXED_OPTIONS.items():
            value = getattr(group, name, only)
            if value != only:
                raise UsageError(
                    f"--{name} {value}: only {only} is supported (HAM and LLaVA-1.5/1.6 use nothing else)"
                )
