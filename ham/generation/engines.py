"""Captioning engines: what the job expects of one, and the dict of those that exist.

An engine is a module with the functions of `EngineModule`. To add one, write the module and enter it in ENGINES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from ham.generation.style_draws import Draw

if TYPE_CHECKING:
    from ham.generation.config import JobOptions

ENGINES = {  # imported when chosen, so that planning a job or using a server loads no model code
    "native": "ham.generation.native_engine",
    "server": "ham.generation.server_engine",
    "transformers": "ham.generation.transformers_engine",
}


class Caption(NamedTuple):
    """A generated text and its number of tokens. failure: why there is no usable text; the row is then failed."""

    text: str
    tokens: int
    failure: str | None = None


@dataclass
class Job:
    """An image waiting for its captions, one per draw. shard: the run's own mark."""

    image: str
    pixels: np.ndarray
    draws: list[Draw]
    shard: Any = None


Source = Callable[[], "Job | None"]  # the next image, or None when there is none now
Result = tuple[Job, list[Caption]]


class Engine(Protocol):
    """A model ready to caption: `load` runs in worker processes, `run` in this one.

    batch_images: images in work at a time. settings: what captions depend on, kept in plan.json and compared on resuming.
    info: what people want to know later. seconds: by phase.
    """

    load: Callable[[Path], np.ndarray]
    settings: dict[str, Any]
    info: dict[str, Any]

    @property
    def batch_images(self) -> int: ...

    @property
    def seconds(self) -> dict[str, float]: ...

    def run(self, source: Source) -> Iterator[Result]:
        """Yield each job of the source with a caption per draw, until the source has none and nothing is in work.

        A caption depends on its image, style and attempt only, never on the other images in work.
        """

    def close(self) -> None:
        """Release what the engine holds."""


class EngineModule(Protocol):
    """The functions of an engine's module. One with styles that may be untrained also has `untrained_styles(options)`."""

    def count_styles(self, options: JobOptions) -> int:
        """Return the number of styles of --model-path, read from its headers."""

    def open_engine(self, options: JobOptions, captions_per_image: int) -> Engine:
        """Load the model, or connect to it."""


def engine_module(name: str) -> EngineModule:
    """Import an engine's module."""
    return cast(EngineModule, import_module(ENGINES[name]))


def untrained_styles(module: EngineModule, options: JobOptions) -> list[int]:
    """Return the styles that no training record was written in, where the engine's module knows them."""
    known = getattr(module, "untrained_styles", None)
    return known(options) if known else []
