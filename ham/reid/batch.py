"""Build the inputs of one training step: augmented images, caption ids and what the method adds.

Images leave the workers as uint8, resized; augmentation runs on the device, one kernel for a batch on a GPU, image by image on
a CPU. All draws are made on the CPU for the whole global batch, so a run does not depend on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ham.reid.gpu_jpeg import decode_jpegs
from ham.reid.images import PIXEL_MEAN, PIXEL_STD
from ham.reid.mlm import augment_batch
from ham.reid.protocol import GlobalBatch, RetrievalMethod
from ham.runtime import dist_info, numpy_generator

if TYPE_CHECKING:
    from ham.reid.config import TrainConfig
    from ham.reid.run import Run


def make_batch(
    run: Run,
    pixels: Tensor | list[Tensor],
    index: Tensor,
    planned: np.ndarray,
    rows: slice,
    part: int,
    epoch: int,
    number: int,
) -> dict[str, Tensor]:
    """Build this process's inputs of a batch on the device.

    pixels, index: what the loader returned for this process's rows. planned: the pairs of the whole global batch; draws are
    made for all of them and cut. part: the gradient accumulation step. number: the batch's number in the epoch.
    """
    config, device = run.config, run.accelerator.device
    inputs = run.pairs.rows(index.numpy())
    ids = run.pairs.rows(planned)["caption_ids"]  # [global B, T]
    ids[rows] = inputs["caption_ids"]  # an unreadable image has been replaced by a neighboring pair
    if scrambles(config, run.method):
        ids = augment_batch(ids, numpy_generator(config.seed, "scrambled words", epoch, number))
    size = len(planned) // config.accumulation_steps
    in_part = slice(part * size, (part + 1) * size)
    compared = dist_info().world_size if config.gather else 1
    inputs |= run.method.prepare_text(GlobalBatch(ids, rows, in_part, compared, config.seed, epoch, number))
    inputs |= run.method.pair_values(inputs["index"])
    batch = to_device(inputs, device)
    draws = None
    if config.augment_images:
        generator = numpy_generator(config.seed, "images", epoch, number)
        draws = draw_images(len(planned), config.image_size_px, generator, config.pad_px)[rows]
    if isinstance(pixels, list):  # JPEG bytes: --decode_jpeg_on gpu
        pixels = decode_jpegs(pixels, device)
    batch["images"] = image_inputs(pixels.to(device, non_blocking=True), draws, config.pad_px)
    return batch


def scrambles(config: TrainConfig, method: RetrievalMethod) -> bool:
    """Return whether captions are scrambled: --scramble_words, else what the method does by default."""
    return method.scrambles_words if config.scramble_words is None else config.scramble_words


def to_device(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Copy arrays to a device; one array under two names becomes one tensor."""
    tensors: dict[int, Tensor] = {}
    for values in arrays.values():
        if id(values) not in tensors:
            tensors[id(values)] = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    return {name: tensors[id(values)] for name, values in arrays.items()}


def image_inputs(pixels: Tensor, draws: ImageDraws | None, pad_px: int) -> Tensor:
    """Augment by the draws, or only normalize: uint8 [B, H, W, 3] -> float32 [B, 3, H, W], same device."""
    if draws is None:
        return normalize(pixels.permute(0, 3, 1, 2))
    return augment_images(pixels, draws, pad_px)


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
    """Draw the augmentation of `count` images of height x width pixels.

    The erased rectangle covers a share of the image in `erase_share`, with an aspect ratio log-uniform in 0.3 to 3.3; if none
    of ten tries fits inside the image, nothing is erased.
    Source: torchvision's RandomErasing, as IRRA's datasets/build.py uses it.
    """
    height, width = image_size_px
    area = height * width * draw.uniform(*erase_share, (count, 10))
    ratio = np.exp(draw.uniform(np.log(0.3), np.log(3.3), (count, 10)))
    tall = np.rint(np.sqrt(area * ratio)).astype(int)
    wide = np.rint(np.sqrt(area / ratio)).astype(int)
    fits = (tall < height) & (wide < width)
    first, rows = fits.argmax(axis=1), np.arange(count)
    erased = fits.any(axis=1) & (draw.random(count) < erase_p)
    tall = tall[rows, first] * erased
    wide = wide[rows, first] * erased
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

    Erased pixels take the *un-normalized* mean although they are normalized already, as in the reference.
    Source: IRRA, datasets/build.py, build_transforms.
    """
    if images.device.type == "cpu":
        return _augment_one_by_one(images, draws, pad_px)
    return _augment_together(images, draws, pad_px)


def normalize(images: Tensor) -> Tensor:
    """Scale to 0..1 and apply CLIP's mean and deviation: uint8 [B, 3, H, W] -> float32 [B, 3, H, W], same device."""
    mean, std = _mean_and_std(images.device)
    return (images.float() / 255 - mean) / std


# ------------------------------------------------------------------------------------------------------------------- parts


def _augment_together(images: Tensor, draws: ImageDraws, pad_px: int) -> Tensor:
    """Augment a batch with indices over the whole batch: few kernels, for a GPU."""
    _, height, width, _ = images.shape
    on_device = {
        field.name: torch.from_numpy(np.ascontiguousarray(getattr(draws, field.name))).to(images.device)[
            :, None
        ]
        for field in fields(draws)
    }
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows = on_device["top"] + y  # [B, H] in the padded image
    columns = on_device["left"] + x  # [B, W]
    columns = torch.where(on_device["flip"], width + 2 * pad_px - 1 - columns, columns)
    padded = F.pad(images, (0, 0, pad_px, pad_px, pad_px, pad_px))
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    cropped = padded[batch, rows[:, :, None], columns[:, None, :]]  # [B, H, W, 3]
    normalized = normalize(cropped.permute(0, 3, 1, 2))  # [B, 3, H, W]
    in_rows = (y >= on_device["erase_top"]) & (y < on_device["erase_top"] + on_device["erase_height"])
    in_columns = (x >= on_device["erase_left"]) & (x < on_device["erase_left"] + on_device["erase_width"])
    erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # [B, 1, H, W]
    mean, _ = _mean_and_std(images.device)
    return torch.where(erased, mean, normalized).contiguous()


def _augment_one_by_one(images: Tensor, draws: ImageDraws, pad_px: int) -> Tensor:
    """Augment image by image with slices, each in the processor's cache: equal to `_augment_together`, for a CPU."""
    count, height, width, _ = images.shape
    mean, std = (values[0] for values in _mean_and_std(images.device))  # [3, 1, 1]
    out = torch.zeros(count, 3, height, width)
    for number, (image, one) in enumerate(zip(images, out)):
        pixels = image.permute(2, 0, 1)  # [3, H, W]
        down = int(draws.top[number]) - pad_px
        right = int(draws.left[number]) - pad_px
        if draws.flip[number]:
            pixels = pixels.flip(2)
        target = _overlap(down, height)
        source = _overlap(-down, height)
        target_x = _overlap(right, width)
        source_x = _overlap(-right, width)
        one[:, target, target_x] = pixels[:, source, source_x].float()
        one.div_(255).sub_(mean).div_(std)
        top = int(draws.erase_top[number])
        left = int(draws.erase_left[number])
        bottom = top + int(draws.erase_height[number])
        end = left + int(draws.erase_width[number])
        one[:, top:bottom, left:end] = mean
    return out


def _overlap(shift: int, length: int) -> slice:
    """Return where an axis of the crop, `shift` pixels into the image, is inside the image."""
    return slice(max(0, -shift), max(0, min(length, length - shift)))


def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return CLIP's mean and deviation of a pixel, each [1, 3, 1, 1]."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, std
