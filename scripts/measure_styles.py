"""Measure stage 1 on simulated captions, whose annotators are known, and on real ones: the tables of ham/style/README.md.

    python scripts/measure_styles.py --out work/measure_styles.md [--clip WEIGHTS] [--hf FOLDER]
    python scripts/measure_styles.py --captions FILE [FILE ...] --tables surface presence damage lonely --out work/real.md

Simulated captions are written by the world's annotators about random pedestrians; no image is drawn. `--captions` measures
real ones instead: a JSON list of {caption} records or a text file, a caption a line. Takes some minutes.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the parts are in scripts.style_tables

from ham.records import atomic_write
from ham.runtime import UsageError, exit_code_of, set_up_logging
from ham.style.neutral import lexicon_neutralizer
from scripts.style_tables.captions import read_captions, simulate_captions
from scripts.style_tables.coverage import geometry_rows, lonely_rows, rare_manner_rows
from scripts.style_tables.damage import damage_rows, example_lines
from scripts.style_tables.features import PRESENCE, feature_rows, presence_rows
from scripts.style_tables.surface import surface_rows

RARE_HEADER = [
    "scheme",
    "setting",
    "clusters",
    "AMI manner",
    "captions covered, %",
    "rare captions covered, %",
]
RARE_HEADER += ["rare manners with a cluster, %", "rare captions drawn / in data", "effective manners"]
LONELY_HEADER = ["scheme", "setting", "clusters", "captions covered, %", "loneliest tenth covered, %"]
LONELY_HEADER += ["loneliest tenth drawn / in data"]
GEOMETRY_HEADER = ["power", "UPS", "prototype's / caption's distance", "rare / other captions' distance"]
GEOMETRY_HEADER += [
    "rare / other captions' 10th neighbor",
    "taken with distance, r",
    "taken with loneliness, r",
]
GEOMETRY_HEADER += ["taken: rare / other"]
FEATURE_HEADER = [
    "neutralizer",
    "encoder",
    "AMI annotator",
    "AMI syntax",
    "AMI register",
    "annotator",
    "syntax",
]
FEATURE_HEADER += ["register", "capitals", "hedging", "attributes", "most telling attribute"]
PRESENCE_HEADER = ["neutralizer", "encoder", *PRESENCE, "gender"]
DAMAGE_HEADER = ["broken place", "", "captions, %"]

GROUPS = ("CUHK-PEDES", "ICFG-PEDES", "RSTPReid")
SURFACE_HEADER = [
    "figure",
    "these captions",
    *(f"{group}-like" for group in GROUPS),
    f"{GROUPS[0]}-like / these",
]

REAL_TABLES = ("surface", "presence", "damage", "lonely")
TABLES = ("rare", "geometry", "features", *REAL_TABLES)


def build_parser() -> ArgumentParser:
    """Build the parser of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", default="work/measure_styles.md", help="Markdown file to write [%(default)s]")
    add("--tables", nargs="+", choices=TABLES, help="tables to make [all that the captions allow]")
    add(
        "--captions", nargs="+", default=[], metavar="FILE", help="measure these captions, not simulated ones"
    )
    add("--count", type=int, default=6000, help="simulated captions [%(default)s]")
    add("--annotators", type=int, default=300, help="simulated annotators [%(default)s]")
    add("--styles", type=int, default=60, help="clusters in all [%(default)s]")
    add("--dim", type=int, default=128, help="dimensions of the surface features [%(default)s]")
    add(
        "--seeds",
        type=int,
        default=4,
        help="worlds and clusterings of the tables with deviations [%(default)s]",
    )
    add("--clip", help="also measure the text tower of these CLIP weights (table features)")
    add("--hf", help="also measure this Hugging Face text encoder (table features)")
    add("--examples", metavar="FILE", help="also write every caption with a broken place here, for reading")
    return parser


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def simulated_tables(options: Namespace, show: Callable[[str], None]) -> None:
    """Make the tables that need known annotators."""
    if "rare" in options.tables:
        for steepness in (1.0, 2.0):
            rows = rare_manner_rows(
                steepness, options.count, options.annotators, options.styles, options.dim, options.seeds
            )
            show(f"Annotators' shares to the power {steepness:g}:\n\n" + table(RARE_HEADER, rows))
    if "geometry" in options.tables:
        show(table(GEOMETRY_HEADER, geometry_rows(options.count, options.annotators, options.dim)))
    if "features" in options.tables:
        captions = simulate_captions(options.count, options.annotators, 1.0, 0)
        rows = feature_rows(captions, options.styles, options.dim, options.clip, options.hf)
        show(table(FEATURE_HEADER, rows))


def common_tables(options: Namespace, captions: list[str], show: Callable[[str], None]) -> None:
    """Make the tables that any captions allow."""
    if "surface" in options.tables and options.captions:
        simulated = [
            [one.caption for one in simulate_captions(options.count, options.annotators, 1.0, 0, (group,))]
            for group in GROUPS
        ]
        show(table(SURFACE_HEADER, surface_rows(captions, simulated)))
    if "presence" in options.tables:
        show(table(PRESENCE_HEADER, presence_rows(captions, options.dim)))
    neutral = lexicon_neutralizer()(captions)
    if "damage" in options.tables:
        show(table(DAMAGE_HEADER, damage_rows(neutral)))
    if options.examples:
        with atomic_write(options.examples) as file:
            file.writelines(example_lines(neutral))
    if "lonely" in options.tables:
        texts = [row.neutral for row in neutral]
        show(table(LONELY_HEADER, lonely_rows(texts, options.styles, options.dim, options.seeds)))


def main() -> None:
    options = build_parser().parse_args()
    set_up_logging()
    options.tables = options.tables or (REAL_TABLES if options.captions else TABLES)
    unfit = [name for name in options.tables if options.captions and name not in REAL_TABLES]
    if unfit:
        raise UsageError(
            f"--tables {' '.join(unfit)}: need known annotators; --captions allows {' '.join(REAL_TABLES)}"
        )
    captions = [caption for path in options.captions for caption in read_captions(path)]
    parts: list[str] = []

    def show(part: str) -> None:
        parts.append(part)
        print(part, flush=True)
        with atomic_write(options.out) as file:
            file.write("\n".join(parts))

    source = "simulated captions" if not captions else f"captions of {', '.join(options.captions)}"
    show(f"{len(captions) or options.count} {source}, {options.styles} styles.\n")
    if not captions:
        simulated_tables(options, show)
        captions = [one.caption for one in simulate_captions(options.count, options.annotators, 1.0, 0)]
    common_tables(options, captions, show)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
