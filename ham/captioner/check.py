"""The check of a whole instruction file before the first step: every violation with its record's number.

Nothing is silently skipped later, so whatever would fail after hours is found here, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ham.captioner.data import InstructionFile
from ham.llava.conversation import IGNORE_INDEX, Template, encode_conversation
from ham.llava.preprocess import ImageError, open_image
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.records import IMAGE_TEXT, path_below
from ham.runtime import UsageError, log, progress

STAT_THREADS = 32
DECODE_THREADS = 4


@dataclass(frozen=True)
class Limits:
    """The limits of a record.

    image_and_style_tokens: positions that the image and a style take. max_length: spliced sequences are cut there.
    """

    tokenizer: Any
    template: Template
    num_styles: int
    image_and_style_tokens: int
    max_length: int


class Dialogue(NamedTuple):
    """A conversation's lengths with its image and style in it: positions before the first target, and in all."""

    first_target: int
    total: int


def check_instructions(
    file: InstructionFile,
    image_folder: str | Path,
    tokenizer: Any,
    template: Template,
    num_styles: int,
    image_and_style_tokens: int,
    max_length: int,
    at_most: int = 20,
    check_images: bool = False,
) -> None:
    """Raise UsageError that lists the first `at_most` violations, and counts the rest.

    Checked: one image, below the folder and there (decodable with `check_images`); one `<image>` in the dialogue; roles and
    answers; class_id in 0 .. num_styles - 1; at least one target token left when the spliced sequence is cut at `max_length`.
    Captions that are cut there are counted in a warning.
    """
    limits = Limits(tokenizer, template, num_styles, image_and_style_tokens, max_length)
    found: list[str] = []
    count = 0
    for index, violation in violations(file, Path(image_folder), limits, check_images):
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
    hint = "" if check_images else " (images were found, not decoded; --check_images True decodes them)"
    log.info("%s: %d records in %d styles, no problems found%s", file.path, len(file), num_styles, hint)


def check_used_styles(file: InstructionFile, allow_unused: bool) -> None:
    """Raise UsageError when class_id has gaps: a new style prompt that no record trains stays random noise."""
    needed = file.styles_needed()
    unused = file.unused_styles(needed)
    if unused and not allow_unused:
        hint = "; class_id counts from 0" if unused == [0] else ""
        raise UsageError(
            f"{file.path}: class_id goes up to {needed - 1}, but no record has {as_ranges(unused)}: those styles would stay "
            f"random noise and be drawn for captions all the same{hint}; renumber class_id from 0 without gaps, or pass "
            "--allow_unused_styles True"
        )


def as_ranges(numbers: list[int], at_most: int = 8) -> str:
    """Format whole numbers in ascending order: `0, 1, 3-6`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    pieces = [str(low) if low == high else f"{low}-{high}" for low, high in ranges[:at_most]]
    return ", ".join(pieces) + (", ..." if len(ranges) > at_most else "")


def instruction_of(file: InstructionFile) -> str:
    """Return the instruction of the first record: captioning uses the same words by default."""
    question = next(turn["value"] for turn in file[0]["conversations"] if turn["from"] == "human")
    return question.replace(IMAGE_TEXT, "").strip()


def violations(
    file: InstructionFile, image_folder: Path, limits: Limits, check_images: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield (record number, what is wrong and what to do), at most one per record and kind."""
    dialogues: dict[str, Dialogue | str] = {}  # a dialogue's lengths, or what is wrong with it
    images: dict[str, list[int]] = {}
    cut: list[int] = []
    for index in progress(range(len(file)), what="checking the instruction file", unit="record"):
        record = file[index]
        if not isinstance(record, dict):
            kind = type(record).__name__
            yield index, f"is {kind}; expected an object with image, conversations and class_id"
            continue
        image = record.get("image")
        if isinstance(image, str):
            images.setdefault(image, []).append(index)
        else:
            text = "expected one path (style tuning needs exactly one image per record)"
            yield index, f"'image' is {image!r:.60}; {text}"
        yield from ((index, text) for text in style_violations(record, limits.num_styles))
        key = repr(record.get("conversations"))
        if key not in dialogues:
            dialogues[key] = measure_dialogue(record.get("conversations"), limits)
        dialogue = dialogues[key]
        if isinstance(dialogue, str):
            yield index, dialogue
        elif dialogue.first_target >= limits.max_length:
            yield (
                index,
                f"its first target token is at {dialogue.first_target}, past --model_max_length {limits.max_length}; "
                "raise it or shorten the instruction",
            )
        elif dialogue.total > limits.max_length:
            cut.append(index)
    warn_of_cut_captions(cut, len(file), limits.max_length)
    yield from image_violations(images, image_folder, check_images)


def warn_of_cut_captions(cut: list[int], count: int, max_length: int) -> None:
    """Log how many captions lose their end: a captioner that learns from them may not learn to stop."""
    if cut:
        log.warning(
            "%d of %d captions are longer than --model_max_length %d and lose their end and stop token, e.g. record %d: "
            "captions may not learn to end; raise --model_max_length or shorten them",
            len(cut),
            count,
            max_length,
            cut[0],
        )


def style_violations(record: dict[str, Any], num_styles: int) -> Iterator[str]:
    """Yield what is wrong with a record's class_id."""
    value = record.get("class_id")
    if not isinstance(value, int) or isinstance(value, bool):
        yield f"'class_id' is {value!r:.60}; expected the number of its style"
    elif value < 0:
        yield f"class_id {value}; expected 0 to {num_styles - 1}: correct the record"
    elif value >= num_styles:
        shown = value if value < 10**18 else "of more than 18 digits"
        yield (
            f"class_id {shown}, but there are {num_styles} styles (0 to {num_styles - 1}); raise --style_count or correct "
            "the record"
        )


def measure_dialogue(conversation: Any, limits: Limits) -> Dialogue | str:
    """Return a dialogue's lengths, or what is wrong with it."""
    if not isinstance(conversation, list) or not conversation:
        return f"'conversations' is {conversation!r:.60}; expected a list of turns"
    try:
        ids, labels = encode_conversation(limits.tokenizer, conversation, limits.template)
    except UsageError as error:
        return str(error)
    images = int((ids == IMAGE_TOKEN_INDEX).sum())
    if images != 1:
        return f"{images} times '{IMAGE_TEXT}' in the dialogue; expected it once, in the first human turn"
    more = limits.image_and_style_tokens - 1
    return Dialogue(int((labels != IGNORE_INDEX).nonzero()[0]) + more, len(ids) + more)


def image_violations(
    images: dict[str, list[int]], image_folder: Path, decode: bool
) -> Iterator[tuple[int, str]]:
    """Yield every record whose image is not there or, with `decode`, cannot be read; each file is opened once."""

    def problem(image: str) -> str | None:
        try:
            path = path_below(image_folder, image)
            if not path.is_file():
                return f"no image {path}; is --image_folder right?"
            if decode:
                open_image(path)
        except (UsageError, ImageError) as error:
            return str(error)
        except (OSError, ValueError) as error:
            return f"image {image!r:.80}: {error}"
        return None

    with ThreadPoolExecutor(DECODE_THREADS if decode else STAT_THREADS) as pool:
        checked = zip(images.items(), pool.map(problem, images), strict=True)
        for (_, indices), reason in progress(checked, len(images), "checking the images", "image"):
            if reason is not None:
                yield from ((index, reason) for index in indices)
