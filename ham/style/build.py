"""Build styles: captions -> neutral text -> features -> clusters -> styles/ and instructions.json, each stage resumable.

    OUT/assignments.jsonl    {image, caption, style_ids}, one row per caption
    OUT/styles.safetensors   mean [D], deviation [D], centres [S, D]
    OUT/styles.json          how it was made, counts
    OUT/instructions.json    for the captioner's finetuning
    OUT/cache/               neutral texts and features: what a restart or another clustering does not make again

A stage is skipped when what it made carries the fingerprint of the same settings and inputs. Image paths are relative to the
data root, so that one image folder serves several datasets.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from ham.datasets import image_prefix, read_dataset
from ham.records import StyleAssignment, atomic_write, read_json, read_jsonl, write_json, write_jsonl
from ham.runtime import MetricsLog, UsageError, git_revision, log
from ham.style.cluster import Clusters, dbscan_clusters, kmeans_clusters, moments, ups_clusters
from ham.style.config import (
    ClusterSettings,
    FeatureSettings,
    StyleSettings,
    check_settings,
    feature_facts,
    neutral_facts,
)
from ham.style.features import chars_features, clip_features, hf_features
from ham.style.instructions import clean_caption, write_instructions
from ham.style.llm_neutral import LlmNeutralizer
from ham.style.neutral import Neutralizer, NeutralText, keep, lexicon_neutralizer
from ham.style.neutral_cache import neutralize_cached


def build_styles(settings: StyleSettings) -> Path:
    """Run the four stages of `settings`, each only as far as its output is missing or stale. Returns the styles/ folder."""
    check_settings(settings)
    out = Path(settings.out)
    pairs, empty = collect_captions(Path(settings.root), settings.datasets, settings.split)
    metrics = MetricsLog(out / "metrics.jsonl")
    made_from = fingerprint(
        pairs, neutral_facts(settings.neutral), feature_facts(settings.features), settings.seed
    )
    key = fingerprint(made_from, asdict(settings.clusters), settings.instruction)
    if is_done(out, key):
        log.info("styles: %s is up to date", out)
        return out

    start = time.monotonic()
    neutral = neutral_stage(settings, [caption for _, caption in pairs])
    metrics.write(
        stage="neutral",
        captions=len(pairs),
        seconds=round(time.monotonic() - start, 2),
        fallbacks=sum(row.status == "fallback" for row in neutral),
    )
    start = time.monotonic()
    features = feature_stage(settings, [row.neutral for row in neutral], made_from)
    metrics.write(stage="features", shape=list(features.shape), seconds=round(time.monotonic() - start, 2))
    start = time.monotonic()
    schemes = cluster_stage(settings.clusters, features, settings.seed)
    metrics.write(
        stage="clusters",
        styles={name: len(clusters) for name, clusters in schemes.items()},
        seconds=round(time.monotonic() - start, 2),
    )

    write_styles(settings, pairs, empty, neutral, features, schemes, made_from, key)
    return out


def write_styles(
    settings: StyleSettings,
    pairs: list[tuple[str, str]],
    empty: int,
    neutral: list[NeutralText],
    features: NDArray[np.float32],
    schemes: dict[str, Clusters],
    made_from: str,
    key: str,
) -> None:
    """Write the four files of styles/; styles.json comes last and vouches for the others."""
    out, chosen, clusters = Path(settings.out), settings.clusters, join_schemes(schemes)
    assignments = [
        StyleAssignment(image, caption, ids) for (image, caption), ids in zip(pairs, clusters.style_ids())
    ]
    (out / "styles.json").unlink(missing_ok=True)
    mean, deviation = moments(features)
    with atomic_write(out / "styles.safetensors", "wb") as file:
        file.write(save({"mean": mean, "deviation": deviation, "centres": clusters.centres}))
    write_jsonl(out / "assignments.jsonl", assignments)
    records = write_instructions(out / "instructions.json", assignments, settings.instruction)
    counts = {
        "captions": len(pairs),
        "empty_captions_dropped": empty,
        "styles": len(clusters),
        "records": records,
        "fallbacks": sum(row.status == "fallback" for row in neutral),
        "captions_without_style": int((clusters.times_covered == 0).sum()),
    }
    write_json(
        out / "styles.json",
        {
            "encoder": feature_facts(settings.features),
            "neutraliser": neutral_facts(settings.neutral),
            "K1": chosen.kmeans,
            "K2": chosen.ups,
            "beta": chosen.beta,
            "Q": chosen.nearest,
            "clusters": asdict(chosen),
            "seed": settings.seed,
            "datasets": settings.datasets,
            "split": settings.split,
            "schemes": scheme_ranges(schemes),
            "counts": counts,
            "git_revision": git_revision(),
            "features_fingerprint": made_from,
            "fingerprint": key,
        },
    )
    log.info(
        "styles: %d styles of %d captions, %d records in %s",
        len(clusters),
        len(pairs),
        records,
        out / "instructions.json",
    )


# ----------------------------------------------------------------------------------------------------------------- stages


def collect_captions(root: Path, datasets: Sequence[str], split: str) -> tuple[list[tuple[str, str]], int]:
    """Give (image path below root, caption) of every caption of the split, and how many empty captions were dropped.

    Captions come on one line, without words that would break a conversation. Raises UsageError when nothing is left.
    """
    pairs: list[tuple[str, str]] = []
    empty = 0
    for name in datasets:
        below = image_prefix(root, name)
        for record in read_dataset(root, name, split):
            captions = [clean_caption(caption) for caption in record.captions]
            empty += captions.count("")
            pairs += [
                (f"{below}/{record.image_path}".removeprefix("./"), caption)
                for caption in captions
                if caption
            ]
    if empty:
        log.warning("%d empty captions dropped", empty)
    if not pairs:
        raise UsageError(
            f"{root}: no captions in the split '{split}' of {', '.join(datasets) or 'no dataset'}"
        )
    return pairs, empty


def neutral_stage(settings: StyleSettings, captions: list[str]) -> list[NeutralText]:
    """Give the neutral text of every caption; only captions that the cache does not know are worked on."""
    chosen = settings.neutral
    if chosen.method == "none":
        return keep(captions)
    cache = (
        Path(settings.out)
        / "cache"
        / f"neutral-{chosen.method}-{fingerprint(neutral_facts(chosen))[:8]}.jsonl"
    )
    makers: dict[str, Any] = {
        "lexicon": lambda: lexicon_neutralizer(chosen.generalize),
        "llm": lambda: LlmNeutralizer(chosen.model, chosen.max_new_tokens, chosen.device, chosen.dtype),
    }
    neutraliser: Neutralizer = makers[chosen.method]()
    rows = neutralize_cached(
        captions, neutraliser, cache, chosen.batch_size if chosen.method == "llm" else 1024
    )
    refused = sum(row.status == "fallback" for row in rows)
    if refused:
        log.warning(
            "%d of %d neutral texts were refused and stand in the lexicon's words; reasons are in %s",
            refused,
            len(rows),
            cache,
        )
    return rows


def feature_stage(settings: StyleSettings, texts: list[str], key: str) -> NDArray[np.float32]:
    """Give the features [N, D] of neutral texts, from the cache when it was made of the same texts and settings."""
    cache = Path(settings.out) / "cache" / "features.safetensors"
    kept = cached_features(cache, key)
    if kept is not None:
        log.info("features: %s is up to date", cache)
        return kept
    features = encode(texts, settings.features, settings.seed)
    with atomic_write(cache, "wb") as file:
        file.write(save({"features": features}, {"fingerprint": key}))
    return features


def encode(texts: list[str], settings: FeatureSettings, seed: int) -> NDArray[np.float32]:
    """Encode texts as `settings` say; a neural encoder sees each distinct text once."""
    if settings.encoder == "chars":
        return chars_features(texts, settings.dim, seed)
    distinct, rows = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    encoder = {"clip": clip_features, "hf": hf_features}[settings.encoder]
    return encoder(
        distinct.tolist(), settings.source, settings.normalize, settings.batch_size, settings.device
    )[rows]


def cluster_stage(settings: ClusterSettings, features: NDArray[np.float32], seed: int) -> dict[str, Clusters]:
    """Give the chosen schemes' clusters by name."""
    common = {"distance": settings.distance, "standardize": settings.standardize}
    if settings.dbscan:
        return {
            "dbscan": dbscan_clusters(
                features, settings.dbscan_eps, settings.dbscan_min_samples, seed, **common
            )
        }
    schemes = {}
    if settings.kmeans:
        schemes["kmeans"] = kmeans_clusters(features, settings.kmeans, seed, **common)
    if settings.ups:
        schemes["ups"] = ups_clusters(features, settings.ups, settings.beta, settings.nearest, seed, **common)
    return schemes


