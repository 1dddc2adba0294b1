"""Measure styles: do clusters follow annotators' manners, do features hide the person, are rare manners reached?

Pure functions of features, clusters and labels, and what the inspect page shows of a styles/ folder. Labels come from
the caller. A manner is the true style of a simulated annotator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ham.runtime import UsageError, derive_seed, numpy_generator
from ham.style.cluster import Clusters

TRAIN_SHARE = 0.7  # of the captions, for fitting a probe


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier on the features predicts a label on held-out captions, percent.

    accuracy: right; majority: right when always guessing the commonest; skill: the share of the rest that is right,
    100 * (accuracy - majority) / (100 - majority), about 0 when the features do not reveal it.
    """

    accuracy: float
    majority: float

    @property
    def skill(self) -> float:
        return 100 * (self.accuracy - self.majority) / max(100 - self.majority, 1e-9)


@dataclass(frozen=True)
class Reach:
    """How clusters treat rare manners when styles are drawn uniformly, as the captioner draws them; percent.

    own_cluster: share of the rare manners that are the majority of some cluster (0 when none is rare). covered: share of the
    captions with a rare manner that are in some cluster. drawn: share of captions with a rare manner among captions drawn by
    style; in_data: their share in the data. effective: how many manners at equal shares would be as varied as what is drawn
    (exponential of the entropy; a number, not percent).
    """

    own_cluster: float
    covered: float
    drawn: float
    in_data: float
    effective: float


def mutual_information(clusters: Clusters, labels: Sequence[str]) -> float:
    """Return the adjusted mutual information between clusters and labels, percent: 0 by chance, 100 when they are the same.

    A caption counts once for each cluster it is in; captions in none do not count.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    rows = np.concatenate(clusters.members)
    ids = np.repeat(np.arange(len(clusters)), clusters.sizes)
    return 100 * float(adjusted_mutual_info_score(np.asarray(labels)[rows], ids))


def linear_probe(features: ArrayLike, labels: Sequence[str], seed: int = 0) -> Probe:
    """Fit a ridge classifier on standardized features of 70 % of the captions and score it on the others.

    Labels with fewer than 5 captions are left out. Raises UsageError when fewer than two labels are left.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(features, np.float32)
    labels = np.asarray(labels)
    names, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[index] >= 5)
    if len(np.unique(index[rows])) < 2:
        found = ", ".join(f"{name}: {count}" for name, count in zip(names, counts))
        raise UsageError(f"a probe needs two labels with 5 captions each; found {found}")
    rows = numpy_generator(seed, "probe").permutation(rows)
    train, test = np.split(rows, [int(TRAIN_SHARE * len(rows))])
    scaler = StandardScaler().fit(features[train])
    fit = RidgeClassifier(alpha=1.0).fit(scaler.transform(features[train]), index[train])
    accuracy = 100 * float(fit.score(scaler.transform(features[test]), index[test]))
    commonest = np.bincount(index[train]).argmax()
    return Probe(accuracy, 100 * float((index[test] == commonest).mean()))


def reach(clusters: Clusters, labels: Sequence[str], rare_share: float = 0.005) -> Reach:
    """Return how clusters treat labels that fewer than `rare_share` of the captions have. See Reach."""
    names, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    rare = counts < rare_share * len(index)
    shares = np.stack(
        [np.bincount(index[rows], minlength=len(names)) / len(rows) for rows in clusters.members]
    )  # [S, labels]
    owned = np.unique(shares.argmax(1)[shares.max(1) > 0.5])
    drawn = shares.mean(0)
    some = drawn[drawn > 0]
    return Reach(
        own_cluster=100 * float(np.isin(np.flatnonzero(rare), owned).mean()) if rare.any() else 0.0,
        covered=100 * float((clusters.times_covered[rare[index]] > 0).mean()) if rare.any() else 0.0,
        drawn=100 * float(drawn[rare].sum()),
        in_data=100 * float(counts[rare].sum() / len(index)),
        effective=float(np.exp(-(some * np.log(some)).sum())),
    )


