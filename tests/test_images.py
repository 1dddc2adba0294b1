"""Opening image files of any condition and listing folders of any shape."""

from __future__ import annotations

import logging
import os
import stat
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ham.image_folder import SUFFIXES, list_images, readable_formats, stat_images
from ham.images import MAX_SIDE_PX, ImageError, open_image, to_rgb
from ham.llava.preprocess import MAX_PADDED_PX, pad_to_square, square_pixels
from ham.runtime import UsageError

PIXEL = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3)


def save(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXEL).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------------------------------- EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.asarray(open_image(path)), expected)


def exif_block(entry: bytes, count: int = 1) -> bytes:
    """Return an EXIF block with one raw IFD entry (tag, type, count, value)."""
    return b"Exif\0\0II*\0\x08\0\0\0" + count.to_bytes(2, "little") + entry + b"\0\0\0\0"


def entry(kind: int, count: int, value: bytes) -> bytes:
    return (0x0112).to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value


DAMAGED = {
    "garbage": b"Exif\0\0" + bytes(range(40)),
    "zeros": b"Exif\0\0" + bytes(40),
    "cut": b"Exif\0\0II*\0",
    "offset": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "ascii": exif_block(entry(2, 4, b"6\0\0\0")),
    "rational_past_the_end": exif_block(entry(5, 1, b"\xff\xff\0\0")),
    "nine": exif_block(entry(3, 1, b"\x09\0\0\0")),
    "type_of_no_kind": exif_block(entry(77, 1, b"\x06\0\0\0")),
    "many_entries": exif_block(entry(3, 1, b"\x01\0\0\0"), count=60000),
    "huge_count": exif_block(entry(3, 0xFFFFFFFF, b"\x06\0\0\0")),
    "text_float": exif_block(entry(11, 1, b"\0\0\xc0\x7f")),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_lose_the_image(tmp_path: Path, name: str, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", exif=DAMAGED[name])
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(open_image(path)), expected)


# -------------------------------------------------------------------------------------------------------- what is no image


def test_only_listed_formats_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostScript file named .jpg would make Pillow start Ghostscript from PATH."""
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="not an image"):
        open_image(path)
    assert not started.exists()
    assert not {"EPS", "PSD", "ICNS", "FITS"} & set(readable_formats())


def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name, kind in (("pipe", "named pipe"), ("folder", "folder"), ("device", "device")):
        with pytest.raises(ImageError, match=kind):
            open_image(tmp_path / f"{name}.jpg")
    with pytest.raises(ImageError, match="missing"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="unreadable"):
        open_image(tmp_path / ("x" * 5000))


def png(width: int, height: int, depth: int, color: int) -> bytes:
    """Return a PNG whose header claims a size; its pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, color, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height", "depth", "color"),
    [
        (9990, 9990, 16, 6),  # RGBA of 16 bits
        (9990, 9990, 8, 6),
        (9990, 9990, 16, 0),  # gray of 16 bits
        (9990, 9990, 8, 4),
        (20_000, 20_000, 8, 2),
        (1, 99_000_000, 8, 0),
        (99_000_000, 1, 8, 0),
        (MAX_SIDE_PX + 1, 2, 8, 2),
    ],
)
def test_sizes_are_limited_by_what_they_would_allocate(
    tmp_path: Path, width: int, height: int, depth: int, color: int
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(width, height, depth, color))
    with pytest.raises(ImageError, match="too large"):
        open_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "I", "F", "PA"])
def test_strips_equal_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    if mode in ("RGBA", "LA", "PA"):
        image = Image.fromarray(chance.integers(0, 255, (37, 11, 4), dtype=np.uint8), "RGBA")
        image = image if mode == "RGBA" else image.convert("LA").convert(mode)
    else:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(chance.integers(0, 60000, (37, 11)).astype(kind))
    assert image.mode == mode
    whole = np.asarray(to_rgb(image, (1, 2, 3)))
    monkeypatch.setattr("ham.images.STRIP_PX", 50)
    assert np.array_equal(np.asarray(to_rgb(image, (1, 2, 3))), whole)


# -------------------------------------------------------------------------------------------------------------- thin images


