"""The options of `caption.py`, one dataclass per group: defaults < YAML file < command line."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ham.generation.engines import ENGINES
from ham.generation.shards import parse_shards
from ham.options import check_range, dashed, parse_options
from ham.runtime import UsageError

MOST_CAPTIONS = 1000  # per image
LLAVA_HINTS = {  # options of LLaVA's and HAM's scripts
    "load_4bit": "4-bit weights are not supported; use --dtype bfloat16, or --engine server with a server that quantizes",
    "load_8bit": "8-bit weights are --weights int8",
    "num_chunks": "a job is divided into shards: run torchrun, or give each process a range of them with --shards A:B",
    "chunk_idx": "a job is divided into shards: run torchrun, or give each process a range of them with --shards A:B",
    "model_base": "the base model of an adapter is found by itself; if it has moved, say --base-model DIR",
    "image_folder": "the folder of the images is --image-root",
    "image_dir": "the folder of the images is --image-root",
    "output": "the output folder is --out",
    "answers_file": "the output folder is --out",
    "conv_mode": "the conversation template is --template",
    "retry_failed": "failed images are captioned again with `caption.py retry OUT`",
}


@dataclass
class ImageOptions:
    """images

    Attributes:
        image_root: folder that image paths are relative to
        images: list file: .txt or .lst (a path a line), .csv, .json or .jsonl (paths, records, a dataset's annotation);
            by default every image file below the root
        out: output folder
        limit: caption only the first N images
        sample: caption N images chosen at random by --seed, in the order of the list
    """

    image_root: str | None = None
    images: str | None = None
    out: str | None = None
    limit: int | None = None
    sample: int | None = None


@dataclass
class CaptionOptions:
    """captions

    Attributes:
        captions_per_image: captions of each image; by default 2 for random styles, else one per listed style
        styles: random (distinct styles, drawn by seed and image path), all, none, or ids such as 0,5,17
        seed: of the styles, of --sample and of sampling
        prompt: the instruction, without <image>; by default the checkpoint's, else the paper's
        template: conversation template: v1, llava_v1 or llava_v0; by default the checkpoint's
        max_new_tokens: longest caption in tokens
        temperature: 0 is greedy decoding
        top_p: sample from the most probable tokens of this probability mass
        max_redraws: how often a rejected caption is drawn again, in the next style
        reject_slash_n: also reject captions holding '/n', as the reference does by mistake
        keep_rejected: fill up with rejected captions where too few are accepted
    """

    captions_per_image: int | None = None
    styles: str = "random"
    seed: int = 0
    prompt: str | None = None
    template: Literal["v1", "llava_v1", "llava_v0"] | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    max_redraws: int = 4
    reject_slash_n: bool = False
    keep_rejected: bool = False


@dataclass
class ModelOptions:
    """model

    Attributes:
        model_path: checkpoint: our adapter, the original HAM or LLaVA layout, or llava-hf
        engine: native (LLaVA in this process), server (an OpenAI-compatible server) or transformers (other models, slowly)
        vision_tower: reference (the one the checkpoint names), checkpoint (the one inside), or a path
        image_aspect_ratio: pad images also where the checkpoint's config would crop them
        base_model: path of the adapter's base model, if it has moved since training
        device: auto, cpu, cuda or cuda:N
        dtype: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16
        weights: full (in --dtype), or the language model's in int8 or fp8, with torchao; captions may change
    """

    model_path: str | None = None
    engine: str = "native"
    vision_tower: str = "reference"
    image_aspect_ratio: Literal["pad"] | None = None
    base_model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    weights: Literal["full", "int8", "fp8"] = "full"


@dataclass
class ServerOptions:
    """server engine

    Attributes:
        server: addresses of one or several servers, such as http://node1:8000; a key is read from HAM_SERVER_KEY
        server_model: the model's name at the servers, where they hold several
        concurrency: requests in flight per server; those of one image go together, so never fewer than its captions
        server_timeout_s: longest wait for one answer
        server_patience_s: stop when no server has answered for this long
        mix_engines: continue a job with another engine, server or dtype than it was begun with
    """

    server: list[str] | None = None
    server_model: str | None = None
    concurrency: int = 32
    server_timeout_s: float = 300.0
    server_patience_s: float = 600.0
    mix_engines: bool = False


@dataclass
class WorkOptions:
    """work

    Attributes:
        batch_size: images at a time; by default found from the memory
        workers: processes that read images; by default up to 8, by the cores
        shards: caption only the shards A to B-1, written A:B
        shard_size: images per shard, fixed when a job begins; by default 16 to 1000, by the number of images
        no_locks: disable file locks; only safe if no two processes write the same shard
        strict: exit with 1 when any image failed
        max_failed_share: exit with 1 when more than this share of the images, or all, have no accepted caption; 1 never
    """

    batch_size: int | None = None
    workers: int | None = None
    shards: str | None = None
    shard_size: int | None = None
    no_locks: bool = False
    strict: bool = False
    max_failed_share: float = 0.9


GROUPS = (ImageOptions, CaptionOptions, ModelOptions, ServerOptions, WorkOptions)


@dataclass
class JobOptions(ImageOptions, CaptionOptions, ModelOptions, ServerOptions, WorkOptions):
    """All options of a captioning job."""

    @property
    def only_shards(self) -> tuple[int, int] | None:
        return None if self.shards is None else parse_shards(self.shards)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def recorded(self) -> dict[str, Any]:
        """Return the options as plan.json keeps them, for `retry`."""
        return asdict(self)


def parse_job(words: list[str], about: str | None) -> JobOptions:
    """Parse and check the command line of a captioning run. Raises UsageError."""
    options = JobOptions(**parse_options(GROUPS, words, "caption.py", about, hints=LLAVA_HINTS))
    for name in ("model_path", "image_root", "out"):
        if getattr(options, name) is None:
            raise UsageError(f"--{dashed(name)} is missing; set it on the command line or in the YAML file")
    check(options)
    return options


def check(options: JobOptions) -> None:
    """Check everything that can be checked without a model. Raises UsageError."""
    for name, low, high in (
        ("batch_size", 1, 100_000),
        ("limit", 1, 2**40),
        ("sample", 1, 2**40),
        ("workers", 0, 256),
        ("shard_size", 1, 10_000_000),
        ("max_redraws", 0, 100),
        ("captions_per_image", 1, MOST_CAPTIONS),
        ("max_new_tokens", 1, 100_000),
        ("concurrency", 1, 10_000),
        ("max_failed_share", 0.0, 1.0),
        ("seed", -(2**63), 2**63 - 1),
        ("server_timeout_s", 0.1, 86_400.0),
        ("server_patience_s", 0.1, 1e7),
    ):
        check_range(name, getattr(options, name), low, high)
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        raise UsageError(
            f"--temperature {options.temperature}: expected 0 (greedy) or a finite number above it"
        )
    if not 0 < options.top_p <= 1:
        raise UsageError(f"--top-p {options.top_p}: expected above 0 and up to 1")
    if options.engine not in ENGINES:
        raise UsageError(f"--engine {options.engine}: expected one of {', '.join(ENGINES)}")
    if options.weights != "full" and options.engine != "native":
        raise UsageError(f"--weights {options.weights} is for --engine native, not for {options.engine}")
    if options.prompt is not None and "<image>" in options.prompt:
        raise UsageError("--prompt holds <image>: leave it out, the template places the image")
    assert options.image_root and options.out
    if not Path(options.image_root).is_dir():
        raise UsageError(f"--image-root {options.image_root}: no such folder")
    if options.images is not None and not Path(options.images).exists():
        raise UsageError(f"--images {options.images}: no such file")
    if Path(options.out).exists() and not Path(options.out).is_dir():
        raise UsageError(f"--out {options.out}: is a file; expected a folder or a new name")
    _ = options.only_shards


def from_recorded(
    recorded: dict[str, Any], overrides: dict[str, Any], where: str = "plan.json"
) -> JobOptions:
    """Return the options of a planned job, some of them replaced; unknown recorded names are ignored.

    Raises UsageError for a recorded value of a wrong kind.
    """
    hints = get_type_hints(JobOptions)
    kept = {name: value for name, value in recorded.items() if name in hints}
    for name, value in kept.items():
        if not _fits(value, str(hints[name])):
            raise UsageError(f"{where}: options: {name} is {ascii(value)[:60]}; expected {hints[name]}")
    return JobOptions(**{**kept, **overrides})


def _fits(value: Any, hint: str) -> bool:
    """Return whether a JSON value is of a kind that a field's type names."""
    if value is None:
        return "None" in hint or "Optional" in hint
    if isinstance(value, list):
        return "list" in hint and all(isinstance(one, str) for one in value)
    kinds = {"bool": bool, "int": int, "float": (int, float), "str": str, "Literal": str}
    named = [kinds[word] for word in kinds if re.search(rf"\b{word}\b", hint) and "list" not in hint]
    return any(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for kind in named)
