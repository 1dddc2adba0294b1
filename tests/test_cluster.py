"""Clusters: KMeans, uniform prototypes against slow plain code, DBSCAN, and every way to ask for nonsense."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ham.runtime import UsageError, numpy_generator
from ham.style import cluster
from ham.style.cluster import Clusters, dbscan_clusters, kmeans_clusters, ups_clusters


def blobs(count: int = 4, each: int = 30, dim: int = 6, seed: int = 0) -> np.ndarray:
    """`count` far-apart groups of `each` points, in blocks."""
    generator = np.random.default_rng(seed)
    middles = np.repeat(10 * np.eye(dim)[:count], each, axis=0)
    return generator.normal(middles, 0.3).astype("float32")


def check_invariants(clusters: Clusters, rows: int) -> None:
    assert clusters.num_captions == rows and len(clusters) == len(clusters.centres) == len(clusters.members)
    assert clusters.centres.dtype == np.float32 and np.isfinite(clusters.centres).all()
    assert clusters.sizes.min() >= 1
    for members in clusters.members:
        assert (np.diff(members) > 0).all() and members[0] >= 0 and members[-1] < rows
    assert clusters.times_covered.sum() == clusters.sizes.sum()
    assert [len(ids) for ids in clusters.style_ids()] == clusters.times_covered.tolist()


# --------------------------------------------------------------------------------------------------------------- KMeans


@pytest.mark.parametrize("options", [{}, {"distance": "cosine"}, {"standardize": True}])
def test_kmeans_finds_groups(options: dict) -> None:
    clusters = kmeans_clusters(blobs(), 4, seed=0, **options)
    check_invariants(clusters, 120)
    assert sorted(tuple(rows) for rows in clusters.members) == [
        tuple(range(at, at + 30)) for at in range(0, 120, 30)
    ]
    assert (clusters.times_covered == 1).all()


def test_kmeans_centres_are_the_means_of_their_captions() -> None:
    features = blobs(seed=3)
    clusters = kmeans_clusters(features, 7, seed=1)
    for centre, rows in zip(clusters.centres, clusters.members):
        np.testing.assert_allclose(centre, features[rows].mean(0), atol=0.2)  # Lloyd stops at a tolerance
    nearest = ((features[:, None] - clusters.centres[None]) ** 2).sum(-1).argmin(1)
    assert (nearest == clusters.labels).mean() > 0.97


def test_seeds_repeat_and_differ() -> None:
    features = np.random.default_rng(0).normal(size=(300, 8))
    first, again, other = (kmeans_clusters(features, 20, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()
    first, again, other = (ups_clusters(features, 20, nearest=10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.centres, again.centres)
    assert (first.centres != other.centres).any()


def test_too_few_different_captions_give_fewer_styles_never_empty_ones() -> None:
    features = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)  # 15 rows, 3 different
    clusters = kmeans_clusters(features, 8, seed=0)
    check_invariants(clusters, 15)
    assert len(clusters) == 3 and clusters.sizes.tolist() == [5, 5, 5]


def test_k_of_all_captions_is_one_each() -> None:
    clusters = kmeans_clusters(np.arange(10.0)[:, None], 10, seed=0)
    assert clusters.sizes.tolist() == [1] * 10


# ------------------------------------------------------------------------------------------------------------------ UPS


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("chunk", [1, 500, 10**9])
def test_ups_equals_plain_code(
    monkeypatch: pytest.MonkeyPatch, distance: str, standardize: bool, chunk: int
) -> None:
    monkeypatch.setattr(cluster, "CHUNK_ELEMENTS", chunk)
    features = np.random.default_rng(0).normal(size=(200, 5)) * [1, 2, 3, 4, 5] + 1
    clusters = ups_clusters(
        features, 9, beta=2.0, nearest=17, seed=4, distance=distance, standardize=standardize
    )
    check_invariants(clusters, 200)

    space = (features - features.mean(0)) / features.std(0) if standardize else features
    uniform = numpy_generator(4, "ups").uniform(-1, 1, (9, 5))
    prototypes = space.mean(0) + 2.0 * space.std(0) * uniform
    np.testing.assert_allclose(clusters.centres, prototypes, atol=1e-4)
    for prototype, rows in zip(prototypes, clusters.members):
        if distance == "l2":
            gaps = np.linalg.norm(space - prototype, axis=1)
        else:
            gaps = -(space @ prototype) / np.linalg.norm(space, axis=1) / np.linalg.norm(prototype)
        assert set(rows) == set(np.argsort(gaps)[:17])


def test_prototypes_fill_the_box_uniformly() -> None:
    features = np.random.default_rng(0).normal([5, -3], [1, 10], (500, 2))
    centres = ups_clusters(features, 4000, beta=7.0, nearest=1, seed=0).centres
    scaled = (centres - features.mean(0)) / features.std(0) / 7
    assert np.abs(scaled).max() <= 1 + 1e-5 and (scaled.max(0) > 0.99).all() and (scaled.min(0) < -0.99).all()
    np.testing.assert_allclose(scaled.std(0), 1 / np.sqrt(3), rtol=0.03)


def test_constant_dimension_keeps_its_value() -> None:
    features = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    features[:, 1] = 0.7
    for standardize, expected in ((False, 0.7), (True, 0.0)):
        clusters = ups_clusters(features, 6, nearest=5, seed=0, standardize=standardize)
        np.testing.assert_allclose(clusters.centres[:, 1], expected, atol=1e-6)
        check_invariants(clusters, 50)
    check_invariants(kmeans_clusters(features, 6, seed=0, standardize=True), 50)


def test_all_captions_alike_still_work() -> None:
    clusters = ups_clusters(np.ones((10, 4)), 3, nearest=4, seed=0)
    assert [rows.tolist() for rows in clusters.members] == [[0, 1, 2, 3]] * 3  # ties go to the first captions
    assert len(kmeans_clusters(np.ones((10, 4)), 3, seed=0)) == 1


def test_overlap_and_gaps_are_counted() -> None:
    line = np.array([[0.0], [1.0], [2.0], [50.0]])
    clusters = Clusters(np.zeros((2, 1), np.float32), (np.array([0, 1]), np.array([1, 2])), 4)
    assert clusters.style_ids() == [(0,), (0, 1), (1,), ()]
    assert clusters.times_covered.tolist() == [1, 2, 1, 0] and clusters.labels.tolist() == [0, 0, 1, -1]
    both = kmeans_clusters(line, 2, seed=0).joined(clusters)
    assert len(both) == 4 and both.style_ids()[1][1:] == (2, 3)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), dim=st.integers(1, 5), seed=st.integers(0, 10**6), data=st.data())
def test_any_sound_request_gives_sound_clusters(rows: int, dim: int, seed: int, data: st.DataObject) -> None:
    features = np.random.default_rng(seed).integers(-2, 3, (rows, dim))
    nearest = data.draw(st.integers(1, rows))
    ups = ups_clusters(
        features, data.draw(st.integers(1, 5)), beta=data.draw(st.floats(0, 10)), nearest=nearest, seed=seed
    )
    check_invariants(ups, rows)
    assert (ups.sizes == nearest).all()
    kmeans = kmeans_clusters(features, data.draw(st.integers(1, rows)), seed)
    check_invariants(kmeans, rows)
    assert (kmeans.times_covered == 1).all()


def test_memory_stays_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHUNK_ELEMENTS", 1_000_000)
    features = np.random.default_rng(0).normal(size=(4000, 16)).astype("float32")
    tracemalloc.start()
    ups_clusters(features, 5000, nearest=1, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6 < 5000 * 4000 * 4  # one block of distances, never all of them


# --------------------------------------------------------------------------------------------------------------- DBSCAN


def test_dbscan_leaves_sparse_captions_out() -> None:
    features = np.concatenate([blobs(3), np.full((1, 6), 99, "float32")])
    clusters = dbscan_clusters(features, eps=3.0, min_samples=5)
    check_invariants(clusters, 91)
    assert clusters.sizes.tolist() == [30, 30, 30] and clusters.labels[-1] == -1
    assert len(dbscan_clusters(features, min_samples=5)) >= 3  # eps chosen by itself
    with pytest.raises(UsageError, match="no cluster with eps 1e-05"):
        dbscan_clusters(features, eps=1e-5, min_samples=5)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: kmeans_clusters(f, 11, seed=0), "k 11: more clusters than the 10 captions"),
        (lambda f: kmeans_clusters(f, 0, seed=0), "k 0: expected at least 1"),
        (
            lambda f: ups_clusters(f, 2, nearest=11, seed=0),
            "nearest 11: more captions for each prototype than the 10",
        ),
        (lambda f: ups_clusters(f, 2, nearest=0, seed=0), "nearest 0"),
        (lambda f: ups_clusters(f, 0, nearest=2, seed=0), "k 0"),
        (lambda f: ups_clusters(f, 2, beta=-1, nearest=2, seed=0), "beta -1"),
        (lambda f: ups_clusters(f, 2, beta=float("nan"), nearest=2, seed=0), "beta nan"),
        (
            lambda f: kmeans_clusters(f, 2, seed=0, distance="l1"),
            "distance 'l1' is not known; use one of l2, cosine",
        ),
        (lambda f: kmeans_clusters(f[:0], 2, seed=0), r"shape \[0, 3\]"),
        (lambda f: ups_clusters(f[0], 2, nearest=1, seed=0), r"shape \[3\]"),
        (lambda f: dbscan_clusters(f, min_samples=11), "min_samples 11"),
    ],
)
def test_nonsense_is_refused(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.random.default_rng(0).normal(size=(10, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "scheme",
    [
        lambda f: kmeans_clusters(f, 2, 0),
        lambda f: ups_clusters(f, 2, nearest=2, seed=0),
        lambda f: dbscan_clusters(f, min_samples=2),
    ],
)
def test_non_finite_features_are_refused(scheme, value: float) -> None:
    features = np.ones((10, 3))
    features[4, 1] = features[7, 0] = value
    with pytest.raises(UsageError, match="2 of 10 feature rows are not finite, the first is row 4"):
        scheme(features)


def test_callers_features_are_not_touched() -> None:
    features = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    before = features.copy()
    for standardize in (False, True):
        kmeans_clusters(features, 3, 0, standardize=standardize)
        ups_clusters(features, 3, nearest=3, seed=0, standardize=standardize)
    np.testing.assert_array_equal(features, before)
