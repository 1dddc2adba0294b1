"""The options of scripts/ablation.py, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ham.runtime import UsageError
from ham.world.domains import POOL, PRESETS
from scripts.ablation.rows import ROWS


@dataclass(frozen=True)
class StyleOptions:
    """How human captions are clustered.

    Args:
        total: styles of every clustering but one_style; `both` takes half from KMeans and half from UPS
        nearest: Q, captions of one UPS prototype
        beta: UPS prototypes are uniform in mean +- beta deviations
        dim: dimensions of the style features
    """

    total: int = 96
    nearest: int = 225
    beta: float = 7.0
    dim: int = 128


@dataclass(frozen=True)
class TuningOptions:
    """How style prompts are learned: the same steps for every clustering, however many records it has.

    Args:
        steps: optimizer steps
        batch_size: records per step
        style_tokens: tokens per style
        style_init: vocab or normal
        style_prompt_lr: rate of the prompts
        mm_projector_lr: rate of the projector
    """

    steps: int = 340
    batch_size: int = 64
    style_tokens: int = 10
    style_init: Literal["vocab", "normal"] = "vocab"
    style_prompt_lr: float = 1e-2
    mm_projector_lr: float = 1e-3


@dataclass(frozen=True)
class CaptionOptions:
    """How the pool is captioned.

    Args:
        per_image: captions of an image, in every row but one_caption
        templates: textual hints that row `templates` chooses from; 46 in the paper
        max_new_tokens: longest caption
        max_redraws: how often a rejected caption is drawn again
    """

    per_image: int = 2
    templates: int = 46
    max_new_tokens: int = 120
    max_redraws: int = 4


@dataclass(frozen=True)
class ReidOptions:
    """How a row's retrieval model is trained from the start CLIP: SDM, AdamW, the same steps for every row.

    Args:
        epochs: passes over the pairs; more for row one_caption, which has fewer pairs
        batch_size: pairs per step
        lr: highest rate
        weight_decay: of everything but biases
        warmup_epochs: epochs until the highest rate
        image_size_px: height and width of the start CLIP's input
        stride_px: pixels between its patches
        pad_px: largest shift in augmentation
        text_length: tokens per caption
    """

    epochs: int = 4
    batch_size: int = 96
    lr: float = 7e-4
    weight_decay: float = 0.02
    warmup_epochs: int = 1
    image_size_px: tuple[int, int] = (96, 32)
    stride_px: int = 8
    pad_px: int = 3
    text_length: int = 77


@dataclass(frozen=True)
class CurveOptions:
    """The data-size curve.

    Args:
        parts: the smaller sizes: 8 means an eighth of the images; empty: no curve
        rows: which rows are drawn
    """

    parts: list[int] = field(default_factory=lambda: [8, 4, 2])
    rows: list[str] = field(default_factory=lambda: ["static", "both"])


@dataclass(frozen=True)
class FinetuneOptions:
    """Fine-tuning on each benchmark's training split, from the retrieval models of some rows.

    Args:
        config: options of `train_reid.py finetune`; its paths, datasets and evaluations are replaced
        rows: whose retrieval models are fine-tuned; none is the plain CLIP; empty: no fine-tuning
        epochs: in place of the config's
    """

    config: str = "configs/reid/world_finetune_irra.yaml"
    rows: list[str] = field(default_factory=lambda: ["none", "static", "both"])
    epochs: int | None = None


@dataclass(frozen=True)
class Settings:
    """The experiment.

    Args:
        work: folder of datasets, models, captions and figures; the same command continues there
        preset: size of the world: nano, demo or full
        seeds: of dataset, clustering, tuning and retrieval training
        images: pool images that are captioned and trained on, drawn from the seed
        instruction: what the captioner is asked
        llava: the captioner's base
        clip: the start of every retrieval model
        styles: how human captions are clustered
        tuning: how style prompts are learned
        captions: how the pool is captioned
        reid: how a row's retrieval model is trained
        curve: the data-size curve
        finetune: fine-tuning on the benchmarks
    """

    work: str = "runs/ablation"
    preset: str = "full"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    images: int = 6144
    instruction: str = "Describe the person in the image."
    llava: str = "ham/world/weights/llava"
    clip: str = "ham/world/weights/clip"
    styles: StyleOptions = field(default_factory=StyleOptions)
    tuning: TuningOptions = field(default_factory=TuningOptions)
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    reid: ReidOptions = field(default_factory=ReidOptions)
    curve: CurveOptions = field(default_factory=CurveOptions)
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)


def check_settings(settings: Settings) -> None:
    """Raise UsageError for what would only fail after minutes, or would make rows incomparable."""
    check_files(settings)
    check_numbers(settings)
    check_sizes(settings)
    for name in ("curve", "finetune"):
        unknown = [row for row in getattr(settings, name).rows if row not in ROWS]
        if unknown:
            raise UsageError(f"{name}.rows {unknown[0]}: not known; use some of {', '.join(ROWS)}")
    if "none" in settings.curve.rows:
        raise UsageError("curve.rows none: has no pretraining images; leave it out")


def check_files(settings: Settings) -> None:
    """Check the preset and the paths."""
    if settings.preset not in PRESETS:
        raise UsageError(f"preset {settings.preset}: not known; use one of {', '.join(PRESETS)}")
    for name in ("llava", "clip"):
        if not Path(getattr(settings, name)).is_dir():
            raise UsageError(
                f"{name} {getattr(settings, name)}: no such folder; the stand-in weights are in "
                "ham/world/weights, seen from the checkout's top"
            )
    if settings.finetune.rows and not Path(settings.finetune.config).is_file():
        raise UsageError(f"finetune.config {settings.finetune.config}: no such file")


def check_numbers(settings: Settings) -> None:
    """Check single numbers."""
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"seeds {settings.seeds}: expected at least one, each once")
    for name, value in _numbers(settings).items():
        if value < 1:
            raise UsageError(f"{name} {value}: expected at least 1")
    if settings.styles.total % 2:
        raise UsageError(
            f"styles.total {settings.styles.total}: expected an even number, as `both` takes half of each kind"
        )


def check_sizes(settings: Settings) -> None:
    """Check that the images suffice, and that all rows take equally many steps."""
    share = PRESETS[settings.preset].splits[POOL]["train"]
    if settings.images > share.persons * share.images[0]:
        raise UsageError(
            f"images {settings.images}: the pool of preset {settings.preset} is sure to have only "
            f"{share.persons * share.images[0]}; lower it or take a larger preset"
        )
    if settings.captions.per_image > PRESETS[settings.preset].pool_human_captions:
        raise UsageError(
            f"captions.per_image {settings.captions.per_image}: the ceiling has only "
            f"{PRESETS[settings.preset].pool_human_captions} human captions an image"
        )
    if settings.images % settings.reid.batch_size:
        raise UsageError(
            f"images {settings.images} is no multiple of reid.batch_size {settings.reid.batch_size}: rows with "
            "one and with two captions an image would take different numbers of steps"
        )
    for part in settings.curve.parts:
        if settings.images * settings.captions.per_image // part < settings.reid.batch_size:
            raise UsageError(
                f"curve.parts {part}: {settings.images // part} images do not fill one batch of "
                f"{settings.reid.batch_size} pairs"
            )


def _numbers(settings: Settings) -> dict[str, int]:
    named: dict[str, Any] = {"images": settings.images}
    for part, names in (
        ("styles", ("total", "nearest", "dim")),
        ("tuning", ("steps", "batch_size", "style_tokens")),
        ("captions", ("per_image", "templates", "max_new_tokens")),
        ("reid", ("epochs", "batch_size", "text_length")),
    ):
        named |= {f"{part}.{name}": getattr(getattr(settings, part), name) for name in names}
    if settings.finetune.epochs is not None:
        named["finetune.epochs"] = settings.finetune.epochs
    return named | {f"curve.parts {part}": part for part in settings.curve.parts}