def test_thin_images_are_squared_without_a_square_of_their_long_side() -> None:
    thin = Image.new("RGB", (40_000, 20), (200, 10, 10))
    square = pad_to_square(thin)
    assert max(square.size) <= MAX_PADDED_PX and square.width == square.height
    assert square_pixels(thin, 28).shape == (3, 28, 28)
    tall = pad_to_square(thin.transpose(Image.Transpose.ROTATE_90))
    assert tall.getpixel((tall.width // 2, 0)) == (200, 10, 10)
    assert tall.getpixel((0, 0)) != (200, 10, 10)


# ------------------------------------------------------------------------------------------------------------------ folders


def test_links_never_multiply_images(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "here").symlink_to(".")
    (tmp_path / "0_to_a").symlink_to("a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert list(list_images(tmp_path)) == ["a/x.jpg"]


def test_links_to_folders_elsewhere_and_hidden_ones_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "disk" / "y.jpg")
    save(tmp_path / "root" / ".store" / "z.jpg")
    (tmp_path / "root" / "one").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "two").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "stored").symlink_to(".store")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "root")
    assert list(list_images(tmp_path / "root")) == ["one/y.jpg", "stored/z.jpg"]


def test_hidden_files_are_skipped_and_other_files_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (".ipynb_checkpoints/x-checkpoint.jpg", ".x.jpg", "__MACOSX/._x.jpg", "x.jpg"):
        save(tmp_path / name)
    (tmp_path / "notes.pdf").write_text("")
    (tmp_path / "README").write_text("")
    with caplog.at_level(logging.INFO, "ham"):
        assert list(list_images(tmp_path)) == ["x.jpg"]
    assert "3 hidden files or folders skipped" in caplog.text
    assert "2 files passed over" in caplog.text and ".pdf 1" in caplog.text and "no suffix 1" in caplog.text


@pytest.mark.parametrize("suffix", [*sorted(SUFFIXES), ".JPG", ".Jfif"])
def test_every_suffix_is_listed_and_opened(tmp_path: Path, suffix: str) -> None:
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO"}.get(suffix.lower())
    save(tmp_path / f"x{suffix}", **({"format": kind} if kind else {}))
    assert list(list_images(tmp_path)) == [f"x{suffix}"]
    assert open_image(tmp_path / f"x{suffix}").size == (4, 8)


@pytest.mark.parametrize(("suffix", "kind"), [(".avif", "AVIF"), (".heic", "HEIF")])
def test_plugin_formats_are_read_or_named(
    tmp_path: Path, suffix: str, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in readable_formats():
        save(tmp_path / f"x{suffix}", format=kind)
        assert list(list_images(tmp_path)) == [f"x{suffix}"]
        assert open_image(tmp_path / f"x{suffix}").size == (4, 8)
    fewer = tuple(name for name in readable_formats() if name != kind)
    for module in ("ham.image_folder", "ham.images"):
        monkeypatch.setattr(f"{module}.readable_formats", lambda: fewer)
    (tmp_path / f"x{suffix}").write_bytes(b"\0\0\0\x20ftypheic")
    assert list(list_images(tmp_path)) == []
    assert f"pip install pillow-heif): {suffix} 1" in caplog.text
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        open_image(tmp_path / f"x{suffix}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_unreadable_folders_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "locked" / "x.jpg")
    save(tmp_path / "open" / "y.jpg")
    (tmp_path / "locked").chmod(0)
    assert list(list_images(tmp_path)) == ["open/y.jpg"]
    (tmp_path / "locked").chmod(stat.S_IRWXU)
    assert "1 folders cannot be read" in caplog.text and "locked" in caplog.text


def test_a_folder_that_cannot_be_listed_is_reported_also_to_root(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "locked" / "x.jpg")
    save(tmp_path / "open" / "y.jpg")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(list_images(tmp_path)) == ["open/y.jpg"]
    assert "1 folders cannot be read" in caplog.text and "locked (Permission denied)" in caplog.text


def test_files_that_vanish_while_listing_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path / name)
    listing = stat_images(tmp_path)
    assert next(listing)[0] == "a.jpg"
    (tmp_path / "b.jpg").unlink()
    assert [path for path, _ in listing] == ["c.jpg"]


def test_missing_folders_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        list(list_images(tmp_path / "gone"))
    if sys.platform == "linux":
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
        with pytest.raises(UsageError, match="not UTF-8"):
            list(list_images(tmp_path))
