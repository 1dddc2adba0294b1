"""Tables of which captions clusters reach: rare manners where annotators are known, the loneliest captions anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ham.runtime import log, numpy_generator
from ham.style.analysis import mutual_information, reach
from ham.style.cluster import Clusters, dbscan_clusters, kmeans_clusters, ups_clusters
from ham.style.features import chars_features
from ham.style.neutral import lexicon_neutralizer
from scripts.style_tables.captions import simulate_captions

Features = NDArray[np.float32]
Scheme = Callable[[Features, int], Clusters]

# Settings of UPS. dim: leading dimensions of the SVD that are used. nearest_factor: on Q.
SETTINGS: dict[str, dict] = {
    "as in the paper": {},
    "cosine": {"distance": "cosine"},
    "standardized": {"standardize": True},
    "Q / 4": {"nearest_factor": 0.25},
    "beta 3": {"beta": 3.0},
    "beta 1.5": {"beta": 1.5},
    "beta 1.5, standardized": {"beta": 1.5, "standardize": True},
    "32 dimensions": {"dim": 32},
    "8 dimensions": {"dim": 8},
    "8 dimensions, standardized": {"dim": 8, "standardize": True},
    "32 dimensions, beta 1.5": {"dim": 32, "beta": 1.5},
    "8 dimensions, beta 1.5": {"dim": 8, "beta": 1.5},
    "2 dimensions, beta 1.5": {"dim": 2, "beta": 1.5},
}
TOGETHER = ("as in the paper", "standardized", "8 dimensions, beta 1.5")  # KMeans and UPS half and half
LONELY_SETTINGS = ("as in the paper", "beta 1.5", "8 dimensions", "8 dimensions, beta 1.5")
LONELY_SHARE = 0.1
NEIGHBOR = 10


def schemes(styles: int, nearest: int, settings: Sequence[str]) -> Iterator[tuple[str, str, Scheme]]:
    """Yield (scheme, setting, function of features and seed) for random subsets, KMeans, DBSCAN, UPS and both together."""
    yield (
        "random subsets",
        f"Q {nearest}",
        lambda features, seed: random_clusters(features, styles, nearest, seed),
    )
    yield "KMeans", "l2", lambda features, seed: kmeans_clusters(features, styles, seed)
    yield (
        "KMeans",
        "standardized",
        lambda features, seed: kmeans_clusters(features, styles, seed, standardize=True),
    )
    yield "DBSCAN", "eps by itself", lambda features, seed: dbscan_clusters(features, None, 10, seed)
    for name in settings:
        yield (
            "UPS",
            name,
            lambda features, seed, name=name: ups_with(features, seed, styles, nearest, SETTINGS[name]),
        )
    for name in TOGETHER:
        if name in settings:
            yield (
                "KMeans + UPS",
                name,
                lambda features, seed, name=name: both(features, seed, styles, nearest, SETTINGS[name]),
            )


def random_clusters(features: Features, styles: int, nearest: int, seed: int) -> Clusters:
    """Return clusters of random captions."""
    generator = numpy_generator(seed, "random clusters")
    members = [np.sort(generator.permutation(len(features))[:nearest]) for _ in range(styles)]
    return Clusters(np.zeros((styles, 1), np.float32), tuple(members), len(features))


def ups_with(features: Features, seed: int, styles: int, nearest: int, setting: dict) -> Clusters:
    """Return the UPS clusters of one of SETTINGS."""
    options = dict(setting)
    features = features[:, : options.pop("dim", features.shape[1])]
    nearest = max(2, round(nearest * options.pop("nearest_factor", 1.0)))
    return ups_clusters(features, styles, nearest=nearest, seed=seed, **options)


def both(features: Features, seed: int, styles: int, nearest: int, setting: dict) -> Clusters:
    """Return KMeans and UPS clusters, half of the styles each."""
    kmeans = kmeans_clusters(features, styles // 2, seed)
    prototypes = ups_with(features, seed, styles // 2, nearest, setting)
    centres = np.zeros((len(prototypes), features.shape[1]), np.float32)  # only the members are counted
    return kmeans.joined(Clusters(centres, prototypes.members, prototypes.num_captions))


def nearest_of(captions: int, styles: int) -> int:
    """Return Q for clusters twice as large as the KMeans clusters, as in the paper."""
    return max(2, round(2 * captions / styles))


# ------------------------------------------------------------------------------------------------------------------ tables


def rare_manner_rows(
    steepness: float, count: int, annotators: int, styles: int, dim: int, seeds: int
) -> Iterator[list[str]]:
    """Yield a row per scheme and setting: how far rare manners are reached; mean +- deviation over worlds and clusterings."""
    worlds = []
    for seed in range(seeds):
        captions = simulate_captions(count, annotators, steepness, seed)
        texts = [row.neutral for row in lexicon_neutralizer()([one.caption for one in captions])]
        worlds.append(([one.manner_label for one in captions], chars_features(texts, dim, seed), seed))
    for scheme, setting, make in schemes(styles, nearest_of(count, styles), tuple(SETTINGS)):
        log.info("steepness %g: %s, %s", steepness, scheme, setting)
        figures = [rare_manner_figures(make(features, seed), labels) for labels, features, seed in worlds]
        yield [scheme, setting, *mean_and_deviation(figures)]


def rare_manner_figures(clusters: Clusters, labels: list[str]) -> list[float]:
    """Return the figures of one clustering."""
    seen = reach(clusters, labels)
    return [
        len(clusters),
        mutual_information(clusters, labels),
        100 * (clusters.times_covered > 0).mean(),
        seen.covered,
        seen.own_cluster,
        seen.drawn / seen.in_data,
        seen.effective,
    ]


def lonely_rows(texts: Sequence[str], styles: int, dim: int, seeds: int) -> Iterator[list[str]]:
    """Yield a row per scheme and setting: which share of all captions and of the loneliest tenth is reached.

    A lonely caption is one whose 10th neighbor is far. drawn / in data: its chance when captions are drawn style by style, as
    the captioner does, against its share. Mean +- deviation over clusterings.
    """
    features = chars_features(texts, dim)
    lonely = loneliest(features)
    for scheme, setting, make in schemes(styles, nearest_of(len(texts), styles), LONELY_SETTINGS):
        log.info("loneliest captions: %s, %s", scheme, setting)
        figures = [lonely_figures(make(features, seed), lonely) for seed in range(seeds)]
        yield [scheme, setting, *mean_and_deviation(figures)]


def loneliest(features: Features) -> NDArray[np.bool_]:
    """Return which captions belong to the tenth whose 10th neighbor is farthest, [N]."""
    distances = neighbor_distances(features)
    order = np.argsort(distances, kind="stable")
    lonely = np.zeros(len(features), bool)
    lonely[order[-max(1, round(LONELY_SHARE * len(features))) :]] = True
    return lonely


def neighbor_distances(features: Features) -> Features:
    """Return the distance of every caption to its 10th neighbor, [N]."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOR + 1, len(features))
    return NearestNeighbors(n_neighbors=count).fit(features).kneighbors(features)[0][:, -1]


