"""Measure stage 1 on the world's annotators, whose manners are known: the tables of ham/style/README.md.

    python scripts/measure_styles.py --out work/measure_styles.md [--clip WEIGHTS] [--hf FOLDER]

Captions are written by the world's annotators about random pedestrians; no image is drawn. Takes some minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from jsonargparse import ArgumentParser

from ham.records import atomic_write
from ham.runtime import exit_code_of, log, numpy_generator, set_up_logging
from ham.style.analysis import linear_probe, mutual_information, reach
from ham.style.cluster import Clusters, dbscan_clusters, kmeans_clusters, ups_clusters
from ham.style.features import chars_features, clip_features, hf_features
from ham.style.neutral import keep, lexicon_neutralizer
from ham.world.annotators import annotator_population
from ham.world.attributes import FIELDS, IMAGE_FIELDS, base_colour
from ham.world.wardrobe import sample_person, sample_wardrobe

NEUTRALIZERS = {
    "none": keep,
    "lists": lexicon_neutralizer(False),
    "lists + tagger": lexicon_neutralizer(True),
}


@dataclass(frozen=True)
class Said:
    """One caption of a known annotator."""

    caption: str
    annotator: str
    manner: dict[str, str]
    mentioned: dict[str, str]

    @property
    def kind(self) -> str:
        """The manner as the rarity tables count it."""
        return f"{self.manner['syntax']}/{self.manner['register']}"


def write_captions(count: int, annotators: int, steepness: float, seed: int) -> list[Said]:
    """Let the annotators of a CUHK-like and an ICFG-like group describe `count` random persons.

    steepness: exponent on the annotators' shares: 1 = the world's Zipf law, more = a few write nearly everything.
    """
    said = []
    for group in ("CUHK-PEDES", "ICFG-PEDES"):
        generator = numpy_generator(seed, "measure styles", group)
        people = annotator_population(seed, group, annotators // 2)
        shares = np.array([person.weight for person in people]) ** steepness
        wardrobe = sample_wardrobe(generator, "mixed", 1.0)
        for writer in generator.choice(len(people), size=count // 2, p=shares / shares.sum()):
            scene = {field: values[generator.integers(len(values))] for field, values in IMAGE_FIELDS.items()}
            told = people[writer].describe(sample_person(generator, wardrobe) | scene, generator)
            said.append(Said(told.text, people[writer].annotator_id, people[writer].manner, told.mentioned))
    return said


# ---------------------------------------------------------------------------------------------------------------- tables


def encoders(dim: int, clip: str | None, hf: str | None) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Give the encoders that can run here."""
    found: dict[str, Callable] = {f"chars {dim}": lambda texts: chars_features(texts, dim)}
    if clip:
        found["clip"] = lambda texts: clip_features(texts, clip)
    if hf:
        found["hf"] = lambda texts: hf_features(texts, hf)
    return found


def feature_rows(
    said: list[Said], styles: int, dim: int, clip: str | None, hf: str | None
) -> Iterator[list[str]]:
    """Yield a row per neutraliser and encoder: do KMeans clusters follow manners, what does a linear probe read."""
    targets = {
        name: [row.manner[name] for row in said] for name in ("syntax", "register", "capitals", "hedging")
    }
    targets = {"annotator": [row.annotator for row in said]} | targets
    for neutral_name, neutralise in NEUTRALIZERS.items():
        texts = [row.neutral for row in neutralise([one.caption for one in said])]
        for encoder_name, encode in encoders(dim, clip, hf).items():
            log.info("%s, %s", neutral_name, encoder_name)
            features = encode(texts)
            clusters = kmeans_clusters(features, styles, 0)
            shared = [
                mutual_information(clusters, targets[name]) for name in ("annotator", "syntax", "register")
            ]
            skills = [linear_probe(features, labels).skill for labels in targets.values()]
            attributes = attribute_skills(features, said)
            best = max(attributes, key=attributes.get)
            yield [
                neutral_name,
                encoder_name,
                *(f"{value:.0f}" for value in [*shared, *skills]),
                f"{np.mean(list(attributes.values())):.0f}",
                f"{attributes[best]:.0f} ({best})",
            ]


