"""Captions of the pool for each row: the same images and as many captions of each, from different captioners.

All are written by `caption.py` with --keep-rejected: an image whose captions stay rejected keeps its last one, so that all
rows train on the same images and steps.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import caption
from ham.captioner.checkpoint import add_styles, load_captioner, save_adapter
from ham.generation.config import JobOptions
from ham.generation.style_draws import StylePlan
from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError
from ham.world.annotators import annotator_population
from ham.world.domains import POOL
from ham.world.manners import hint_of
from scripts.ablation.places import Places
from scripts.ablation.rows import ROWS
from scripts.ablation.settings import Settings

Captions = dict[str, list[str]]


def write_captions(settings: Settings, places: Places, row: str) -> Captions:
    """Return {image: captions} of a row, equally many for each image: a single one is repeated."""
    source, clustering = ROWS[row].source, ROWS[row].clustering or ""
    per_image = settings.captions.per_image
    tuned = places.tuned(clustering)
    job = CaptionJob(
        folder=places.caption_job(row),
        model=Path(settings.llava),
        image_root=places.world / POOL,
        images=places.pool_list,
        prompt=settings.instruction,
        max_new_tokens=settings.captions.max_new_tokens,
        max_redraws=settings.captions.max_redraws,
        seed=places.seed,
    )
    several = replace(job, count=1 if clustering == "one_style" else per_image, styles="random")
    writers: dict[str, Callable[[], Captions]] = {
        "humans": lambda: human_captions(places, per_image),
        "static": job.run,
        "sampled": replace(job, count=per_image, temperature=1.0).run,
        "templates": lambda: caption_under_hints(
            job, template_hints(places.seed, settings.captions.templates), per_image
        ),
        "styles": replace(several, model=tuned).run,
        "random_prompts": lambda: replace(several, model=untrained(settings, places, tuned)).run(),
    }
    captions = writers[source]()
    return {image: (texts * per_image)[:per_image] for image, texts in captions.items()}


@dataclass(frozen=True)
class CaptionJob:
    """A job of `caption.py` on the CPU. styles: "none" for the instruction alone. images: a list file."""

    folder: Path
    model: Path
    image_root: Path
    images: Path
    prompt: str
    max_new_tokens: int
    max_redraws: int
    seed: int
    count: int = 1
    styles: str = "none"
    temperature: float = 0.0

    def run(self) -> Captions:
        """Run the job or continue it; return its captions."""
        can_redraw = self.styles != "none" or self.temperature > 0
        options = JobOptions(
            model_path=str(self.model),
            image_root=str(self.image_root),
            images=str(self.images),
            out=str(self.folder),
            captions_per_image=self.count,
            styles=self.styles,
            seed=self.seed,
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            max_redraws=self.max_redraws if can_redraw else 0,
            keep_rejected=True,
            device="cpu",
            batch_size=192,
            workers=0,
            max_failed_share=1.0,
        )
        with redirect_stdout(io.StringIO()):  # the summary, which is also in summary.json
            caption.caption(options)
        return read_json(self.folder / "captions.json")


def caption_under_hints(job: CaptionJob, hints: list[str], per_image: int) -> Captions:
    """Caption each image under `per_image` of the textual hints, drawn at random: one job per hint."""
    images = read_json(job.images)
    plan = StylePlan(tuple(range(len(hints))), True, per_image, 0, job.seed)
    chosen: dict[int, list[str]] = {}
    for image in images:
        for number in plan.sequence(image)[:per_image]:
            chosen.setdefault(number, []).append(image)
    captions: Captions = {image: [] for image in images}
    for number in sorted(chosen):
        folder = job.folder / f"hint{number:02}"
        write_json(folder / "images.json", chosen[number])
        hinted = replace(
            job,
            folder=folder / "job",
            images=folder / "images.json",
            prompt=f"{job.prompt} {hints[number]}",
        )
        for image, texts in hinted.run().items():
            captions[image] += texts
    return captions


def template_hints(seed: int, count: int) -> list[str]:
    """Return `count` different textual hints, from simulated annotators of no benchmark."""
    population = annotator_population(seed, "templates", 4 * count)
    hints = list(dict.fromkeys(hint_of(annotator.manner) for annotator in population))
    if len(hints) < count:
        raise UsageError(
            f"captions.templates {count}: only {len(hints)} different hints were found; lower it"
        )
    return hints[:count]


def human_captions(places: Places, count: int) -> Captions:
    """Return the captions of the simulated annotators, from the dataset's truth."""
    captions: Captions = {image: [] for image in read_json(places.pool_list)}
    for row in read_jsonl(places.world / "truth" / f"{POOL}-captions.jsonl"):
        if row["image_path"] in captions:
            captions[row["image_path"]].append(row["caption"])
    return {image: texts[:count] for image, texts in captions.items()}


def untrained(settings: Settings, places: Places, tuned: Path) -> Path:
    """Write a tuned captioner with its style prompts as they were before training; return its folder."""
    captioner = load_captioner(tuned)
    options = settings.tuning
    add_styles(
        captioner,
        captioner.num_styles,
        options.style_tokens,
        options.style_init,
        places.seed,
        torch.float32,
    )
    folder = places.tuned("random_prompts")
    save_adapter(folder, captioner)
    return folder
