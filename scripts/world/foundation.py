"""What both recipes of the stand-in weights need: the foundation's images and texts, a schedule, gradients of two processes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from ham.records import path_below, read_jsonl
from ham.runtime import dist_info, progress
from ham.world.workers import core_count

HELD_OUT = 20  # one person in this many is held out


@dataclass(frozen=True)
class Picture:
    """One image of the foundation with what it shows and all that was written about it."""

    path: Path
    person_id: int
    attributes: dict[str, str]
    plain: str
    hinted: tuple[tuple[str, str, dict[str, str]], ...]  # (hint, caption, manner)
    short: str

    @property
    def held_out(self) -> bool:
        return self.person_id % HELD_OUT == 0


def read_pictures(world: Path) -> list[Picture]:
    """Read the foundation of a world. Raises UsageError naming the file that is missing."""
    folder = world / "foundation"
    plain: dict[str, str] = {}
    hinted: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
    for row in read_jsonl(folder / "captions.jsonl"):
        if row["hint"]:
            hinted.setdefault(row["image_path"], []).append((row["hint"], row["caption"], row["manner"]))
        else:
            plain[row["image_path"]] = row["caption"]
    short = {row["image_path"]: row["caption"] for row in read_jsonl(folder / "short.jsonl")}
    return [
        Picture(
            path_below(folder / "imgs", row["image_path"]),
            row["person_id"],
            row["attributes"],
            plain[row["image_path"]],
            tuple(hinted[row["image_path"]]),
            short[row["image_path"]],
        )
        for row in read_jsonl(folder / "images.jsonl")
    ]


def load_pixels(pictures: list[Picture], resize: object) -> np.ndarray:
    """Decode and resize all images: uint8 [N, H, W, 3]. resize: a function from a Pillow image to a Pillow image."""

    def one(picture: Picture) -> np.ndarray:
        with Image.open(picture.path) as image:
            return np.asarray(resize(image.convert("RGB")))

    first = one(pictures[0])
    pixels = np.empty((len(pictures), *first.shape), dtype=np.uint8)
    with ThreadPoolExecutor(core_count()) as pool:
        images = progress(pool.map(one, pictures), len(pictures), "decoding", "image")
        for index, image in enumerate(images):
            pixels[index] = image
    return pixels


def warm_cosine(step: int, steps: int, warmup: float = 0.05) -> float:
    """Return the factor on the learning rate: a linear warm-up, then a half cosine down to 0."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes, in one message; a parameter that only some of them used counts as 0 elsewhere."""
    if dist_info().world_size == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(piece.view_as(gradient))
