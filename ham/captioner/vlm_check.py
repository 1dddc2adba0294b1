"""The check of an instruction file for models of the `vlm` family, before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ham.captioner.check import image_violations, style_violations
from ham.captioner.vlm_data import VlmInstructionDataset
from ham.records import IMAGE_TEXT
from ham.runtime import UsageError, WorkError, log


def check_records(dataset: VlmInstructionDataset, num_styles: int, at_most: int, check_images: bool) -> None:
    """Raise UsageError listing the first `at_most` records that cannot be trained on, and how many there are.

    check_images: also decode every image. The record with the most words is encoded as in training, which checks the chat
    template and --model_max_length.
    """
    file = dataset.file
    found = list(record_violations(dataset, num_styles, check_images))
    if found:
        listed = "\n".join(f"  record {number}: {text}" for number, text in found[:at_most])
        more = f"\n  ... and {len(found) - at_most} more" if len(found) > at_most else ""
        raise UsageError(
            f"{file.path}: {len(found)} of {len(file)} records cannot be trained on\n{listed}{more}"
        )
    try:
        dataset[int(np.abs(file.words).argmax())]
    except WorkError as error:
        raise UsageError(str(error)) from None
    hint = "" if check_images else " (images were found, not decoded; --check_images True decodes them)"
    log.info("%s: %d records in %d styles, no problems found%s", file.path, len(file), num_styles, hint)


def record_violations(
    dataset: VlmInstructionDataset, num_styles: int, check_images: bool
) -> Iterator[tuple[int, str]]:
    """Yield (record number, what is wrong): shape of the record, style, image."""
    images: dict[str, list[int]] = {}
    for number in range(len(dataset.file)):
        record = dataset.file[number]
        text = record_problem(record)
        if text is not None:
            yield number, text
            continue
        yield from ((number, violation) for violation in style_violations(record, num_styles))
        images.setdefault(record["image"], []).append(number)
    yield from image_violations(images, dataset.image_folder, check_images)


def record_problem(record: Any) -> str | None:
    """Return what is wrong with one record's shape: expected one image, one question with `<image>`, one answer."""
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return "expected an object with one 'image' path"
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        return "expected two turns: the instruction (from human) and the caption (from gpt)"
    roles = [turn.get("from") for turn in turns]
    texts = [turn.get("value") for turn in turns]
    if roles != ["human", "gpt"] or not all(isinstance(text, str) for text in texts):
        return f"turns are from {roles}; expected human, then gpt, with text"
    if texts[0].count(IMAGE_TEXT) != 1:
        return f"{texts[0].count(IMAGE_TEXT)} times '{IMAGE_TEXT}' in the instruction; expected it once"
    if not texts[0].replace(IMAGE_TEXT, "").strip() or not texts[1].strip():
        return "the instruction or the caption is empty"
    return None