# ------------------------------------------------------------------------------------------------------------------ parts


def join_schemes(schemes: dict[str, Clusters]) -> Clusters:
    """Put the schemes' clusters behind one another; style ids count on."""
    first, *others = schemes.values()
    for other in others:
        first = first.joined(other)
    return first


def scheme_ranges(schemes: dict[str, Clusters]) -> dict[str, list[int]]:
    """Give scheme -> [first style id, one past its last]."""
    ranges, at = {}, 0
    for name, clusters in schemes.items():
        ranges[name] = [at, at + len(clusters)]
        at += len(clusters)
    return ranges


def fingerprint(*things: Any) -> str:
    """Give a digest of JSON-able things, the same on every machine."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def is_done(out: Path, key: str) -> bool:
    files = [
        out / name for name in ("styles.json", "styles.safetensors", "assignments.jsonl", "instructions.json")
    ]
    return all(file.exists() for file in files) and read_json(files[0]).get("fingerprint") == key


def cached_features(cache: Path, key: str) -> NDArray[np.float32] | None:
    """Give cached features, None when there are none, they are damaged, or another run's."""
    try:
        with safe_open(cache, "np") as file:
            if (file.metadata() or {}).get("fingerprint") != key:
                return None
        return load_file(cache)["features"]
    except (FileNotFoundError, SafetensorError):
        return None


# ---------------------------------------------------------------------------------------------------------------- reading


def load_styles(styles: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, NDArray[np.float32]]]:
    """Read styles.json, assignments.jsonl and styles.safetensors. Raises UsageError naming a file that is missing or broken."""
    facts = read_json(styles / "styles.json")
    assignments = list(read_jsonl(styles / "assignments.jsonl"))
    try:
        tensors = load_file(styles / "styles.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise UsageError(
            f"{styles / 'styles.safetensors'}: cannot be read: {error}; run build_styles.py again"
        ) from None
    return facts, assignments, tensors


def load_features(styles: Path) -> NDArray[np.float32]:
    """Read the features [N, D] that the styles were made of. Raises UsageError when the cache is gone or of another run."""
    cache = styles / "cache" / "features.safetensors"
    features = cached_features(cache, read_json(styles / "styles.json").get("features_fingerprint", ""))
    if features is None:
        raise UsageError(
            f"{cache}: missing or of another run; run build_styles.py with {styles / 'config.yaml'} again"
        )
    return features
