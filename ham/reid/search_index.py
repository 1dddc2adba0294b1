"""The index of a gallery: float16 unit features in memory-mapped safetensors segments, refreshed incrementally.

FOLDER/00000000.safetensors   features [n, D] float16, sizes and times_ns [n] int64, paths (UTF-8, end to end) and path_ends [n]
FOLDER/failed.jsonl           images that cannot be read, with the reason; they are tried again at every refresh

A segment appears whole, by rename: a killed refresh loses at most one segment. Where a path is in two
segments (a refresh was killed between writing and deleting), the newer one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ham.records import write_jsonl
from ham.runtime import UsageError, WorkError, log
from ham.tensor_files.writing import write_file

SEGMENT_ROWS = 8192  # images between two saves: what a killed refresh loses at most
MAX_SMALL_SEGMENTS = 8  # more segments under half size than this are merged
MARGIN = 4e-3  # bound of the difference between a float16 score and the float32 score of the same row
MOST_CANDIDATES = 1 << 20  # of a batch of queries on a GPU: 2 GB of float32 features
FP32_ROWS = 2048  # rows at a time where torch has no float16 product: they stay in the processor's cache
GPU_BYTES = 1 << 30  # of a GPU's memory for one batch of queries
BYTES_PER_PAIR = 16  # of a query and an image: the rough score, and what choosing the best of them takes
PARTS = ("features", "sizes", "times_ns", "paths", "path_ends")
Stamp = tuple[int, int]  # size in bytes, time of change in ns


@dataclass
class Segment:
    """Some rows of an index, memory-mapped from one file."""

    file: Path
    feats: Tensor  # [n, D] float16
    sizes: Tensor
    times_ns: Tensor
    path_bytes: Tensor
    path_ends: Tensor

    @classmethod
    def open(cls, file: Path) -> Segment:
        """Map a segment. Raises ValueError when it is broken or of another shape."""
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = [opened.get_tensor(name) for name in PARTS]
        except (SafetensorError, OSError) as error:
            raise ValueError(str(error)) from None
        feats, sizes, times, paths, ends = tensors
        if feats.dtype != torch.float16 or feats.ndim != 2:
            raise ValueError(f"features are {feats.dtype} {list(feats.shape)}; expected float16 [n, D]")
        integers = all(part.dtype == torch.int64 for part in (sizes, times, ends))
        if not integers or paths.dtype != torch.uint8 or {len(sizes), len(times), len(ends)} != {len(feats)}:
            raise ValueError("its parts do not fit together")
        if len(ends) and (int(ends[-1]) != len(paths) or bool((ends.diff() < 0).any()) or int(ends[0]) < 0):
            raise ValueError("its paths are cut off")
        return cls(file, feats, sizes, times, paths, ends)

    @classmethod
    def of(cls, feats: Tensor, entries: Sequence[tuple[str, Stamp]], file: Path = Path()) -> Segment:
        """Build a segment in memory."""
        encoded = [path.encode("utf-8", "surrogateescape") for path, _ in entries]
        return cls(
            file,
            feats.half().contiguous(),
            torch.tensor([stamp[0] for _, stamp in entries], dtype=torch.int64),
            torch.tensor([stamp[1] for _, stamp in entries], dtype=torch.int64),
            torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy()),
            torch.tensor(np.cumsum([len(one) for one in encoded]), dtype=torch.int64),
        )

    @classmethod
    def write(cls, file: Path, feats: Tensor, entries: Sequence[tuple[str, Stamp]]) -> Segment:
        """Write rows as a segment, whole or not at all, and map it."""
        in_memory = cls.of(feats, entries)
        tensors = dict(zip(PARTS, in_memory.tensors()))
        try:
            write_file(file, tensors)
        except PermissionError as error:
            raise UsageError(
                f"the index cannot be written to {file.parent} ({error.strerror}); choose another folder for it with "
                "--index"
            ) from None
        except OSError as error:
            if error.errno in (27, 28, 122):  # file too large, no space, quota
                raise WorkError(
                    f"the index cannot be written to {file.parent} ({error.strerror}); free some space, or choose another "
                    "folder with --index; the same command resumes"
                ) from None
            raise
        return cls.open(file)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors in the order of PARTS."""
        return self.feats, self.sizes, self.times_ns, self.path_bytes, self.path_ends

    def __len__(self) -> int:
        return len(self.feats)

    def path(self, row: int) -> str:
        start = int(self.path_ends[row - 1]) if row else 0
        raw = self.path_bytes[start : int(self.path_ends[row])].numpy().tobytes()
        return raw.decode("utf-8", "surrogateescape")

    def entries(self) -> Iterator[tuple[str, Stamp]]:
        """Iterate over (path, stamp) of all rows."""
        raw, start = self.path_bytes.numpy().tobytes(), 0
        columns = zip(self.path_ends.tolist(), self.sizes.tolist(), self.times_ns.tolist())
        for end, size, time_ns in columns:
            yield raw[start:end].decode("utf-8", "surrogateescape"), (size, time_ns)
            start = end


