"""Read an image file as uint8 pixels at the model's size.

Decoding is exact (no JPEG draft mode) and the resize is Pillow's bilinear with antialiasing, what IRRA's torchvision
transform does to a PIL image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ham.datasets.image_pack import read_packed
from ham.images import CLIP_MEAN as PIXEL_MEAN
from ham.images import CLIP_STD as PIXEL_STD
from ham.images import ImageError, open_image

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "SIZE_PX", "ImageError", "read_image", "resize"]

SIZE_PX = (384, 128)  # height, width


def read_image(path: str | Path, size_px: tuple[int, int] = SIZE_PX) -> np.ndarray:
    """Read one image file as uint8 [H, W, 3] of size_px = (H, W).

    Handles EXIF rotation, CMYK, palettes, alpha (over white), grey, 1, 16 and 32 bits a channel, any size from 1 x 1 up.
    A path in a pack (`python -m ham.datasets pack`) is read from it. Raises ImageError with the reason.
    """
    packed = read_packed(path, size_px)
    return packed if packed is not None else resize(open_image(path), size_px)


def resize(image: Image.Image, size_px: tuple[int, int] = SIZE_PX) -> np.ndarray:
    """Return an RGB image as uint8 [H, W, 3] of size_px = (H, W)."""
    height, width = size_px
    # not np.asarray alone: workers pass the array to torch, which needs writable memory of its own
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))
