"""The options of `train_reid.py`, one dataclass per command: defaults < YAML file < command line.

The names are the YAML keys and, with dashes or underscores, the options of the command line; the docstrings are their help.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ham.datasets import needs_root
from ham.reid.eval_config import EvalConfig as EvalConfig
from ham.reid.eval_config import SearchConfig as SearchConfig
from ham.reid.methods import find_method, method_types
from ham.reid.ranges import check_range
from ham.runtime import UsageError, resolve_device

MAX_TEXT_LENGTH = 248  # as Long-CLIP's; longer positions have no published weights
# on resuming these may differ: they change where and how a run works, not what it computes
FREE_ON_RESUME = (
    "data_root",
    "train_images",
    "output_dir",
    "cache_dir",
    "device",
    "num_workers",
    "log_every",
    "trackers",
    "resume",
    "save_every_steps",
    "expected",
    "estimate",
)


@dataclass
class TrainOptions:
    """Pretrain on captions or finetune on a benchmark.

    Attributes:
        output_dir: folder of config.yaml, metrics.jsonl and the checkpoints
        weights: CLIP, IRRA, RDE or HAM weights to start from (file or folder)
        method: sdm (pretraining), irra, rde, or a list of losses such as sdm+mlm+id
        data_root: folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on
        train_datasets: datasets whose training split is trained on, by name or NAME=PATH (ham/datasets/README.md)
        train_captions: caption files ({image: [caption, ...]}) to train on
        train_images: folder that the paths in train_captions are relative to
        strip_prefix: start of the paths in train_captions that is removed, for paths of another machine
        caption_images: number of images of train_captions to train on, a random choice that is always the same; null: all
        person_is: with train_captions, what counts as one person: each image, or all images of a folder (Part1/<id>/)
        test_datasets: datasets whose test split is evaluated during training, by name or NAME=PATH
        val_datasets: benchmarks whose val split chooses the val-best checkpoint
        image_size_px: height and width of the model's input
        stride_px: pixels between patches
        text_length: tokens per caption, start and end included; above 77 the text positions are resized
        heads: attention heads of the vision and the text tower, [12, 8]; only for weights that do not record them
        ignore_tensors: names, or beginnings of names, of tensors of the weights that may be left out
        augment_images: flip, shift and erase
        pad_px: largest shift; 10 as in the reference for 384x128, less for small images
        scramble_words: change a fifth of each caption's words; null: the method's default (rde: true)
        epochs: passes over the training pairs
        batch_size: pairs per optimizer step, over all processes
        accumulation_steps: gradient accumulation steps; the losses compare the pairs of one step only
        gather: compare the pairs of all processes; false: each process compares its own, as in the reference
        sampler: random pairs, or identity (batches of different persons with `instances` pairs each)
        instances: pairs per person for the identity sampler
        optimizer: adam (epsilon 1e-3, as in the reference), adamw or sgd
        lr: base learning rate
        weight_decay: of everything but biases
        new_layer_lr_factor: factor on lr for layers that CLIP does not have
        bias_lr_factor: factor on lr for biases
        lr_mode: cosine, linear, exp, poly, polynomial or step
        lr_per: the rate changes every epoch, as in the reference, or every step
        warmup_epochs: epochs from warmup_factor to the full rate
        warmup_factor: factor on the rate at the start of the warm-up
        milestones: epochs at which lr_mode step divides by ten
        clip_grad_norm: largest norm of the gradient; null: unlimited
        seed: seed of everything random
        precision: fp32, bf16 or fp16 (weights stay fp32); auto: bf16 on a GPU
        device: auto, cpu, cuda or cuda:N
        compile: compile the model with torch.compile
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time
        num_workers: processes that decode images, per training process
        decode_jpeg_on: cpu (in the workers) or gpu (packed images only, with torchvision)
        eval_every: epochs between evaluations; 0: only at the end
        save_every_steps: also save after this number of steps; null: only after each epoch
        log_every: steps between lines in metrics.jsonl
        max_failed_share: share of unreadable images at which the run stops
        trackers: also log to tensorboard, wandb or both
        cache_dir: folder of the tokenized captions; by default output_dir/cache
        resume: continue the run that the same command began; false: refuse an output_dir that holds a run
        expected: published figures to compare with, {source: {dataset: {R1: ..., mAP: ...}}}
        estimate: print the memory that the run needs and stop
    """

    output_dir: Path | None = None
    weights: Path | None = None
    method: str = "sdm"
    data_root: Path | None = None
    train_datasets: list[str] = field(default_factory=list)
    train_captions: list[str] = field(default_factory=list)
    train_images: Path | None = None
    strip_prefix: str = ""
    caption_images: int | None = None
    person_is: Literal["image", "folder"] = "image"
    test_datasets: list[str] = field(default_factory=list)
    val_datasets: list[str] = field(default_factory=list)
    image_size_px: tuple[int, int] = (384, 128)
    stride_px: int = 16
    text_length: int = 77
    heads: tuple[int, int] | None = None
    ignore_tensors: list[str] = field(default_factory=list)
    augment_images: bool = True
    pad_px: int = 10
    scramble_words: bool | None = None
    epochs: int = 60
    batch_size: int = 64
    accumulation_steps: int = 1
    gather: bool = False
    sampler: Literal["random", "identity"] = "random"
    instances: int = 4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-5
    weight_decay: float = 4e-5
    new_layer_lr_factor: float = 5.0
    bias_lr_factor: float = 2.0
    lr_mode: Literal["cosine", "linear", "exp", "poly", "polynomial", "step"] = "cosine"
    lr_per: Literal["epoch", "step"] = "epoch"
    warmup_epochs: int = 5
    warmup_factor: float = 0.1
    milestones: list[int] = field(default_factory=lambda: [20, 50])
    clip_grad_norm: float | None = None
    seed: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    num_workers: int = 8
    decode_jpeg_on: Literal["cpu", "gpu"] = "cpu"
    eval_every: int = 1
    save_every_steps: int | None = None
    log_every: int = 50
    max_failed_share: float = 0.01
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    cache_dir: Path | None = None
    resume: bool = True
    expected: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    estimate: bool = False

    @property
    def method_options(self) -> dict[str, Any]:
        """The methods' options by key, such as {"irra": IRRAOptions(...), "rde": RDEOptions(...)}."""
        common = {one.name for one in fields(TrainOptions)}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in common}

    def check(self) -> None:
        """Raise UsageError for options that are missing, out of range or exclude each other; reads no file."""
        self._check_presence()
        self.check_values()

    def _check_presence(self) -> None:
        for name in ("output_dir", "weights"):
            if getattr(self, name) is None:
                raise UsageError(f"--{name} is missing; set it in the YAML file or on the command line")
        if not self.train_datasets and not self.train_captions:
            raise UsageError(
                "nothing to train on: set --train_datasets (with --data_root) or --train_captions (with "
                "--train_images)"
            )
        if self.train_captions and self.train_images is None:
            raise UsageError(
                "--train_captions needs --train_images, the folder that its image paths are relative to"
            )
        if (
            needs_root([*self.train_datasets, *self.test_datasets, *self.val_datasets])
            and self.data_root is None
        ):
            raise UsageError(
                "--data_root is missing: the folder that holds CUHK-PEDES/ and the other datasets"
            )

    def check_values(self) -> None:
        """Raise UsageError for options out of range, and for an unknown method; paths are not looked at."""
        self._check_ranges()
        resolve_device(self.device)
        self.method_options[find_method(self.method).options_key].check()

    def _check_ranges(self) -> None:
        for name in ("epochs", "batch_size", "accumulation_steps", "log_every", "instances", "stride_px"):
            check_range(f"--{name}", getattr(self, name), at_least=1)
        for name in ("caption_images", "save_every_steps"):
            check_range(f"--{name}", getattr(self, name), at_least=1)
        for name in ("pad_px", "num_workers", "eval_every", "warmup_epochs"):
            check_range(f"--{name}", getattr(self, name), at_least=0)
        for name in ("lr", "weight_decay", "new_layer_lr_factor", "bias_lr_factor", "seed"):
            check_range(f"--{name}", getattr(self, name), at_least=0)
        for name in ("warmup_factor", "max_failed_share"):
            check_range(f"--{name}", getattr(self, name), at_least=0, at_most=1)
        check_range("--clip_grad_norm", self.clip_grad_norm, above=0)
        check_range("--text_length", self.text_length, at_least=3, at_most=MAX_TEXT_LENGTH)
        for side in self.image_size_px:
            check_range("--image_size_px", side, at_least=1)
        for epoch in self.milestones:
            check_range("--milestones", epoch, at_least=0)

    def check_groups(self, world_size: int) -> None:
        """Raise UsageError unless every group of compared pairs can hold two persons.

        A loss compares the pairs of one gradient accumulation step, of one process unless --gather is on.
        """
        group = self.batch_size // self.accumulation_steps // (1 if self.gather else world_size)
        least = self.instances + 1 if self.sampler == "identity" else 2
        if group < least:
            apart = "" if self.gather or world_size == 1 else f" on each of {world_size} processes"
            raise UsageError(
                f"the losses would compare {group} pair{'s' * (group != 1)} at a time{apart}, all of one person, so that "
                f"there is nothing to learn: --batch_size is {self.batch_size}, --accumulation_steps "
                f"{self.accumulation_steps}; use a larger --batch_size, fewer accumulation steps, or --gather true"
            )


