"""Stands in for a run of scripts/ablation.py: made-up results of all its jobs, with the keys that its settings give."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ham.datasets import BENCHMARKS
from ham.records import write_json
from ham.runtime import numpy_generator
from scripts.ablation.graph import make_graph, result_file
from scripts.ablation.places import Places
from scripts.ablation.settings import CurveOptions, ReidOptions, Settings

TOP = Path(__file__).resolve().parent.parent
R1 = {
    "none": 15.6,
    "static": 21.0,
    "static_sampled": 23.0,
    "templates": 26.0,
    "one_style": 33.0,
    "kmeans": 41.0,
    "ups": 38.0,
    "both": 45.0,
    "random_prompts": 28.0,
    "random_clusters": 35.0,
    "one_caption": 38.0,
    "ceiling": 48.0,
}


def load_script() -> ModuleType:
    """Import scripts/ablation.py, whose parts bear the same name."""
    spec = importlib.util.spec_from_file_location("ablation_story", TOP / "scripts" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_of(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> Settings:
    """Settings whose weights are a few bytes: keys need their digest only."""
    for name in ("llava", "clip"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.safetensors").write_bytes(name.encode())
    return Settings(
        work=str(folder / "work"),
        seeds=list(seeds),
        images=96,
        llava=str(folder / "llava"),
        clip=str(folder / "clip"),
        reid=ReidOptions(batch_size=48),
        curve=CurveOptions([4, 2]),
    )


def make_up(settings: Settings, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Stand in for a run: made-up results of all its jobs, with the keys that these settings give."""
    work = Path(settings.work)
    for name, job in make_graph(settings, seeds, rows).items():
        rng = numpy_generator(0, "made up", name)
        found: dict[str, Any] = {}
        if job.kind == "eval":
            found = {
                kind: {
                    dataset: metrics(
                        R1[job.what] * (1 - 0.06 * (job.part - 1)) + shift + 3 * rng.random(), place
                    )
                    for place, dataset in enumerate(BENCHMARKS)
                }
                for kind, shift in (("human", 0), ("plain", 8))
            }
        elif job.kind == "captions":
            count = 1 if job.what == "one_caption" else 2
            write_json(
                Places(work, job.seed).captions(job.what),
                {
                    f"{index}.jpg": [
                        f"a person in {word} {index % 7} of {job.what}" for word in ("red", "blue")[:count]
                    ]
                    for index in range(settings.images)
                },
            )
            found = {
                "content": {"precision": 0.876543, "recall": 0.7, "f1": 0.77},
                "diversity": {"captions": 96 * count},
                "kept_although_rejected": 0,
                "examples": [{"image": str(work), "captions": []}],
            }
        write_json(
            result_file(work, name),
            {"job": name, "key": job.key, "seconds": 36.0, "began": 1_795_536_000 + 100 * job.seed, **found},
        )


def metrics(first: float, place: int) -> dict[str, Any]:
    return {
        "dataset": BENCHMARKS[place],
        "R1": first + place,
        "R5": 60.0,
        "R10": 70.0,
        "mAP": first + place + 2,
        "mINP": 9.0,
        "queries": 1200,
        "gallery": 600,
    }
