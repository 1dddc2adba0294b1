"""Augment a batch of images as tensor operations on its device.

Images leave the workers as uint8, resized. The draws are made on the CPU for the whole global batch, so that a run does not
depend on its device or its number of processes. Knows nothing of datasets or models.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ham.reid.images import PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class ImageDraws:
    """The random choices for B images, as NumPy arrays [B]: flips, crop corners, rectangles to erase (height 0: none)."""

    flip: np.ndarray
    top: np.ndarray
    left: np.ndarray
    erase_top: np.ndarray
    erase_left: np.ndarray
    erase_height: np.ndarray
    erase_width: np.ndarray

    def __getitem__(self, rows: slice) -> ImageDraws:
        return ImageDraws(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_images(
    count: int,
    image_size_px: tuple[int, int],
    draw: np.random.Generator,
    pad_px: int = 10,
    flip_p: float = 0.5,
    erase_p: float = 0.5,
    erase_share: tuple[float, float] = (0.02, 0.4),
) -> ImageDraws:
    """Draw what happens to `count` images of height x width pixels.

    The rectangle covers a share of the image in `erase_share`, with an aspect ratio log-uniform in 0.3 to 3.3; ten tries to fit
    inside the image, else nothing is erased. Source: torchvision's RandomErasing, as IRRA's datasets/build.py uses it.
    """
    height, width = image_size_px
    area = height * width * draw.uniform(*erase_share, (count, 10))
    ratio = np.exp(draw.uniform(np.log(0.3), np.log(3.3), (count, 10)))
    tall, wide = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
    fits = (tall < height) & (wide < width)
    first, rows = fits.argmax(axis=1), np.arange(count)
    erased = fits.any(axis=1) & (draw.random(count) < erase_p)
    tall, wide = tall[rows, first] * erased, wide[rows, first] * erased
    return ImageDraws(
        flip=draw.random(count) < flip_p,
        top=draw.integers(0, 2 * pad_px + 1, count),
        left=draw.integers(0, 2 * pad_px + 1, count),
        erase_top=(draw.random(count) * np.maximum(height - tall + 1, 1)).astype(int),
        erase_left=(draw.random(count) * np.maximum(width - wide + 1, 1)).astype(int),
        erase_height=tall,
        erase_width=wide,
    )


def augment_images(images: Tensor, draws: ImageDraws, pad_px: int = 10) -> Tensor:
    """Flip, pad with black, crop, normalize and erase: uint8 [B, H, W, 3] -> float32 [B, 3, H, W], same device.

    Erased pixels take the *un-normalized* mean although they are normalized already, as the reference does.
    Source: IRRA, datasets/build.py, build_transforms.
    """
    count, height, width, _ = images.shape
    to_device = {
        field.name: torch.from_numpy(np.ascontiguousarray(getattr(draws, field.name))).to(images.device)[
            :, None
        ]
        for field in fields(draws)
    }
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = to_device["top"] + y  # [B, H] in the padded image
    columns = to_device["left"] + x  # [B, W]
    columns = torch.where(to_device["flip"], width + 2 * pad_px - 1 - columns, columns)
    padded = F.pad(images, (0, 0, pad_px, pad_px, pad_px, pad_px))
    batch = torch.arange(count, device=images.device)[:, None, None]
    images = normalize(
        padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    )  # [B, 3, H, W]
    in_rows = (y >= to_device["erase_top"]) & (y < to_device["erase_top"] + to_device["erase_height"])
    in_columns = (x >= to_device["erase_left"]) & (x < to_device["erase_left"] + to_device["erase_width"])
    erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # [B, 1, H, W]
    return torch.where(erased, images.new_tensor(PIXEL_MEAN).view(1, 3, 1, 1), images).contiguous()


def normalize(images: Tensor) -> Tensor:
    """Scale to 0..1 and apply CLIP's mean and deviation: uint8 [B, 3, H, W] -> float32 [B, 3, H, W], same device."""
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD)
    )
    return (images.float() / 255 - mean) / std
