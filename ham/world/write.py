"""Make one image or one text of the plan: drawn, described and written. Runs in worker processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ham.runtime import numpy_generator
from ham.world.annotators import Description, hint_of, plain_description, short_description
from ham.world.camera import jpeg_bytes
from ham.world.domains import DOMAINS, FOUNDATION, POOL
from ham.world.draw import draw_person
from ham.world.plan import Shot, WorldPlan
from ham.world.scene import sample_scene, visible_attributes
from ham.world.wardrobe import sample_persons

PLAIN_SHARE = 0.15  # of the texts without image: the language model must know the plain manner too
FOUNDATION_HINTED = 2  # hinted captions of each foundation image beside its plain one


def image_root_of(out: Path, domain: str) -> Path:
    """Return the folder that a domain's image paths start from."""
    return out / domain if domain == POOL else out / domain / "imgs"


def take_shot(plan: WorldPlan, shot: Shot, out: Path) -> dict[str, Any]:
    """Draw and write one image; return what is to be written about it.

    Returns: {"image": the row of truth, "captions": rows of truth, and for the pool "plain" and "short", for the foundation
    "hinted" and "short"}.
    """
    domain = DOMAINS[shot.domain]
    rng = numpy_generator(plan.seed, "picture", shot.domain, shot.image_path)
    camera = plan.cameras[shot.domain][shot.camera]
    scene = sample_scene(rng, domain.framing, camera.place)
    height = round(int(rng.integers(domain.height_px[0], domain.height_px[1] + 1)) * plan.preset.height_scale)
    size_px = (height, round(height / 3 * float(rng.uniform(0.98, 1.12))))
    picture = draw_person(shot.person.attributes, shot.person.looks, scene, camera, size_px, rng)
    file = image_root_of(out, shot.domain) / shot.image_path
    write_file(file, jpeg_bytes(picture, camera.quality))
    seen = visible_attributes(shot.person.attributes, scene)
    return {
        "image": {
            "image_path": shot.image_path,
            "person_id": shot.person.person_id,
            "split": shot.split,
            "camera": shot.camera,
            "attributes": seen,
        },
        **describe_shot(plan, shot, seen),
    }


def write_file(file: Path, data: bytes) -> None:
    """Write a file and its folders. An OSError, such as a full disk, names the file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def describe_shot(plan: WorldPlan, shot: Shot, seen: dict[str, str]) -> dict[str, Any]:
    """Write the captions of one image."""
    rng = numpy_generator(plan.seed, "captions", shot.domain, shot.image_path)
    writers = plan.writers[f"{shot.domain}/{shot.split}"]
    if shot.domain == FOUNDATION:
        hinted = [
            {
                "image_path": shot.image_path,
                "caption": plain_description(seen, rng).text,
                "hint": "",
                "manner": {},
            }
        ]
        for annotator in writers.draw(rng, FOUNDATION_HINTED):
            hinted.append(
                {
                    "image_path": shot.image_path,
                    "caption": annotator.describe(seen, rng).text,
                    "hint": hint_of(annotator.manner),
                    "manner": annotator.manner,
                }
            )
        return {"captions": [], "hinted": hinted, "short": short_description(seen, rng).text}
    captions = []
    count = plan.preset.pool_human_captions if shot.domain == POOL else DOMAINS[shot.domain].captions
    for annotator in writers.draw(rng, count):
        told: Description = annotator.describe(seen, rng)
        captions.append(
            {
                "image_path": shot.image_path,
                "caption": told.text,
                "annotator_id": annotator.annotator_id,
                "manner": annotator.manner,
                "mentioned": told.mentioned,
            }
        )
    if shot.domain == POOL:
        return {
            "captions": captions,
            "plain": plain_description(seen, rng).text,
            "short": short_description(seen, rng).text,
        }
    return {"captions": captions}


def write_texts(plan: WorldPlan, start: int, stop: int) -> list[str]:
    """Write captions without images, of persons that are not drawn, in all manners and the plain one."""
    domain, writers = DOMAINS[FOUNDATION], plan.writers[f"{FOUNDATION}/train"]
    texts = []
    for index in range(start, stop):
        rng = numpy_generator(plan.seed, "text", index)
        person = sample_persons(rng, plan.wardrobes[FOUNDATION], 1, 0, 0.0)[0]
        seen = visible_attributes(person.attributes, sample_scene(rng, domain.framing))
        plain = rng.random() < PLAIN_SHARE
        texts.append(
            (plain_description(seen, rng) if plain else writers.draw(rng, 1)[0].describe(seen, rng)).text
        )
    return texts


def processed_tokens(caption: str) -> list[str]:
    """Split a caption into lower-case words, as the `processed_tokens` of CUHK-PEDES and ICFG-PEDES."""
    return re.findall(r"[a-z0-9']+", caption.lower())
