"""The options of stage 1, as a YAML file or the command line of scripts/build_styles.py sets them.

The text under a field is its help on the command line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ham.records import DEFAULT_PROMPT
from ham.style.lexicon import lexicon
from ham.style.llm_neutral import PROMPT_VERSION


@dataclass(frozen=True)
class NeutralSettings:
    """How captions become content-neutral."""

    method: Literal["llm", "lexicon", "none"] = "lexicon"
    """llm (a language model, as in the paper), lexicon (word lists and a tagger, offline) or none"""
    generalize: bool = True
    """lexicon: also replace nouns and adjectives that no list has"""
    model: str = "Qwen/Qwen2.5-7B-Instruct"
    """llm: a local folder, or a hub name as OWNER/NAME"""
    batch_size: int = 64
    """llm: captions at a time"""
    max_new_tokens: int = 160
    """llm: longest answer"""
    device: str = "auto"
    """llm: auto, cpu, cuda or cuda:N"""
    dtype: str = "auto"
    """llm: auto, float32, bfloat16 or float16"""


@dataclass(frozen=True)
class FeatureSettings:
    """How a neutral text becomes a vector."""

    encoder: Literal["chars", "clip", "hf"] = "chars"
    """clip (as in the paper), hf (any Hugging Face text encoder) or chars (surface statistics, offline)"""
    source: str | None = None
    """clip: weights that ham.clip.load_clip reads; hf: a local folder, or a hub name as OWNER/NAME"""
    normalize: bool = True
    """clip and hf: scale features to length 1"""
    dim: int = 256
    """chars: dimensions after the SVD"""
    batch_size: int = 256
    """clip and hf: texts at a time"""
    device: str = "auto"
    """clip and hf: auto, cpu, cuda or cuda:N"""


@dataclass(frozen=True)
class ClusterSettings:
    """Which clusters become styles; KMeans clusters have the first ids."""

    kmeans: int = 1000
    """K1, KMeans clusters; 0 for none"""
    ups: int = 1000
    """K2, clusters around uniformly sampled prototypes (UPS); 0 for none"""
    beta: float = 7.0
    """UPS: prototypes are uniform in mean +- beta deviations"""
    nearest: int = 200
    """UPS: Q, the captions that belong to a prototype"""
    distance: Literal["l2", "cosine"] = "l2"
    """distance between features"""
    standardize: bool = False
    """cluster z-scores, so that every dimension counts the same"""
    dbscan: bool = False
    """DBSCAN in place of both, the paper's ablation"""
    dbscan_eps: float | None = None
    """radius of a neighborhood; null for the median distance to neighbor number dbscan_min_samples"""
    dbscan_min_samples: int = 10
    """neighbors, itself included, that make a caption the core of a cluster"""


@dataclass(frozen=True)
class StyleSettings:
    """Options of stage 1."""

    root: str
    """folder that holds the datasets; image paths are relative to it"""
    out: str
    """folder to write, or to continue"""
    datasets: list[str] = field(default_factory=lambda: ["CUHK-PEDES", "ICFG-PEDES"])
    """dataset names as in ham/datasets/README.md"""
    split: str = "train"
    """train, val or test"""
    seed: int = 0
    """of the SVD, the clusterings and the prototypes"""
    neutral: NeutralSettings = field(default_factory=NeutralSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    instruction: str = DEFAULT_PROMPT
    """what the captioner is asked, without <image>"""


def neutral_facts(settings: NeutralSettings) -> dict[str, Any]:
    """Return the options that decide a neutral text, without those of speed."""
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
    """Return the options that decide a feature, without those of speed."""
    return {key: value for key, value in asdict(settings).items() if key not in ("batch_size", "device")}
