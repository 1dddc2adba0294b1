"""The command line `python -m ham.datasets verify | template | crop | pack`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham.datasets.own import annotations_in, is_own
from ham.datasets.own_settings import SETTINGS_FILE
from ham.datasets.pack import CHROMA, QUALITY, PackJob, pack_dataset, pack_images
from ham.datasets.person_search import SCENES, crop_scenes
from ham.datasets.readers import DATASETS, check_names
from ham.datasets.template import FORMATS, write_template
from ham.datasets.verify import verify
from ham.image_folder import list_images
from ham.runtime import UsageError, set_up_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = build_parser().parse_args(arguments)
    set_up_logging()
    commands = {"verify": run_verify, "template": run_template, "crop": run_crop, "pack": run_pack}
    return commands[options.command](options)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ham.datasets", description="Check, write and prepare datasets on disk."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_verify(commands)
    add_template(commands)
    add_crop(commands)
    add_pack(commands)
    return parser


def add_verify(commands: Any) -> None:
    """Add the command `verify`."""
    command = commands.add_parser(
        "verify",
        help="print counts beside the published ones and list problems; exit code 1 if there is any",
    )
    command.add_argument(
        "root",
        help="the folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on; or a folder of your own, or NAME=PATH",
    )
    command.add_argument(
        "--dataset",
        metavar="NAME",
        action="append",
        help=f"check only this one (repeat for several); by default all that are there: {', '.join(DATASETS)}, or "
        "NAME=PATH for your own",
    )


def add_template(commands: Any) -> None:
    """Add the command `template`."""
    command = commands.add_parser(
        "template", help="write an annotation skeleton for your own images, to fill in"
    )
    command.add_argument("folder", type=Path, help="the new dataset's folder")
    command.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of images")
    command.add_argument("--format", choices=FORMATS, default="csv", help="format of the annotation (csv)")


def add_crop(commands: Any) -> None:
    """Add the command `crop`."""
    command = commands.add_parser(
        "crop", help="cut the captioned persons out of a person-search set's scenes"
    )
    command.add_argument("root", type=Path, help="the folder that holds the dataset's folder")
    command.add_argument("--dataset", choices=list(SCENES), required=True, help="which set")


def add_pack(commands: Any) -> None:
    """Add the command `pack`."""
    command = commands.add_parser(
        "pack",
        help="decode and resize images once, into shards that training reads fast; the same command resumes",
    )
    command.add_argument("root", type=Path, nargs="?", help="data root, with --dataset")
    command.add_argument(
        "--dataset", metavar="NAME", help="pack this dataset; --out becomes a data root with it"
    )
    command.add_argument(
        "--images", type=Path, metavar="DIR", help="pack a folder of images; --out becomes the pack"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pack goes")
    command.add_argument(
        "--image-size-px", type=int, nargs=2, default=(384, 128), metavar=("HEIGHT", "WIDTH"), help="384 128"
    )
    command.add_argument("--quality", type=int, default=QUALITY, help=f"of the JPEGs ({QUALITY})")
    command.add_argument(
        "--chroma",
        choices=list(CHROMA),
        default="half",
        help="resolution of the color channels; full for images far below 384x128, where half loses accuracy",
    )
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    command.add_argument(
        "--max-failed-share",
        type=float,
        default=0.01,
        help="share of broken images above which it fails (0.01)",
    )


def run_verify(options: argparse.Namespace) -> int:
    root, specs = Path(options.root), options.dataset
    if is_own(options.root):
        root, specs = Path(), [options.root, *(specs or [])]
    elif not root.is_dir():
        raise UsageError(
            f"{root}: no such folder; expected the folder that holds CUHK-PEDES/ and the others, or one of your own"
        )
    elif not specs:
        specs = [name for name in DATASETS if (root / name).is_dir()]
        if not specs and ((root / SETTINGS_FILE).is_file() or annotations_in(root)):
            specs = [f"{root.resolve().name or 'own'}={root}"]
    if not specs:
        raise UsageError(
            f"{root} holds no dataset; looked for the folders {', '.join(DATASETS)} and for an annotation of your own"
        )
    check_names(specs)
    return int(verify(root, specs, sys.stdout.write) > 0)


def run_template(options: argparse.Namespace) -> int:
    out = write_template(options.folder, options.images, options.format)
    sys.stdout.write(
        f"{out}: fill in the captions (required), identity and split (optional), then\n"
        f"python -m ham.datasets verify {options.folder}\n"
    )
    return 0


def run_crop(options: argparse.Namespace) -> int:
    return 0 if crop_scenes(options.root, options.dataset) else 1


def run_pack(options: argparse.Namespace) -> int:
    size_px = tuple(options.image_size_px)
    if options.workers < 1:
        raise UsageError(f"--workers is {options.workers}; expected at least 1")
    if (options.images is None) == (options.dataset is None):
        raise UsageError("give either --images DIR, or ROOT --dataset NAME")
    if options.images is not None:
        images = tuple(sorted(list_images(options.images)))
        job = PackJob(images, options.images, options.out, size_px, options.quality, options.chroma)
        out = pack_images(job, options.workers, options.max_failed_share)
    else:
        if options.root is None and not is_own(options.dataset):
            raise UsageError("--dataset needs ROOT, the folder that holds it")
        check_names([options.dataset])
        out = pack_dataset(
            options.root or Path(),
            options.dataset,
            options.out,
            size_px,
            options.quality,
            options.chroma,
            options.workers,
            options.max_failed_share,
        )
    sys.stdout.write(f"{out}\n")
    return 0
