"""Check datasets on disk: `python -m ham.datasets verify ROOT [--dataset NAME]`, also for NAME=PATH of one's own.

Prints identities, images and captions of each split beside the published figures, then what was found, most serious first.
Figures that differ from the published ones are shown and are no problem (a synthetic dataset or a subset differs); broken files
and contradictions are.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from PIL import Image

from ham.datasets.base import SPLITS, UNKNOWN
from ham.datasets.image_pack import find_pack
from ham.datasets.own import is_own
from ham.datasets.readers import DATASETS, display_name, image_root, read_dataset
from ham.images import ImageError
from ham.records import PersonImage, path_below
from ham.runtime import UsageError, progress

LISTED = 10  # findings of one kind that are listed in full; the others are counted
NOTES_LISTED = 3
SHOWN_CHARS = 200  # of one finding
OUTSIDE = "image paths that leave the image folder"
MISSING = "missing images"
SERIOUS_FIRST = (
    "missing image folders",
    OUTSIDE,
    MISSING,
    "unreadable images",
    "zero-byte images",
    "identities in several splits",
    "images with several identities",
    "empty captions",
    "captions given twice to one image",
    "images without a caption",
)
Findings = dict[str, list[str]]


# --------------------------------------------------------------------------------------------------------- image files


def image_problem(path: Path) -> str | None:
    """Return what is wrong with an image file: "missing images", "zero-byte images", "unreadable images" or None.

    Decodes to the end, a JPEG at an eighth of its size, because a header alone does not show a file cut short.
    """
    try:
        if not path.is_file():
            return packed_problem(path)
        if path.stat().st_size == 0:
            return "zero-byte images"
    except (OSError, ValueError):  # a name that is too long for the file system, or with a zero byte
        return MISSING
    try:
        with Image.open(path) as image:
            image.draft("L", (1, 1))
            image.load()
    except (
        Exception
    ):  # broken bytes make decoders raise OSError, SyntaxError, struct.error, EOFError and more
        return "unreadable images"
    return None


def packed_problem(path: Path) -> str | None:
    """Return what is wrong with an image that is no file: it may be in a pack."""
    found = find_pack(path)
    if found is None:
        return MISSING
    pack, image = found
    if pack.row_of(image) is None:
        return MISSING
    try:
        pack.read(image)
    except ImageError:
        return "unreadable images"
    return None


def check_images(images: Sequence[str], folder: Path) -> Findings:
    """Return the image files that are missing, empty, unreadable or outside the folder, by kind."""

    def check(image: str) -> tuple[str | None, str]:
        try:
            return image_problem(path_below(folder, image)), image
        except UsageError:
            return OUTSIDE, image

    findings: Findings = defaultdict(list)
    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:
        results = pool.map(check, images)
        for problem, image in progress(results, len(images), f"images of {folder}", "image"):
            if problem:
                findings[problem].append(image)
    return findings


def missing_folders(missing: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """Split missing images into whole missing folders, each named once with its count, and single images."""
    count_of: Counter[str] = Counter()
    single = []
    for image in missing:
        parents = list(PurePosixPath(image).parents)[:-1]  # without "."
        absent = [
            parent for parent in parents if not _is_dir(folder / parent) and find_pack(folder / image) is None
        ]
        if absent:
            count_of[str(absent[-1])] += 1  # the outermost
        else:
            single.append(image)
    folders = [f"{folder / name}: {count} images of the annotation" for name, count in count_of.items()]
    return folders, single


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def prefix_hint(missing: Sequence[str], total: int, folder: Path) -> str:
    """Return advice where most images are missing but some are found by the end of their path; else an empty text."""
    if len(missing) * 2 < total:
        return ""
    for image in missing[:20]:
        pieces = PurePosixPath(image).parts
        for cut in range(1, len(pieces)):
            if image_problem(folder.joinpath(*pieces[cut:])) is None:
                prefix = "/".join(pieces[:cut]).replace("//", "/")
                return (
                    f"{image} is found without '{prefix}/': set `strip_prefix: {prefix}/` in dataset.yaml "
                    "(ham/datasets/README.md)"
                )
    return ""


# ------------------------------------------------------------------------------------------------------------- records


def find_problems(records: Sequence[PersonImage], folder: Path) -> Findings:
    """Return what is wrong with a dataset's records and image files, by kind, most serious first. folder: the image root."""
    findings: Findings = defaultdict(list)
    splits_of: defaultdict[int, set[str]] = defaultdict(set)
    persons_of: defaultdict[str, set[int]] = defaultdict(set)
    captions_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.person_id != UNKNOWN:
            splits_of[record.person_id].add(record.split)
        persons_of[record.image_path].add(record.person_id)
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
    findings["images with several identities"] = [
        f"{image}: ids {', '.join(map(str, sorted(persons)))}"
        for image, persons in persons_of.items()
        if len(persons) > 1
    ]
    findings.update(check_images(list(captions_of), folder))
    folders, single = missing_folders(findings.pop(MISSING, []), folder)
    findings["missing image folders"], findings[MISSING] = folders, single
    return {kind: findings[kind] for kind in SERIOUS_FIRST if findings[kind]}


