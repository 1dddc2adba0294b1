"""Check datasets on disk: `python -m ham.datasets verify ROOT [--dataset NAME]`.

Prints ids, images and captions of each split beside the published figures, then what is wrong. Differing figures are shown
and are no error (an embedded world or a subset differs); broken files and contradictions are.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ham.datasets.readers import LAYOUTS, image_root, read_dataset
from ham.records import PersonImage, path_below
from ham.runtime import UsageError, progress, set_up_logging

LISTED = 10  # findings of one kind that are listed in full; the others are counted
SPLITS = ("train", "val", "test")
Findings = dict[str, list[str]]


def image_problem(path: Path) -> str | None:
    """Say what is wrong with an image file: "missing images", "zero-byte images", "unreadable images" or None.

    Decodes to the end, a JPEG at an eighth of its size, because a header alone does not show a file cut short.
    """
    if not path.is_file():
        return "missing images"
    if path.stat().st_size == 0:
        return "zero-byte images"
    try:
        with Image.open(path) as image:
            image.draft("L", (1, 1))
            image.load()
    except (
        Exception
    ):  # a decoder fed with broken bytes raises OSError, SyntaxError, struct.error, EOFError and more
        return "unreadable images"
    return None


def find_problems(records: Sequence[PersonImage], folder: Path) -> Findings:
    """List what is wrong with a dataset's records and image files, by kind. folder: the image root."""
    findings: Findings = defaultdict(list)
    splits_of: defaultdict[int, set[str]] = defaultdict(set)
    captions_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.person_id != -1:
            splits_of[record.person_id].add(record.split)
        captions_of[record.image_path].update(record.captions)
        if not record.captions:
            findings["images without a caption"].append(record.image_path)
    for image, captions in captions_of.items():
        findings["empty captions"] += [image for caption in captions if not caption.strip()]
        findings["captions given twice to one image"] += [
            f"{image}: {caption}" for caption, times in captions.items() if times > 1 and caption.strip()
        ]
    findings["identities in several splits"] = [
        f"id {person}: {', '.join(sorted(splits))}" for person, splits in splits_of.items() if len(splits) > 1
    ]

    def check(image: str) -> tuple[str | None, str]:
        try:
            return image_problem(path_below(folder, image)), image
        except UsageError:
            return "image paths that leave the image folder", image

    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:
        for problem, image in progress(
            pool.map(check, captions_of), len(captions_of), f"images of {folder}", "image"
        ):
            if problem:
                findings[problem].append(image)
    return {kind: found for kind, found in findings.items() if found}


def find_notes(records: Sequence[PersonImage]) -> Findings:
    """List what is unusual but not wrong: images in several records, one wording for several images."""
    records_of = Counter(record.image_path for record in records)
    images_of: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        for caption in record.captions:
            images_of[caption].add(record.image_path)
    notes = {
        "images in several records": [image for image, times in records_of.items() if times > 1],
        "captions shared by several images": [
            f"{len(images)} images: {caption}"
            for caption, images in images_of.items()
            if len(images) > 1 and caption.strip()
        ],
    }
    return {kind: found for kind, found in notes.items() if found}


def table_rows(name: str, records: Sequence[PersonImage]) -> list[tuple[str, ...]]:
    """Give a row for each split: dataset, split, then ids, images, captions, each found and published."""
    rows = []
    for split in SPLITS:
        of_split = [record for record in records if record.split == split]
        published = LAYOUTS[name].published.get(split)
        if not of_split and published is None:
            continue
        persons = {record.person_id for record in of_split} - {-1}
        found = (
            len(persons) if persons else "-",
            len({record.image_path for record in of_split}),
            sum(len(record.captions) for record in of_split),
        )
        pairs = zip(found, published or ("-", "-", "-"))
        rows.append((name, split, *(str(value) for pair in pairs for value in pair)))
    return rows


def verify(root: Path, names: Sequence[str]) -> int:
    """Write the table and the findings of datasets below `root` to standard output; return how many things are wrong."""
    header = ("dataset", "split", "ids", "published", "images", "published", "captions", "published")
    table, reports, wrong = [header], [], 0
    for name in names:
        records = read_dataset(root, name)
        if not records:
            raise UsageError(f"{name}: its annotation holds no record")
        problems = find_problems(records, image_root(root, name))
        wrong += sum(map(len, problems.values()))
        table += table_rows(name, records)
        for word, findings in (("WRONG", problems), ("note", find_notes(records))):
            for kind, found in findings.items():
                shown = found[: LISTED if word == "WRONG" else 3]
                more = [f"... and {len(found) - len(shown)} more"] * (len(found) > len(shown))
                reports.append("\n    ".join([f"{name}: {word}: {len(found)} {kind}", *shown, *more]))
    write = sys.stdout.write
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        write(
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths))
            )
            + "\n"
        )
    write("\n".join(["", *reports, "nothing is wrong" if wrong == 0 else f"{wrong} things are wrong", ""]))
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ham.datasets", description="Check datasets on disk.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify",
        help="print counts beside the published ones and list what is wrong; exit code 1 if anything is",
    )
    command.add_argument("root", type=Path, help="the folder that holds CUHK-PEDES/, ICFG-PEDES/ and so on")
    command.add_argument(
        "--dataset",
        choices=list(LAYOUTS),
        action="append",
        help="check only this one (repeat for several); by default all that are there",
    )
    options = parser.parse_args(arguments)
    set_up_logging()
    if not options.root.is_dir():
        raise UsageError(
            f"{options.root}: no such folder; expected the folder that holds CUHK-PEDES/ and the others"
        )
    names = options.dataset or [name for name in LAYOUTS if (options.root / name).is_dir()]
    if not names:
        raise UsageError(f"{options.root} holds no dataset; looked for the folders {', '.join(LAYOUTS)}")
    return int(verify(options.root, names) > 0)
