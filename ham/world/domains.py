"""The domains of a world (three benchmarks, the pool, the foundation) and their sizes in each preset.

A domain corresponds to a real dataset: it has its own cameras, persons, clothes and annotators.
"""

from __future__ import annotations

from dataclasses import dataclass

from ham.world.camera import CameraStyle
from ham.world.scene import Framing

WORLD_VERSION = 2  # raise it when the same settings give other files


@dataclass(frozen=True)
class Domain:
    """One dataset.

    season: what people wear; taste: how far color frequencies differ from the common ones (0 to 1); height_px: range
    of the stored height at height_scale 1; captions: per image.
    """

    name: str
    season: str
    taste: float
    cameras: int
    style: CameraStyle
    framing: Framing
    height_px: tuple[int, int]
    captions: int
    first_id: int = 0


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        # The cameras of each benchmark lie outside the pool's ranges, each in another direction.
        # Many persons, few images of each, boxes drawn by hand, summer evenings: warm, dim and coarse.
        Domain(
            "CUHK-PEDES",
            season="summer",
            taste=1.0,
            cameras=8,
            style=CameraStyle(
                places=("street", "plaza", "campus"),
                brightness=(0.64, 0.88),
                warmth=(0.06, 0.16),
                contrast=(0.7, 0.88),
                blur_px=(0.3, 0.8),
                noise=(3.0, 8.0),
                quality=(42, 72),
            ),
            framing=Framing((3.4, 6.0), (95.5, 98.5), 1.4, cropped=0.10, occluded=0.10),
            height_px=(144, 184),
            captions=2,
            first_id=1,
        ),
        # Few persons, many images of each, loose boxes of a detector, indoors and out in winter: dim and bluish.
        Domain(
            "ICFG-PEDES",
            season="winter",
            taste=1.0,
            cameras=15,
            style=CameraStyle(
                places=("campus", "mall", "station"),
                brightness=(0.62, 0.84),
                warmth=(-0.14, -0.04),
                contrast=(0.8, 0.96),
                blur_px=(0.2, 0.6),
                noise=(1.5, 5.0),
                quality=(60, 92),
            ),
            framing=Framing((7.0, 14.0), (98.0, 107.0), 3.6, cropped=0.12, occluded=0.14),
            height_px=(150, 196),
            captions=1,
        ),
        # Five images of each person, boxes that miss the middle, bright haze, out of focus.
        Domain(
            "RSTPReid",
            season="mixed",
            taste=1.0,
            cameras=15,
            style=CameraStyle(
                places=("campus", "park", "plaza"),
                brightness=(0.92, 1.2),
                warmth=(-0.05, 0.08),
                contrast=(0.6, 0.8),
                blur_px=(0.4, 0.9),
                noise=(3.0, 8.0),
                quality=(45, 80),
            ),
            framing=Framing((4.0, 10.0), (96.0, 103.0), 3.0, cropped=0.12, occluded=0.12),
            height_px=(140, 192),
            captions=2,
        ),
        # Frames of videos from the web: every place, clean pictures.
        Domain(
            "SYNTH-PEDES",
            season="mixed",
            taste=0.5,
            cameras=24,
            style=CameraStyle(
                places=("street", "mall", "station", "park"),
                brightness=(0.85, 1.14),
                warmth=(-0.06, 0.06),
                contrast=(0.85, 1.1),
                blur_px=(0.1, 0.6),
                noise=(1.0, 6.0),
                quality=(55, 92),
            ),
            framing=Framing((4.8, 7.5), (96.5, 101.0), 1.8, cropped=0.05, occluded=0.05),
            height_px=(128, 176),
            captions=1,
        ),
        Domain(
            "foundation",
            season="mixed",
            taste=0.0,
            cameras=24,
            style=CameraStyle(
                places=("campus", "street", "mall", "station", "park", "plaza"),
                brightness=(0.8, 1.14),
                warmth=(-0.07, 0.07),
                contrast=(0.82, 1.1),
                blur_px=(0.1, 0.6),
                noise=(1.0, 6.5),
                quality=(50, 92),
            ),
            framing=Framing((4.5, 8.0), (96.0, 101.0), 2.0, cropped=0.05, occluded=0.05),
            height_px=(128, 192),
            captions=3,
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
        _splits((700, 100, 300), (200, 300), (300, 60, 300), 1334, 3000), annotators=(160, 80), texts=40_000
    ),
    # An experiment of hours: 10,800 training captions of CUHK-PEDES and ICFG-PEDES, 12,000 pool and 16,000 foundation images.
    "full": Preset(
        _splits((1000, 100, 300), (600, 300), (800, 100, 300), 4000, 8000),
        annotators=(600, 300),
        texts=120_000,
    ),
    # What the captioner's stand-in weights are made of: 40,000 foundation images, next to nothing else.
    "weights": Preset(
        _splits((12, 4, 8), (12, 8), (12, 4, 8), 16, 20_000), annotators=(600, 300), texts=120_000
    ),
}
