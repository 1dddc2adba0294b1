"""Measure a folder of captions of the synthetic dataset's pool: truth and variety, beside the untuned model's and people's.

    python -m scripts.world.judge_captions --captions runs/demo/captions --world runs/demo/world
    python caption.py --model-path ham/world/weights/llava --styles none --image-root runs/demo/world/SYNTH-PEDES \\
        --out runs/demo/captions_untuned
    python -m scripts.world.judge_captions --captions runs/demo/captions --world runs/demo/world \\
        --beside runs/demo/captions_untuned

Reads captions.json of caption.py and the world's truth. Only images that every row has captions of count; variety is measured
on equally many captions of each, as distinct-1/2 fall when a set grows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ham.generation.diversity import measure
from ham.records import read_json, read_jsonl, write_json
from ham.runtime import UsageError, exit_code_of, git_revision, log, numpy_generator, set_up_logging
from ham.world.parser import score_content

POOL = "SYNTH-PEDES"
COLUMNS = ("precision", "recall", "f1", "distinct_1", "distinct_2", "self_bleu", "different", "words_mean")

Captions = dict[str, list[str]]  # image -> its captions


def main() -> None:
    options = parse_arguments()
    set_up_logging()
    writers = {"captions": read_captions(options.captions)}
    if options.beside:
        writers["untuned"] = read_captions(options.beside)
    writers["humans"] = human_captions(options.world)
    truths = {
        row["image_path"]: row["attributes"]
        for row in read_jsonl(options.world / "truth" / f"{POOL}-images.jsonl")
    }
    rows = judge(writers, truths, options.seed, options.varied_captions)
    print(format_table(rows))
    out = options.out or options.captions / "judged.json"
    write_json(
        out,
        {
            "git_revision": git_revision(),
            "unit": "percent, words_mean in words",
            "captions": str(options.captions),
            "untuned": str(options.beside or ""),
            "world": str(options.world),
            "rows": rows,
        },
    )
    log.info("figures: %s", out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--captions", type=Path, required=True, help="output folder of caption.py, of the pool of --world"
    )
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument(
        "--beside", type=Path, help="another output folder of caption.py: that of the untuned model"
    )
    parser.add_argument(
        "--varied-captions", type=int, default=5000, help="captions per row that variety is measured on"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses them")
    parser.add_argument(
        "--out", type=Path, help="JSON file for the figures (default: judged.json in --captions)"
    )
    return parser.parse_args()


def read_captions(folder: Path) -> Captions:
    """Read what a captioning run accepted. Raises UsageError when it is not merged yet."""
    if not (folder / "captions.json").is_file():
        raise UsageError(
            f"{folder}: no captions.json; run caption.py to its end, or `python caption.py merge {folder}`"
        )
    return read_json(folder / "captions.json")


def human_captions(world: Path) -> Captions:
    """Return the captions of the pool that the world's annotators wrote: the ceiling of a captioner that learns from them."""
    found: Captions = {}
    for row in read_jsonl(world / "truth" / f"{POOL}-captions.jsonl"):
        found.setdefault(row["image_path"], []).append(row["caption"])
    return found


def judge(
    writers: dict[str, Captions],
    truths: dict[str, dict[str, str]],
    seed: int = 0,
    varied_captions: int = 5000,
) -> list[dict[str, Any]]:
    """Return one row per writer, over the images that all of them captioned.

    precision: of the claims, against all that shows; recall: of what is worth mentioning; f1 of the two; the rest as in
    `ham.generation.diversity`. Percent. Raises UsageError when they share no image of the world.
    """
    shared = [image for image in truths if all(image in captions for captions in writers.values())]
    if not shared:
        counts = ", ".join(f"{name} {len(captions)}" for name, captions in writers.items())
        raise UsageError(
            f"no image of the world's {len(truths)} has captions everywhere ({counts} images); is --world the one "
            "that was captioned?"
        )
    most = max(map(len, writers.values()))
    if len(shared) < most:
        log.warning(
            "%d images have captions in every row; the others, up to %d, are left out",
            len(shared),
            most - len(shared),
        )
    flat = {
        name: [(caption, truths[image]) for image in shared for caption in captions[image]]
        for name, captions in writers.items()
    }
    size = min(varied_captions, *map(len, flat.values()))
    rows = []
    for name, pairs in flat.items():
        chosen = numpy_generator(seed, "varied", name).permutation(len(pairs))[:size].tolist()
        varied = measure([pairs[place][0] for place in chosen], seed)
        content = score_content([caption for caption, _ in pairs], [truth for _, truth in pairs])
        rows.append(
            {
                "writer": name,
                "images": len(shared),
                **percent(content),
                **varied,
                "captions": len(pairs),
                "captions_for_variety": varied["captions"],
            }
        )
    return rows


def percent(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(100 * share, 2) for name, share in shares.items()}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = ["writer", "images", "captions", *COLUMNS]
    cells = [
        [
            str(row["writer"]),
            str(row["images"]),
            str(row["captions"]),
            *("" if row.get(name) is None else f"{row[name]:.2f}" for name in COLUMNS),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells)]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in (head, *cells)]
    return "\n".join(
        f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:])
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
