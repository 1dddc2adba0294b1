"""Opening image files that may be anything: one reader for training, captioning, evaluation and search.

Knows nothing of models or sizes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ham.runtime import WorkError

MAX_PIXELS = (
    100_000_000  # a pedestrian crop has ten thousand, a photograph fifty million; more is a bomb or a mistake
)
WHITE = (255, 255, 255)
ORIENTATION = 0x0112  # the EXIF tag
WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


class ImageError(WorkError):
    """One file gives no picture. A failed sample, not a failed run.

    reason: missing, not an image, truncated, too large or unreadable, then a colon and the details.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple:  # so that it survives the way out of a worker process
        return type(self), (self.path, self.reason)


def open_image(path: str | Path, backdrop: tuple[int, int, int] = WHITE) -> Image.Image:
    """Read an image file wholly, upright (EXIF) and as RGB, whatever its mode, from 1 x 1 pixel up.

    backdrop: what shows through transparent pixels. Raises ImageError with the reason.
    deviation: the references ignore the EXIF orientation and would look at a lying person.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    path, f"too large: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read"
                )
            image.load()
            upright = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
            return to_rgb(upright, backdrop)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "missing: no such file") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        is_empty = Path(path).stat().st_size == 0
        raise ImageError(
            path, "not an image: " + ("an empty file" if is_empty else "no format that Pillow knows")
        ) from None
    except Exception as error:  # on a broken file Pillow's decoders raise almost any type: OSError, SyntaxError, struct.error
        kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise ImageError(path, f"{kind}: {type(error).__name__}: {error}") from None


def to_rgb(image: Image.Image, backdrop: tuple[int, int, int] = WHITE) -> Image.Image:
    """Turn any of Pillow's modes into RGB.

    deviation: the references' plain conversion clips 16-bit grey to white and uncovers whatever lies below transparency.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*backdrop, 255)), image).convert("RGB")
    return image.convert("RGB")


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values to uint8: uint16 from 65535; ints of 32 bits and floats from 1, 255 or 65535, the first that fits."""
    top = np.inf if values.dtype == np.uint16 else np.nan_to_num(values).max(initial=0)
    full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    return np.clip(np.nan_to_num(values.astype(np.float32)) * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)
