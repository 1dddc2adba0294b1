"""The work of each kind of job. A job empties its folder first and returns the figures of its result file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ham.captioner.train as captioner_training
from ham.clip import load_clip
from ham.datasets import BENCHMARKS
from ham.generation.diversity import measure as diversity
from ham.generation.filters import reject_reason
from ham.records import StyleAssignment, path_below, read_json, read_jsonl, write_json, write_jsonl
from ham.reid import train as reid_training
from ham.reid.config import TrainConfig
from ham.reid.encode import EncodeSettings, encode_texts
from ham.reid.evaluate import encode_split, measure
from ham.reid.images import read_image
from ham.reid.methods import build_method
from ham.reid.weights import load_method
from ham.runtime import UsageError, numpy_generator
from ham.style.build import build_styles
from ham.style.config import ClusterSettings, FeatureSettings, StyleSettings
from ham.style.folder import load_styles
from ham.style.instructions import write_instructions
from ham.world.annotators import plain_description
from ham.world.build import build_world
from ham.world.domains import POOL
from ham.world.parser import score_content
from scripts.ablation.captions import write_captions
from scripts.ablation.graph import Job
from scripts.ablation.places import Places
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import Settings

Figures = dict[str, Any]


def draw_world(settings: Settings, places: Places, job: Job) -> Figures:
    """Build the seed's dataset, without the images that are only used to train the shipped weights."""
    shutil.rmtree(places.world, ignore_errors=True)
    build_world(places.world, settings.preset, places.seed, workers=1, foundation=False)
    return {"counts": read_json(places.world / "world.json")["counts"]}


def make_pool(settings: Settings, places: Places, job: Job) -> Figures:
    """Choose the pool images that all rows share, and keep them at the retrieval model's size, as it would resize them."""
    shutil.rmtree(places.pool, ignore_errors=True)
    truth = [row["image_path"] for row in read_jsonl(places.world / "truth" / f"{POOL}-images.jsonl")]
    if len(truth) < settings.images:
        raise UsageError(
            f"images {settings.images}: the pool of seed {places.seed} holds {len(truth)}; lower it"
        )
    order = numpy_generator(places.seed, "ablation pool").permutation(len(truth))[: settings.images]
    images = [truth[index] for index in np.sort(order)]
    for image in images:
        file = places.pool / uncompressed(image)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(read_image(path_below(places.world / POOL, image), settings.reid.image_size_px)).save(
            file
        )
    write_json(places.pool_list, images)
    return {"images": len(images), "persons": len({image.rpartition("/")[0] for image in images})}


def uncompressed(image: str) -> str:
    return str(Path(image).with_suffix(".bmp"))


# ----------------------------------------------------------------------------------------------------------------- styles


