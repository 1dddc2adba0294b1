"""The options of `train_reid.py eval`, `search`, `embed` and `serve`, one dataclass per command.

The names are the YAML keys and, with dashes or underscores, the options of the command line; the docstrings are their help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ham.datasets import BENCHMARKS


@dataclass
class ModelConfig:
    """How to open a checkpoint and encode images and captions: the options that all four commands share.

    Attributes:
        checkpoint: our checkpoint folder, or CLIP, IRRA, RDE or HAM weights
        method: only for weights that do not say: sdm, irra or rde
        image_size_px: only for weights that do not say: height and width of the input, [384, 128]
        stride_px: only for weights that do not say: pixels between patches
        heads: only for weights that do not record them: attention heads of the vision and the text tower, [12, 8]
        ignore_tensors: names, or beginnings of names, of tensors of the weights that may be left out
        text_length: tokens per caption; null: as many as the model reads
        batch_size: images or captions at a time
        num_workers: processes that decode images
        max_failed_share: share of unreadable images above which the command stops
        precision: fp32, bf16 or fp16; auto: bf16 on a GPU
        device: auto, cpu or cuda
    """

    checkpoint: Path | None = None
    method: str | None = None
    image_size_px: tuple[int, int] | None = None
    stride_px: int | None = None
    heads: tuple[int, int] | None = None
    ignore_tensors: list[str] = field(default_factory=list)
    text_length: int | None = None
    batch_size: int = 256
    num_workers: int = 4
    max_failed_share: float = 0.01
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"


@dataclass
class EvalConfig(ModelConfig):
    """Evaluate one or several checkpoints on any number of test sets.

    Attributes:
        checkpoints: several of them, [NAME=PATH, ...] or [PATH, ...], for one matrix of source x target
        data_root: the folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on; not needed for NAME=PATH datasets
        test_datasets: datasets to evaluate on, by name, or NAME=PATH for one's own (ham/datasets/README.md)
        split: which split of them
        output_dir: where evaluation.json and the gallery pictures go; by default `eval` beside the checkpoint
        image_to_text: also evaluate searching captions by image
        pictures: queries shown per dataset with their ten best images; 0: no picture
        expected: figures to compare with, {source: {dataset: {R1: ..., mAP: ...}}}
        published: names of published results to compare with (ham/reid/published.json)
        seed: chooses the queries shown
    """

    checkpoints: list[str] = field(default_factory=list)
    data_root: Path | None = None
    test_datasets: list[str] = field(default_factory=lambda: list(BENCHMARKS))
    split: Literal["train", "val", "test"] = "test"
    output_dir: Path | None = None
    image_to_text: bool = False
    pictures: int = 8
    expected: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    seed: int = 0


@dataclass
class SearchConfig(ModelConfig):
    """Find the images of a folder by a sentence, a picture, or both.

    Attributes:
        query: the sentences, one or several
        image: search by this picture; with a sentence, by both
        queries: file with a sentence a line, or JSON lines of {text, image}
        gallery: folder of images, searched with its subfolders
        top: images per query
        threshold: leave out images with a lower score
        json: print the answers as JSON
        output: PNG picture of the answers to write; by default none
        index: folder of the index; by default .ham-index in the gallery
        refresh: bring the index up to date with the gallery's files; false: search it as it is
    """

    query: list[str] = field(default_factory=list)
    image: Path | None = None
    queries: Path | None = None
    gallery: Path | None = None
    top: int = 10
    threshold: float | None = None
    json: bool = False
    output: Path | None = None
    index: Path | None = None
    refresh: bool = True
    max_failed_share: float = 0.1


@dataclass
class EmbedConfig(ModelConfig):
    """Write the features of images or captions to a file; the same command resumes, with any number of processes.

    Attributes:
        images: folder of images to embed, with its subfolders
        captions: text file (a caption a line) or annotation (.json, .jsonl, .csv, .tsv) to embed in place of images
        out: the .safetensors file to write; rows beside it as .jsonl
        dtype: of the features, fp16 or fp32
    """

    images: Path | None = None
    captions: Path | None = None
    out: Path | None = None
    dtype: Literal["fp16", "fp32"] = "fp16"


@dataclass
class ServeConfig(ModelConfig):
    """Serve a page to search a folder of images with a browser (needs the extra `demo`).

    Attributes:
        gallery: folder of images, searched with its subfolders; only its images are served
        captioner: captioner checkpoint for a second tab that describes a picture in several styles
        host: address to listen on; the default is this machine alone
        port: port to listen on; 0: a free one
        index: folder of the index; by default .ham-index in the gallery
        refresh: bring the index up to date with the gallery's files at the start
    """

    gallery: Path | None = None
    captioner: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    index: Path | None = None
    refresh: bool = True
    max_failed_share: float = 0.1
