"""Stage 1: turn the training captions of one or several datasets into styles and instruction data.

    python scripts/build_styles.py --config configs/styles_table1.yaml --root data --out work/styles [--clusters.kmeans 500 ...]
    python scripts/build_styles.py inspect work/styles          writes work/styles/inspect.html, a page about the styles

The same command again continues or does nothing. Training the captioner then takes OUT/instructions.json, with --root as its
image folder. Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jsonargparse import ArgumentParser, set_parsing_settings

from ham.records import atomic_write
from ham.runtime import UsageError, exit_code_of, set_up_logging
from ham.style.build import build_styles
from ham.style.config import StyleSettings
from ham.style.config_file import normalize_words

COMMANDS = ("build", "inspect")


def build_parser() -> ArgumentParser:
    """Build the parser of `build`: every option of ham.style.config, from --config files and the command line."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="build_styles.py", description=__doc__)
    parser.add_argument(
        "--config", action="config", help="YAML file of options; options after it override it"
    )
    parser.add_class_arguments(StyleSettings)
    return parser


def inspect_parser() -> ArgumentParser:
    """Build the parser of `inspect`."""
    parser = ArgumentParser(
        prog="build_styles.py inspect", description="Write a page that shows what the styles are."
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
    """Parse the options, run stage 1, and write the resolved options beside its output."""
    parser = build_parser()
    config = parser.parse_args(normalize_words(words))
    config.pop("config", None)
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
    for name in ("clusters", "captions"):
        if options[name] < 1:
            raise UsageError(f"--{name} is {options[name]}; expected 1 or more")
    page = Path(options.out or Path(options.styles) / "inspect.html")
    write_page(page, look_at(Path(options.styles), options.clusters, options.captions, options.seed))
    print(page)


def main() -> None:
    set_up_logging()
    words = sys.argv[1:]
    command = "build"
    if words and words[0] in COMMANDS:
        command = words.pop(0)
    if command == "build" and not words:
        raise UsageError(
            "no options given; try --config configs/styles_table1.yaml --root DATA --out work/styles, or --help"
        )
    {"build": build, "inspect": inspect}[command](words)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
