"""Instruction data: the LLaVA conversation list that training the captioner takes, one record per caption and style.

A record: id, image (relative to one image folder), conversations (a human turn "<image>\\n<instruction>", a gpt turn with the
caption), style_id and class_id. class_id chooses the style prompt's row; style_id is the same number here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ham.records import DEFAULT_PROMPT, IMAGE_TEXT, StyleAssignment, atomic_write
from ham.runtime import UsageError


def instruction_records(
    assignments: Iterable[StyleAssignment], instruction: str = DEFAULT_PROMPT
) -> Iterator[dict[str, Any]]:
    """Yield one LLaVA record for each caption and each of its styles; a caption without a style has none.

    ids are "<caption number>-<style>". Raises UsageError when the instruction brings an image token of its own.
    """
    if IMAGE_TEXT in instruction or not instruction.strip():
        raise UsageError(
            f"instruction is {instruction!r}; expected words without {IMAGE_TEXT}, which is put before them"
        )
    for number, row in enumerate(assignments):
        for style_id in row.style_ids:
            yield {
                "id": f"{number:06d}-{style_id:04d}",
                "image": row.image,
                "conversations": [
                    {"from": "human", "value": f"{IMAGE_TEXT}\n{instruction}"},
                    {"from": "gpt", "value": row.caption},
                ],
                "style_id": style_id,
                "class_id": style_id,
            }


def write_instructions(
    path: Path, assignments: Iterable[StyleAssignment], instruction: str = DEFAULT_PROMPT
) -> int:
    """Write the records as one JSON list, a record a line, without holding them in memory. Returns their number."""
    count = 0
    with atomic_write(path) as file:
        for record in instruction_records(assignments, instruction):
            file.write("[\n" if count == 0 else ",\n")
            json.dump(record, file, ensure_ascii=False)
            count += 1
        file.write("\n]\n" if count else "[]\n")
    return count


def clean_caption(caption: str) -> str:
    """Return a caption on one line without an image token or an end-of-sequence mark, which would break a conversation."""
    return re.sub(r"\s+", " ", re.sub(r"<image>|</?s>", " ", caption)).strip()
