"""From an image file to uint8 pixels at the model's size, whatever the file holds.

Decoding is exact (no JPEG draft mode) and the resize is Pillow's bilinear with antialiasing, what IRRA's torchvision
transform does to a PIL image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ham.runtime import WorkError

SIZE_PX = (384, 128)             # height, width
MAX_PIXELS = 80_000_000          # a photograph has 50 million at most; what claims more is a decompression bomb
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
ORIENTATION = 0x0112             # the EXIF tag
WITH_ALPHA = ("RGBA", "LA", "PA")


class ImageError(WorkError):
    """One image cannot be used: `path` and `reason` say which and why. A failed sample, not a failed run."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple:   # so that it survives the way out of a worker process
        return type(self), (self.path, self.reason)


def read_image(path: str | Path, size_px: tuple[int, int] = SIZE_PX) -> np.ndarray:
    """Read one image file as uint8 [H, W, 3] of size_px = (H, W).

    Handles EXIF rotation, CMYK, palettes, alpha (over white), grey, 1, 16 and 32 bits a channel, any size from 1 x 1 up.
    Raises ImageError with the reason: missing, not an image, truncated, more than MAX_PIXELS.
    """
    height, width = size_px
    # not np.asarray alone: workers hand the array to torch, which wants to own writable memory
    return np.array(read_rgb(path).resize((width, height), Image.Resampling.BILINEAR))


def read_rgb(path: str | Path) -> Image.Image:
    """Read one image file as an upright RGB picture in its own size. Raises ImageError as `read_image` does."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(path, f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are accepted")
            image.load()
            return _as_rgb(_upright(image))
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except Image.UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise ImageError(path, "an empty file" if empty else "not an image, or of a kind that Pillow does not know") from None
    except Exception as error:   # on a broken file Pillow's decoders raise almost any type: OSError, SyntaxError, struct.error
        raise ImageError(path, f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    # deviation: the reference ignores the EXIF orientation and would train on a lying person
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def _as_rgb(image: Image.Image) -> Image.Image:
    """Turn any of Pillow's modes into RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # deviation: the reference's plain conversion clips everything above 255 to white
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        # deviation: the reference drops the alpha channel, which uncovers whatever colour lies below it
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values to uint8: uint16 from 65535; ints of 32 bits and floats from 1, 255 or 65535, the first that fits."""
    top = np.inf if values.dtype == np.uint16 else np.nan_to_num(values).max(initial=0)
    full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    return np.clip(np.nan_to_num(values.astype(np.float32)) * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)
