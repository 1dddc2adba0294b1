"""Build styles: captions -> neutral text -> features -> clusters -> a styles/ folder (folder.py), each stage resumable.

A stage is skipped when its output carries the fingerprint of the same options and inputs. Image paths are relative to the data
root, so that one image folder serves several datasets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ham.datasets import image_prefix, read_dataset
from ham.locks import FileLock
from ham.records import StyleAssignment, atomic_write, write_json, write_jsonl
from ham.runtime import MetricsLog, UsageError, WorkError, git_revision, log
from ham.style.arrays import moments
from ham.style.check import check_counts, check_settings
from ham.style.cluster import (
    Clusters,
    dbscan_clusters,
    join_schemes,
    kmeans_clusters,
    scheme_ranges,
    ups_clusters,
)
from ham.style.config import ClusterSettings, FeatureSettings, StyleSettings, feature_facts, neutral_facts
from ham.style.features import chars_features, clip_features, hf_features
from ham.style.folder import cached_features, changes, fingerprint, is_done, old_facts
from ham.style.instructions import clean_caption, write_instructions
from ham.style.llm_neutral import LlmNeutralizer
from ham.style.neutral import Neutralizer, NeutralText, keep, lexicon_neutralizer
from ham.style.neutral_cache import neutralize_cached

LEXICON_BATCH = 1024  # captions between two writes of the cache


def build_styles(settings: StyleSettings) -> Path:
    """Run the stages of `settings`, each only as far as its output is missing or out of date. Returns the styles/ folder.

    Raises UsageError for a request that cannot work, before any stage runs; WorkError when another process builds there.
    """
    check_settings(settings)
    out = Path(settings.out)
    with only_builder(out):
        pairs, empty = collect_captions(Path(settings.root), settings.datasets, settings.split)
        check_counts(settings.clusters, len(pairs))
        facts = style_facts(settings, pairs)
        if is_done(out, facts["fingerprint"]):
            log.info("styles: %s is up to date", out)
            return out
        log_changes(out, facts)
        run_stages(settings, pairs, empty, facts)
    return out


@contextmanager
def only_builder(out: Path) -> Iterator[None]:
    """Acquire the folder's lock. Raises WorkError when another process has it."""
    lock = FileLock(out / ".lock")
    if not lock.try_acquire():
        raise WorkError(f"{out}: another build_styles.py is writing there; wait for it or pass another --out")
    try:
        yield
    finally:
        lock.release(remove=True)


