"""Opening image files of any condition; one implementation for every stage.

Knows nothing of models or sizes.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham.image_folder import PLUGIN_SUFFIXES, readable_formats
from ham.image_folder import list_images as list_images
from ham.image_folder import stat_images as stat_images
from ham.runtime import UsageError, WorkError

MAX_PIXELS = (
    100_000_000  # a pedestrian crop has ten thousand, a photograph fifty million; more is a bomb or a mistake
)
MAX_SIDE_PX = (
    65_535  # as in JPEG; Pillow keeps a pointer per row, so a tall image costs memory whatever its width
)
MAX_BYTES = 800_000_000  # while one image is decoded and converted; see BYTES_PER_PIXEL
BYTES_PER_PIXEL = {
    "1": 5,
    "L": 5,
    "P": 9,
    "RGB": 4,
    "CMYK": 8,
    "YCbCr": 8,
    "LAB": 8,
    "HSV": 8,
}  # decoded and as RGB
STRIP_PX = 4_000_000  # pixels converted at a time where the conversion needs several copies
WHITE = (255, 255, 255)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels / 255 that CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def clip_processor(**more: Any) -> dict[str, Any]:
    """Return what every exported preprocessor_config.json of CLIP's pixels has in common, and the fields `more`."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "rescale_factor": 1 / 255,
        **more,
    }


class ImageError(WorkError):
    """One image file cannot be used. A failed sample, not a failed run.

    reason: missing, not an image, truncated, too large, out of memory or unreadable, then a colon and the details.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple:  # so that worker processes can raise it
        return type(self), (self.path, self.reason)


# ---------------------------------------------------------------------------------------------------------- opening files


def open_image(path: str | Path, backdrop: tuple[int, int, int] = WHITE) -> Image.Image:
    """Read an image file completely, upright (EXIF) and as RGB, whatever its mode, from 1 x 1 pixel up.

    backdrop: color behind transparent pixels. Raises ImageError with the reason.
    deviation: the references ignore the EXIF orientation and would see a person lying on the side.
    """
    try:
        _check_is_file(path)
        with _no_warnings(), Image.open(path, formats=readable_formats()) as image:
            _check_size(path, image)
            image.load()
            return to_rgb(_upright(image), backdrop)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "missing: no such file") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(path, f"not an image: {_why_unidentified(path)}") from None
    except MemoryError:
        raise ImageError(path, "out of memory: while the image was decoded") from None
    except Exception as error:  # on a broken file Pillow's decoders raise almost any type: OSError, SyntaxError, struct.error
        kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise ImageError(path, f"{kind}: {type(error).__name__}: {error}") from None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about damaged EXIF data and large images: what matters becomes an ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_is_file(path: str | Path) -> None:
    """Refuse what is no regular file before it is opened: opening a named pipe blocks for ever."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - the path may be a string
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ImageError(
            path, f"unreadable: not a regular file but {kinds.get(stat.S_IFMT(mode), 'a device')}"
        )


def _check_size(path: str | Path, image: Image.Image) -> None:
    """Refuse an image by its header when decoding and converting it would take more memory than the limits allow."""
    width, height = image.size
    pixels = width * height
    cost = BYTES_PER_PIXEL.get(image.mode, 12 if image.mode in WITH_ALPHA else 9)
    if "transparency" in image.info:
        cost = 12
    limit = min(MAX_PIXELS, MAX_BYTES // cost)
    if pixels > limit:
        raise ImageError(
            path, f"too large: {width} x {height} pixels; at most {limit:,} are read in mode {image.mode}"
        )
    if max(width, height) > MAX_SIDE_PX:
        raise ImageError(path, f"too large: {width} x {height} pixels; a side has at most {MAX_SIDE_PX:,}")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Damaged EXIF data is ignored, as a plain `Image.open` ignores it."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow's EXIF parser raises almost any type on damaged data
        return image
    method = UPRIGHT.get(orientation) if type(orientation) is int else None
    return image if method is None else image.transpose(method)


def _why_unidentified(path: str | Path) -> str:
    if Path(path).stat().st_size == 0:
        return "an empty file"
    missing = PLUGIN_SUFFIXES.get(Path(path).suffix.lower())
    if missing and missing not in readable_formats():
        return f"{missing} files need a plugin: pip install pillow-heif"
    return f"none of the formats {', '.join(readable_formats())}"


# ------------------------------------------------------------------------------------------------------------------- modes


def to_rgb(image: Image.Image, backdrop: tuple[int, int, int] = WHITE) -> Image.Image:
    """Convert any of Pillow's modes to RGB.

    deviation: the references' plain conversion clips 16-bit gray to white and uncovers whatever is below transparent pixels.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _by_strips(image, _Gray(full_scale(image)))
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return _by_strips(image, _Flat((*backdrop, 255)))
    return image.convert("RGB")


class _Gray:
    """Convert a strip of gray values of more than 8 bits to RGB."""

    def __init__(self, full: float) -> None:
        self.full = full

    def __call__(self, strip: Image.Image) -> Image.Image:
        values = np.nan_to_num(np.asarray(strip).astype(np.float32))
        scaled = np.clip(values * (255.0 / self.full) + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")


class _Flat:
    """Composite a strip with transparency over a backdrop."""

    def __init__(self, backdrop: tuple[int, int, int, int]) -> None:
        self.backdrop = backdrop

    def __call__(self, strip: Image.Image) -> Image.Image:
        strip = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, self.backdrop), strip).convert("RGB")


def _by_strips(image: Image.Image, convert: _Gray | _Flat) -> Image.Image:
    """Convert an image in horizontal strips, so that only the result is as large as the image."""
    width, height = image.size
    rows = max(1, STRIP_PX // width)
    if rows >= height:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        strip.info.update(image.info)
        result.paste(convert(strip), (0, top))
    return result


def full_scale(image: Image.Image) -> float:
    """Return the gray value that is white: 65535 for uint16; for wider numbers 1, 255 or 65535, the first that fits."""
    if image.mode.startswith("I;16"):
        return 65535.0
    top, rows = 0.0, max(1, STRIP_PX // image.width)
    for start in range(0, image.height, rows):
        strip = image.crop((0, start, image.width, min(start + rows, image.height)))
        top = max(top, float(np.nan_to_num(np.asarray(strip)).max(initial=0)))
    return 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0


def check_png_path(path: str | Path, option: str = "--output") -> None:
    """Raise UsageError unless a PNG file can be written at `path`."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give a file name such as {path / 'search.png'}")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: pictures are written as PNG; give a name that ends in .png")
