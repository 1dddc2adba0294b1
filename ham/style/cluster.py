"""Clusters of style features: KMeans, uniform prototype sampling (UPS), both, and DBSCAN for the ablation.

Features are [N, D], one row per caption. A style is a cluster that has captions: ids are contiguous from 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ham.runtime import UsageError, derive_seed, log, numpy_generator
from ham.style.arrays import check_count, check_distance, moments, prepared, unit_rows

CHUNK_ELEMENTS = 16_000_000  # of one block of distances: 64 MB
INIT_ROWS_PER_CLUSTER = 10  # k-means++ takes this many random rows for each cluster, when there are more


@dataclass(frozen=True)
class Clusters:
    """centres: float32 [S, D]. members: S sorted int64 arrays of caption rows, none empty. num_captions: N.

    A caption is in one KMeans cluster, in any number of UPS clusters, and in at most one DBSCAN cluster.
    """

    centres: NDArray[np.float32]
    members: tuple[NDArray[np.int64], ...]
    num_captions: int

    def __len__(self) -> int:
        return len(self.members)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Captions of each cluster, [S]."""
        return np.array([len(rows) for rows in self.members], np.int64)

    @property
    def times_covered(self) -> NDArray[np.int64]:
        """Clusters of each caption, [N]."""
        rows = np.concatenate([*self.members, np.empty(0, np.int64)])
        return np.bincount(rows, minlength=self.num_captions)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The first cluster of each caption, -1 where it is in none, [N]."""
        labels = np.full(self.num_captions, -1, np.int64)
        for style_id in reversed(range(len(self))):
            labels[self.members[style_id]] = style_id
        return labels

    def style_ids(self) -> list[tuple[int, ...]]:
        """The ascending cluster ids of each caption."""
        found: list[list[int]] = [[] for _ in range(self.num_captions)]
        for style_id, rows in enumerate(self.members):
            for row in rows.tolist():
                found[row].append(style_id)
        return [tuple(ids) for ids in found]

    def joined(self, other: Clusters) -> Clusters:
        """Return these clusters followed by another scheme's of the same captions."""
        return Clusters(
            np.concatenate([self.centres, other.centres]), self.members + other.members, self.num_captions
        )


