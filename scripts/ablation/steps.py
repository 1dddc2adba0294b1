"""The steps of the experiment, one function each, through the stages' own entry points.

    python -m scripts.ablation.steps WORK SEED KIND [NAME]      run by scripts/ablation.py, one process per step

Every stage continues where it was stopped. A step returns its figures, which are written last.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ham.captioner.train as captioner_training
from ham.distributed import DieWithParent
from ham.generation.diversity import measure as diversity
from ham.generation.filters import reject_reason
from ham.records import StyleAssignment, read_json, read_jsonl, write_json, write_jsonl
from ham.runtime import UsageError, exit_code_of, numpy_generator, set_up_logging
from ham.style.build import build_styles
from ham.style.config import ClusterSettings, FeatureSettings, StyleSettings
from ham.style.folder import load_styles
from ham.style.instructions import write_instructions
from ham.world.build import build_world
from ham.world.domains import POOL
from ham.world.parser import score_content
from scripts.ablation.captions import write_captions
from scripts.ablation.places import Places
from scripts.ablation.record import load_settings
from scripts.ablation.retrieval import finetune, pretrain
from scripts.ablation.rows import CLUSTERINGS, ROWS
from scripts.ablation.settings import Settings

Figures = dict[str, Any]


# --------------------------------------------------------------------------------------------------------- data and styles


def prepare(settings: Settings, places: Places, name: str) -> Figures:
    """Build the seed's dataset, choose the pool images of all rows, cluster the human captions in five ways."""
    build_world(places.world, settings.preset, places.seed, foundation=False)
    truth = [row["image_path"] for row in read_jsonl(places.world / "truth" / f"{POOL}-images.jsonl")]
    if len(truth) < settings.images:
        raise UsageError(
            f"images {settings.images}: the pool of seed {places.seed} holds {len(truth)}; lower it"
        )
    order = numpy_generator(places.seed, "ablation pool").permutation(len(truth))[: settings.images]
    write_json(places.pool_list, [truth[index] for index in np.sort(order)])
    for clustering in CLUSTERINGS:
        cluster(settings, places, clustering)
    return {"counts": read_json(places.world / "world.json")["counts"]}


def cluster(settings: Settings, places: Places, clustering: str) -> None:
    """Cluster the human captions in one of five ways; `random_clusters` needs `both`."""
    options = settings.styles
    if clustering == "random_clusters":
        assign_randomly(settings, places)
        return
    kmeans, ups = {
        "one_style": (1, 0),
        "kmeans": (options.total, 0),
        "ups": (0, options.total),
        "both": (options.total // 2, options.total // 2),
    }[clustering]
    build_styles(
        StyleSettings(
            str(places.world),
            str(places.styles(clustering)),
            seed=places.seed,
            features=FeatureSettings(dim=options.dim),
            clusters=ClusterSettings(kmeans, ups, options.beta, options.nearest),
            instruction=settings.instruction,
        )
    )


def assign_randomly(settings: Settings, places: Places) -> None:
    """Exchange the styles of captions at random: cluster sizes and styles per caption stay as in `both`."""
    _, rows, _ = load_styles(places.styles("both"))
    order = numpy_generator(places.seed, "random clusters").permutation(len(rows))
    assignments = [
        StyleAssignment(row["image"], row["caption"], tuple(rows[index]["style_ids"]))
        for row, index in zip(rows, order, strict=True)
    ]
    out = places.styles("random_clusters")
    write_jsonl(out / "assignments.jsonl", assignments)
    write_instructions(out / "instructions.json", assignments, settings.instruction)


# --------------------------------------------------------------------------------------------------- captioner and captions


def tune(settings: Settings, places: Places, clustering: str) -> Figures:
    """Learn the style prompts and the projector, as scripts/v1_5/finetune_task.sh does."""
    places.require("prepare")
    options, out = settings.tuning, places.tuned(clustering)
    shutil.rmtree(out, ignore_errors=True)
    values = {
        "model_name_or_path": settings.llava,
        "data_path": places.styles(clustering) / "instructions.json",
        "image_folder": places.world,
        "output_dir": out,
        "version": "v1",
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.style_prompt_lr,
        "style_prompt_lr": options.style_prompt_lr,
        "mm_projector_lr": options.mm_projector_lr,
        "style_tokens": options.style_tokens,
        "style_init": options.style_init,
        "weight_decay": 0.0,
        "warmup_ratio": 0.03,
        "lr_scheduler_type": "cosine",
        "group_by_modality_length": True,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_steps": max(1, options.steps // 20),
        "dataloader_num_workers": 0,
        "seed": places.seed,
        "report_to": "none",
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    sys.argv = ["ham.captioner.train", *words]
    captioner_training.main()
    logged = [row for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
    return {"loss_first": logged[0]["loss"], "loss_last": logged[-1]["loss"]}


def caption_pool(settings: Settings, places: Places, row: str) -> Figures:
    """Caption the pool; measure the captions' truth, and their variety on one caption of each image."""
    places.require("prepare")
    if ROWS[row].clustering:
        places.require("tune", ROWS[row].clustering or "")
    captions = write_captions(settings, places, row)
    write_json(places.captions(row), captions, indent=None)
    truth = {
        one["image_path"]: one["attributes"]
        for one in read_jsonl(places.world / "truth" / f"{POOL}-images.jsonl")
    }
    texts = [text for own in captions.values() for text in own]
    content = score_content(texts, [truth[image] for image, own in captions.items() for _ in own])
    return {
        "content": {name: round(value, 4) for name, value in content.items()},
        "diversity": diversity(one_each(captions, places.seed), places.seed),
        "kept_although_rejected": sum(bool(reject_reason(text)) for text in texts),
    }


def one_each(captions: dict[str, list[str]], seed: int) -> list[str]:
    """Draw one caption of each image: sets of one size in all rows, as variety falls when a set grows."""
    return [
        texts[numpy_generator(seed, "one each", image).integers(len(texts))]
        for image, texts in captions.items()
    ]


# -------------------------------------------------------------------------------------------------------------- the process


STEPS: dict[str, Callable[[Settings, Places, str], Figures]] = {
    "prepare": prepare,
    "tune": tune,
    "captions": caption_pool,
    "retrieval": pretrain,
    "finetune": finetune,
    "curve": pretrain,
}


def main() -> None:
    set_up_logging()
    work, seed, kind, name, parent = sys.argv[1:]
    DieWithParent(int(parent))(0)
    settings, places = load_settings(Path(work)), Places(Path(work), int(seed))
    began = time.time()
    figures = STEPS[kind](settings, places, name)
    figures |= {
        "began": round(began),
        "seconds": round(time.time() - began, 1),
        "cpu_seconds": round(sum(os.times()[:4]), 1),
    }
    write_json(places.figures(kind, name), figures)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
