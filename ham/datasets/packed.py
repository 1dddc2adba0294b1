"""Pack a million captions into one memory-mapped file that worker processes share."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ham.datasets.base import merge_caption_files
from ham.records import atomic_write
from ham.runtime import UsageError


class PackedStrings(Sequence[str]):
    """A read-only list of strings in one memory-mapped file: no Python object per string, pages shared by all workers.

    File: the UTF-8 bytes end to end, padded to 8; N+1 offsets as uint64; the magic and N. Pickles as its path.
    """

    MAGIC = b"HAMpack1"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        magic, count = struct.unpack("<8sQ", self._bytes[-16:]) if size >= 24 else (b"", 0)
        if magic != self.MAGIC or size < 8 * (count + 3):
            raise UsageError(
                f"{path}: not a file of packed strings, or cut short; delete it; it will be rebuilt"
            )
        self._offsets = np.frombuffer(
            self._bytes, dtype="<u8", count=count + 1, offset=size - 16 - 8 * (count + 1)
        )

    @classmethod
    def write(cls, path: str | Path, strings: Iterable[str]) -> PackedStrings:
        """Write strings in one pass, whole or not at all, and open the result."""
        ends = array("Q", [0])
        with atomic_write(path, "wb") as file:
            for string in strings:
                ends.append(ends[-1] + file.write(string.encode("utf-8", "surrogatepass")))
            file.write(b"\0" * (-ends[-1] % 8))
            file.write(np.frombuffer(ends, dtype="u8").astype("<u8").tobytes())
            file.write(struct.pack("<8sQ", cls.MAGIC, len(ends) - 1))
        return cls(path)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        start, end = self._offsets[index : index + 2].tolist()
        return self._bytes[start:end].decode("utf-8", "surrogatepass")

    def __reduce__(self) -> tuple[type[PackedStrings], tuple[Path]]:
        return PackedStrings, (self.path,)


@dataclass(frozen=True)
class PackedCaptions:
    """Images and their captions in memory-mapped files. Indexing gives (image_path, captions)."""

    rows: PackedStrings  # "image\0caption\0caption..."
    counts: np.ndarray  # uint32 [N], captions of each image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, tuple[str, ...]]:
        image, *captions = self.rows[index].split("\0")
        return image, tuple(captions)

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return (self[index] for index in range(len(self)))


def open_captions(files: str | Path | Sequence[str | Path], cache_dir: Path | None = None) -> PackedCaptions:
    """Open caption files ({image: [caption, ...]}), merged, through a packed cache beside the first or in `cache_dir`.

    The first opening parses the JSON; later ones map the cache. Its name holds a digest of the files' names, sizes and times
    of change, so that an edited file is parsed again; it appears by rename, so that processes may race.
    """
    files = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file}: no such file; expected a JSON object of image path to captions")
    facts = [f"{file.resolve()}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    folder = Path(cache_dir) if cache_dir is not None else files[0].parent
    stem = f".{files[0].name}.{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:16]}"
    rows_file = folder / f"{stem}.packed"
    counts_file = folder / f"{stem}.counts"
    if not rows_file.exists():
        captions = merge_caption_files(files)
        with atomic_write(counts_file, "wb") as file:
            np.save(file, np.fromiter((len(texts) for texts in captions.values()), np.uint32, len(captions)))
        PackedStrings.write(
            rows_file,
            (
                "\0".join(text.replace("\0", " ") for text in (image, *texts))
                for image, texts in captions.items()
            ),
        )
    return PackedCaptions(PackedStrings(rows_file), np.load(counts_file, mmap_mode="r"))
