"""Image preprocessing for LLaVA's vision tower.

Knows nothing of models. Pillow must do the resizing: a bicubic resize of tensors differs by up to one gray level.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ham import images
from ham.images import CLIP_MEAN, CLIP_STD, ImageError, to_rgb

if TYPE_CHECKING:
    import torch

__all__ = ["ImageError", "open_image", "pad_to_square", "preprocess", "square_image", "square_pixels"]

PAD_COLOR = (122, 116, 104)  # CLIP's mean color, as integers
MAX_PADDED_PX = 8192  # a longer side is shortened before padding: a square of it would take gigabytes

_MEAN = np.array(CLIP_MEAN, dtype=np.float32)
_STD = np.array(CLIP_STD, dtype=np.float32)


def pad_to_square(image: Image.Image, color: tuple[int, int, int] = PAD_COLOR) -> Image.Image:
    """Center an RGB image on a square of `color`; a square image is returned unchanged.

    Source: HAM, llava/mm_utils.py, expand2square.
    """
    if max(image.size) > MAX_PADDED_PX and image.width != image.height:
        # deviation: the reference makes a square of any long side; 20,000 x 20 pixels would take 1.6 GB
        image = _shrink(image, MAX_PADDED_PX)
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _shrink(image: Image.Image, side_px: int) -> Image.Image:
    """Resize an image so that its longer side is `side_px`; the shorter one keeps at least a pixel."""
    scale = side_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def square_image(image: Image.Image, size_px: int = 336) -> Image.Image:
    """Pad and resize (bicubic, Pillow) one image to size_px x size_px."""
    image = pad_to_square(to_rgb(image, PAD_COLOR))
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return image


def square_pixels(image: Image.Image, size_px: int = 336) -> np.ndarray:
    """Pad, resize (bicubic, Pillow) and normalize one image. Needs no torch, so that it may run in any worker process.

    Returns: float32 [3, size_px, size_px]. Source: HAM, llava/mm_utils.py, process_images with image_aspect_ratio "pad".
    After padding the image is square, so the reference's centre crop has nothing left to cut.
    """
    pixels = np.asarray(square_image(image, size_px), dtype=np.float32) * np.float32(1 / 255)
    pixels = (pixels - _MEAN) / _STD
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # [3, size_px, size_px]


def preprocess(image: Image.Image, size_px: int = 336) -> torch.Tensor:
    """Return `square_pixels` as a tensor."""
    import torch

    return torch.from_numpy(square_pixels(image, size_px))


def open_image(path: str | Path) -> Image.Image:
    """Read an image file as `ham.images.open_image` does; transparent pixels get the padding color."""
    return images.open_image(path, backdrop=PAD_COLOR)