def make_styles(settings: Settings, places: Places, job: Job) -> Figures:
    """Cluster the human captions in one of five ways."""
    out = places.styles(job.what)
    shutil.rmtree(out, ignore_errors=True)
    options = settings.styles
    if job.what == "random_clusters":
        return assign_randomly(settings, places)
    kmeans, ups = {
        "one_style": (1, 0),
        "kmeans": (options.total, 0),
        "ups": (0, options.total),
        "both": (options.total // 2, options.total // 2),
    }[job.what]
    build_styles(
        StyleSettings(
            str(places.world),
            str(out),
            seed=places.seed,
            features=FeatureSettings(dim=options.dim),
            clusters=ClusterSettings(kmeans, ups, options.beta, options.nearest),
            instruction=settings.instruction,
        )
    )
    return read_json(out / "styles.json")["counts"]


def assign_randomly(settings: Settings, places: Places) -> Figures:
    """Assign the captions to random clusters of `both`: every cluster keeps its size."""
    facts, rows, _ = load_styles(places.styles("both"))
    styles = shuffle_styles([tuple(row["style_ids"]) for row in rows], places.seed)
    assignments = [
        StyleAssignment(row["image"], row["caption"], ids) for row, ids in zip(rows, styles, strict=True)
    ]
    out = places.styles("random_clusters")
    write_jsonl(out / "assignments.jsonl", assignments)
    write_instructions(out / "instructions.json", assignments, settings.instruction)
    return facts["counts"]


def shuffle_styles(style_ids: Sequence[tuple[int, ...]], seed: int) -> list[tuple[int, ...]]:
    """Exchange the styles of captions at random: sizes of clusters and numbers of styles a caption stay as they are."""
    order = numpy_generator(seed, "random clusters").permutation(len(style_ids))
    return [style_ids[index] for index in order]


def tune(settings: Settings, places: Places, job: Job) -> Figures:
    """Learn the style prompts and the projector, as scripts/v1_5/finetune_task.sh does."""
    options, out = settings.tuning, places.tuned(job.what)
    shutil.rmtree(out, ignore_errors=True)
    words = {
        "model_name_or_path": settings.llava,
        "data_path": places.styles(job.what) / "instructions.json",
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
    with arguments(
        "ham.captioner.train",
        *(piece for name, value in words.items() for piece in (f"--{name}", str(value))),
    ):
        captioner_training.main()
    logged = [row for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
    return {
        "steps": options.steps,
        "loss_first": logged[0]["loss"],
        "loss_last": logged[-1]["loss"],
        "style_moved": logged[-1]["style_moved"],
    }


@contextmanager
def arguments(*words: str) -> Iterator[None]:
    """Run a program with these command-line arguments."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


# ----------------------------------------------------------------------------------------------- captions, training, table


def caption(settings: Settings, places: Places, job: Job) -> Figures:
    """Caption the pool and judge the captions: facts right, facts told, variety."""
    row = ROWS[job.what]
    captions = write_captions(settings, places, row.writes, row.clustering)
    write_json(places.captions(job.what), captions, indent=None)
    seen = {
        one["image_path"]: one["attributes"]
        for one in read_jsonl(places.world / "truth" / f"{POOL}-images.jsonl")
    }
    texts = [text for own in captions.values() for text in own]
    judged = score_content(texts, [seen[image] for image, own in captions.items() for _ in own])
    return {
        "content": judged,
        "diversity": diversity(texts),
        "images": len(captions),
        "captions": len(texts),
        "kept_although_rejected": sum(bool(reject_reason(text)) for text in texts),
        "examples": [{"image": image, "captions": captions[image]} for image in list(captions)[:4]],
    }


def train(settings: Settings, places: Places, job: Job) -> Figures:
    """Train the start CLIP on a row's captions with SDM; no set of benchmark images is looked at."""
    options, out = settings.reid, places.retrieval(job.what, job.part)
    shutil.rmtree(out, ignore_errors=True)
    captions = {uncompressed(image): texts for image, texts in read_json(places.captions(job.what)).items()}
    write_json(out / "captions.json", captions, indent=None)
    more = settings.captions.per_image // len(next(iter(captions.values())))
    more *= job.part if settings.curve.fixed == "steps" else 1
    reid_training.train(
        TrainConfig(
            output_dir=out,
            weights=Path(settings.clip),
            method="sdm",
            train_captions=[str(out / "captions.json")],
            train_images=places.pool,
            caption_images=settings.images // job.part if job.part > 1 else None,
            image_size_px=options.image_size_px,
            stride_px=options.stride_px,
            text_length=options.text_length,
            pad_px=options.pad_px,
            epochs=options.epochs * more,
            batch_size=options.batch_size,
            optimizer="adamw",
            lr=options.lr,
            weight_decay=options.weight_decay,
            lr_per="step",
            warmup_epochs=options.warmup_epochs * more,
            seed=places.seed,
            precision="fp32",
            device="cpu",
            num_workers=0,
            eval_every=0,
            log_every=20,
        )
    )
    logged = [row for row in read_jsonl(out / "metrics.jsonl") if "sdm_loss" in row]
    shutil.rmtree(out / "cache", ignore_errors=True)
    return {
        "steps": logged[-1]["step"],
        "images": settings.images // job.part,
        "loss_first": logged[0]["sdm_loss"],
        "loss_last": logged[-1]["sdm_loss"],
    }


def evaluate(settings: Settings, places: Places, job: Job) -> Figures:
    """Measure direct transfer on the benchmarks, with the annotators' queries and with plain ones about the same images."""
    options = settings.reid
    if job.what == "none":
        model = build_method("sdm", load_clip(settings.clip, options.image_size_px, options.stride_px)).eval()
    else:
        model = load_method(places.retrieval(job.what, job.part) / "last")
    encoding = EncodeSettings(options.image_size_px, options.text_length)
    rows: Figures = {"human": {}, "plain": {}}
    for name in BENCHMARKS:
        encoded = encode_split(model, places.world, name, "test", encoding)
        rows["human"][name] = measure(encoded)[0]
        truth = [
            row
            for row in read_jsonl(places.world / "truth" / f"{name}-images.jsonl")
            if row["split"] == "test"
        ]
        plain = [plain_description(row["attributes"]).text for row in truth]
        rows["plain"][name] = measure(
            replace(
                encoded,
                text_feats=encode_texts(model, plain, encoding),
                text_ids=np.array([row["person_id"] for row in truth]),
                captions=plain,
            )
        )[0]
    return rows


WORK: dict[str, Callable[[Settings, Places, Job], Figures]] = {
    "world": draw_world,
    "pool": make_pool,
    "styles": make_styles,
    "tune": tune,
    "captions": caption,
    "reid": train,
    "eval": evaluate,
}
