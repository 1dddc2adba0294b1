"""Images decoded and resized once, as JPEGs in tar shards: what a node with few cores can read fast enough.

    PACK/00000.tar        up to 10,000 images each; webdataset reads it (members <row>.jpg)
    PACK/00000.jsonl      a row for each image: {image, status ok | failed, reason, offset, bytes}
    PACK/images.packed    all image paths, sorted; PACK/index.npy: shard, offset, bytes of each (bytes 0: failed)
    PACK/pack.json        size, quality and counts; written last, so that a folder with it is complete

A pack is accepted where an image folder is: `PACK/<image path>` is read from the shards (`read_packed`). The pixels differ from
those of the files by the JPEG encoding (quality 85, chroma at half resolution).
"""

from __future__ import annotations

import io
import mmap
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham.datasets.packed import PackedStrings
from ham.images import ImageError
from ham.records import read_json
from ham.runtime import UsageError

DONE = "pack.json"
PATHS, INDEX = "images.packed", "index.npy"

try:
    import simplejpeg
except ImportError:  # the extra `pack`; Pillow decodes the same files at half the rate
    simplejpeg = None


class ImagePack:
    """A finished pack, memory-mapped. Pickles as its folder; pages are shared by all workers."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        facts = read_json(self.folder / DONE)
        try:
            height, width = facts["image_size_px"]
            self.size_px = (int(height), int(width))
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{self.folder / DONE}: not the description of a pack; pack the images again"
            ) from None
        self.paths = PackedStrings(self.folder / PATHS)
        self.index = np.load(self.folder / INDEX, mmap_mode="r")  # int64 [N, 3]
        if self.index.shape != (len(self.paths), 3):
            raise UsageError(f"{self.folder}: {INDEX} and {PATHS} do not fit together; pack the images again")
        self._shards: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_pack, (self.folder,)

    def row_of(self, image: str) -> int | None:
        """Return the row of an image path, None where the pack does not have it."""
        row = bisect_left(self.paths, image)
        return row if row < len(self.paths) and self.paths[row] == image else None

    def jpeg(self, image: str) -> memoryview:
        """Return an image's JPEG bytes. Raises ImageError when it is not in the pack, or failed when it was packed."""
        row = self.row_of(image)
        if row is None:
            raise ImageError(self.folder / image, "missing: not in the pack")
        shard, offset, length = self.index[row].tolist()
        if not length:
            raise ImageError(self.folder / image, f"unreadable when it was packed; see {shard:05d}.jsonl")
        return memoryview(self._mapped(shard))[offset : offset + length]

    def read(self, image: str) -> np.ndarray:
        """Return an image's pixels, uint8 [H, W, 3]. Raises ImageError."""
        data = self.jpeg(image)
        try:
            if simplejpeg is not None:
                return simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
            with Image.open(io.BytesIO(data)) as opened:
                return np.array(opened.convert("RGB"))
        except (ValueError, OSError) as error:
            raise ImageError(self.folder / image, f"truncated: {error}") from None

    def _mapped(self, shard: int) -> mmap.mmap:
        if shard not in self._shards:
            with (self.folder / f"{shard:05d}.tar").open("rb") as file:
                self._shards[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._shards[shard]


@lru_cache(maxsize=16)
def open_pack(folder: Path) -> ImagePack:
    """Open a pack; once per process."""
    return ImagePack(folder)


def find_pack(path: str | Path) -> tuple[ImagePack, str] | None:
    """Return the pack that a path is in, and the path below it; None for a path in a plain folder."""
    text = str(path)
    folder = _pack_above(text.rpartition("/")[0])
    if folder is None:
        return None
    return open_pack(folder), text[len(str(folder)) + 1 :]


@lru_cache(maxsize=65536)
def _pack_above(folder: str) -> Path | None:
    """Return the nearest folder at or above `folder` that is a finished pack."""
    path = Path(folder)
    try:
        if path.is_dir():  # a plain folder, or the pack itself
            return path if (path / DONE).is_file() else None
        return next((one for one in path.parents if (one / DONE).is_file()), None)
    except (OSError, ValueError):  # a path that no file system takes
        return None


def read_packed(path: str | Path, size_px: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels of an image in a pack, uint8 [H, W, 3]; None for a path in a plain folder.

    Raises ImageError for an image that the pack lacks, UsageError for a pack of another size.
    """
    found = find_pack(path)
    if found is None:
        return None
    pack, image = found
    check_size(pack, size_px)
    return pack.read(image)


def check_size(pack: ImagePack, size_px: tuple[int, int]) -> None:
    """Raise UsageError for a pack of images of another size."""
    if pack.size_px != tuple(size_px):
        raise UsageError(
            f"{pack.folder} holds images of {pack.size_px[0]}x{pack.size_px[1]} pixels, the model reads "
            f"{size_px[0]}x{size_px[1]}; pack the images again with --image-size-px"
        )


def read_jpeg(path: str | Path, size_px: tuple[int, int]) -> np.ndarray:
    """Return the JPEG bytes of an image in a pack, uint8 [n]. Raises ImageError, and UsageError as `read_packed`."""
    found = find_pack(path)
    if found is None:
        raise UsageError(f"{path} is in no pack; pack the images first: python -m ham.datasets pack")
    pack, image = found
    check_size(pack, size_px)
    return np.frombuffer(pack.jpeg(image), np.uint8).copy()
