"""Read, check and resize images in worker processes ahead of the model; a bad file becomes a reason, never an exception.

No torch: a run that captions through a server loads none.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from ham.datasets import PackedStrings
from ham.distributed import DieWithParent
from ham.image_folder import readable_formats
from ham.images import ImageError
from ham.llava.preprocess import open_image, square_pixels
from ham.records import path_below
from ham.runtime import UsageError, WorkError, log

AHEAD = 6  # images that each reader has waiting
MOST_DEATHS = 8  # in a row, over all readers; then it is the machine and not an image


@dataclass(frozen=True)
class LoadedImage:
    """One image of the list. pixels: what the engine's `load` made of it, or None with the reason."""

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
        except Exception as error:  # Pillow's plugins raise almost any type on broken files
            return LoadedImage(index, None, self._plain(f"unreadable: {type(error).__name__}: {error}"))

    def _plain(self, reason: str) -> str:
        """Keep the reason the same on every machine: no root, no memory addresses, one line."""
        reason = re.sub(r" at 0x[0-9a-f]+", "", reason.replace(str(self.root), ""))
        return " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()[:300]


def load_images(
    files: ImageFiles, indices: Iterable[int], workers: int
) -> Generator[LoadedImage, None, None]:
    """Yield the images that `indices` names, in that order, loaded by `workers` processes (0: by this one).

    indices is read lazily, a few images ahead of what was yielded. A reader that dies is replaced; an image at which readers
    died twice becomes a reason. Raises WorkError when readers keep dying at different images.
    """
    if workers == 0:
        for index in indices:
            yield files[index]
        return
    with ReaderPool(files, workers) as pool:
        yield from pool.read(indices)


@dataclass
class _Reader:
    """A worker process, its pipe, and the images it was sent and has not returned."""

    process: multiprocessing.Process
    pipe: Connection
    waiting: deque[int] = field(default_factory=deque)


class ReaderPool:
    """Worker processes that read images."""

    def __init__(self, files: ImageFiles, workers: int) -> None:
        self.files, self.workers = files, workers
        self.context = multiprocessing.get_context("fork")
        self.readers: list[_Reader] = []
        self.results: dict[int, LoadedImage] = {}
        self.deaths: dict[int, int] = {}
        self.deaths_in_a_row = 0

    def __enter__(self) -> ReaderPool:
        readable_formats()  # loads Pillow's plugins once, before the fork
        self.readers = [self._start() for _ in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self.readers:
            reader.pipe.close()
            reader.process.kill()
        for reader in self.readers:
            reader.process.join()

    def read(self, indices: Iterable[int]) -> Iterator[LoadedImage]:
        """Yield the images in the order of the indices."""
        order: deque[int] = deque()
        remaining = iter(indices)
        is_exhausted = False
        while True:
            while not is_exhausted and len(order) < AHEAD * self.workers:
                index = next(remaining, None)
                if index is None:
                    is_exhausted = True
                    break
                order.append(index)
                self._send(min(self.readers, key=lambda reader: len(reader.waiting)), index)
            if not order:
                return
            while order[0] not in self.results:
                self._receive()
            yield self.results.pop(order.popleft())

    def _start(self) -> _Reader:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_read_loop, args=(self.files, theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return _Reader(process, ours)

    def _send(self, reader: _Reader, index: int) -> None:
        reader.waiting.append(index)
        with suppress(OSError):  # a dead reader's images are sent again by `_replace`
            reader.pipe.send(index)

    def _receive(self) -> None:
        ready = wait([reader.pipe for reader in self.readers])
        for reader in [reader for reader in self.readers if reader.pipe in ready]:
            try:
                image = reader.pipe.recv()
            except (EOFError, OSError):
                self._replace(reader)
                continue
            reader.waiting.remove(image.index)
            self.results[image.index] = image
            self.deaths_in_a_row = 0

    def _replace(self, reader: _Reader) -> None:
        """Start a new reader in place of a dead one; the image that it was at is tried once more, then given up."""
        reader.pipe.close()
        reader.process.join()
        code = reader.process.exitcode
        self.deaths_in_a_row += 1
        if self.deaths_in_a_row >= MOST_DEATHS:
            raise WorkError(
                f"image readers died {MOST_DEATHS} times in a row (exit code {code}); the same command continues, with "
                "fewer --workers if memory is short"
            )
        if reader.waiting:
            suspect = reader.waiting[0]
            self.deaths[suspect] = self.deaths.get(suspect, 0) + 1
            log.warning("an image reader died (exit code %s) at %s", code, ascii(self.files.images[suspect]))
            if self.deaths[suspect] >= 2:
                reader.waiting.popleft()
                self.results[suspect] = LoadedImage(
                    suspect, None, "unreadable: image readers died at it twice"
                )
                self.deaths_in_a_row = 0
        fresh = self._start()
        self.readers[self.readers.index(reader)] = fresh
        for index in reader.waiting:
            self._send(fresh, index)


def _read_loop(files: ImageFiles, pipe: Connection, parent: int) -> None:
    """Read images in a worker process until the pipe closes."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole terminal; the parent ends its readers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    DieWithParent(parent)(0)
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(files[index])
        except (BrokenPipeError, ConnectionResetError):
            return
