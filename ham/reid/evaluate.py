"""Evaluate a model on any test sets: encode a split, rank, tabulate, write JSON, and pick examples for a picture.

Text-to-image: every caption of the split is a query, every image is in the gallery. Image-to-text is the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ham.datasets import UNKNOWN, check_names, display_name, image_root, read_dataset
from ham.records import path_below, write_json, write_jsonl
from ham.reid.compare import markdown
from ham.reid.encode import DEFAULTS, EncodeSettings, RetrievalModel, encode_images, encode_texts
from ham.reid.metrics import METRICS, retrieval_metrics
from ham.runtime import UsageError, dist_info, git_revision, numpy_generator

Row = dict[str, Any]


@dataclass(frozen=True)
class EncodedSplit:
    """Both sides of a test set: features [Q, D] and [G, D] on the CPU, person ids, and where they come from."""

    dataset: str
    split: str
    text_feats: Tensor
    image_feats: Tensor
    text_ids: np.ndarray
    image_ids: np.ndarray
    captions: list[str]
    caption_images: list[Path]
    images: list[Path]
    failed: list[dict[str, str]]


def encode_split(
    model: RetrievalModel,
    root: str | Path | None,
    spec: str,
    split: str = "test",
    settings: EncodeSettings = DEFAULTS,
) -> EncodedSplit:
    """Encode one split of a dataset: a published name below `root`, or NAME=PATH for one's own.

    An unreadable image leaves the gallery; its captions stay queries. Raises UsageError when there is no query, or when no
    identity is known: nothing could match.
    """
    root = None if root is None else Path(root)
    name = display_name(spec)
    records = read_dataset(root, spec, split)
    queries = [(caption, record) for record in records for caption in record.captions]
    if not queries:
        raise UsageError(
            f"{name}, split {split}: {len(records)} images with {len(queries)} captions; nothing to evaluate"
        )
    if all(record.person_id == UNKNOWN for record in records):
        raise UsageError(
            f"{name}, split {split}: no image has a known identity, so that no query has a match. To evaluate with every "
            "image as a person of its own, read its annotation as NAME=PATH (ham/datasets/README.md)"
        )
    folder = image_root(root, spec)
    paths = [path_below(folder, record.image_path) for record in records]
    path_of = {record.image_path: path for record, path in zip(records, paths)}
    images = encode_images(model, paths, settings, f"{name} images")
    captions = [caption for caption, _ in queries]
    return EncodedSplit(
        name,
        split,
        encode_texts(model, captions, settings, f"{name} captions"),
        images.feats,
        np.array([record.person_id for _, record in queries]),
        np.array([records[place].person_id for place in images.places]),
        captions,
        [path_of[record.image_path] for _, record in queries],
        [paths[place] for place in images.places],
        [{"dataset": name, **row} for row in images.failed],
    )


def measure(
    encoded: EncodedSplit, image_to_text: bool = False, device: torch.device | str = "cpu"
) -> list[Row]:
    """Return a row of metrics for text-to-image and, on request, one for image-to-text."""
    text = (encoded.text_feats.to(device), encoded.text_ids)
    image = (encoded.image_feats.to(device), encoded.image_ids)
    sides = {"text-to-image": (text, image), **({"image-to-text": (image, text)} if image_to_text else {})}
    rows = []
    for direction, ((query_feats, query_ids), (gallery_feats, gallery_ids)) in sides.items():
        found = retrieval_metrics(query_feats, gallery_feats, query_ids, gallery_ids)
        rows.append(
            {
                "dataset": encoded.dataset,
                "split": encoded.split,
                "direction": direction,
                **found,
                "gallery": len(gallery_ids),
                "failed_images": len(encoded.failed),
            }
        )
    return rows


def evaluate(
    model: RetrievalModel,
    root: str | Path | None,
    names: Sequence[str],
    split: str | Mapping[str, str] = "test",
    image_to_text: bool = False,
    settings: EncodeSettings = DEFAULTS,
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[list[Row], list[EncodedSplit]]:
    """Evaluate a model on any number of test sets; return rows for a table, and the encoded splits for pictures.

    names: published datasets below `root`, or NAME=PATH. split: one for all, or {dataset: split}. out: a folder for
    `evaluation.json` and, where images failed, `failed.jsonl`. device: where the ranking runs. With several ranks all encode,
    all return the same, and rank 0 writes.
    """
    check_names(names)
    rows: list[Row] = []
    encoded: list[EncodedSplit] = []
    for name in names:
        encoded.append(
            encode_split(model, root, name, split if isinstance(split, str) else split[name], settings)
        )
        rows += measure(encoded[-1], image_to_text, device)
    if dist_info().is_main and out is not None:
        write_results(rows, Path(out) / "evaluation.json")
        failed = [row for one in encoded for row in one.failed]
        if failed:
            write_jsonl(Path(out) / "failed.jsonl", failed)
    return rows, encoded


def write_results(rows: Sequence[Row], path: Path) -> None:
    """Write metric rows as JSON, with the git revision; a metric that could not be measured (NaN) is null."""
    clean = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    ]
    write_json(path, {"git_revision": git_revision(), "unit": "percent", "results": clean})


def format_table(rows: Sequence[Row]) -> str:
    """Return metric rows as a Markdown table: percent, two decimals."""
    head = ("dataset", "split", "direction", *METRICS, "queries", "unmatched", "gallery")
    cells = [[f"{row[key]:.2f}" if key in METRICS else str(row[key]) for key in head] for row in rows]
    return markdown(head, cells, texts=3)


def pick_examples(encoded: EncodedSplit, count: int = 8, top: int = 10, seed: int = 0) -> list[Row]:
    """Choose `count` random queries and rank the gallery for each: rows for `ham.report.gallery.draw_gallery`.

    A row: query (the caption), query_image (the image it describes), hits [{image, score, right}], best first.
    """
    draw = numpy_generator(seed, "gallery examples", encoded.dataset, encoded.split)
    chosen = sorted(draw.permutation(len(encoded.captions))[:count].tolist())
    scores = (encoded.text_feats[chosen] @ encoded.image_feats.T).sort(dim=1, descending=True, stable=True)
    return [
        {
            "query": encoded.captions[query],
            "query_image": str(encoded.caption_images[query]),
            "hits": [
                {
                    "image": str(encoded.images[column]),
                    "score": score,
                    "right": _same_person(encoded.image_ids[column], encoded.text_ids[query]),
                }
                for score, column in zip(values[:top].tolist(), columns[:top].tolist())
            ],
        }
        for query, values, columns in zip(chosen, scores.values, scores.indices)
    ]


def _same_person(first: int, second: int) -> bool:
    return bool(first == second and first != UNKNOWN)
