"""Find persons in a folder of images by words: embed the folder once, keep the index fresh, answer in seconds.

The index lies in `<gallery>/.ham-index/<key>/` unless told otherwise; the key stands for the model's weights and the way images
are encoded, so every checkpoint has an index of its own and never answers from another's.

    features.safetensors   unit features [N, D], and the digest of index.json that they belong to
    index.json             for each feature: path below the gallery, size in bytes, time of change in ns
    failed.jsonl           images that cannot be read, with the reason; they are tried again at every refresh
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ham.records import atomic_write, read_json, write_json, write_jsonl
from ham.reid.encode import DEFAULTS, EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.runtime import UsageError, WorkError, dist_info, log

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOLDER = ".ham-index"
BLOCK = 8192  # images between two saves: what a killed run loses at most
MAX_FAILED_SHARE = 0.1  # a folder of a user's own is less clean than a benchmark
Stamp = tuple[int, int]  # size in bytes, time of change in ns


@dataclass
class SearchIndex:
    """The images of a gallery, paths relative to it, and their unit features [N, D]."""

    gallery: Path
    paths: list[str]
    feats: Tensor

    def top(self, query_feats: Tensor, top: int = 10, chunk: int = 64) -> tuple[Tensor, Tensor]:
        """Give the scores [q, top] and places [q, top] of the best images for unit query features [q, D], best first."""
        best = [
            (part @ self.feats.T).topk(min(top, len(self.paths)), dim=1) for part in query_feats.split(chunk)
        ]
        return torch.cat([one.values for one in best]), torch.cat([one.indices for one in best])


def search(
    model: RetrievalModel,
    gallery: str | Path,
    queries: Sequence[str],
    top: int = 10,
    settings: EncodeSettings = DEFAULTS,
    index_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Answer each query with the gallery's best images: rows {query, hits: [{image, score, right: None}]}, best first.

    The rows are what `ham.report.gallery.draw_gallery` draws. Raises UsageError for an empty query or gallery.
    """
    empty = [number for number, query in enumerate(queries, start=1) if not query.strip()]
    if not queries or empty or top < 1:
        raise UsageError(
            f"search needs at least one query, each of at least one word, and a top of 1 or more; found "
            f"{len(queries)} queries, empty ones: {empty}, top {top}"
        )
    index = open_index(model, gallery, settings, index_dir)
    scores, places = index.top(encode_texts(model, queries, settings, "queries"), top)
    return [
        {
            "query": query,
            "hits": [
                {"image": str(index.gallery / index.paths[place]), "score": score, "right": None}
                for score, place in zip(their_scores, their_places)
            ],
        }
        for query, their_scores, their_places in zip(queries, scores.tolist(), places.tolist())
    ]


def open_index(
    model: RetrievalModel,
    gallery: str | Path,
    settings: EncodeSettings = DEFAULTS,
    index_dir: str | Path | None = None,
    max_failed_share: float = MAX_FAILED_SHARE,
) -> SearchIndex:
    """Open the gallery's index for this model and bring it up to date: new and changed images are embedded, lost ones dropped.

    index_dir: where the index lies when not inside the gallery. Raises UsageError when the gallery is no folder or holds no
    image, WorkError when more than max_failed_share of its images cannot be read.
    """
    gallery = Path(gallery)
    present = list_images(gallery)
    folder = Path(index_dir or gallery / FOLDER) / index_key(model, settings)
    known, feats = _load(folder)
    place_of = {
        path: place for place, (path, stamp) in enumerate(known.items()) if present.get(path) == stamp
    }
    kept, new = (
        [path for path in present if path in place_of],
        [path for path in present if path not in place_of],
    )
    paths, feats = kept, feats[[place_of[path] for path in kept]]
    log.info(
        "gallery %s: %d images, %d known, %d to embed, %d dropped",
        gallery,
        len(present),
        len(kept),
        len(new),
        len(known) - len(kept),
    )
    failed: list[dict[str, str]] = []
    lenient = replace(settings, max_failed_share=1.0)  # judged below, over the whole gallery
    for start in range(0, len(new), BLOCK):
        block = new[start : start + BLOCK]
        done = encode_images(model, [gallery / path for path in block], lenient, "gallery images")
        paths = paths + [block[place] for place in done.places]
        feats = torch.cat([part for part in (feats, done.feats) if len(part)] or [feats])
        failed += done.failed
        _save(folder, {path: present[path] for path in paths}, feats, failed)
    listed = folder / "failed.jsonl"
    if not new and (len(known) != len(kept) or (listed.exists() and listed.stat().st_size)):
        _save(folder, {path: present[path] for path in paths}, feats, failed)
    if not paths or len(failed) > max_failed_share * len(present):
        raise WorkError(
            f"{gallery}: {len(failed)} of {len(present)} images cannot be read, more than the accepted "
            f"{max_failed_share:.0%}; see {listed}"
        )
    return SearchIndex(gallery, paths, feats)


def list_images(gallery: Path) -> dict[str, Stamp]:
    """Find a folder's images at any depth, hidden folders left out: {relative path: stamp}, sorted by path."""
    if not gallery.is_dir():
        raise UsageError(f"gallery {gallery}: no such folder")
    found = {}
    for folder, inner, files in os.walk(gallery):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(folder, name)
                facts = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
                found[path.relative_to(gallery).as_posix()] = (facts.st_size, facts.st_mtime_ns)
    if not found:
        raise UsageError(f"gallery {gallery}: no image found; looked for {', '.join(SUFFIXES)} at any depth")
    return dict(sorted(found.items()))


def index_key(model: RetrievalModel, settings: EncodeSettings) -> str:
    """Name what features depend on: every weight's name, shape and bytes, the image size, the precision. 16 hex digits."""
    digest = hashlib.blake2b(f"{tuple(settings.image_size_px)} {settings.dtype}".encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ on the disk


def _load(folder: Path) -> tuple[dict[str, Stamp], Tensor]:
    """Read an index; an absent, broken or half-written one is empty and made anew."""
    nothing: tuple[dict[str, Stamp], Tensor] = ({}, torch.empty(0, 0))
    if not (folder / "index.json").exists():
        return nothing
    try:
        entries = {path: (size, mtime) for path, size, mtime in read_json(folder / "index.json")["entries"]}
        with safe_open(folder / "features.safetensors", framework="pt") as file:
            belongs = file.metadata()["index"]
            feats = file.get_tensor("features")
    except (UsageError, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("index %s cannot be read (%s); it is made anew", folder, error)
        return nothing
    if belongs != _digest(entries) or len(feats) != len(entries):
        log.warning("index %s was cut off while it was written; it is made anew", folder)
        return nothing
    return entries, feats


def _save(folder: Path, entries: dict[str, Stamp], feats: Tensor, failed: list[dict[str, str]]) -> None:
    if not dist_info().is_main:
        return
    try:
        with atomic_write(folder / "features.safetensors", "wb") as file:
            file.write(save({"features": feats.contiguous()}, {"index": _digest(entries)}))
        write_json(
            folder / "index.json",
            {"entries": [[path, *stamp] for path, stamp in entries.items()]},
            indent=None,
        )
        write_jsonl(folder / "failed.jsonl", failed)
    except PermissionError as error:
        raise UsageError(
            f"the index cannot be written to {folder} ({error.strerror}); choose another folder for it with "
            "--index"
        ) from None


def _digest(entries: dict[str, Stamp]) -> str:
    return hashlib.sha256(json.dumps(list(entries.items())).encode()).hexdigest()
