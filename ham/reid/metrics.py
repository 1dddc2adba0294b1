"""Retrieval metrics from features or similarities, in percent, without ever sorting a row or holding Q x G integers.

The rank of a positive is 1 + the number of gallery items that come before it. All five metrics follow from the ranks of the
positives alone. Items of equal similarity keep the gallery's order, as a stable descending argsort does.
Source of the definitions: IRRA, utils/metrics.py, rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ham.datasets import UNKNOWN
from ham.runtime import UsageError, WorkError, log

Ids: TypeAlias = Tensor | np.ndarray | Sequence[int]
CUTS = (1, 5, 10)
CHUNK = 256  # queries at a time on a CPU: 20 MB of float32 against 20,000 gallery images
GPU_BYTES = 1 << 30  # of a GPU's memory that a chunk may take, and at most a quarter of what is free
BYTES_PER_PAIR = 32  # similarity, its sorted copy with indices, and the sort's workspace
METRICS = ("R1", "R5", "R10", "mAP", "mINP")


def retrieval_metrics(
    query_feats: Tensor, gallery_feats: Tensor, query_ids: Ids, gallery_ids: Ids, chunk: int | None = None
) -> dict[str, float]:
    """Compute R1, R5, R10, mAP and mINP in percent of ranking the gallery [G, D] by cosine for every query [Q, D].

    Features need not be normalized and may be on a GPU. A query without any match in the gallery is left out of the means
    and counted: the result also holds `queries` (measured) and `unmatched`; with no match at all the metrics are NaN. The
    identity -1 is not known and matches nothing.
    chunk: queries at a time, chosen from the device's memory when None; it changes the memory, not the result.
    Raises UsageError for sizes that do not fit, WorkError for features that are not finite.
    """
    if query_feats.ndim != 2 or gallery_feats.ndim != 2 or query_feats.shape[1] != gallery_feats.shape[1]:
        raise UsageError(
            f"features must be [Q, D] and [G, D] of one width, found {list(query_feats.shape)} "
            f"and {list(gallery_feats.shape)}"
        )
    query = _unit_rows(query_feats, "query")
    gallery = _unit_rows(gallery_feats, "gallery")
    positives = _Positives(query_ids, gallery_ids, query.shape[0], gallery.shape[0])
    chunk = chunk or _chunk_that_fits(query.device, gallery.shape[0])
    with _exact_matmul():
        return _measure(((rows, query[rows] @ gallery.T) for rows in positives.chunks(chunk)), positives)


def similarity_metrics(
    similarity: Tensor, query_ids: Ids, gallery_ids: Ids, chunk: int | None = None
) -> dict[str, float]:
    """Compute the metrics of a similarity matrix [Q, G] (larger is closer): the same dictionary as `retrieval_metrics`."""
    if similarity.ndim != 2:
        raise UsageError(f"the similarity must be [Q, G], found {list(similarity.shape)}")
    if similarity.isnan().any():
        raise WorkError(
            f"the similarity holds NaN in {int(similarity.isnan().any(1).sum())} of {len(similarity)} rows"
        )
    positives = _Positives(query_ids, gallery_ids, *similarity.shape)
    chunk = chunk or _chunk_that_fits(similarity.device, similarity.shape[1])
    return _measure(((rows, similarity[rows]) for rows in positives.chunks(chunk)), positives)


class _Positives:
    """Which gallery columns match which query, from one sort of the gallery's ids."""

    def __init__(self, query_ids: Ids, gallery_ids: Ids, queries: int, gallery: int) -> None:
        query_ids, gallery_ids = _ids(query_ids), _ids(gallery_ids)
        for what, ids, rows in (("query", query_ids, queries), ("gallery", gallery_ids, gallery)):
            if len(ids) != rows:
                raise UsageError(f"{len(ids)} {what} ids for {rows} {what} rows; expected one id a row")
            if not rows:
                raise UsageError(f"the {what} is empty; nothing can be measured")
        self.order = np.argsort(gallery_ids, kind="stable")
        self.start = np.searchsorted(gallery_ids[self.order], query_ids, side="left")
        self.count = np.searchsorted(gallery_ids[self.order], query_ids, side="right") - self.start
        self.count[query_ids == UNKNOWN] = 0  # nobody knows whether two unknown persons are one
        self.matched = np.flatnonzero(self.count)
        self.unmatched = len(query_ids) - len(self.matched)
        if self.unmatched:
            strangers = np.unique(query_ids[self.count == 0])
            log.warning(
                "%d of %d queries have no match in the gallery and are left out (person ids %s%s)",
                self.unmatched,
                len(query_ids),
                ", ".join(map(str, strangers[:5])),
                ", ..." if len(strangers) > 5 else "",
            )

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Iterate over the row numbers of the queries that have a match, `size` at a time."""
        if len(self.matched):
            yield from torch.from_numpy(self.matched).split(size)

    def columns(self, rows: np.ndarray) -> np.ndarray:
        """Return the matching gallery columns of each query: int64 [q, P], rows with fewer than P are filled with -1."""
        place = np.arange(self.count[rows].max())[None, :]  # [1, P]
        columns = self.order[np.minimum(self.start[rows][:, None] + place, len(self.order) - 1)]
        return np.where(place < self.count[rows][:, None], columns, -1)


def _measure(chunks: Iterable[tuple[Tensor, Tensor]], positives: _Positives) -> dict[str, float]:
    """Compute the metrics from (query rows, their similarities [q, G]) by the ranks of the positives."""
    first, precision, penalty = [], [], []
    for rows, similarity in chunks:
        columns = positives.columns(rows.numpy())
        count = positives.count[rows.numpy()]
        ranks = (_ranks_numpy if similarity.device.type == "cpu" else _ranks_torch)(similarity, columns)
        ranks.sort(axis=1)  # the fillers are the largest and come last
        hits = np.arange(1, ranks.shape[1] + 1)[None, :]  # the k-th best positive is the k-th hit
        first.append(ranks[:, 0])
        precision.append(np.where(hits <= count[:, None], hits / ranks, 0.0).sum(1) / count)
        penalty.append(count / ranks[np.arange(len(ranks)), count - 1])
    found = {"queries": len(positives.matched), "unmatched": positives.unmatched}
    if not first:
        return {**dict.fromkeys(METRICS, float("nan")), **found}
    first = np.concatenate(first)
    recalls = {f"R{cut}": 100.0 * float((first <= cut).mean()) for cut in CUTS}
    means = {"mAP": precision, "mINP": penalty}
    return {
        **recalls,
        **{name: 100.0 * float(np.concatenate(values).mean()) for name, values in means.items()},
        **found,
    }


def _ranks_numpy(similarity: Tensor, columns: np.ndarray) -> np.ndarray:
    """Return the ranks of the given columns of each row, from 1: one vectorized count per positive, faster than a sort.

    Items before the positive in the gallery precede it when equal, items after it do not: a stable argsort's order.
    """
    ranks = np.full(columns.shape, np.iinfo(np.int64).max)
    dtype = torch.float64 if similarity.dtype == torch.float64 else torch.float32
    count = np.count_nonzero
    for number, row in enumerate(similarity.detach().to(dtype).numpy()):
        for place, column in enumerate(columns[number].tolist()):
            if column < 0:
                break
            value = row[column]
            ranks[number, place] = 1 + count(row[:column] >= value) + count(row[column + 1 :] > value)
    return ranks


def _ranks_torch(similarity: Tensor, columns: np.ndarray) -> np.ndarray:
    """Return the ranks of the given columns of each row, from 1, on the similarity's device; the order of `_ranks_numpy`.

    A GPU sorts faster than it compares each positive with a row. The gallery's order decides between equal items, so these
    are compared.
    """
    similarity = similarity if similarity.dtype == torch.float64 else similarity.float()
    index = torch.from_numpy(columns).to(similarity.device)  # [q, P]
    values = similarity.gather(1, index.clamp(min=0))
    ascending = similarity.sort(dim=1).values
    at_most = torch.searchsorted(ascending, values, right=True)
    ranks = 1 + similarity.shape[1] - at_most
    is_tied = (at_most - torch.searchsorted(ascending, values) > 1) & (index >= 0)
    place = torch.arange(similarity.shape[1], device=similarity.device)[None, :]  # [1, G]
    for number in is_tied.any(dim=0).nonzero().flatten().tolist():
        value = values[:, number, None]
        column = index[:, number, None]
        ranks[:, number] += ((similarity == value) & (place < column)).sum(dim=1)
    return ranks.masked_fill_(index < 0, torch.iinfo(torch.int64).max).cpu().numpy()


def _chunk_that_fits(device: torch.device, gallery: int) -> int:
    """Return the queries to rank at a time against a gallery of this size."""
    if device.type != "cuda":
        return CHUNK
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(GPU_BYTES, free // 4) // (gallery * BYTES_PER_PAIR))


def _ids(ids: Ids) -> np.ndarray:
    return np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids).reshape(-1)


def _unit_rows(features: Tensor, what: str) -> Tensor:
    """Normalize rows in float32 (float64 stays). Raises WorkError naming the count of rows that are not finite."""
    features = features.detach()
    broken = int((~features.isfinite().all(dim=1)).sum())
    if broken:
        raise WorkError(
            f"{broken} of {len(features)} {what} features hold NaN or infinity; the model's weights are broken"
        )
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)


@contextmanager
def _exact_matmul() -> Iterator[None]:
    """Compute float32 products in float32 even where training allowed TF32: ranks should not depend on that."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
