"""The options of `train_reid.py`, one dataclass per command: defaults < YAML file < command line.

The names are the YAML keys and, with dashes or underscores, the options of the command line; the docstrings are their help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ham.datasets import BENCHMARKS
from ham.reid.irra import IRRAOptions
from ham.reid.rde import RDEOptions
from ham.runtime import UsageError

# on resuming these may differ: they change where and how a run works, not what it computes
FREE_ON_RESUME = (
    "data_root",
    "train_images",
    "output_dir",
    "cache_dir",
    "device",
    "num_workers",
    "log_every",
    "tensorboard",
    "resume",
    "save_every_steps",
)


@dataclass
class TrainConfig:
    """Pretrain on captions or finetune on a benchmark.

    Attributes:
        output_dir: where config.yaml, metrics.jsonl and the checkpoints go
        weights: CLIP, IRRA, RDE or HAM weights to start from (file or folder)
        method: sdm (pretraining), irra, rde, or a list of losses such as sdm+mlm+id
        data_root: the folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on
        train_datasets: benchmarks whose training split is trained on
        train_captions: caption files ({image: [caption, ...]}) to train on
        train_images: the folder that the paths in train_captions are relative to
        caption_images: train on so many randomly chosen images of train_captions, always the same ones; null: on all
        person_is: with train_captions, who is one person: each image, or all images of a folder (Part1/<id>/)
        test_datasets: benchmarks whose test split is measured during training
        val_datasets: benchmarks whose val split chooses the val-best checkpoint
        image_size_px: height and width of the model's input
        stride_px: pixels between patches
        text_length: tokens per caption, start and end included
        irra: options of the IRRA losses
        rde: options of RDE
        ccd: RDE divides the pairs into clean and noisy before every epoch; false: all count as clean
        noise_rate: share of wrong pairs that RDE is told of; above 0.4 its mixture is fitted tightly
        mask_all_losses: masked captions go to all losses, as in the reference; false: to the MLM loss alone
        augment_images: flip, shift and erase
        pad_px: largest shift; 10 as in the reference for 384x128, less for small images
        scramble_words: change a fifth of each caption's words; null: as the method has it (rde)
        epochs: times through the training pairs
        batch_size: pairs per optimizer step, over all processes
        accumulation_steps: parts that a batch is worked off in; each part is a batch of its own to the losses
        gather: compare with the pairs of all processes; false: each process sees its own, as in the reference
        sampler: random pairs, or identity (batches of different persons with `instances` pairs each)
        instances: pairs per person for the identity sampler
        optimizer: adam (epsilon 1e-3, as in the reference), adamw or sgd
        lr: base learning rate
        weight_decay: of everything but biases
        new_layer_lr_factor: times lr for layers that CLIP does not have
        bias_lr_factor: times lr for biases
        token_selection_lr: own rate of RDE's token selection layers
        lr_mode: cosine, linear, exp, poly, polynomial or step
        lr_per: the rate changes every epoch, as in the reference, or every step
        warmup_epochs: epochs from warmup_factor to the full rate
        warmup_factor: where the warm-up begins
        milestones: epochs at which lr_mode step divides by ten
        clip_grad_norm: largest norm of the gradient; null: unlimited
        seed: of everything random
        precision: fp32, bf16 or fp16 (weights stay fp32); auto: bf16 on a GPU
        device: auto, cpu or cuda
        compile: compile the model with torch.compile
        num_workers: processes that decode images, per training process
        eval_every: epochs between evaluations; 0: only at the end
        save_every_steps: also save after so many steps; null: only after each epoch
        log_every: steps between lines in metrics.jsonl
        max_failed_share: share of unreadable images at which the run stops
        tensorboard: also write TensorBoard events
        cache_dir: where tokenized captions are kept; by default output_dir/cache
        resume: go on where the same command stopped; false: refuse an output_dir that holds a run
    """

    output_dir: Path | None = None
    weights: Path | None = None
    method: str = "sdm"
    data_root: Path | None = None
    train_datasets: list[str] = field(default_factory=list)
    train_captions: list[str] = field(default_factory=list)
    train_images: Path | None = None
    caption_images: int | None = None
    person_is: Literal["image", "folder"] = "image"
    test_datasets: list[str] = field(default_factory=list)
    val_datasets: list[str] = field(default_factory=list)
    image_size_px: tuple[int, int] = (384, 128)
    stride_px: int = 16
    text_length: int = 77
    irra: IRRAOptions = field(default_factory=IRRAOptions)
    rde: RDEOptions = field(default_factory=RDEOptions)
    ccd: bool = True
    noise_rate: float = 0.0
    mask_all_losses: bool = True
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
    token_selection_lr: float = 1e-3
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
    num_workers: int = 8
    eval_every: int = 1
    save_every_steps: int | None = None
    log_every: int = 50
    max_failed_share: float = 0.01
    tensorboard: bool = False
    cache_dir: Path | None = None
    resume: bool = True

    def check(self) -> None:
        """Raise UsageError for options that are missing or exclude each other, before the first expensive minute."""
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
        if (self.train_datasets or self.test_datasets or self.val_datasets) and self.data_root is None:
            raise UsageError(
                "--data_root is missing: the folder that holds CUHK-PEDES/ and the other datasets"
            )
        for name in ("epochs", "batch_size", "accumulation_steps", "log_every", "text_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; expected at least 1")


@dataclass
class EvalConfig:
    """Measure a checkpoint on any number of benchmarks.

    Attributes:
        checkpoint: our checkpoint folder, or CLIP, IRRA, RDE or HAM weights
        data_root: the folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on
        test_datasets: benchmarks to measure
        split: which split of them
        output_dir: where results.json and the gallery pictures go; by default `eval` beside the checkpoint
        image_to_text: also measure searching captions by image
        pictures: queries shown per benchmark with their ten best images; 0: no picture
        method: only for weights that do not say: sdm, irra or rde
        image_size_px: only for weights that do not say: height and width of the input
        stride_px: only for weights that do not say: pixels between patches
        text_length: tokens per caption
        batch_size: images or captions at a time
        num_workers: processes that decode images
        precision: fp32, bf16 or fp16; auto: bf16 on a GPU
        device: auto, cpu or cuda
        seed: chooses the queries shown
    """

    checkpoint: Path | None = None
    data_root: Path | None = None
    test_datasets: list[str] = field(default_factory=lambda: list(BENCHMARKS))
    split: Literal["train", "val", "test"] = "test"
    output_dir: Path | None = None
    image_to_text: bool = False
    pictures: int = 8
    method: str | None = None
    image_size_px: tuple[int, int] | None = None
    stride_px: int | None = None
    text_length: int = 77
    batch_size: int = 256
    num_workers: int = 4
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    seed: int = 0


@dataclass
class SearchConfig:
    """Find the images of a folder that fit a description.

    Attributes:
        query: the descriptions, one or several
        checkpoint: our checkpoint folder, or CLIP, IRRA, RDE or HAM weights
        gallery: folder of images, searched with its subfolders; its index is kept in it and follows its files
        top: images per query
        output: the picture to write
        index: where the index is kept; by default a hidden file in the gallery
        method: only for weights that do not say: sdm, irra or rde
        image_size_px: only for weights that do not say: height and width of the input
        stride_px: only for weights that do not say: pixels between patches
        text_length: tokens per caption
        batch_size: images at a time
        num_workers: processes that decode images
        precision: fp32, bf16 or fp16; auto: bf16 on a GPU
        device: auto, cpu or cuda
    """

    query: list[str] = field(default_factory=list)
    checkpoint: Path | None = None
    gallery: Path | None = None
    top: int = 10
    output: Path = Path("search.png")
    index: Path | None = None
    method: str | None = None
    image_size_px: tuple[int, int] | None = None
    stride_px: int | None = None
    text_length: int = 77
    batch_size: int = 256
    num_workers: int = 4
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
