"""A styles/ folder on disk: its files, what it was made from, and reading it back.

assignments.jsonl    {image, caption, style_ids}, one row per caption
styles.safetensors   mean [D], deviation [D], centres [S, D]
styles.json          how it was made, counts; written last
instructions.json    for training the captioner
cache/               neutral texts and features: what a restart or another clustering does not compute again
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from ham.records import read_json, read_jsonl
from ham.runtime import UsageError

FILES = ("styles.json", "styles.safetensors", "assignments.jsonl", "instructions.json")
UNCOMPARED = (
    "counts",
    "schemes",
    "git_revision",
    "fingerprint",
    "features_fingerprint",
)  # results, not options


def fingerprint(*things: Any) -> str:
    """Return a digest of JSON-able things, the same on every machine."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def is_done(out: Path, key: str) -> bool:
    """Return whether a folder holds the styles that `key` stands for."""
    return all((out / name).exists() for name in FILES) and old_facts(out).get("fingerprint") == key


def old_facts(out: Path) -> dict[str, Any]:
    """Read the styles.json of an earlier run; an empty dict when there is none that can be read."""
    try:
        facts = read_json(out / "styles.json")
    except UsageError:
        return {}
    return facts if isinstance(facts, dict) else {}


def changes(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """Return the options that differ between two runs, as "clusters.kmeans: 3 -> 2"."""
    found = []
    for name, value in new.items():
        if name in UNCOMPARED or name not in old:
            continue
        if isinstance(value, dict) and isinstance(old[name], dict):
            found += changes(old[name], value, f"{where}{name}.")
        elif value != old[name]:
            found.append(f"{where}{name}: {old[name]} -> {value}")
    return found


def cached_features(cache: Path, key: str) -> NDArray | None:
    """Return cached features, None when there are none, they are damaged, or another run's."""
    try:
        with safe_open(cache, "np") as file:
            if (file.metadata() or {}).get("fingerprint") != key:
                return None
        return load_file(cache)["features"]
    except (OSError, KeyError, SafetensorError):
        return None


def load_styles(styles: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, NDArray]]:
    """Read styles.json, assignments.jsonl and styles.safetensors. Raises UsageError naming a file that is missing or broken."""
    facts = read_json(styles / "styles.json")
    if not isinstance(facts, dict) or not {"schemes", "clusters"} <= set(facts):
        raise UsageError(f"{styles / 'styles.json'}: not written by build_styles.py; run it again")
    facts["clusters"].setdefault("standardize", facts["clusters"].get("standardise", False))
    facts.setdefault("neutralizer", facts.get("neutraliser"))
    assignments = list(read_jsonl(styles / "assignments.jsonl"))
    try:
        tensors = load_file(styles / "styles.safetensors")
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{styles / 'styles.safetensors'}: cannot be read: {error}; run build_styles.py again"
        ) from None
    return facts, assignments, tensors


def load_features(styles: Path) -> NDArray:
    """Read the features [N, D] that the styles were made of. Raises UsageError when the cache is gone or of another run."""
    cache = styles / "cache" / "features.safetensors"
    features = cached_features(cache, read_json(styles / "styles.json").get("features_fingerprint", ""))
    if features is None:
        raise UsageError(
            f"{cache}: missing or of another run; run build_styles.py with {styles / 'config.yaml'} again"
        )
    return features