def attribute_skills(features: np.ndarray, said: list[Said]) -> dict[str, float]:
    """Give for each attribute the skill of a linear probe over the captions that mention it; colours as plain colours."""
    skills = {}
    for field in FIELDS:
        rows = [row for row, one in enumerate(said) if field in one.mentioned]
        labels = [base_colour(said[row].mentioned[field]) for row in rows]
        if len({label for label in labels if labels.count(label) >= 5}) > 1:
            skills[field] = linear_probe(features[rows], labels).skill
    return skills


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
TOGETHER = (
    "as in the paper",
    "standardized",
    "8 dimensions, beta 1.5",
)  # of these, KMeans and UPS half and half


def reach_rows(
    steepness: float, count: int, annotators: int, styles: int, dim: int, seeds: int
) -> Iterator[list[str]]:
    """Yield a row per scheme and setting: how far rare manners are reached; mean +- deviation over worlds and clusterings."""
    worlds = []
    for seed in range(seeds):
        said = write_captions(count, annotators, steepness, seed)
        texts = [row.neutral for row in lexicon_neutralizer()([one.caption for one in said])]
        features = chars_features(texts, dim, seed)
        worlds.append(([one.kind for one in said], features, seed))

    def row(name: str, setting: str, make: Callable[[np.ndarray, int], Clusters]) -> list[str]:
        log.info("steepness %g: %s, %s", steepness, name, setting)
        found = []
        for kinds, features, seed in worlds:
            clusters = make(features, seed)
            seen = reach(clusters, kinds)
            covered = 100 * (clusters.times_covered > 0).mean()
            found.append(
                [
                    len(clusters),
                    mutual_information(clusters, kinds),
                    covered,
                    seen.covered,
                    seen.own_cluster,
                    seen.drawn / seen.in_data,
                    seen.effective,
                ]
            )
        middle, spread = np.mean(found, 0), np.std(found, 0)
        return [name, setting, *(f"{a:.1f} ± {b:.1f}" if b else f"{a:.0f}" for a, b in zip(middle, spread))]

    nearest = max(
        2, round(2 * count / styles)
    )  # the paper's clusters are twice as large as its KMeans clusters

    def shown(features: np.ndarray, options: dict) -> tuple[np.ndarray, dict, int]:
        options = dict(options)
        features = features[:, : options.pop("dim", features.shape[1])]
        return features, options, max(2, round(nearest * options.pop("nearest_factor", 1.0)))

    def ups(features: np.ndarray, seed: int, k: int, options: dict) -> Clusters:
        features, options, q = shown(features, options)
        return ups_clusters(features, k, nearest=q, seed=seed, **options)

    def by_chance(features: np.ndarray, seed: int) -> Clusters:
        generator = numpy_generator(seed, "random clusters")
        members = [np.sort(generator.permutation(len(features))[:nearest]) for _ in range(styles)]
        return Clusters(np.zeros((styles, 1), np.float32), tuple(members), len(features))

    def both(features: np.ndarray, seed: int, options: dict) -> Clusters:
        kmeans = kmeans_clusters(features, styles // 2, seed)
        prototypes = ups(features, seed, styles // 2, options)
        room = np.zeros((len(prototypes), features.shape[1]), np.float32)  # only the members count below
        return kmeans.joined(Clusters(room, prototypes.members, prototypes.num_captions))

    yield row("random subsets", f"Q {nearest}", by_chance)
    yield row("KMeans", "l2", lambda features, seed: kmeans_clusters(features, styles, seed))
    yield row(
        "KMeans",
        "standardized",
        lambda features, seed: kmeans_clusters(features, styles, seed, standardize=True),
    )
    yield row("DBSCAN", "eps by itself", lambda features, seed: dbscan_clusters(features, None, 10, seed))
    for setting, options in SETTINGS.items():
        yield row(
            "UPS", setting, lambda features, seed, options=options: ups(features, seed, styles, options)
        )
    for setting in TOGETHER:
        yield row(
            "KMeans + UPS",
            setting,
            lambda features, seed, setting=setting: both(features, seed, SETTINGS[setting]),
        )


def geometry_rows(count: int, annotators: int, dim: int) -> Iterator[list[str]]:
    """Yield a row per population and UPS setting: where prototypes and rare captions lie, and who is taken how often."""
    from sklearn.neighbors import NearestNeighbors

    for steepness in (1.0, 2.0):
        said = write_captions(count, annotators, steepness, 0)
        features = chars_features(
            [row.neutral for row in lexicon_neutralizer()([one.caption for one in said])], dim
        )
        _, kinds, counts = np.unique([one.kind for one in said], return_inverse=True, return_counts=True)
        rare = counts[kinds] < 0.005 * count
        for dims, beta in ((dim, 7.0), (dim, 1.5), (8, 7.0), (8, 1.5)):
            space = features[:, :dims]
            clusters = ups_clusters(space, 200, beta, 50, 0)
            far = np.linalg.norm(space - space.mean(0), axis=1)
            prototypes = np.linalg.norm(clusters.centres - space.mean(0), axis=1)
            lonely = NearestNeighbors(n_neighbors=11).fit(space).kneighbors(space)[0][:, -1]
            taken = clusters.times_covered
            figures = [
                np.median(prototypes) / np.median(far),
                far[rare].mean() / far[~rare].mean(),
                lonely[rare].mean() / lonely[~rare].mean(),
                np.corrcoef(taken, far)[0, 1],
                np.corrcoef(taken, lonely)[0, 1],
                taken[rare].mean() / taken[~rare].mean(),
            ]
            yield [
                f"{steepness:g}",
                f"{dims} dimensions, beta {beta:g}",
                *(f"{figure:.2f}" for figure in figures),
            ]


def table(header: list[str], rows: Iterator[list[str]]) -> str:
    """Give a Markdown table."""
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def main() -> None:
    parser = ArgumentParser(prog="measure_styles.py", description=__doc__)
    parser.add_argument("--out", type=str, default="work/measure_styles.md", help="Markdown file to write")
    parser.add_argument(
        "--tables", type=list[str], default=["reach", "geometry", "features"], help="which tables to make"
    )
    parser.add_argument("--captions", type=int, default=6000)
    parser.add_argument("--annotators", type=int, default=300)
    parser.add_argument("--styles", type=int, default=60, help="clusters in all")
    parser.add_argument("--dim", type=int, default=128, help="dimensions of the surface features")
    parser.add_argument(
        "--seeds", type=int, default=4, help="worlds and clusterings of the tables of rare manners"
    )
    parser.add_argument("--clip", type=str, default=None, help="also measure this CLIP's text tower")
    parser.add_argument("--hf", type=str, default=None, help="also measure this Hugging Face text encoder")
    options = parser.parse_args()
    set_up_logging()

    parts: list[str] = []

    def show(part: str) -> None:
        parts.append(part)
        print(part, flush=True)
        with atomic_write(options.out) as file:
            file.write("\n".join(parts))

    show(f"{options.captions} captions, {options.annotators} annotators, {options.styles} styles.\n")
    if "reach" in options.tables:
        header = [
            "scheme",
            "setting",
            "clusters",
            "AMI manner",
            "captions covered, %",
            "rare captions covered, %",
            "rare manners with a cluster, %",
            "rare captions drawn / in data",
            "effective manners",
        ]
        for steepness in (1.0, 2.0):
            rows = reach_rows(
                steepness, options.captions, options.annotators, options.styles, options.dim, options.seeds
            )
            show(f"Annotators' shares to the power {steepness:g}:\n\n" + table(header, rows))
    if "geometry" in options.tables:
        header = [
            "power",
            "UPS",
            "prototype's / caption's distance",
            "rare / other captions' distance",
            "rare / other captions' 10th neighbour",
            "taken with distance, r",
            "taken with loneliness, r",
            "taken: rare / other",
        ]
        show(table(header, geometry_rows(options.captions, options.annotators, options.dim)))
    if "features" in options.tables:
        header = [
            "neutraliser",
            "encoder",
            "AMI annotator",
            "AMI syntax",
            "AMI register",
            "annotator",
            "syntax",
            "register",
            "capitals",
            "hedging",
            "attributes",
            "most telling attribute",
        ]
        said = write_captions(options.captions, options.annotators, 1.0, 0)
        show(table(header, feature_rows(said, options.styles, options.dim, options.clip, options.hf)))


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