def style_facts(settings: StyleSettings, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return what styles.json records of a run before its results: options, fingerprints of inputs and of the whole."""
    chosen = settings.clusters
    made_from = fingerprint(
        pairs, neutral_facts(settings.neutral), feature_facts(settings.features), settings.seed
    )
    return {
        "encoder": feature_facts(settings.features),
        "neutralizer": neutral_facts(settings.neutral),
        "K1": chosen.kmeans,
        "K2": chosen.ups,
        "beta": chosen.beta,
        "Q": chosen.nearest,
        "clusters": asdict(chosen),
        "seed": settings.seed,
        "datasets": settings.datasets,
        "split": settings.split,
        "instruction": settings.instruction,
        "captions_fingerprint": fingerprint(pairs),
        "git_revision": git_revision(),
        "features_fingerprint": made_from,
        "fingerprint": fingerprint(made_from, asdict(chosen), settings.instruction),
    }


def log_changes(out: Path, facts: dict[str, Any]) -> None:
    """Log which options differ from those of the styles that a folder already holds, which are replaced."""
    found = changes(old_facts(out), facts)
    if found:
        log.warning(
            "styles: replacing those in %s, which were built with other options: %s", out, "; ".join(found)
        )


def run_stages(
    settings: StyleSettings, pairs: list[tuple[str, str]], empty: int, facts: dict[str, Any]
) -> None:
    """Run the stages and write their output, with a line in metrics.jsonl for each."""
    metrics = MetricsLog(Path(settings.out) / "metrics.jsonl")
    start = time.monotonic()
    neutral = neutral_stage(settings, [caption for _, caption in pairs])
    fallbacks = sum(row.status == "fallback" for row in neutral)
    metrics.write(stage="neutral", captions=len(pairs), seconds=seconds_since(start), fallbacks=fallbacks)
    start = time.monotonic()
    features = feature_stage(settings, [row.neutral for row in neutral], facts["features_fingerprint"])
    metrics.write(stage="features", shape=list(features.shape), seconds=seconds_since(start))
    start = time.monotonic()
    schemes = cluster_stage(settings.clusters, features, settings.seed)
    sizes = {name: len(clusters) for name, clusters in schemes.items()}
    metrics.write(stage="clusters", styles=sizes, seconds=seconds_since(start))
    counts = {"captions": len(pairs), "empty_captions_dropped": empty, "fallbacks": fallbacks}
    write_styles(settings, pairs, features, schemes, facts, counts)


def seconds_since(start: float) -> float:
    return round(time.monotonic() - start, 2)


def write_styles(
    settings: StyleSettings,
    pairs: list[tuple[str, str]],
    features: NDArray[np.float32],
    schemes: dict[str, Clusters],
    facts: dict[str, Any],
    counts: dict[str, int],
) -> None:
    """Write the four files of styles/; styles.json comes last, so that its presence means that all are whole."""
    out, clusters = Path(settings.out), join_schemes(schemes)
    (out / "styles.json").unlink(missing_ok=True)
    assignments = [
        StyleAssignment(image, caption, ids) for (image, caption), ids in zip(pairs, clusters.style_ids())
    ]
    mean, deviation = moments(features)
    with atomic_write(out / "styles.safetensors", "wb") as file:
        file.write(save({"mean": mean, "deviation": deviation, "centres": clusters.centres}))
    write_jsonl(out / "assignments.jsonl", assignments)
    records = write_instructions(out / "instructions.json", assignments, settings.instruction)
    counts = {
        "captions": counts["captions"],
        "empty_captions_dropped": counts["empty_captions_dropped"],
        "styles": len(clusters),
        "records": records,
        "fallbacks": counts["fallbacks"],
        "captions_without_style": int((clusters.times_covered == 0).sum()),
    }
    write_json(out / "styles.json", facts | {"schemes": scheme_ranges(schemes), "counts": counts})
    log.info(
        "styles: %d styles of %d captions, %d records in %s",
        len(clusters),
        len(pairs),
        records,
        out / "instructions.json",
    )


# ----------------------------------------------------------------------------------------------------------------- stages


def collect_captions(root: Path, datasets: Sequence[str], split: str) -> tuple[list[tuple[str, str]], int]:
    """Return (image path below root, caption) of every caption of the split, and how many empty captions were dropped.

    Captions come on one line, without words that would break a conversation. Raises UsageError when nothing is left.
    """
    pairs: list[tuple[str, str]] = []
    empty = 0
    for name in datasets:
        below = image_prefix(root, name)
        for record in read_dataset(root, name, split):
            captions = [clean_caption(caption) for caption in record.captions]
            empty += captions.count("")
            pairs += [(f"{below}/{record.image_path}", caption) for caption in captions if caption]
    if empty:
        log.warning("%d empty captions dropped", empty)
    if not pairs:
        raise UsageError(
            f"{root}: no captions in the split '{split}' of {', '.join(datasets) or 'no dataset'}"
        )
    return pairs, empty


def neutral_stage(settings: StyleSettings, captions: list[str]) -> list[NeutralText]:
    """Return the neutral text of every caption; only captions that the cache does not know are worked on."""
    chosen = settings.neutral
    if chosen.method == "none":
        return keep(captions)
    name = f"neutral-{chosen.method}-{fingerprint(neutral_facts(chosen))[:8]}.jsonl"
    cache = Path(settings.out) / "cache" / name
    makers: dict[str, Any] = {
        "lexicon": lambda: lexicon_neutralizer(chosen.generalize),
        "llm": lambda: LlmNeutralizer(chosen.model, chosen.max_new_tokens, chosen.device, chosen.dtype),
    }
    neutralizer: Neutralizer = makers[chosen.method]()
    batch_size = chosen.batch_size if chosen.method == "llm" else LEXICON_BATCH
    rows = neutralize_cached(captions, neutralizer, cache, batch_size)
    refused = sum(row.status == "fallback" for row in rows)
    if refused:
        log.warning(
            "%d of %d answers of the language model were refused and replaced by the lexicon's text; reasons are in %s",
            refused,
            len(rows),
            cache,
        )
    return rows


def feature_stage(settings: StyleSettings, texts: list[str], key: str) -> NDArray[np.float32]:
    """Return the features [N, D] of neutral texts, from the cache when it was made of the same texts and options."""
    cache = Path(settings.out) / "cache" / "features.safetensors"
    cached = cached_features(cache, key)
    if cached is not None:
        log.info("features: %s is up to date", cache)
        return cached
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
        distinct.tolist(), settings.source or "", settings.normalize, settings.batch_size, settings.device
    )[rows]


def cluster_stage(settings: ClusterSettings, features: NDArray[np.float32], seed: int) -> dict[str, Clusters]:
    """Return the chosen schemes' clusters by name."""
    common: dict[str, Any] = {"distance": settings.distance, "standardize": settings.standardize}
    if settings.dbscan:
        options = (settings.dbscan_eps, settings.dbscan_min_samples, seed)
        return {"dbscan": dbscan_clusters(features, *options, **common)}
    schemes = {}
    if settings.kmeans:
        schemes["kmeans"] = kmeans_clusters(features, settings.kmeans, seed, **common)
    if settings.ups:
        schemes["ups"] = ups_clusters(features, settings.ups, settings.beta, settings.nearest, seed, **common)
    return schemes
