"""Images as LLaVA's vision tower sees them, and opening files that may be broken.

Knows nothing of models. Pillow must do the resizing: a bicubic resize of tensors differs by up to one grey level.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

PAD_COLOUR = (122, 116, 104)      # CLIP's mean colour, as integers
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 100_000_000          # a pedestrian crop has ten thousand; more is a bomb or a mistake

_MEAN = np.array(CLIP_MEAN, dtype=np.float32)
_STD = np.array(CLIP_STD, dtype=np.float32)


class ImageError(Exception):
    """A file that gives no picture. `reason`: one of missing, not an image, truncated, too large, unreadable, then details."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def pad_to_square(image: Image.Image, colour: tuple[int, int, int] = PAD_COLOUR) -> Image.Image:
    """Centre an RGB image on a square of `colour`; a square image comes back as it is.

    Source: HAM, llava/mm_utils.py, expand2square.
    """
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess(image: Image.Image, size_px: int = 336) -> torch.Tensor:
    """Pad, resize (bicubic, Pillow) and normalise one image.

    Returns: float32 [3, size_px, size_px]. Source: HAM, llava/mm_utils.py, process_images with image_aspect_ratio "pad".
    After padding the image is square, so the reference's centre crop has nothing left to cut.
    """
    image = pad_to_square(to_rgb(image))
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) * np.float32(1 / 255)
    pixels = (pixels - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))      # [3, size_px, size_px]


def to_rgb(image: Image.Image) -> Image.Image:
    """Make any Pillow image RGB: 16-bit grey is scaled, transparent pixels get the padding colour."""
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*PAD_COLOUR, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file wholly, upright (EXIF) and as RGB, whatever its mode.

    Raises ImageError with the reason when the file is missing, is no image, is cut off, or would take too much memory.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(path, f"too large: {width}x{height} pixels, at most {max_pixels} are read")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ImageError(path, "missing: no such file") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(path, "not an image: no format that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, MemoryError,
            struct.error) as error:
        kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise ImageError(path, f"{kind}: {type(error).__name__}: {error}") from None