def lonely_figures(clusters: Clusters, lonely: NDArray[np.bool_]) -> list[float]:
    """Return the figures of one clustering: clusters, covered, lonely covered, drawn / in data."""
    covered = clusters.times_covered > 0
    drawn = np.mean([lonely[rows].mean() for rows in clusters.members])
    return [len(clusters), 100 * covered.mean(), 100 * covered[lonely].mean(), drawn / lonely.mean()]


def mean_and_deviation(figures: Sequence[Sequence[float]]) -> list[str]:
    """Return "mean ± deviation" for each column, the mean alone where nothing varies."""
    means, deviations = np.mean(figures, 0), np.std(figures, 0)
    return [
        f"{mean:.2f} ± {spread:.2f}" if spread else f"{mean:g}" for mean, spread in zip(means, deviations)
    ]


def geometry_rows(count: int, annotators: int, dim: int) -> Iterator[list[str]]:
    """Yield a row per population and UPS setting: where prototypes and rare captions are, and who is taken how often."""
    for steepness in (1.0, 2.0):
        captions = simulate_captions(count, annotators, steepness, 0)
        texts = [row.neutral for row in lexicon_neutralizer()([one.caption for one in captions])]
        features = chars_features(texts, dim)
        labels = [one.manner_label for one in captions]
        _, kinds, counts = np.unique(labels, return_inverse=True, return_counts=True)
        rare = counts[kinds] < 0.005 * count
        for dims, beta in ((dim, 7.0), (dim, 1.5), (8, 7.0), (8, 1.5)):
            figures = geometry_figures(features[:, :dims], beta, rare)
            row = [f"{steepness:g}", f"{dims} dimensions, beta {beta:g}"]
            yield [*row, *(f"{figure:.2f}" for figure in figures)]


def geometry_figures(features: Features, beta: float, rare: NDArray[np.bool_]) -> list[float]:
    """Return how far prototypes and rare captions are from the mean and from their neighbors, and who is taken."""
    clusters = ups_clusters(features, 200, beta, 50, 0)
    far = np.linalg.norm(features - features.mean(0), axis=1)
    prototypes = np.linalg.norm(clusters.centres - features.mean(0), axis=1)
    lonely = neighbor_distances(features)
    taken = clusters.times_covered
    return [
        np.median(prototypes) / np.median(far),
        far[rare].mean() / far[~rare].mean(),
        lonely[rare].mean() / lonely[~rare].mean(),
        np.corrcoef(taken, far)[0, 1],
        np.corrcoef(taken, lonely)[0, 1],
        taken[rare].mean() / taken[~rare].mean(),
    ]