class SearchIndex:
    """The images of a gallery, paths relative to it, and their unit features in memory-mapped segments."""

    def __init__(self, gallery: Path, segments: Sequence[Segment]) -> None:
        self.gallery, self.segments = gallery, list(segments)
        self.starts = np.cumsum([0, *map(len, self.segments)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def paths(self) -> list[str]:
        return [path for segment in self.segments for path, _ in segment.entries()]

    @property
    def feats(self) -> Tensor:
        """All features, [N, D] float16, copied."""
        return torch.cat([segment.feats for segment in self.segments] or [torch.empty(0, 0)])

    def path(self, row: int) -> str:
        """Return the path of a row below the gallery. Raises IndexError when there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.segments[number].path(row - int(self.starts[number]))

    def top(self, query_feats: Tensor, top: int = 10, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the scores [q, top] and rows [q, top] of the best images for unit query features [q, D], best first.

        Exact for the stored features: float16 products choose candidates with a margin, float32 products rank them.
        chunk: queries at a time; None is 64 on a CPU, on a GPU what fits.
        """
        device = self.segments[0].feats.device
        is_gpu = device.type == "cuda"
        if chunk is None:
            chunk = max(1, GPU_BYTES // (BYTES_PER_PAIR * max(len(self), 1))) if is_gpu else 64
        rank = self._top_together if is_gpu else self._top
        found = [rank(part, min(top, len(self))) for part in query_feats.float().to(device).split(chunk)]
        return torch.cat([scores for scores, _ in found]), torch.cat([rows for _, rows in found])

    def _top(self, queries: Tensor, top: int) -> tuple[Tensor, Tensor]:
        rough = torch.cat([_products(segment.feats, queries) for segment in self.segments])  # [N, q]
        scores, rows = [], []
        for column, query in zip(rough.T, queries):
            column = column.float().contiguous()
            least = column.topk(top).values[-1] - 2 * MARGIN
            candidates = torch.nonzero(column >= least)[:, 0]
            exact = self._rows(candidates).float() @ query
            order = exact.sort(descending=True, stable=True).indices[:top]
            scores.append(exact[order])
            rows.append(candidates[order])
        return torch.stack(scores), torch.stack(rows)

    def _top_together(self, queries: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """As `_top`, all queries in the same operations: a GPU waits for the host once per batch."""
        rough = torch.cat([queries.half() @ segment.feats.T for segment in self.segments], dim=1)  # [q, N]
        least = rough.topk(top).values[:, -1:].float() - 2 * MARGIN
        asked, rows = torch.nonzero(rough >= least, as_tuple=True)  # by query, then by row
        if len(rows) > MOST_CANDIDATES and len(queries) > 1:
            halves = [self._top_together(half, top) for half in queries.split(-(-len(queries) // 2))]
            return torch.cat([scores for scores, _ in halves]), torch.cat([rows for _, rows in halves])
        feats = queries.new_empty(len(rows), queries.shape[1])
        for segment, start in zip(self.segments, self.starts.tolist()):
            inside = (rows >= start) & (rows < start + len(segment))
            feats[inside] = segment.feats[rows[inside] - start].float()
        exact = (feats * queries[asked]).sum(1)
        order = exact.sort(descending=True, stable=True).indices
        order = order[asked[order].sort(stable=True).indices]  # by query, best first
        counts = torch.bincount(asked, minlength=len(queries))
        first = (counts.cumsum(0) - counts)[:, None] + torch.arange(top, device=rows.device)  # [q, top]
        return exact[order][first], rows[order][first]

    def _rows(self, rows: Tensor) -> Tensor:
        """Return the features of some rows, in ascending order of rows."""
        parts = []
        for segment, start in zip(self.segments, self.starts.tolist()):
            inside = rows[(rows >= start) & (rows < start + len(segment))] - start
            if len(inside):
                parts.append(segment.feats[inside])
        return torch.cat(parts)


def _products(feats: Tensor, queries: Tensor) -> Tensor:
    """Compute feats @ queries.T, [n, q], in float16 where torch can, else in float32 blocks."""
    try:
        # one vector at a time: three times as fast as a matrix of a few
        return torch.stack([feats @ query for query in queries.half()], dim=1)
    except RuntimeError:  # older torch has no float16 product on a CPU
        return torch.cat([block.float() @ queries.T for block in feats.split(FP32_ROWS)])


# ----------------------------------------------------------------------------------------------------------- on the disk


def load_segments(folder: Path, width: int | None) -> list[Segment]:
    """Map a folder's segments, oldest first. A broken one, or one of another width or dtype, is left out with a warning."""
    segments = []
    for file in sorted(folder.glob("*.safetensors")):
        if not file.stem.isdecimal():  # of an earlier version
            continue
        try:
            segment = Segment.open(file)
            if width is not None and segment.feats.shape[1] != width:
                raise ValueError(f"features are {segment.feats.shape[1]} wide; the model's are {width}")
            segments.append(segment)
        except ValueError as error:
            log.warning("index %s cannot be used (%s); its images are embedded again", file, error)
            file.unlink(missing_ok=True)
    return segments


def keep_current(segments: Sequence[Segment], present: dict[str, Stamp]) -> tuple[list[Segment], set[str]]:
    """Drop rows of images that are gone or changed, and doubled rows; return the segments and the paths that they hold."""
    kept: list[Segment] = []
    known: set[str] = set()
    for segment in reversed(segments):
        entries = list(segment.entries())
        rows = []
        for row, (path, stamp) in enumerate(entries):
            if present.get(path) == stamp and path not in known:
                known.add(path)
                rows.append(row)
        if len(rows) == len(entries):
            kept.append(segment)
        elif rows:
            kept.append(Segment.write(segment.file, segment.feats[rows], [entries[row] for row in rows]))
        else:
            segment.file.unlink(missing_ok=True)
    return kept[::-1], known


def merge_small(segments: list[Segment]) -> list[Segment]:
    """Merge segments under half size when there are many; the merged one is written before the parts are deleted."""
    small = [segment for segment in segments if len(segment) < SEGMENT_ROWS // 2]
    if len(small) <= MAX_SMALL_SEGMENTS:
        return segments
    entries = [entry for segment in small for entry in segment.entries()]
    feats = torch.cat([segment.feats for segment in small])
    others = [segment for segment in segments if len(segment) >= SEGMENT_ROWS // 2]
    merged = []
    for start in range(0, len(entries), SEGMENT_ROWS):
        rows = slice(start, start + SEGMENT_ROWS)
        merged.append(Segment.write(next_file(segments + merged), feats[rows], entries[rows]))
    for segment in small:
        segment.file.unlink(missing_ok=True)
    return others + merged


def next_file(segments: Sequence[Segment], folder: Path | None = None) -> Path:
    """Return the file of the next segment; numbers only rise."""
    last = max((int(segment.file.stem) for segment in segments), default=-1)
    return (folder or segments[0].file.parent) / f"{last + 1:08d}.safetensors"


def write_failures(folder: Path, failed: Sequence[dict[str, str]]) -> None:
    """Write failed.jsonl, names that are not UTF-8 with escapes."""
    rows = [
        {key: value.encode("utf-8", "backslashreplace").decode() for key, value in row.items()}
        for row in failed
    ]
    file = folder / "failed.jsonl"
    if rows or (file.exists() and file.stat().st_size):
        write_jsonl(file, rows)
