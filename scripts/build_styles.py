"""Stage 1: turn the training captions of one or several datasets into styles and instruction data.

    python scripts/build_styles.py --config configs/styles_table1.yaml --root data --out work/styles [--clusters.kmeans 500 ...]
    python scripts/build_styles.py inspect work/styles          writes work/styles/inspect.html, for a person to look at

The same command again continues or does nothing. Finetuning then takes OUT/instructions.json with --root as its image folder.
"""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jsonargparse import ArgumentParser

from ham.records import atomic_write
from ham.runtime import UsageError, exit_code_of, set_up_logging
from ham.style.build import build_styles
from ham.style.config import StyleSettings

COMMANDS = ("build", "inspect")


def build_parser() -> ArgumentParser:
    """Make the parser of `build`: every setting of ham.style.config, from --config files and the command line."""
    parser = ArgumentParser(prog="build_styles.py", description=__doc__)
    parser.add_argument(
        "--config", action="config", help="YAML file with settings; options after it override it"
    )
    parser.add_class_arguments(StyleSettings)
    return parser


def inspect_parser() -> ArgumentParser:
    """Make the parser of `inspect`."""
    parser = ArgumentParser(
        prog="build_styles.py inspect", description="Write a page that shows a person what the styles are."
    )
    parser.add_argument("styles", type=str, help="folder that build_styles.py made")
    parser.add_argument("--out", type=str, default=None, help="page to write [STYLES/inspect.html]")
    parser.add_argument(
        "--clusters", type=int, default=12, help="clusters whose most typical captions are shown"
    )
    parser.add_argument("--captions", type=int, default=6, help="captions shown of each")
    parser.add_argument(
        "--seed", type=int, default=0, help="which clusters and which part of the map is drawn"
    )
    return parser


def build(words: list[str]) -> None:
    """Read the settings, run stage 1, and keep the resolved settings beside its output."""
    parser = build_parser()
    config = parser.parse_args(words)
    made = (
        parser.instantiate(config) if hasattr(parser, "instantiate") else parser.instantiate_classes(config)
    )
    settings = StyleSettings(**{field.name: made[field.name] for field in fields(StyleSettings)})
    out = build_styles(settings)
    with atomic_write(out / "config.yaml") as file:
        file.write(parser.dump(config))


def inspect(words: list[str]) -> None:
    """Write the page of one styles/ folder."""
    from ham.report.style_map import write_page
    from ham.style.analysis import look_at

    options = inspect_parser().parse_args(words)
    page = Path(options.out or Path(options.styles) / "inspect.html")
    write_page(page, look_at(Path(options.styles), options.clusters, options.captions, options.seed))
    print(page)


def main() -> None:
    set_up_logging()
    command, words = (
        (sys.argv[1], sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in COMMANDS else ("build", sys.argv[1:])
    )
    if command == "build" and not words:
        raise UsageError(
            "no settings given; try --config configs/styles_table1.yaml --root DATA --out work/styles, or --help"
        )
    {"build": build, "inspect": inspect}[command](words)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
