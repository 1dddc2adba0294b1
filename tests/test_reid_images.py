"""Every kind of image file that people have: read right, or refused with the reason."""

from __future__ import annotations

import io
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ham import images as pictures
from ham.images import open_image
from ham.reid.images import ImageError, read_image

RED = (200, 30, 40)


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def two_colours(width: int = 40, height: int = 100) -> Image.Image:
    """Red above, blue below: shows which way is up."""
    image = Image.new("RGB", (width, height), RED)
    image.paste((20, 40, 220), (0, height // 2, width, height))
    return image


def assert_upright(pixels: np.ndarray, tolerance: int = 12) -> None:
    assert np.abs(pixels[: len(pixels) // 3].astype(int) - RED).max() <= tolerance
    assert np.abs(pixels[-len(pixels) // 3 :].astype(int) - (20, 40, 220)).max() <= tolerance


def test_equals_a_pil_bilinear_resize(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 97, 3), dtype=np.uint8))
    path = save(noise, tmp_path / "a.png")
    pixels = read_image(path)
    assert pixels.shape == (384, 128, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(noise.resize((128, 384), Image.Resampling.BILINEAR)))
    torch.from_numpy(pixels).add_(1)  # writable memory of its own


@pytest.mark.parametrize(
    "orientation, turn",
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)],
)
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    path = save(two_colours().transpose(turn), tmp_path / "a.jpg", exif=exif, quality=95)
    assert open_image(path).size == (40, 100)
    assert_upright(read_image(path, (96, 32)))


@pytest.mark.parametrize(
    "mode, name",
    [
        ("CMYK", "a.jpg"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("RGBA", "a.png"),
        ("RGB", "a.webp"),
        ("RGB", "a.bmp"),
        ("RGB", "a.tif"),
        ("YCbCr", "a.jpg"),
    ],
)
def test_colour_modes(tmp_path: Path, mode: str, name: str) -> None:
    assert_upright(
        read_image(
            save(two_colours().convert(mode, palette=Image.Palette.ADAPTIVE), tmp_path / name), (96, 32)
        )
    )


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("L", 77, 77),
        ("1", 1, 255),
        ("I;16", 0x8000, 128),
        ("I;16", 200, 1),
        ("I", 0x8000, 128),
        ("I", 200, 200),
        ("F", 0.5, 128),
        ("F", 200.0, 200),
    ],
)
def test_grey_of_any_depth(tmp_path: Path, mode: str, value: float, expected: int) -> None:
    dtype = {"L": np.uint8, "1": np.bool_, "I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    path = save(Image.fromarray(np.full((10, 6), value, dtype=dtype)), tmp_path / "a.tif")
    with Image.open(path) as image:
        assert image.mode == mode
    assert (read_image(path, (16, 8)) == expected).all()


def test_sixteen_bit_colour_png_is_scaled(tmp_path: Path) -> None:
    """Pillow writes no 16-bit RGB, so this one is put together by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    rows = (b"\0" + np.array([0x8000, 0x4000, 0xC000] * 4, dtype=">u2").tobytes()) * 3
    header = (4).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.abs(read_image(path, (8, 8)).reshape(-1, 3).astype(int) - (0x80, 0x40, 0xC0)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_whatever_lies_below(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert (read_image(save(image, tmp_path / "a.png"), (8, 8)) == 255).all()


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    path = save(Image.new("P", (8, 8), 0), tmp_path / "a.png", transparency=0)
    assert (read_image(path, (8, 8)) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_tiny_and_thin(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = read_image(save(Image.new("RGB", size, RED), tmp_path / "a.png"))
    assert pixels.shape == (384, 128, 3) and (pixels == RED).all()


def test_large_image_is_read_and_a_bomb_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("L", (6000, 4000), 9), tmp_path / "a.png")
    assert (read_image(path, (8, 8)) == 9).all()
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1_000_000)
    with pytest.raises(ImageError, match=r"6000 x 4000 pixels; at most 1,000,000"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # Pillow's own guard raises at twice its limit
    with pytest.raises(ImageError, match=r"too large: .*decompression bomb"):
        read_image(path)


def broken_files(folder: Path) -> dict[str, Path]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 100, 3), dtype=np.uint8))
    buffers = {}
    for kind in ("jpeg", "png"):
        noise.save(buffer := io.BytesIO(), kind)
        buffers[kind] = buffer.getvalue()
    contents = {
        "truncated.jpg": buffers["jpeg"][:4000],
        "header.jpg": buffers["jpeg"][:20],
        "empty.jpg": b"",
        "truncated.png": buffers["png"][:4000],
        "torn.png": buffers["png"][:200] + b"\0" * 5000,
        "text.jpg": b"not a picture",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_broken_files_give_one_error_type_with_path_and_reason(tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert caught.value.path == str(path) and caught.value.reason, name
    with pytest.raises(ImageError, match="an empty file"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="not a regular file but a folder"):
        read_image(tmp_path)


def test_error_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a/b.jpg", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a/b.jpg", "truncated", "a/b.jpg: truncated")