def kmeans_clusters(
    features: ArrayLike,
    k: int,
    seed: int,
    distance: str = "l2",
    standardize: bool = False,
    max_iterations: int = 50,
) -> Clusters:
    """Cluster features with KMeans (Lloyd, k-means++ start on a random subset, one run).

    features: [N, D]. distance: l2, or cosine (rows are brought to length 1 first). standardize: z-scores per dimension; centres
    are then in z-scores too. Fewer than k clusters are returned when fewer than k rows differ: an empty one is dropped.
    Raises UsageError for k < 1, k > N, empty or non-finite features.
    Source: HAM, section 3.2.
    """
    from sklearn.cluster import KMeans

    features = prepared(features, distance, standardize)
    check_count("k", k, len(features), "clusters")
    start = starting_rows(features, k, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # from_labels logs it
        fit = KMeans(
            k,
            init=start,
            n_init=1,
            max_iter=max_iterations,
            tol=1e-3,
            algorithm="lloyd",
            copy_x=False,
            random_state=derive_seed(seed, "kmeans") % 2**32,
        ).fit(features)
    return from_labels(fit.cluster_centers_, fit.labels_)


def ups_clusters(
    features: ArrayLike,
    k: int,
    beta: float = 7.0,
    nearest: int = 200,
    seed: int = 0,
    distance: str = "l2",
    standardize: bool = False,
) -> Clusters:
    """Cluster features around k prototypes drawn uniformly: each prototype and its `nearest` nearest captions.

    A prototype is uniform in [mean - beta * deviation, mean + beta * deviation] of every dimension.

    features: [N, D]. distance: l2 or cosine. A dimension without spread (deviation 0) has its mean in every prototype. Clusters
    overlap, and a caption may be in none. centres are the prototypes. Memory stays flat: distances are computed in blocks.
    Raises UsageError for k < 1, nearest < 1, nearest > N, beta < 0, empty or non-finite features.
    Source: HAM, section 3.2 (beta 7, 200 nearest captions; the distance is not stated there).
    """
    features = prepared(features, "l2", standardize)  # prototypes are drawn around the features as they are
    check_count("k", k, None, "prototypes")
    check_count("nearest", nearest, len(features), "captions for each prototype")
    if not (np.isfinite(beta) and beta >= 0):
        raise UsageError(f"beta {beta}: expected a number of deviations of at least 0")
    check_distance(distance)
    mean, deviation = moments(features)
    uniform = numpy_generator(seed, "ups").uniform(-1, 1, (k, features.shape[1]))
    prototypes = (mean + beta * deviation * uniform).astype(np.float32)
    members = tuple(rows for block in nearest_rows(features, prototypes, nearest, distance) for rows in block)
    return Clusters(prototypes, members, len(features))


def dbscan_clusters(
    features: ArrayLike,
    eps: float | None = None,
    min_samples: int = 10,
    seed: int = 0,
    distance: str = "l2",
    standardize: bool = False,
) -> Clusters:
    """Cluster features with DBSCAN; rows in sparse places are in no cluster. centres are the members' means.

    eps: radius of a neighborhood; None takes the median distance from a row to its `min_samples`-th neighbor, over 1000
    random rows. Raises UsageError when nothing is dense enough to be a cluster. Source: HAM, ablation of the clustering.
    """
    from sklearn.cluster import DBSCAN

    features = prepared(features, distance, standardize)
    check_count("min_samples", min_samples, len(features), "captions")
    if eps is None:
        eps = typical_radius(features, min_samples, seed)
        log.info("DBSCAN: eps %.4g, the median distance to neighbor number %d", eps, min_samples)
    labels = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(features)
    count = labels.max() + 1
    if count == 0:
        raise UsageError(
            f"DBSCAN found no cluster with eps {eps:.4g} and min_samples {min_samples}: raise eps or lower "
            "min_samples"
        )
    return from_labels(np.stack([features[labels == label].mean(0) for label in range(count)]), labels)


# ------------------------------------------------------------------------------------------------------------------ parts


def nearest_rows(
    features: NDArray[np.float32], prototypes: NDArray[np.float32], count: int, distance: str
) -> Iterator[list[NDArray[np.int64]]]:
    """Yield, block by block, the sorted rows of the `count` nearest features of each prototype; ties go to the lower rows."""
    if distance == "cosine":
        features = unit_rows(features)
        prototypes = unit_rows(prototypes)
    half_squares = (
        np.zeros(len(features), np.float32) if distance == "cosine" else np.square(features).sum(1) / 2
    )
    block = max(1, CHUNK_ELEMENTS // len(features))
    for start in range(0, len(prototypes), block):
        gaps = prototypes[start : start + block] @ features.T  # [block, N]
        np.subtract(half_squares, gaps, out=gaps)  # ranks as the distance does
        found = []
        for row in gaps:
            limit = np.partition(row, count - 1)[count - 1]
            closer = np.flatnonzero(row < limit)
            tied = np.flatnonzero(row == limit)
            found.append(np.sort(np.concatenate([closer, tied[: count - len(closer)]])))
        del gaps  # before the next block is computed
        yield found


def starting_rows(features: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    """Choose k rows as first centres: k-means++ on at most INIT_ROWS_PER_CLUSTER * k random rows."""
    from sklearn.cluster import kmeans_plusplus

    generator = numpy_generator(seed, "kmeans++")
    some = INIT_ROWS_PER_CLUSTER * k
    pool = features[np.sort(generator.permutation(len(features))[:some])]
    return kmeans_plusplus(pool, k, random_state=int(generator.integers(2**32)))[0]


def typical_radius(features: NDArray[np.float32], neighbor: int, seed: int) -> float:
    """Return the median distance from a row to its `neighbor`-th neighbor (itself counted), over at most 1000 random rows."""
    from sklearn.neighbors import NearestNeighbors

    rows = numpy_generator(seed, "dbscan").permutation(len(features))[:1000]
    found = (
        NearestNeighbors(n_neighbors=neighbor, algorithm="brute")
        .fit(features)
        .kneighbors(features[rows])[0][:, -1]
    )
    return float(max(np.median(found), 1e-6))


def from_labels(centres: NDArray[np.floating], labels: NDArray[np.integer]) -> Clusters:
    """Return the clusters of one label per caption; labels without captions are dropped, -1 is no cluster."""
    order = np.argsort(labels, kind="stable").astype(np.int64)
    bounds = np.searchsorted(labels[order], np.arange(len(centres) + 1))
    members = [order[bounds[label] : bounds[label + 1]] for label in range(len(centres))]
    filled = [label for label, rows in enumerate(members) if len(rows)]
    if len(filled) < len(centres):
        log.warning(
            "%d of %d clusters are empty and dropped: the captions are not different enough",
            len(centres) - len(filled),
            len(centres),
        )
    return Clusters(
        np.asarray(centres[filled], np.float32), tuple(members[label] for label in filled), len(labels)
    )


def join_schemes(schemes: dict[str, Clusters]) -> Clusters:
    """Return all schemes' clusters in one; style ids count on from scheme to scheme."""
    first, *others = schemes.values()
    for other in others:
        first = first.joined(other)
    return first


def scheme_ranges(schemes: dict[str, Clusters]) -> dict[str, list[int]]:
    """Return scheme -> [first style id, one past its last]."""
    ranges, at = {}, 0
    for name, clusters in schemes.items():
        ranges[name] = [at, at + len(clusters)]
        at += len(clusters)
    return ranges
