"""Captions of the pool for each row: the same images and the same number of captions per image, from different captioners.

They are made by the captioning job of `caption.py`, with one difference: an image whose captions stay rejected keeps its last
one, so that all rows train on the same images and steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from ham.captioner.checkpoint import add_styles, load_captioner
from ham.captioner.engine import DecodeSettings
from ham.captioner.model import Captioner
from ham.generation.filters import FILTER_VERSION
from ham.generation.merge import merge
from ham.generation.native_engine import CaptionerEngine
from ham.generation.plan import settle_plan
from ham.generation.run import Run
from ham.generation.style_draws import StylePlan
from ham.records import NO_STYLE, read_json, read_jsonl
from ham.runtime import UsageError
from ham.world.annotators import annotator_population
from ham.world.domains import POOL
from ham.world.manners import hint_of
from scripts.ablation.places import Places
from scripts.ablation.settings import Settings

Captions = dict[str, list[str]]
BATCH_IMAGES = 192


def write_captions(settings: Settings, places: Places, writes: str, clustering: str | None) -> Captions:
    """Return {image: captions} of a row (`Row.writes`), equally many for each image."""
    images = read_json(places.pool_list)
    per_image = settings.captions.per_image
    job = CaptionJobs(settings, places, images)
    writers: dict[str, Callable[[], Captions]] = {
        "humans": lambda: human_captions(places, images, per_image),
        "first_of_both": lambda: {
            image: own[:1] for image, own in read_json(places.captions("both")).items()
        },
        "static": lambda: job.run("static", load_captioner(settings.llava), [NO_STYLE], 1),
        "sampled": lambda: job.run("sampled", load_captioner(settings.llava), [NO_STYLE], per_image, 1.0),
        "templates": lambda: by_templates(settings, places, images),
        "random_prompts": lambda: job.run_all_styles(writes, untrained(settings, places)),
        "styles": lambda: job.run_all_styles(str(clustering), load_captioner(places.tuned(str(clustering)))),
    }
    captions = writers[writes]()
    count = 1 if writes == "first_of_both" else per_image
    return {image: (texts * count)[:count] for image, texts in captions.items()}


class CaptionJobs:
    """Captioning jobs over one list of images; each has a folder of its own."""

    def __init__(self, settings: Settings, places: Places, images: list[str]) -> None:
        self.settings, self.places, self.images = settings, places, images

    def run_all_styles(self, name: str, captioner: Captioner) -> Captions:
        """Caption each image in random styles; a captioner with one style captions it once."""
        styles = list(range(captioner.num_styles))
        return self.run(name, captioner, styles, min(self.settings.captions.per_image, len(styles)))

    def run(
        self,
        name: str,
        captioner: Captioner,
        styles: list[int],
        count: int,
        temperature: float = 0.0,
        prompt: str | None = None,
    ) -> Captions:
        """Caption each image `count` times. prompt: None is the settings' instruction."""
        options = self.settings.captions
        prompt = prompt or self.settings.instruction
        decoding = DecodeSettings(prompt, None, options.max_new_tokens, temperature, 1.0, self.places.seed)
        engine = CaptionerEngine(captioner, decoding, BATCH_IMAGES, count)
        root = self.places.world / POOL
        folder = self.places.jobs / name
        shutil.rmtree(folder, ignore_errors=True)
        can_redraw = len(styles) > 1 or temperature > 0
        job = {
            "styles": "random" if len(styles) > 1 else "fixed",
            "style_pool": styles,
            "captions_per_image": count,
            "seed": self.places.seed,
            "max_redraws": options.max_redraws if can_redraw else 0,
            "temperature": temperature,
            "reject_slash_n": False,
            "repeat_styles": temperature > 0,
            "filter_version": FILTER_VERSION,
            **engine.settings,
        }
        plan = settle_plan(folder, lambda: self.images, job, {"image_root": str(root), "images": "pool"})
        Run(plan, engine, Path(root)).work()
        merge(plan, keep_rejected=True)
        return read_json(folder / "captions.json")


def by_templates(settings: Settings, places: Places, images: list[str]) -> Captions:
    """Caption each image under random textual hints, with the untuned captioner: one job per hint."""
    hints = template_hints(places.seed, settings.captions.templates)
    count = min(settings.captions.per_image, len(hints))
    plan = StylePlan(tuple(range(len(hints))), True, count, 0, places.seed)
    captioner = load_captioner(settings.llava)
    asked: dict[int, list[str]] = {}
    for image in images:
        for number in plan.sequence(image)[:count]:
            asked.setdefault(number, []).append(image)
    captions: Captions = {image: [] for image in images}
    for number in sorted(asked):
        job = CaptionJobs(settings, places, asked[number])
        prompt = f"{settings.instruction} {hints[number]}"
        for image, texts in job.run(f"hints/{number}", captioner, [NO_STYLE], 1, prompt=prompt).items():
            captions[image] += texts
    shutil.rmtree(places.jobs / "hints", ignore_errors=True)
    return captions


def human_captions(places: Places, images: list[str], count: int) -> Captions:
    """Return the captions of the simulated annotators, from the dataset's truth."""
    wanted: Captions = {image: [] for image in images}
    for row in read_jsonl(places.world / "truth" / f"{POOL}-captions.jsonl"):
        if row["image_path"] in wanted:
            wanted[row["image_path"]].append(row["caption"])
    return {image: texts[:count] for image, texts in wanted.items()}


# ------------------------------------------------------------------------------------------------------------------ parts


def untrained(settings: Settings, places: Places) -> Captioner:
    """Load the captioner of `both` with its style prompts as they were before training; the projector stays tuned."""
    captioner = load_captioner(places.tuned("both"))
    add_styles(
        captioner,
        captioner.num_styles,
        settings.tuning.style_tokens,
        settings.tuning.style_init,
        places.seed,
        torch.float32,
    )
    return captioner


def template_hints(seed: int, count: int) -> list[str]:
    """Return `count` different textual hints, from simulated annotators of no benchmark."""
    hints = list(
        dict.fromkeys(hint_of(one.manner) for one in annotator_population(seed, "templates", 4 * count))
    )
    if len(hints) < count:
        raise UsageError(
            f"captions.templates {count}: only {len(hints)} different hints were found; lower it"
        )
    return hints[:count]
