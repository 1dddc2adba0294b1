"""What a captioning job is asked for: its styles, its image list and its settings, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ham.generation.config import JobOptions
from ham.generation.engines import EngineModule, untrained_styles
from ham.generation.filters import FILTER_VERSION
from ham.generation.image_lists import job_images
from ham.generation.plan import Plan
from ham.generation.style_draws import parse_styles
from ham.runtime import UsageError, log


def choose_styles(options: JobOptions, module: EngineModule, planned: Plan | None) -> tuple[list[int], int]:
    """Return the styles to draw from and the captions per image.

    Styles that no training record was written in are not drawn at random. A job that was planned with them keeps them.
    """
    num_styles = module.count_styles(options)
    pool, is_random, captions_per_image = parse_styles(options.styles, num_styles, options.captions_per_image)
    untrained = set(untrained_styles(module, options))
    if not is_random or not untrained or (planned and planned.settings["style_pool"] == list(pool)):
        return list(pool), captions_per_image
    trained = [style_id for style_id in pool if style_id not in untrained]
    if not trained:
        raise UsageError(
            f"--styles random: {options.model_path} has no trained styles; list the styles to use"
        )
    log.info("%d of %d styles were never trained and are not drawn", num_styles - len(trained), num_styles)
    return trained, captions_per_image


def images_of(options: JobOptions, report: bool = True) -> Iterator[str]:
    """Return the job's image list, lazily. report: log what was passed over."""
    return job_images(
        options.image_root or "", options.images, options.limit, options.sample, options.seed, report
    )


def settings_of(options: JobOptions, pool: list[int], captions_per_image: int) -> dict[str, Any]:
    """Return the settings that captions depend on and that are known before a model is loaded."""
    return {
        "engine": options.engine,
        "image_root": str(Path(options.image_root or "").resolve()),
        "styles": options.styles,
        "style_pool": pool,
        "captions_per_image": captions_per_image,
        "seed": options.seed,
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_redraws": options.max_redraws,
        "reject_slash_n": options.reject_slash_n,
        "repeat_styles": not options.is_greedy,
        "filter_version": FILTER_VERSION,
    }


def check_new_job(options: JobOptions, styles: int, captions_per_image: int) -> None:
    """Check what only a new job can have wrong: an image list that names nothing, more greedy captions than styles."""
    if options.is_greedy and captions_per_image > styles:
        raise UsageError(
            f"--captions-per-image {captions_per_image} with {styles} styles: greedy decoding gives the same caption when "
            "a style comes again; use --temperature above 0, more styles, or fewer captions"
        )
    first = list(islice(images_of(options, report=False), 100))
    root = Path(options.image_root or "")
    if not any((root / path).exists() for path in first if not path.startswith("/") and "\0" not in path):
        log.warning("none of the first %d images exists below --image-root %s", len(first), root)


def recorded_options(plan: Plan) -> dict[str, Any]:
    """Return the options of a job as they were given; those of a job of the first version from its settings."""
    options = plan.info.get("options")
    if isinstance(options, dict):
        return {**options, "image_root": str(plan.image_root)}
    known = {**plan.info, **plan.settings, "image_root": str(plan.image_root)}
    images = known.get("images")
    return {
        **known,
        "images": images if isinstance(images, str) and images else None,
        "vision_tower": "reference",
    }
