"""Write the captions that HAM is compared with: the untuned LLaVA of the world, prompted with one of 46 textual hints each.

    python -m scripts.world.write_templates --world runs/demo/world --out runs/demo/captions_template

46 is the paper's number of templates. Reads the pool's images and the pretrained stand-in; writes captions.json ({image:
[captions]}, paths as in SYNTH-PEDES) and templates.json (the hints, and how many captions caption.py would have rejected). The
first images are taken, in the order of `caption.py --limit`. Does nothing where the captions exist.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ham.datasets import image_root
from ham.generation.filters import reject_reason
from ham.generation.image_lists import job_images
from ham.records import read_json, write_json
from ham.runtime import UsageError, exit_code_of, log, set_up_logging
from ham.world.domains import POOL
from scripts.ablation.captions import CaptionJob, caption_under_hints, template_hints
from scripts.ablation.settings import CaptionOptions, Settings


@dataclass(frozen=True)
class Asked:
    """What decides the captions, beside the world and the captioner's weights."""

    images: int
    per_image: int
    templates: int
    seed: int


def main() -> None:
    options = parse_arguments()
    set_up_logging()
    asked = Asked(options.images, options.per_image, options.templates, options.seed)
    if is_there(options.out, asked):
        log.info("done before: %s", options.out / "captions.json")
        return
    captions = write(options.world, options.model_path, options.out, asked)
    print(
        f"{sum(map(len, captions.values()))} captions of {len(captions)} images: {options.out / 'captions.json'}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for captions.json")
    parser.add_argument(
        "--model-path", type=Path, default=Path("ham/world/weights/llava"), help="the untuned LLaVA"
    )
    parser.add_argument(
        "--images", type=int, default=600, help="images captioned, the first ones (default 600 or all)"
    )
    parser.add_argument(
        "--per-image", type=int, default=2, help="captions of an image, each under another hint (default 2)"
    )
    parser.add_argument("--templates", type=int, default=46, help="textual hints to draw from (default 46)")
    parser.add_argument("--seed", type=int, default=0, help="draws the hints, and each image's among them")
    return parser.parse_args()


def is_there(out: Path, asked: Asked) -> bool:
    """Return whether the captions are written. Raises UsageError where they are, but of something else."""
    if not (out / "captions.json").is_file():
        return False
    before = read_json(out / "templates.json").get("asked")
    if before != asdict(asked):
        raise UsageError(
            f"{out}: holds captions made with {before}, not {asdict(asked)}; delete it or name another --out"
        )
    return True


def write(world: Path, model: Path, out: Path, asked: Asked) -> dict[str, list[str]]:
    """Caption the images and write both files, captions.json last. Raises UsageError for a bad request, before any work."""
    for name, value in asdict(asked).items():
        if value < (name != "seed"):
            raise UsageError(f"--{name.replace('_', '-')} {value}: expected at least {int(name != 'seed')}")
    if asked.per_image > asked.templates:
        raise UsageError(
            f"--per-image {asked.per_image}: there are only {asked.templates} --templates for an image"
        )
    if not (world / "world.json").is_file():
        raise UsageError(
            f"--world {world}: no world.json; python -m ham.world build --out {world} makes a world"
        )
    if not model.is_dir():
        raise UsageError(
            f"--model-path {model}: no such folder; the stand-in is ham/world/weights/llava in the checkout"
        )
    images = list(islice(job_images(image_root(world, POOL)), asked.images))
    hints = template_hints(asked.seed, asked.templates)
    log.info(
        "%d images, %d captions each, %d hints such as: %s",
        len(images),
        asked.per_image,
        len(hints),
        hints[0],
    )
    write_json(out / "images.json", images)
    job = CaptionJob(
        folder=out / "jobs",
        model=model,
        image_root=image_root(world, POOL),
        images=out / "images.json",
        prompt=Settings.instruction,
        max_new_tokens=CaptionOptions.max_new_tokens,
        max_redraws=0,
        seed=asked.seed,
    )
    captions = caption_under_hints(job, hints, asked.per_image)
    rejected = sum(bool(reject_reason(text)) for texts in captions.values() for text in texts)
    about: dict[str, Any] = {
        "asked": asdict(asked),
        "captions": sum(map(len, captions.values())),
        "rejected": rejected,
        "hints": hints,
    }
    write_json(out / "templates.json", about)
    write_json(out / "captions.json", captions)
    if rejected:
        log.warning("%d captions are as caption.py would reject them; they are kept", rejected)
    return captions


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
