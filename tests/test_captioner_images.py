"""Padding and pixels exactly as the reference, and every kind of broken file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ham import images as pictures
from ham.llava.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    PAD_COLOR,
    ImageError,
    open_image,
    pad_to_square,
    preprocess,
)


def test_padding_and_pixels_match_the_reference(parity: Path) -> None:
    with np.load(parity / "pad_pixels.npz") as recorded:
        count = sum(name.startswith("image_") for name in recorded.files)
        for number in range(count):
            image = Image.fromarray(recorded[f"image_{number}"])
            assert np.array_equal(np.asarray(pad_to_square(image)), recorded[f"padded_{number}"])
            pixels = preprocess(image, 56)
            assert torch.allclose(
                pixels, torch.from_numpy(recorded[f"pixels_train_{number}"]), atol=1e-5, rtol=0
            )
    assert count == 5


def test_a_pedestrian_keeps_head_and_feet() -> None:
    array = np.zeros((96, 32, 3), np.uint8)
    array[:8], array[-8:] = (255, 0, 0), (0, 0, 255)
    pixels = preprocess(Image.fromarray(array), 96)
    values = (
        pixels * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]
    )  # back to 0..1
    assert pixels.dtype == torch.float32
    assert torch.allclose(values[:, 2, 48], torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(values[:, -2, 48], torch.tensor([0, 0, 1.0]), atol=1e-5)
    assert torch.allclose(values[:, 50, 2] * 255, torch.tensor(PAD_COLOR, dtype=torch.float32), atol=1e-3)


def test_odd_padding_puts_the_extra_line_last() -> None:
    padded = np.asarray(pad_to_square(Image.new("RGB", (2, 5), (9, 9, 9))))
    assert [tuple(padded[0, column]) == (9, 9, 9) for column in range(5)] == [False, True, True, False, False]


# --------------------------------------------------------------------------------------------------------- kinds of file


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_exif_rotation_is_applied(tmp_path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    assert open_image(saved(tmp_path / "a.jpg", image, exif=exif)).size == (4, 8)


def test_cmyk_palette_and_grey_become_rgb(tmp_path) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    for name, image in (
        ("a.jpg", red.convert("CMYK")),
        ("b.png", red.convert("P")),
        ("c.gif", red.convert("P")),
    ):
        opened = open_image(saved(tmp_path / name, image))
        assert opened.mode == "RGB"
        assert np.abs(np.asarray(opened)[8, 8].astype(int) - (255, 0, 0)).max() <= 6
    assert open_image(saved(tmp_path / "d.png", Image.new("L", (4, 4), 77))).getpixel((0, 0)) == (77, 77, 77)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    opened = open_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert np.asarray(opened)[:, :, 0].tolist() == [[0, 100], [200, 255]]
    assert np.asarray(pictures.to_rgb(Image.fromarray(np.array([[0, 90]], np.int32))))[0, :, 0].tolist() == [
        0,
        90,
    ]


def test_transparent_pixels_get_the_padding_colour(tmp_path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (255, 255, 255, 0))
    opened = open_image(saved(tmp_path / "a.png", image))
    assert [opened.getpixel((0, 0)), opened.getpixel((1, 0))] == [(10, 20, 30), PAD_COLOR]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.putpixel((1, 0), 1)
    opened = open_image(saved(tmp_path / "b.gif", palette, transparency=1))
    assert [opened.getpixel((0, 0)), opened.getpixel((1, 0))] == [(1, 2, 3), PAD_COLOR]


def test_broken_files_say_why(tmp_path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = saved(tmp_path / "whole.jpg", noise).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    png = saved(tmp_path / "whole.png", noise).read_bytes()
    (tmp_path / "cut.png").write_bytes(png[:200])
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("none.jpg", "missing"),
        ("text.jpg", "not an image"),
        ("empty.jpg", "not an image"),
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated"),
        ("folder.jpg", "unreadable"),
    ):
        with pytest.raises(ImageError) as caught:
            open_image(tmp_path / name)
        assert caught.value.reason.startswith(reason), (name, caught.value.reason)
        assert caught.value.path == str(tmp_path / name)
        assert name in str(caught.value)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch) -> None:
    file = saved(tmp_path / "big.png", Image.new("1", (400, 400)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100_000)
    with pytest.raises(ImageError, match="too large: 400 x 400"):
        open_image(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="too large"):
        open_image(file)
