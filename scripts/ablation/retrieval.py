"""Pretraining, direct transfer and fine-tuning of the rows' retrieval models, by `train_reid.py`'s own functions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import train_reid
from ham.clip import load_clip
from ham.datasets import BENCHMARKS
from ham.records import read_json, read_jsonl, write_json
from ham.reid import train as reid_training
from ham.reid.config import TrainConfig
from ham.reid.encode import EncodeSettings, RetrievalModel, encode_texts
from ham.reid.evaluate import EncodedSplit, encode_split, measure
from ham.reid.methods import build_method
from ham.reid.weights import load_method
from ham.world.annotators import plain_description
from ham.world.domains import POOL
from scripts.ablation.places import Places
from scripts.ablation.rows import METRICS, ROWS
from scripts.ablation.settings import Settings

Figures = dict[str, Any]


def pretrain(settings: Settings, places: Places, name: str) -> Figures:
    """Train CLIP on a row's captions, all or a part of its images, and measure direct transfer."""
    row, _, part = name.partition("-1of")
    if not ROWS[row].source:
        places.require("prepare")
        options = settings.reid
        return direct_transfer(
            settings,
            places,
            build_method("sdm", load_clip(settings.clip, options.image_size_px, options.stride_px)).eval(),
        )
    places.require("captions", ROWS[row].captions_of or row)
    reid_training.train(pretraining_config(settings, places, name, int(part or 1)))
    shutil.rmtree(places.retrieval(name) / "cache", ignore_errors=True)
    return direct_transfer(settings, places, load_method(places.retrieval(name) / "last"))


def pretraining_config(settings: Settings, places: Places, name: str, part: int) -> TrainConfig:
    """Return the options of a row's pretraining: SDM, AdamW, the same steps for every row of all images."""
    row, options = ROWS[name.partition("-1of")[0]], settings.reid
    out = places.retrieval(name)
    captions, passes = places.captions(row.captions_of or name.partition("-1of")[0]), 1
    if row.captions_of:
        first = {image: texts[:1] for image, texts in read_json(captions).items()}
        captions, passes = out / "captions.json", settings.captions.per_image
        write_json(captions, first, indent=None)
    return TrainConfig(
        output_dir=out,
        weights=Path(settings.clip),
        method="sdm",
        train_captions=[str(captions)],
        train_images=places.world / POOL,
        caption_images=settings.images // part if part > 1 else None,
        image_size_px=options.image_size_px,
        stride_px=options.stride_px,
        text_length=options.text_length,
        pad_px=options.pad_px,
        epochs=options.epochs * passes,
        batch_size=options.batch_size,
        optimizer="adamw",
        lr=options.lr,
        weight_decay=options.weight_decay,
        lr_per="step",
        warmup_epochs=options.warmup_epochs * passes,
        seed=places.seed,
        precision="fp32",
        device="cpu",
        num_workers=0,
        eval_every=0,
        log_every=20,
    )


def direct_transfer(settings: Settings, places: Places, model: RetrievalModel) -> Figures:
    """Measure on the benchmarks' test sets, with the annotators' queries and with plain ones about the same images."""
    encoding = encoding_of(settings)
    figures: Figures = {"human": {}, "plain": {}}
    for name in BENCHMARKS:
        encoded = encode_split(model, places.world, name, "test", encoding)
        figures["human"][name] = metrics_of(encoded)
        images = read_jsonl(places.world / "truth" / f"{name}-images.jsonl")
        truth = [row for row in images if row["split"] == "test"]
        plain = [plain_description(row["attributes"]).text for row in truth]
        asked = replace(
            encoded,
            text_feats=encode_texts(model, plain, encoding),
            text_ids=np.array([row["person_id"] for row in truth]),
            captions=plain,
        )
        figures["plain"][name] = metrics_of(asked)
    return figures


def encoding_of(settings: Settings) -> EncodeSettings:
    return EncodeSettings(settings.reid.image_size_px, settings.reid.text_length)


def metrics_of(encoded: EncodedSplit) -> dict[str, float]:
    row = measure(encoded)[0]
    return {metric: round(row[metric], 4) for metric in METRICS} | {"queries": row["queries"]}


def finetune(settings: Settings, places: Places, row: str) -> Figures:
    """Fine-tune a row's retrieval model on each benchmark's training split; measure its last epoch on the test split."""
    places.require("retrieval", row)
    start = places.retrieval(row) / "last" if ROWS[row].source else Path(settings.clip)
    figures: Figures = {"human": {}}
    for name in BENCHMARKS:
        out = places.folder / "finetune" / row / name
        config = finetuning_config(settings, places.world, name, start, out, places.seed)
        reid_training.train(config)
        shutil.rmtree(out / "cache", ignore_errors=True)
        model = load_method(out / "last")
        encoded = encode_split(model, places.world, name, "test", encoding_of(settings))
        figures["human"][name] = metrics_of(encoded)
    return figures


def finetuning_config(
    settings: Settings, world: Path, benchmark: str, start: Path, out: Path, seed: int
) -> TrainConfig:
    """Return the options of a fine-tuning: those of the config file, on one benchmark, without evaluations."""
    config: TrainConfig = train_reid.parse(["finetune", "--config", settings.finetune.config])[1]
    return replace(
        config,
        output_dir=out,
        weights=start,
        data_root=world,
        train_datasets=[benchmark],
        test_datasets=[],
        val_datasets=[],
        epochs=settings.finetune.epochs or config.epochs,
        eval_every=0,
        num_workers=0,
        device="cpu",
        seed=seed,
    )
