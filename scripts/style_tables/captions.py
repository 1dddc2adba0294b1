"""Captions to measure stage 1 on: simulated ones, whose annotators are known, and real ones from a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ham.records import read_json
from ham.runtime import UsageError, numpy_generator
from ham.world.annotators import annotator_population
from ham.world.domains import DOMAINS
from ham.world.scene import sample_scene, visible_attributes
from ham.world.wardrobe import sample_person, sample_wardrobe


@dataclass(frozen=True)
class SimulatedCaption:
    """A caption of a known annotator. manner: the annotator's true style, by aspect. mentioned: the attributes it names."""

    caption: str
    annotator: str
    manner: dict[str, str]
    mentioned: dict[str, str]

    @property
    def manner_label(self) -> str:
        """The manner as the tables of rare manners count it."""
        return f"{self.manner['syntax']}/{self.manner['register']}"


def simulate_captions(
    count: int,
    annotators: int,
    steepness: float,
    seed: int,
    groups: Sequence[str] = ("CUHK-PEDES", "ICFG-PEDES"),
) -> list[SimulatedCaption]:
    """Return captions of `count` random persons by the annotators of the groups, as many of each.

    steepness: exponent on the annotators' shares: 1 = the world's Zipf law, more = a few write nearly everything.
    """
    captions = []
    for group in groups:
        domain = DOMAINS[group]
        generator = numpy_generator(seed, "measure styles", group)
        writers = annotator_population(seed, group, annotators // len(groups))
        shares = np.array([writer.weight for writer in writers]) ** steepness
        wardrobe = sample_wardrobe(generator, domain.season, domain.taste)
        for number in generator.choice(len(writers), size=count // len(groups), p=shares / shares.sum()):
            writer = writers[number]
            scene = sample_scene(generator, domain.framing)
            seen = visible_attributes(sample_person(generator, wardrobe), scene)
            written = writer.describe(seen, generator)
            captions.append(
                SimulatedCaption(written.text, writer.annotator_id, writer.manner, written.mentioned)
            )
    return captions


def read_captions(path: str | Path) -> list[str]:
    """Read the captions of a file, empty ones left out: lines of a .txt, or a JSON list of strings or {caption} records.

    Raises UsageError when the file holds no captions of these forms.
    """
    path = Path(path)
    if path.suffix == ".txt":
        try:
            captions = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise UsageError(f"--captions {path}: {error}; expected UTF-8 text, a caption a line") from None
    else:
        captions = [caption_of(record, path) for record in as_list(read_json(path), path)]
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise UsageError(f"--captions {path}: holds no captions")
    return captions


def as_list(content: Any, path: Path) -> list[Any]:
    """Return a JSON file's list. Raises UsageError when it holds something else."""
    if not isinstance(content, list):
        raise UsageError(f"--captions {path}: holds a {type(content).__name__}; expected a list of captions")
    return content


def caption_of(record: Any, path: Path) -> str:
    """Return the caption of a JSON list's entry. Raises UsageError naming an entry without one."""
    caption = record.get("caption") if isinstance(record, dict) else record
    if not isinstance(caption, str):
        raise UsageError(f"--captions {path}: entry {record!r:.80} has no caption")
    return caption


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower())
