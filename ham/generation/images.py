"""Open, check and resize images in worker processes ahead of the model; a bad file becomes a reason, never an exception."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ham.datasets import PackedStrings
from ham.distributed import DieWithParent
from ham.llava.preprocess import ImageError, open_image, square_pixels
from ham.records import path_below
from ham.runtime import UsageError, WorkError


@dataclass(frozen=True)
class LoadedImage:
    """One image of the list. pixels: float32 [3, s, s], or None with the reason."""

    index: int
    pixels: np.ndarray | None
    reason: str | None = None


@dataclass(frozen=True)
class LoadSquare:
    """Read an image file into the pixels of a captioner whose image size is `size_px`."""

    size_px: int

    def __call__(self, path: Path) -> np.ndarray:
        return square_pixels(open_image(path), self.size_px)


class ImageFiles:
    """The images of a list below a root. `load` turns a path into pixels and runs in the workers."""

    def __init__(self, images: PackedStrings, root: Path, load: Callable[[Path], np.ndarray]) -> None:
        self.images, self.root, self.load = images, root, load

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LoadedImage:
        try:
            return LoadedImage(index, self.load(path_below(self.root, self.images[index])))
        except ImageError as error:
            return LoadedImage(index, None, self._plain(error.reason))
        except UsageError:
            return LoadedImage(index, None, "outside: the path leaves the image root")
        except Exception as error:  # Pillow's plugins raise whatever a broken file makes them trip over
            return LoadedImage(index, None, self._plain(f"unreadable: {type(error).__name__}: {error}"))

    def _plain(self, reason: str) -> str:
        """Keep the reason the same on every machine: no root, no memory addresses, one line."""
        return " ".join(re.sub(r" at 0x[0-9a-f]+", "", reason.replace(str(self.root), "")).split())[:300]


def load_images(
    files: ImageFiles, indices: Iterable[int], workers: int, chunk: int = 8
) -> Iterator[LoadedImage]:
    """Yield the images that `indices` names, in that order, loaded by `workers` processes (0: by this one).

    indices is read lazily, a few chunks ahead of what was yielded. NumPy arrays travel through pipes, so that the small
    shared memory of containers is no limit.
    """
    from torch.utils.data import DataLoader  # not needed to plan a job or to look at one

    # A worker that starts when this process already runs CUDA or threads must not touch torch: `load` is Pillow and NumPy.
    loader = DataLoader(
        files,
        batch_sampler=_chunks(indices, chunk if workers else 1),
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=DieWithParent(os.getpid()),
    )
    try:
        for loaded in loader:
            yield from loaded
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise WorkError(
                f"an image worker died ({error}); the same command goes on, with fewer --workers if memory is "
                "short"
            ) from error
        raise


def _chunks(indices: Iterable[int], size: int) -> Iterator[list[int]]:
    chunk = []
    for index in indices:
        chunk.append(index)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
