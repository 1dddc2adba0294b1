"""`python -m ham.world build --out DIR --preset nano|demo|full --seed 0`: build the synthetic dataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ham.runtime import exit_code_of, set_up_logging
from ham.world.build import build_world
from ham.world.domains import PRESETS

BUILD = (
    "Draw and describe a world. The same preset and seed give the same bytes on every machine with the same "
    "library versions. A folder that already holds this world is left as it is; a build that was stopped starts over."
)


def folder(text: str) -> Path:
    """Parse a folder option; an empty one would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; expected a folder")
    return Path(text)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ham.world",
        description="The synthetic dataset: drawn pedestrians, simulated annotators.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="draw and describe a world", description=BUILD)
    build.add_argument("--out", type=folder, required=True, metavar="DIR", help="a new or empty folder")
    build.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="demo",
        help="nano: seconds, for tests; demo (default): two minutes on two cores; full: for long experiments; "
        "weights: what the stand-in captioner is made of",
    )
    build.add_argument("--seed", type=int, default=0, help="another seed, another world (default 0)")
    build.add_argument(
        "--without-foundation",
        action="store_true",
        help="leave out the images and texts that only the stand-in weights are made of: half of the work; "
        "everything else is the same",
    )
    build.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes (default: one for each core)"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(words)
    set_up_logging()
    build_world(
        arguments.out, arguments.preset, arguments.seed, arguments.workers, not arguments.without_foundation
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
