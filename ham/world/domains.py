"""The domains of a world (three benchmarks, the pool, the foundation) and their sizes in each preset.

A domain corresponds to a real dataset: it has its own cameras, persons, clothes and annotators.
"""

from __future__ import annotations

from dataclasses import dataclass

from ham.world.camera import CameraStyle

WORLD_VERSION = 1  # raise it when the same settings give other files


@dataclass(frozen=True)
class Domain:
    """One dataset.

    season: what people wear; taste: how far color frequencies differ from the common ones (0 to 1); height_px: range
    of the stored height at height_scale 1; crop and occlusion: shares of the images; captions: per image.
    """

    name: str
    season: str
    taste: float
    cameras: int
    style: CameraStyle
    height_px: tuple[int, int]
    crop: float
    occlusion: float
    captions: int
    first_id: int = 0


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(
            "CUHK-PEDES",
            "summer",
            0.7,
            8,
            CameraStyle(
                ("campus", "street", "plaza"),
                (0.86, 1.12),
                (-0.03, 0.07),
                (0.85, 1.05),
                (0.15, 0.55),
                (1.5, 6.0),
                (55, 88),
            ),
            (144, 184),
            0.08,
            0.08,
            2,
            first_id=1,
        ),
        Domain(
            "ICFG-PEDES",
            "winter",
            0.7,
            12,
            CameraStyle(
                ("campus", "park"), (0.78, 1.12), (-0.07, 0.03), (0.85, 1.1), (0.1, 0.5), (1.5, 5.0), (60, 92)
            ),
            (150, 196),
            0.10,
            0.14,
            1,
        ),
        Domain(
            "RSTPReid",
            "mixed",
            0.8,
            15,
            CameraStyle(
                ("campus", "plaza", "station"),
                (0.75, 1.14),
                (-0.06, 0.06),
                (0.8, 1.1),
                (0.2, 0.65),
                (2.0, 7.0),
                (50, 86),
            ),
            (140, 192),
            0.10,
            0.12,
            2,
        ),
        Domain(
            "SYNTH-PEDES",
            "mixed",
            0.5,
            24,
            CameraStyle(
                ("street", "mall", "station", "park"),
                (0.8, 1.14),
                (-0.06, 0.06),
                (0.85, 1.1),
                (0.1, 0.6),
                (1.0, 6.0),
                (55, 92),
            ),
            (128, 176),
            0.10,
            0.10,
            1,
        ),
        Domain(
            "foundation",
            "mixed",
            0.0,
            24,
            CameraStyle(
                ("campus", "street", "mall", "station", "park", "plaza"),
                (0.75, 1.14),
                (-0.07, 0.07),
                (0.82, 1.1),
                (0.1, 0.6),
                (1.0, 6.5),
                (50, 92),
            ),
            (128, 192),
            0.08,
            0.08,
            3,
        ),
    )
}
POOL = "SYNTH-PEDES"
FOUNDATION = "foundation"


@dataclass(frozen=True)
class Share:
    """Persons of one split of one domain and the range of their images."""

    persons: int
    images: tuple[int, int]


@dataclass(frozen=True)
class Preset:
    """The size of a world. annotators: (train, val and test) of each domain; the foundation has the sum.

    vocabulary_spread, syntax_spread: how differently annotators write, 0 to 1. look_alikes: share of the
    persons that resemble another, except in the foundation. height_scale: factor on the stored image heights. texts:
    captions without image.
    """

    splits: dict[str, dict[str, Share]]
    annotators: tuple[int, int]
    texts: int
    vocabulary_spread: float = 1.0
    syntax_spread: float = 1.0
    look_alikes: float = 0.5
    height_scale: float = 1.0
    pool_human_captions: int = 2


def _splits(
    cuhk: tuple[int, int, int], icfg: tuple[int, int], rstp: tuple[int, int, int], pool: int, foundation: int
) -> dict[str, dict[str, Share]]:
    """Return the shares of (train, val, test) persons; images as in the real datasets, but four captions a person in tests."""
    return {
        "CUHK-PEDES": {
            "train": Share(cuhk[0], (2, 4)),
            "val": Share(cuhk[1], (2, 4)),
            "test": Share(cuhk[2], (2, 2)),
        },
        "ICFG-PEDES": {"train": Share(icfg[0], (6, 10)), "test": Share(icfg[1], (4, 4))},
        "RSTPReid": {
            "train": Share(rstp[0], (5, 5)),
            "val": Share(rstp[1], (5, 5)),
            "test": Share(rstp[2], (2, 2)),
        },
        POOL: {"train": Share(pool, (2, 4))},
        FOUNDATION: {"train": Share(foundation, (2, 2))},
    }


PRESETS: dict[str, Preset] = {
    # Seconds: for tests.
    "nano": Preset(
        _splits((12, 4, 8), (12, 8), (12, 4, 8), 16, 20), annotators=(12, 6), texts=200, height_scale=0.4
    ),
    # The demo: builds in under two minutes on two cores.
    "demo": Preset(
        _splits((500, 40, 300), (150, 300), (200, 40, 300), 1334, 3000), annotators=(160, 80), texts=40_000
    ),
    # An experiment of hours: 10,800 training captions of CUHK-PEDES and ICFG-PEDES, 12,000 pool and 16,000 foundation images.
    "full": Preset(
        _splits((1000, 100, 300), (600, 300), (800, 100, 300), 4000, 8000),
        annotators=(600, 300),
        texts=120_000,
    ),
}
