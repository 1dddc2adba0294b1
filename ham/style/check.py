"""Checks of a request for styles before any work: what would otherwise fail after hours of the language model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ham.records import IMAGE_TEXT, check_encodable
from ham.runtime import UsageError, resolve_device, resolve_dtype
from ham.style.config import ClusterSettings, FeatureSettings, NeutralSettings, StyleSettings
from ham.style.hub import check_model_name

T = TypeVar("T")


def check_settings(settings: StyleSettings) -> None:
    """Check all that can be checked without the captions. Raises UsageError naming the option."""
    if not Path(settings.root).is_dir():
        raise UsageError(
            f"root {settings.root}: no such folder; pass the one that holds {', '.join(settings.datasets)}"
        )
    if not settings.out.strip():
        raise UsageError("out is empty; pass the folder to write, for example work/styles")
    if Path(settings.out).exists() and not Path(settings.out).is_dir():
        raise UsageError(f"out {settings.out}: is a file; pass a folder")
    if not -(2**63) <= settings.seed < 2**63:
        raise UsageError(f"seed is {settings.seed}; expected a number of at most 63 bits")
    check_instruction(settings.instruction)
    check_neutral(settings.neutral)
    check_features(settings.features)
    check_clusters(settings.clusters)


def check_instruction(instruction: str) -> None:
    """Raise UsageError for an instruction that the captioner could not be asked."""
    check_encodable(instruction, "instruction")
    if IMAGE_TEXT in instruction or not instruction.strip():
        raise UsageError(
            f"instruction is {instruction!r}; expected words without {IMAGE_TEXT}, which is put before them"
        )


def check_neutral(settings: NeutralSettings) -> None:
    """Check the options of the neutralizer that is chosen."""
    at_least("neutral.batch_size", settings.batch_size, 1)
    at_least("neutral.max_new_tokens", settings.max_new_tokens, 1)
    if settings.method == "llm":
        check_model_name(settings.model, "neutral.model")
        device = named("neutral.device", resolve_device, settings.device)
        named("neutral.dtype", resolve_dtype, settings.dtype, device)


def check_features(settings: FeatureSettings) -> None:
    """Check the options of the encoder that is chosen, and that its weights are there."""
    at_least("features.dim", settings.dim, 1)
    at_least("features.batch_size", settings.batch_size, 1)
    if settings.encoder == "chars":
        return
    if not settings.source:
        raise UsageError(
            f"features.encoder {settings.encoder} needs features.source (a path to its weights); "
            "features.encoder chars needs nothing"
        )
    if settings.encoder == "hf":
        check_model_name(settings.source, "features.source")
    elif not Path(settings.source).exists():
        raise UsageError(f"features.source {settings.source}: no such file or folder; pass CLIP weights")
    named("features.device", resolve_device, settings.device)


def check_clusters(settings: ClusterSettings) -> None:
    """Check counts and ranges."""
    if not (settings.dbscan or settings.kmeans or settings.ups):
        raise UsageError("no styles: clusters.kmeans and clusters.ups are 0 and clusters.dbscan is off")
    at_least("clusters.kmeans", settings.kmeans, 0)
    at_least("clusters.ups", settings.ups, 0)
    at_least("clusters.nearest", settings.nearest, 1)
    at_least("clusters.dbscan_min_samples", settings.dbscan_min_samples, 1)
    positive("clusters.beta", settings.beta)
    if settings.dbscan_eps is not None:
        positive("clusters.dbscan_eps", settings.dbscan_eps)


def check_counts(settings: ClusterSettings, captions: int) -> None:
    """Check that there are captions enough for the clusters asked for."""
    if settings.dbscan:
        return
    if settings.kmeans > captions:
        raise UsageError(
            f"clusters.kmeans {settings.kmeans}: more clusters than the {captions} captions; pass at most {captions}"
        )
    if settings.ups and settings.nearest > captions:
        raise UsageError(
            f"clusters.nearest {settings.nearest}: more captions than the {captions} there are; pass at most {captions}"
        )


def at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}; expected {least} or more")


def positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value}; expected a positive number")


def named(name: str, resolve: Callable[..., T], *values: Any) -> T:
    """Return what `resolve` makes of an option's value; name the option where it raises UsageError."""
    try:
        return resolve(*values)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
