"""Everything between a drawing and its file: the camera's response and JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Camera:
    """One surveillance camera. gain: brightness factor per channel (cast included); lift: haze added to shadows, 0 to 255;
    blur_px: Gaussian radius at 144 px; noise: deviation, 0 to 255; quality: JPEG; horizon: share of the height."""

    place: str
    gain: tuple[float, float, float]
    lift: float
    contrast: float
    blur_px: float
    noise: float
    quality: int
    horizon: float


@dataclass(frozen=True)
class CameraStyle:
    """What the cameras of one domain have in common: ranges to draw each camera from."""

    places: tuple[str, ...]
    brightness: tuple[float, float]
    warmth: tuple[float, float]
    contrast: tuple[float, float]
    blur_px: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[int, int]


def sample_camera(rng: np.random.Generator, style: CameraStyle) -> Camera:
    """Sample one camera; a dim one also adds haze, so that navy can be told from black."""
    bright, warm = rng.uniform(*style.brightness), rng.uniform(*style.warmth)
    green = 1 + rng.uniform(-0.02, 0.02)
    return Camera(
        str(rng.choice(style.places)),
        (bright * (1 + warm), bright * green, bright * (1 - warm)),
        float(rng.uniform(6, 18)),
        float(rng.uniform(*style.contrast)),
        float(rng.uniform(*style.blur_px)),
        float(rng.uniform(*style.noise)),
        int(rng.integers(style.quality[0], style.quality[1] + 1)),
        float(rng.uniform(0.3, 0.55)),
    )


def expose(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Return what the camera records of a clean image: blur, cast, contrast, haze and noise, varying a little."""
    blur = camera.blur_px * image.height / 144 * float(rng.uniform(0.7, 1.3))
    if blur > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    exposure = float(rng.uniform(0.93, 1.07))
    tables = np.concatenate(
        [_response(gain * exposure, camera.contrast, camera.lift) for gain in camera.gain]
    ).tolist()
    pixels = np.asarray(image.point(tables), dtype=np.int16)
    # Coarse noise costs a third of full noise and looks like a compressed sensor: one value for all three channels.
    grain = (
        rng.integers(-1000, 1001, pixels.shape[:2], dtype=np.int32)
        * int(1000 * camera.noise * 1.7)
        // 1_000_000
    )
    return Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))


def _response(gain: float, contrast: float, lift: float) -> np.ndarray:
    """Return what each of the 256 levels becomes in one channel."""
    level = ((np.arange(256) - 110) * contrast + 110) * gain
    return np.clip(np.rint(lift + level * (255 - lift) / 255), 0, 255).astype(int)


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """Encode as JPEG, always with the same tables and subsampling."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=1)
    return buffer.getvalue()
