"""Everything between a person and the file: background, occluders, the camera's response and JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ham.world.pen import Color, Point, tint

# background -> (sky or wall, ground, colors of the objects in it)
PLACES: dict[str, tuple[Color, Color, tuple[Color, ...]]] = {
    "campus": (
        (176, 196, 206),
        (168, 164, 152),
        ((96, 132, 78), (120, 150, 96), (186, 170, 150), (136, 110, 92)),
    ),
    "street": (
        (168, 172, 178),
        (122, 124, 128),
        ((104, 108, 118), (150, 142, 132), (88, 94, 104), (172, 164, 150)),
    ),
    "mall": (
        (214, 206, 194),
        (196, 188, 178),
        ((224, 214, 200), (166, 140, 118), (150, 168, 184), (236, 226, 210)),
    ),
    "station": (
        (186, 192, 198),
        (150, 154, 160),
        ((120, 140, 166), (204, 206, 210), (110, 114, 120), (196, 180, 120)),
    ),
    "park": (
        (186, 210, 216),
        (150, 166, 122),
        ((92, 134, 74), (116, 152, 88), (146, 128, 100), (78, 112, 66)),
    ),
    "plaza": (
        (198, 200, 204),
        (184, 180, 176),
        ((160, 152, 146), (206, 200, 192), (140, 150, 160), (176, 156, 136)),
    ),
}


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


def paint_background(size_px: tuple[int, int], camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Paint the background, out of focus. size_px: (height, width)."""
    height, width = size_px
    wall, ground, things = PLACES[camera.place]
    small = Image.new("RGB", (24, 72), tint(wall, float(rng.uniform(0.9, 1.08))))
    ink = ImageDraw.Draw(small)
    horizon = int(72 * camera.horizon) + int(rng.integers(-4, 5))
    for _ in range(int(rng.integers(2, 6))):
        x, w, top = (
            int(rng.integers(-6, 24)),
            int(rng.integers(4, 14)),
            int(rng.integers(-4, max(1, horizon - 4))),
        )
        color = tint(things[int(rng.integers(len(things)))], float(rng.uniform(0.8, 1.15)))
        if camera.place in ("park", "campus") and rng.random() < 0.5:
            ink.ellipse([x, top, x + w, top + 2 * w], fill=color)
        else:
            ink.rectangle([x, top, x + w, horizon + 2], fill=color)
    ink.rectangle([0, horizon, 24, 72], fill=tint(ground, float(rng.uniform(0.88, 1.08))))
    slope = int(rng.integers(-8, 9))
    for step in range(int(rng.integers(1, 4))):
        y = horizon + 6 + 11 * step + int(rng.integers(0, 5))
        ink.line(
            [(0, y), (24, y + slope)],
            fill=tint(ground, float(rng.choice((0.86, 1.12)))),
            width=int(rng.integers(1, 4)),
        )
    return small.resize((width, height), Image.Resampling.BICUBIC)


def paint_occluder(
    canvas: Image.Image, scale_px: float, origin: Point, kind: str, at: float, rng: np.random.Generator
) -> None:
    """Paint an occluder: a bonnet, a bush or a bin from below, a post or a wall from the side."""
    if kind == "none":
        return
    ink = ImageDraw.Draw(canvas)
    width, height = canvas.size
    if kind != "bottom":
        color = tint(
            ((112, 112, 116), (150, 140, 126), (86, 94, 88))[int(rng.integers(3))],
            float(rng.uniform(0.85, 1.1)),
        )
        edge = origin[0] + (at if kind == "right" else -at) * scale_px
        ink.rectangle([edge, 0, width, height] if kind == "right" else [0, 0, edge, height], fill=color)
        ink.line([(edge, 0), (edge, height)], fill=tint(color, 0.7), width=max(1, int(scale_px * 0.6)))
        return
    top = origin[1] + at * scale_px
    what = int(rng.integers(3))
    if what == 0:
        color = ((150, 154, 160), (196, 196, 198), (120, 60, 60), (70, 84, 110))[int(rng.integers(4))]
        ink.rounded_rectangle(
            [-width * 0.2, top, width * 1.2, height * 1.2],
            radius=width * 0.25,
            fill=color,
            outline=tint(color, 0.6),
            width=max(1, int(scale_px * 0.6)),
        )
        ink.rectangle([0, top + 8 * scale_px, width, top + 9 * scale_px], fill=tint(color, 0.75))
    elif what == 1:
        ink.rectangle([0, top + 4 * scale_px, width, height], fill=(72, 104, 62))
        for x in np.arange(-2.0, 3.1, 0.5):
            radius = scale_px * float(rng.uniform(3.6, 5.0))
            middle = width * (0.5 + 0.25 * float(x))
            ink.ellipse(
                [middle - radius, top, middle + radius, top + 2.4 * radius],
                fill=tint((82, 118, 70), float(rng.uniform(0.85, 1.12))),
            )
    else:
        color = tint((140, 122, 100), float(rng.uniform(0.8, 1.1)))
        ink.rectangle([0, top, width, height], fill=color)
        ink.rectangle([0, top, width, top + 2.4 * scale_px], fill=tint(color, 1.2))


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
