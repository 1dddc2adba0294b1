"""Write a world's files other than images: annotations in the real datasets' formats, and the truth beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ham.datasets import BENCHMARKS
from ham.records import write_json, write_jsonl
from ham.world.domains import FOUNDATION, POOL
from ham.world.plan import WorldPlan
from ham.world.write import processed_tokens

ANNOTATION = {
    "CUHK-PEDES": "reid_raw.json",
    "ICFG-PEDES": "ICFG-PEDES.json",
    "RSTPReid": "data_captions.json",
}


def write_domains(out: Path, plan: WorldPlan, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Write every domain's annotation and truth. Returns the counts of world.json."""
    counts = {}
    for name in (*BENCHMARKS, POOL):
        if name == POOL:
            write_json(out / name / "synthpedes_dataset.json", [_pool_record(row) for row in rows[name]])
        else:
            write_json(out / name / ANNOTATION[name], [_record(name, row) for row in rows[name]])
        write_jsonl(out / "truth" / f"{name}-images.jsonl", (row["image"] for row in rows[name]))
        write_jsonl(
            out / "truth" / f"{name}-captions.jsonl",
            (caption for row in rows[name] for caption in row["captions"]),
        )
        counts[name] = {
            split: {"persons": share.persons, **_count(rows[name], split)}
            for split, share in plan.preset.splits[name].items()
        }
    return counts


def _count(rows: list[dict[str, Any]], split: str) -> dict[str, int]:
    captions = [len(row["captions"]) for row in rows if row["image"]["split"] == split]
    return {"images": len(captions), "captions": sum(captions)}


def _record(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return one record of a benchmark's annotation, keys as in the real file."""
    image, captions = row["image"], [caption["caption"] for caption in row["captions"]]
    if name == "RSTPReid":
        return {
            "id": image["person_id"],
            "img_path": image["image_path"],
            "captions": captions,
            "split": image["split"],
        }
    return {
        "split": image["split"],
        "captions": captions,
        "file_path": image["image_path"],
        "processed_tokens": [processed_tokens(caption) for caption in captions],
        "id": image["person_id"],
    }


def _pool_record(row: dict[str, Any]) -> dict[str, Any]:
    image = row["image"]
    return {
        "id": image["person_id"],
        "file_path": image["image_path"],
        "attributes": [",".join(image["attributes"].values())],
        "captions": [row["plain"]],
        "prompt_caption": [row["short"]],
    }


def write_foundation(out: Path, rows: list[dict[str, Any]], texts: list[str]) -> dict[str, int]:
    """Write the files that only the stand-in weights are made of. Returns their counts."""
    folder = out / FOUNDATION
    hinted = [caption for row in rows for caption in row["hinted"]]
    write_jsonl(folder / "images.jsonl", (row["image"] for row in rows))
    write_jsonl(folder / "captions.jsonl", hinted)
    write_jsonl(folder / "texts.jsonl", ({"caption": text} for text in texts))
    write_jsonl(
        folder / "short.jsonl",
        ({"image_path": row["image"]["image_path"], "caption": row["short"]} for row in rows),
    )
    return {"images": len(rows), "captions": len(hinted), "texts": len(texts), "short": len(rows)}


def write_annotators(out: Path, plan: WorldPlan) -> None:
    """Write the manner, the true style, of every simulated annotator."""
    manners = {
        annotator.annotator_id: annotator.manner
        for group in plan.writers.values()
        for annotator in group.annotators
    }
    write_json(out / "truth" / "annotators.json", manners)
