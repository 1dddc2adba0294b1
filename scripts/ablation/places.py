"""Paths of one seed's files in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The files of one seed: WORK/seed0/{world, pool, styles, tune, captions, reid}."""

    work: Path
    seed: int

    @property
    def folder(self) -> Path:
        return self.work / f"seed{self.seed}"

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def pool(self) -> Path:
        """The pool's images at the retrieval model's size and uncompressed: decoded once for all rows."""
        return self.folder / "pool"

    @property
    def pool_list(self) -> Path:
        return self.folder / "pool.json"

    def styles(self, clustering: str) -> Path:
        return self.folder / "styles" / clustering

    def tuned(self, clustering: str) -> Path:
        return self.folder / "tune" / clustering

    @property
    def jobs(self) -> Path:
        """The captioning jobs."""
        return self.folder / "caption_jobs"

    def captions(self, row: str) -> Path:
        return self.folder / "captions" / f"{row}.json"

    def retrieval(self, row: str, part: int) -> Path:
        return self.folder / "reid" / (row if part == 1 else f"{row}-1of{part}")