def find_notes(records: Sequence[PersonImage]) -> Findings:
    """Return what is unusual but not wrong: images in several records, one caption or one file name for several images."""
    records_of = Counter(record.image_path for record in records)
    images_of: defaultdict[str, set[str]] = defaultdict(set)
    paths_of: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        for caption in record.captions:
            images_of[caption].add(record.image_path)
    for path in records_of:
        paths_of[PurePosixPath(path).name].append(path)
    unknown = [record.image_path for record in records if record.person_id == UNKNOWN]
    notes = {
        "images in several records": [image for image, times in records_of.items() if times > 1],
        "images of unknown identity (they never match a query)": unknown,
        "file names in several folders": [
            f"{name}: {', '.join(paths[:3])}" for name, paths in paths_of.items() if len(paths) > 1
        ],
        "captions shared by several images": [
            f"{len(images)} images: {caption}"
            for caption, images in images_of.items()
            if len(images) > 1 and caption.strip()
        ],
    }
    return {kind: found for kind, found in notes.items() if found}


# -------------------------------------------------------------------------------------------------------------- report


def table_rows(spec: str, records: Sequence[PersonImage]) -> list[tuple[str, ...]]:
    """Return a row for each split: dataset, split, then identities, images, captions, each found and published."""
    dataset = DATASETS.get(spec)
    rows = []
    for split in SPLITS:
        of_split = [record for record in records if record.split == split]
        published = dataset.published.get(split) if dataset is not None else None
        if not of_split and (published is None or set(published) == {"?"}):
            continue
        persons = {record.person_id for record in of_split} - {UNKNOWN}
        found = (
            len(persons) if persons else "-",
            len({record.image_path for record in of_split}),
            sum(len(record.captions) for record in of_split),
        )
        pairs = zip(found, published or ("-", "-", "-"))
        rows.append((display_name(spec), split, *(str(value) for pair in pairs for value in pair)))
    return rows


def verify(root: Path | None, specs: Sequence[str], write: Callable[[str], object]) -> int:
    """Write the table and the findings of datasets; return the number of problems.

    Every dataset is checked, also after one whose annotation cannot be read: that is reported as a problem.
    """
    header = ("dataset", "split", "ids", "published", "images", "published", "captions", "published")
    table, reports, problems = [header], [], 0
    for spec in specs:
        try:
            records = read_dataset(root, spec)
            if not records:
                raise UsageError(f"{spec}: its annotation holds no record")
            folder = image_root(root, spec)
        except UsageError as error:
            if len(specs) == 1:
                raise
            reports.append(f"{display_name(spec)}: PROBLEM: {error}")
            problems += 1
            continue
        table += table_rows(spec, records)
        found = find_problems(records, folder)
        notes = find_notes(records)
        if is_own(spec) and "images without a caption" in found:  # they are the gallery's other images
            notes["images without a caption"] = found.pop("images without a caption")
        problems += sum(map(len, found.values()))
        reports += [report_of(spec, "PROBLEM", kind, items, LISTED) for kind, items in found.items()]
        hint = prefix_hint([*found.get(MISSING, []), *_images_of(records, found)], len(records), folder)
        reports += [f"{display_name(spec)}: hint: {hint}"] if hint else []
        reports += [report_of(spec, "note", kind, items, NOTES_LISTED) for kind, items in notes.items()]
    ending = "no problems found" if not problems else f"{problems} problem{'s' * (problems > 1)} found"
    for text in [*format_columns(table), "", *reports, ending]:
        write(printable(text) + "\n")
    return problems


def _images_of(records: Sequence[PersonImage], found: Findings) -> list[str]:
    """Return the images below missing folders or outside the image folder, for the hint on prefixes."""
    if "missing image folders" not in found and OUTSIDE not in found:
        return []
    return [record.image_path for record in records]


def report_of(spec: str, word: str, kind: str, found: Sequence[str], most: int) -> str:
    shown = [item if len(item) <= SHOWN_CHARS else item[:SHOWN_CHARS] + " ..." for item in found[:most]]
    more = [f"... and {len(found) - most} more"] if len(found) > most else []
    return "\n    ".join([f"{display_name(spec)}: {word}: {len(found)} {kind}", *shown, *more])


def format_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Align the first two columns left and the others right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells))
    return lines


def printable(text: str) -> str:
    """Replace what no terminal can show (lone surrogates) by escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