# ----------------------------------------------------------------------------------------------------- the inspect page


@dataclass(frozen=True)
class StylesView:
    """What the inspect page shows.

    facts: styles.json. points: a sample of captions on a plane, [n, 2]. By scheme: centres on that plane; outside, how many of
    them are outside the captions shown; sizes, captions of each cluster; times_covered, clusters of each caption.
    examples: (scheme, style id, size, captions nearest to the centre). explained_pct: variance that the plane shows.
    """

    facts: dict
    points: NDArray[np.float32]
    centres: dict[str, NDArray[np.float32]]
    outside: dict[str, int]
    sizes: dict[str, NDArray[np.int64]]
    times_covered: dict[str, NDArray[np.int64]]
    examples: list[tuple[str, int, int, list[str]]]
    explained_pct: float


def look_at(
    styles: Path, clusters_shown: int = 12, captions_shown: int = 6, seed: int = 0, points: int = 5000
) -> StylesView:
    """Read a styles/ folder and compute what the inspect page shows.

    The plane is that of the two first principal components of the features, in z-scores when the clusters are.
    Raises UsageError when the folder is not whole.
    """
    from sklearn.decomposition import PCA

    from ham.style.folder import load_features, load_styles

    facts, assignments, tensors = load_styles(styles)
    features = load_features(styles)
    if facts["clusters"].get(
        "standardize", facts["clusters"].get("standardise")
    ):  # the second: written before November 2026
        features = (features - tensors["mean"]) / np.where(
            tensors["deviation"] > 0, tensors["deviation"], np.inf
        )
    generator = numpy_generator(seed, "inspect")
    plane = PCA(2, random_state=derive_seed(seed, "plane") % 2**32).fit(features)
    shown = np.sort(generator.permutation(len(features))[:points])
    on_plane = plane.transform(features[shown])
    clusters = clusters_of(assignments, tensors["centres"])
    view: dict = {"centres": {}, "sizes": {}, "times_covered": {}}
    examples = []
    for name, (first, end) in facts["schemes"].items():
        view["centres"][name] = plane.transform(tensors["centres"][first:end])
        view["sizes"][name] = clusters.sizes[first:end]
        rows = np.concatenate(clusters.members[first:end])
        view["times_covered"][name] = np.bincount(rows, minlength=len(features))
        share = -(-clusters_shown // len(facts["schemes"]))
        for style_id in np.sort(first + generator.permutation(end - first)[:share]).tolist():
            rows = clusters.members[style_id]
            nearest = rows[
                np.argsort(
                    distances(features[rows], tensors["centres"][style_id], facts["clusters"]["distance"])
                )
            ]
            captions = list(dict.fromkeys(assignments[row]["caption"] for row in nearest))[:captions_shown]
            examples.append((name, style_id, len(rows), captions))
    low, high = on_plane.min(0), on_plane.max(0)
    outside = {
        name: int(((centres < low) | (centres > high)).any(1).sum())
        for name, centres in view["centres"].items()
    }
    return StylesView(
        facts,
        on_plane,
        examples=examples,
        outside=outside,
        explained_pct=100 * float(plane.explained_variance_ratio_.sum()),
        **view,
    )


def clusters_of(assignments: Sequence[dict], centres: NDArray[np.float32]) -> Clusters:
    """Rebuild the clusters from the rows of assignments.jsonl."""
    members: list[list[int]] = [[] for _ in centres]
    for row, assignment in enumerate(assignments):
        for style_id in assignment["style_ids"]:
            members[style_id].append(row)
    return Clusters(centres, tuple(np.array(rows, np.int64) for rows in members), len(assignments))


def distances(
    features: NDArray[np.float32], centre: NDArray[np.float32], distance: str
) -> NDArray[np.float32]:
    """Return what ranks features by their distance to a centre (l2, or cosine as 1 - cosine)."""
    if distance == "l2":
        return np.linalg.norm(features - centre, axis=1)
    return 1 - features @ centre / np.maximum(
        np.linalg.norm(features, axis=1) * np.linalg.norm(centre), 1e-12
    )
