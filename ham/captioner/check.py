"""The check of a whole instruction file before the first step: every violation with its record's number.

Nothing is silently skipped later, so whatever would fail after hours is found here, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ham.captioner.data import InstructionFile
from ham.llava.conversation import IGNORE_INDEX, Template, encode_conversation
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.records import IMAGE_TEXT, path_below
from ham.runtime import UsageError, log, progress

STAT_THREADS = 32


def check_instructions(
    file: InstructionFile,
    image_folder: str | Path,
    tokenizer: Any,
    template: Template,
    num_styles: int,
    image_and_style_tokens: int,
    max_length: int,
    at_most: int = 20,
) -> None:
    """Raise UsageError that lists the first `at_most` violations, and counts the rest.

    Checked: one image, below the folder and there; one `<image>` in the dialogue; roles and answers; class_id in
    0 .. num_styles - 1; at least one target token left when the spliced sequence is cut at `max_length`.
    """
    found: list[str] = []
    count = 0
    for index, violation in violations(
        file, Path(image_folder), tokenizer, template, num_styles, image_and_style_tokens, max_length
    ):
        count += 1
        if len(found) < at_most:
            found.append(f"  record {index}: {violation}")
    if count:
        more = f"\n  ... and {count - len(found)} more" if count > len(found) else ""
        raise UsageError(
            f"{file.path}: {count} violation(s) in {len(file)} records; nothing was trained\n"
            + "\n".join(found)
            + more
        )
    log.info("%s: %d records in %d styles, all sound", file.path, len(file), num_styles)


def violations(
    file: InstructionFile,
    image_folder: Path,
    tokenizer: Any,
    template: Template,
    num_styles: int,
    image_and_style_tokens: int,
    max_length: int,
) -> Iterator[tuple[int, str]]:
    """Yield (record number, what is wrong and what to do), at most one per record and kind."""
    first_target: dict[str, int | str] = {}  # dialogue -> place of its first target, or what is wrong with it
    images: dict[str, list[int]] = {}
    for index in progress(range(len(file)), what="checking the instruction file", unit="record"):
        record = file[index]
        if not isinstance(record, dict):
            yield (
                index,
                f"is {type(record).__name__}; expected an object with image, conversations and class_id",
            )
            continue
        image = record.get("image")
        if isinstance(image, str):
            images.setdefault(image, []).append(index)
        else:
            yield (
                index,
                f"'image' is {image!r:.60}; expected one path (style tuning needs exactly one image per record)",
            )
        yield from ((index, text) for text in style_violations(record, num_styles))
        dialogue = repr(record.get("conversations"))
        if dialogue not in first_target:
            first_target[dialogue] = place_of_first_target(record.get("conversations"), tokenizer, template)
        place = first_target[dialogue]
        if isinstance(place, str):
            yield index, place
        elif place + image_and_style_tokens - 1 >= max_length:
            yield (
                index,
                (
                    f"its first target token stands at {place + image_and_style_tokens - 1}, past --model_max_length "
                    f"{max_length}; raise it or shorten the instruction"
                ),
            )
    yield from missing_images(images, image_folder)


def style_violations(record: dict[str, Any], num_styles: int) -> Iterator[str]:
    value = record.get("class_id")
    if not isinstance(value, int) or isinstance(value, bool):
        yield f"'class_id' is {value!r:.60}; expected the number of its style"
    elif not 0 <= value < num_styles:
        yield f"class_id {value}, but there are {num_styles} styles (0 to {num_styles - 1}); raise --style_count or mend it"


def place_of_first_target(conversation: Any, tokenizer: Any, template: Template) -> int | str:
    """Give the position of the first learned id, or say what is wrong with the dialogue."""
    if not isinstance(conversation, list) or not conversation:
        return f"'conversations' is {conversation!r:.60}; expected a list of turns"
    try:
        ids, labels = encode_conversation(tokenizer, conversation, template)
    except UsageError as error:
        return str(error)
    images = int((ids == IMAGE_TOKEN_INDEX).sum())
    if images != 1:
        return f"{images} times '{IMAGE_TEXT}' in the dialogue; expected it once, in the first human turn"
    return int((labels != IGNORE_INDEX).nonzero()[0])


def missing_images(images: dict[str, list[int]], image_folder: Path) -> Iterator[tuple[int, str]]:
    """Yield every record whose image is not there; each file is looked at once, many at a time."""

    def problem(image: str) -> str | None:
        try:
            path = path_below(image_folder, image)
        except UsageError as error:
            return str(error)
        return None if path.is_file() else f"no image {path}; is --image_folder right?"

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for (_, indices), said in zip(images.items(), pool.map(problem, images)):
            if said is not None:
                yield from ((index, said) for index in indices)
