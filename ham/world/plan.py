"""The plan of a world: every person and every image, before anything is drawn.

It is the same in every process, so that an image can be drawn anywhere by its place in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ham.datasets import BENCHMARKS
from ham.runtime import numpy_generator
from ham.world.annotators import Annotator, annotator_population
from ham.world.camera import Camera, sample_camera
from ham.world.domains import DOMAINS, FOUNDATION, POOL, Domain, Preset, Share
from ham.world.wardrobe import Person, Wardrobe, sample_persons, sample_wardrobe


@dataclass(frozen=True)
class Shot:
    """One image to draw: the person, the camera and domain, and the path."""

    domain: str
    image_path: str
    person: Person
    split: str
    camera: int


@dataclass(frozen=True)
class WriterGroup:
    """Annotators and how often each of them writes."""

    annotators: list[Annotator]
    shares: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> list[Annotator]:
        """Sample `count` different annotators."""
        chosen = rng.choice(len(self.annotators), size=count, replace=False, p=self.shares)
        return [self.annotators[int(index)] for index in chosen]


def writer_group(annotators: list[Annotator], even: bool = False) -> WriterGroup:
    """Return annotators with their shares: by weight, or all the same."""
    weights = np.array([1.0 if even else annotator.weight for annotator in annotators])
    return WriterGroup(annotators, weights / weights.sum())


@dataclass(frozen=True)
class WorldPlan:
    """Everything that a worker needs to draw and describe any image of the world.

    writers: per "domain/split"; the pool's human captions come from those who wrote the training captions of CUHK-PEDES and
    ICFG-PEDES.
    """

    seed: int
    preset: Preset
    shots: list[Shot]
    cameras: dict[str, list[Camera]]
    wardrobes: dict[str, Wardrobe]
    writers: dict[str, WriterGroup]


def plan_world(preset: Preset, seed: int) -> WorldPlan:
    """Sample cameras, wardrobes, annotators, persons and the list of images."""
    shots: list[Shot] = []
    cameras, wardrobes = {}, {}
    for name, domain in DOMAINS.items():
        rng = numpy_generator(seed, "cameras", name)
        cameras[name] = [sample_camera(rng, domain.style) for _ in range(domain.cameras)]
        wardrobes[name] = sample_wardrobe(
            numpy_generator(seed, "wardrobe", name), domain.season, domain.taste
        )
        first_id = domain.first_id
        look_alikes = 0.0 if name == FOUNDATION else preset.look_alikes
        for split, share in preset.splits[name].items():
            shots += _shots_of(domain, wardrobes[name], split, share, first_id, look_alikes, seed)
            first_id += share.persons
    return WorldPlan(seed, preset, shots, cameras, wardrobes, _writer_groups(preset, seed))


def _shots_of(
    domain: Domain, wardrobe: Wardrobe, split: str, share: Share, first_id: int, look_alikes: float, seed: int
) -> list[Shot]:
    rng = numpy_generator(seed, "persons", domain.name, split)
    shots = []
    for person in sample_persons(rng, wardrobe, share.persons, first_id, look_alikes):
        count = int(rng.integers(share.images[0], share.images[1] + 1))
        seen_by = rng.choice(domain.cameras, size=count, replace=count > domain.cameras)
        folder = ("train", "test")[int(rng.integers(2))]
        for index, camera in enumerate(int(number) for number in seen_by):
            shots.append(
                Shot(
                    domain.name,
                    image_path_of(domain.name, person.person_id, index, camera, folder),
                    person,
                    split,
                    camera,
                )
            )
    return shots


def image_path_of(domain: str, person_id: int, index: int, camera: int, folder: str) -> str:
    """Return an image's path as the real dataset does. folder: of ICFG-PEDES, whose `train` and `test` are not the split."""
    if domain == "CUHK-PEDES":
        return f"cam_{'ab'[camera % 2]}/{person_id:04d}_{index}_{camera}.jpg"
    if domain == "ICFG-PEDES":
        return f"{folder}/{person_id:04d}/{person_id:04d}_{index:03d}_{camera + 1:02d}.jpg"
    if domain == "RSTPReid":
        return f"{person_id:04d}_c{camera + 1}_{index:04d}.jpg"
    if domain == POOL:
        return f"Part{person_id % 11 + 1}/{person_id}/{index}.jpg"
    return f"{person_id // 1000:03d}/{person_id:05d}_{index}.jpg"


def _writer_groups(preset: Preset, seed: int) -> dict[str, WriterGroup]:
    spreads = (preset.vocabulary_spread, preset.syntax_spread)
    trainers, testers = preset.annotators
    groups, hired = {}, {}
    for name in BENCHMARKS:
        people = annotator_population(seed, name, trainers + testers, *spreads)
        order = numpy_generator(seed, "staff", name).permutation(len(people))
        hired[name] = [people[int(index)] for index in order[:trainers]]
        groups[f"{name}/train"] = writer_group(hired[name])
        groups[f"{name}/val"] = groups[f"{name}/test"] = writer_group(
            [people[int(index)] for index in order[trainers:]]
        )
    groups[f"{POOL}/train"] = writer_group(hired["CUHK-PEDES"] + hired["ICFG-PEDES"])
    # The foundation must contain every manner, the rare ones too: its annotators write equally much.
    groups[f"{FOUNDATION}/train"] = writer_group(
        annotator_population(seed, FOUNDATION, trainers + testers, *spreads), even=True
    )
    return groups
