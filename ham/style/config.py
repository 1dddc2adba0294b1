"""The settings of stage 1: what a YAML file or the command line of scripts/build_styles.py can say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ham.records import DEFAULT_PROMPT
from ham.runtime import UsageError
from ham.style.lexicon import lexicon
from ham.style.llm_neutral import PROMPT_VERSION


@dataclass(frozen=True)
class NeutralSettings:
    """How identity words are made general.

    Args:
        method: llm (as in the paper), lexicon (offline) or none
        generalize: lexicon only: also replace nouns and adjectives that no list knows
        model: llm only: a local path or hub name
        batch_size: llm only: captions at a time
        max_new_tokens: llm only: longest answer
        device: llm only: auto, cpu, cuda, cuda:N
        dtype: llm only: auto, float32, bfloat16, float16
    """

    method: Literal["llm", "lexicon", "none"] = "lexicon"
    generalize: bool = True
    model: str = "Qwen/Qwen2.5-7B-Instruct"
    batch_size: int = 64
    max_new_tokens: int = 160
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class FeatureSettings:
    """How a neutral text becomes a vector.

    Args:
        encoder: clip (as in the paper), hf (any text encoder) or chars (offline)
        source: clip and hf: the weights; for clip any source that ham.clip.load_clip takes
        normalize: clip and hf: bring features to length 1
        dim: chars: dimensions after the SVD
        batch_size: clip and hf: texts at a time
        device: clip and hf: auto, cpu, cuda, cuda:N
    """

    encoder: Literal["chars", "clip", "hf"] = "chars"
    source: str | None = None
    normalize: bool = True
    dim: int = 256
    batch_size: int = 256
    device: str = "auto"


@dataclass(frozen=True)
class ClusterSettings:
    """Which clusters become styles, KMeans first.

    Args:
        kmeans: K1, KMeans clusters; 0 leaves them out
        ups: K2, uniformly sampled prototypes; 0 leaves them out
        beta: prototypes are uniform in mean +- beta deviations
        nearest: Q, captions that belong to a prototype
        distance: l2 or cosine
        standardize: cluster z-scores, so that every dimension counts alike
        dbscan: the ablation, in place of both
        dbscan_eps: radius of a neighbourhood; none = a typical distance to the neighbour number dbscan_min_samples
        dbscan_min_samples: neighbours, itself counted, that make a caption the core of a cluster
    """

    kmeans: int = 1000
    ups: int = 1000
    beta: float = 7.0
    nearest: int = 200
    distance: Literal["l2", "cosine"] = "l2"
    standardize: bool = False
    dbscan: bool = False
    dbscan_eps: float | None = None
    dbscan_min_samples: int = 10


@dataclass(frozen=True)
class StyleSettings:
    """Stage 1.

    Args:
        root: folder that holds the datasets; image paths are relative to it
        out: styles/ folder to make or to continue
        datasets: names as in ham/datasets/readers.py
        split: train, val or test
        seed: of the SVD, the clusterings and the prototypes
        neutral: how identity words are made general
        features: how a neutral text becomes a vector
        clusters: which clusters become styles
        instruction: what the captioner is asked, without <image>
    """

    root: str
    out: str
    datasets: list[str] = field(default_factory=lambda: ["CUHK-PEDES", "ICFG-PEDES"])
    split: str = "train"
    seed: int = 0
    neutral: NeutralSettings = field(default_factory=NeutralSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    instruction: str = DEFAULT_PROMPT


def neutral_facts(settings: NeutralSettings) -> dict[str, Any]:
    """Give what decides a neutral text, and nothing of speed."""
    facts: dict[str, Any] = {"method": settings.method}
    if settings.method != "none":
        facts |= {"words": lexicon().version}
    if settings.method == "lexicon":
        facts |= {"generalize": settings.generalize}
    if settings.method == "llm":
        facts |= {
            "model": settings.model,
            "prompt": PROMPT_VERSION,
            "max_new_tokens": settings.max_new_tokens,
        }
    return facts


def feature_facts(settings: FeatureSettings) -> dict[str, Any]:
    """Give what decides a feature, and nothing of speed."""
    return {key: value for key, value in asdict(settings).items() if key not in ("batch_size", "device")}


def check_settings(settings: StyleSettings) -> None:
    """Raise UsageError for what would only fail after minutes."""
    if not Path(settings.root).is_dir():
        raise UsageError(
            f"root {settings.root}: no such folder; give the one that holds {', '.join(settings.datasets)}"
        )
    if settings.features.encoder != "chars" and not settings.features.source:
        raise UsageError(
            f"features.encoder {settings.features.encoder} needs features.source (a path to its weights); "
            "features.encoder chars needs nothing"
        )
    if not (settings.clusters.dbscan or settings.clusters.kmeans or settings.clusters.ups):
        raise UsageError(
            "no styles asked for: clusters.kmeans and clusters.ups are 0 and clusters.dbscan is off"
        )
