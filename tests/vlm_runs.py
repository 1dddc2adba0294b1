"""Tiny models of the `vlm` family with data, tuned once a file; shared by its tests. Needs the current transformers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
from PIL import Image

from ham.captioner import train
from ham.captioner.trainer import CaptionerTrainer
from ham.records import write_json

STYLES, TOKENS = 3, 4
TEXTS = ("a man in red.", "The person is walking.", "jeans, jacket")
FAMILIES = list(tiny_vlm.WRITERS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("models")
    return {name: write(top / name) for name, write in tiny_vlm.WRITERS.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), TEXTS)


@pytest.fixture(scope="module")
def tuned(models, data, tmp_path_factory) -> dict[str, Path]:
    out = {name: tmp_path_factory.mktemp("tuned") / name for name in FAMILIES}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in out.items():
            tune(patch, models[name], data, folder, *asking_for(name))
    return out


def write_data(folder: Path, texts: tuple[str, ...]) -> Path:
    """Write 24 records: images of many shapes, so that Qwen's samples differ in their number of image tokens."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(8):
        pixels = rng.integers(0, 255, (120 + 9 * number, 40 + 12 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for style, text in enumerate(texts):
            turns = [
                {"from": "human", "value": "<image>\nDescribe the person."},
                {"from": "gpt", "value": text},
            ]
            record = {"id": f"{number}_{style}", "image": f"{number}.png", "conversations": turns}
            records.append(record | {"style_id": style, "class_id": style})
    write_json(folder / "instructions.json", records)
    return folder


def asking_for(name: str) -> tuple[str, ...]:
    """Return the options by which a llava-hf checkpoint is tuned through this family."""
    return ("--family", "vlm") if name == "llava" else ()


def options(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(model), "--data_path", str(data / "instructions.json")),
        *("--image_folder", str(data), "--output_dir", str(out), "--style_tokens", str(TOKENS)),
        *("--style_init", "vocab", "--style_prompt_lr", "1e-1", "--mm_projector_lr", "1e-3"),
        *("--per_device_train_batch_size", "6", "--num_train_epochs", "2", "--logging_steps", "1"),
        *("--use_cpu", "True", "--save_steps", "2", "--dataloader_num_workers", "0", *more),
    ]


def tune(monkeypatch: Any, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *options(*arguments)])
    train.main()


def tune_until_killed(step: int, words: list[str]) -> None:
    """Train and end this process with SIGKILL in the middle of a step, `step` being done."""
    plain = CaptionerTrainer.training_step

    def training_step(self: CaptionerTrainer, *rest: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *rest)

    CaptionerTrainer.training_step = training_step
    sys.argv = ["train", *words]
    train.main()