def train_config_type() -> type[TrainOptions]:
    """Return the config class of training: the common options, and each method's options under its key."""
    return _train_config_type(tuple((key, kind.options_type) for key, kind in method_types().items()))


@lru_cache
def _train_config_type(keys: tuple[tuple[str, type], ...]) -> type[TrainOptions]:
    groups = [(key, options, field(default_factory=options)) for key, options in keys]
    made = make_dataclass("TrainConfig", groups, bases=(TrainOptions,))
    lines = [f"        {key}: options of {key}" for key, _ in keys]
    made.__doc__ = (TrainOptions.__doc__ or "").rstrip() + "\n" + "\n".join(lines) + "\n    "
    made.__module__ = __name__
    return made


if TYPE_CHECKING:
    TrainConfig = TrainOptions
else:
    TrainConfig = train_config_type()


def moved_options() -> dict[str, str]:
    """Return where options of earlier versions are now: {"ccd": "rde.ccd", ...}."""
    return {name: f"{key}.{name}" for key, kind in method_types().items() for name in kind.moved_options}


def upgrade_options(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a YAML file with those of earlier versions at their present place."""
    values = dict(values)
    for old, new in moved_options().items():
        if old in values:
            key, name = new.split(".")
            values[key] = {name: values.pop(old)} | dict(values.get(key) or {})
    if "tensorboard" in values:
        wanted = values.pop("tensorboard")
        values.setdefault("trackers", ["tensorboard"] if wanted else [])
    return values
