"""Join the captions of several jobs, usually of several captioners, into one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham.generation.plan import Plan, load_plan
from ham.records import atomic_write, read_json, write_json
from ham.runtime import UsageError, log

MODEL_KEYS = (
    "engine",
    "model",
    "dtype",
    "weights",
    "prompt",
    "template",
    "styles",
    "captions_per_image",
    "seed",
    "temperature",
)


def join_jobs(folders: Sequence[Path], out: Path) -> int:
    """Write {image: captions of all jobs, in the order of `folders`} to `out` and return the number of images.

    Beside it, `<out>.sources.json` lists the jobs with their models and `<out>.sources.jsonl` has a line per image with the
    job of each caption. A caption that two jobs share is written once, for the first. Raises UsageError for a job without
    captions.json, for a job given twice, and for jobs on different image roots.
    """
    plans = [load_plan(folder) for folder in folders]
    check_jobs(folders, plans)
    captions = [read_captions(folder) for folder in folders]
    images = dict.fromkeys(image for own in captions for image in own)
    counts = [0] * len(folders)
    sources_file = out.with_name(out.name + ".sources.jsonl")
    with atomic_write(out) as file, atomic_write(sources_file) as sources:
        separator = "{\n"
        for image in images:
            texts: dict[str, int] = {}
            for number, own in enumerate(captions):
                for text in own.get(image, []):
                    texts.setdefault(text, number)
            for number in texts.values():
                counts[number] += 1
            file.write(f"{separator} {as_json(image)}: {as_json(list(texts))}")
            separator = ",\n"
            sources.write(as_json({"image": image, "jobs": list(texts.values())}) + "\n")
        file.write("{}\n" if separator == "{\n" else "\n}\n")
    jobs = [describe(folder, plan, count) for folder, plan, count in zip(folders, plans, counts, strict=True)]
    write_json(out.with_name(out.name + ".sources.json"), jobs)
    log.info("%d captions of %d images from %d jobs: %s", sum(counts), len(images), len(jobs), out)
    return len(images)


def check_jobs(folders: Sequence[Path], plans: Sequence[Plan]) -> None:
    """Raise UsageError where jobs cannot be joined."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError(
            f"a job is named twice among {', '.join(map(str, folders))}; its captions would count twice"
        )
    roots = {str(plan.image_root) for plan in plans}
    if len(roots) > 1:
        raise UsageError(
            f"the jobs have different image roots ({', '.join(sorted(roots))}); the same path would name different images"
        )


def read_captions(folder: Path) -> dict[str, list[str]]:
    """Read a job's captions.json. Raises UsageError naming what is missing."""
    file = folder / "captions.json"
    if not file.is_file():
        raise UsageError(f"{file}: no such file; run `python caption.py merge {folder}` first")
    captions = read_json(file)
    if not isinstance(captions, dict) or not all(isinstance(texts, list) for texts in captions.values()):
        raise UsageError(f"{file}: expected an object of image path to captions")
    return captions


def describe(folder: Path, plan: Plan, count: int) -> dict[str, Any]:
    """Return a job's entry: its folder, the model that wrote it, and the number of its captions."""
    known = {name: plan.settings[name] for name in MODEL_KEYS if name in plan.settings}
    return {"folder": str(folder), "captions": count, "model_path": plan.info.get("model_path"), **known}


def as_json(value: Any) -> str:
    """Return one line of JSON."""
    return json.dumps(value, ensure_ascii=False)
