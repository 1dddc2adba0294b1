"""Captions of the pool for each row: the same images, the same number of captions each, whoever writes them.

As caption.py does it: styles are drawn from (seed, image path), rejected captions are drawn again. One difference: an image
whose captions stay rejected keeps its last one (and they are counted), so that all rows train on the same images and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ham.captioner.checkpoint import add_styles, load_captioner
from ham.captioner.engine import DecodeSettings
from ham.captioner.model import Captioner
from ham.generation.filters import reject_reason
from ham.generation.native_engine import CaptionerEngine
from ham.generation.style_draws import Draw, StylePlan
from ham.records import NO_STYLE, CaptionRow, path_below, read_json, read_jsonl
from ham.runtime import UsageError, progress
from ham.world.annotators import annotator_population
from ham.world.domains import POOL
from ham.world.manners import hint_of
from scripts.ablation.places import Places
from scripts.ablation.settings import Settings

Captions = dict[str, list[str]]
BATCH_IMAGES = 192


def write_captions(settings: Settings, places: Places, writes: str, clustering: str | None) -> Captions:
    """Give {image: captions}, as many for each image, in the manner of a row (`Row.writes`)."""
    images = read_json(places.pool_list)
    writers: dict[str, Callable[[], Captions]] = {
        "humans": lambda: human_captions(places, images, settings.captions.per_image),
        "first_of_both": lambda: {
            image: texts[:1] for image, texts in read_json(places.captions("both")).items()
        },
        "static": lambda: in_styles(settings, places, images, load_captioner(settings.llava), [NO_STYLE], 1),
        "sampled": lambda: in_styles(
            settings,
            places,
            images,
            load_captioner(settings.llava),
            [NO_STYLE],
            settings.captions.per_image,
            temperature=1.0,
        ),
        "templates": lambda: by_templates(settings, places, images),
        "random_prompts": lambda: in_all_styles(settings, places, images, untrained(settings, places)),
        "styles": lambda: in_all_styles(settings, places, images, load_captioner(places.tuned(clustering))),
    }
    captions = writers[writes]()
    count = 1 if writes == "first_of_both" else settings.captions.per_image
    return {image: (texts * count)[:count] for image, texts in captions.items()}


def in_all_styles(settings: Settings, places: Places, images: list[str], captioner: Captioner) -> Captions:
    """Caption each image in styles drawn for it; with a single style, all captions of an image are the same one."""
    styles = list(range(captioner.num_styles))
    return in_styles(
        settings, places, images, captioner, styles, min(settings.captions.per_image, len(styles))
    )


def in_styles(
    settings: Settings,
    places: Places,
    images: list[str],
    captioner: Captioner,
    styles: list[int],
    count: int,
    temperature: float = 0.0,
) -> Captions:
    """Caption each image `count` times with one captioner and one instruction."""
    plan = StylePlan(
        tuple(styles),
        shuffled=len(styles) > 1,
        captions_per_image=count,
        max_redraws=settings.captions.max_redraws if len(styles) > 1 or temperature else 0,
        seed=places.seed,
    )
    engine = CaptionerEngine(
        captioner, decoding(settings, settings.instruction, temperature, places.seed), BATCH_IMAGES, count
    )
    captions: Captions = {}
    for batch in progress(batches(images), -(-len(images) // BATCH_IMAGES), "captioning", "batch"):
        pixels = [engine.load(path_below(places.world / POOL, image)) for image in batch]
        rows: dict[str, list[CaptionRow]] = {image: [] for image in batch}
        while waiting := [
            (place, image, draws)
            for place, image in enumerate(batch)
            if (draws := plan.replay(image, rows[image])[1])
        ]:
            made = engine.caption(
                [image for _, image, _ in waiting],
                [pixels[place] for place, _, _ in waiting],
                [draws for _, _, draws in waiting],
            )
            for (_, image, draws), texts in zip(waiting, made, strict=True):
                rows[image] += [row_of(image, draw, one.text) for draw, one in zip(draws, texts, strict=True)]
        captions |= {
            image: chosen([row.caption for row in plan.replay(image, rows[image])[0]], count)
            for image in batch
        }
    return captions


def by_templates(settings: Settings, places: Places, images: list[str]) -> Captions:
    """Caption each image under hints drawn for it, with the untuned captioner: each hint is an instruction of its own."""
    hints = template_hints(places.seed, settings.captions.templates)
    count = min(settings.captions.per_image, len(hints))
    plan = StylePlan(tuple(range(len(hints))), True, count, 0, places.seed)
    captioner = load_captioner(settings.llava)
    asked: dict[int, list[str]] = {}
    for image in images:
        for number in plan.sequence(image)[:count]:
            asked.setdefault(number, []).append(image)
    captions: Captions = {image: [] for image in images}
    for number in progress(sorted(asked), what="captioning", unit="template"):
        engine = CaptionerEngine(
            captioner,
            decoding(settings, f"{settings.instruction} {hints[number]}", 0.0, places.seed),
            BATCH_IMAGES,
        )
        for batch in batches(asked[number]):
            pixels = [engine.load(path_below(places.world / POOL, image)) for image in batch]
            made = engine.caption(batch, pixels, [[Draw(NO_STYLE, 0)]] * len(batch))
            for image, texts in zip(batch, made, strict=True):
                captions[image].append(texts[0].text)
    return {image: chosen(texts, count) for image, texts in captions.items()}


def human_captions(places: Places, images: list[str], count: int) -> Captions:
    """Give the captions that the training annotators wrote of the pool: the world's truth."""
    wanted: Captions = {image: [] for image in images}
    for row in read_jsonl(places.world / "truth" / f"{POOL}-captions.jsonl"):
        if row["image_path"] in wanted:
            wanted[row["image_path"]].append(row["caption"])
    return {image: texts[:count] for image, texts in wanted.items()}


# ------------------------------------------------------------------------------------------------------------------ parts


def untrained(settings: Settings, places: Places) -> Captioner:
    """Give the captioner of `both` with its prompts as they were before the first step; the projector stays tuned."""
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
    """Name `count` different manners of people who write for no benchmark, as short textual hints."""
    hints = list(
        dict.fromkeys(hint_of(one.manner) for one in annotator_population(seed, "templates", 4 * count))
    )
    if len(hints) < count:
        raise UsageError(
            f"captions.templates {count}: only {len(hints)} different hints were found; lower it"
        )
    return hints[:count]


def decoding(settings: Settings, prompt: str, temperature: float, seed: int) -> DecodeSettings:
    return DecodeSettings(prompt, None, settings.captions.max_new_tokens, temperature, 1.0, seed)


def row_of(image: str, draw: Draw, text: str) -> CaptionRow:
    reason = reject_reason(text)
    return CaptionRow(image, text, draw.style_id, draw.attempt, "rejected" if reason else "accepted", reason)


def chosen(texts: list[str], count: int) -> list[str]:
    """Give `count` of an image's texts: the accepted ones, then the last rejected ones."""
    accepted = [text for text in texts if not reject_reason(text)]
    rejected = [text for text in texts if reject_reason(text)]
    return (accepted + rejected[::-1])[:count]


def batches(images: list[str]) -> Iterator[list[str]]:
    yield from (images[start : start + BATCH_IMAGES] for start in range(0, len(images), BATCH_IMAGES))
