"""Instruction data: the records that the captioner's finetuning takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ham.records import DEFAULT_PROMPT, StyleAssignment
from ham.runtime import UsageError
from ham.style.instructions import clean_caption, instruction_records, write_instructions

ROWS = [
    StyleAssignment("CUHK-PEDES/imgs/a.png", 'She said "red".', (3, 0)),
    StyleAssignment("b.png", "in no style", ()),
    StyleAssignment("b.png", "Ü, 红", (1,)),
]


def test_one_record_per_caption_and_style() -> None:
    records = list(instruction_records(ROWS, "Describe."))
    assert records[0] == {
        "id": "000000-0003",
        "image": "CUHK-PEDES/imgs/a.png",
        "style_id": 3,
        "class_id": 3,
        "conversations": [
            {"from": "human", "value": "<image>\nDescribe."},
            {"from": "gpt", "value": 'She said "red".'},
        ],
    }
    assert [(record["image"], record["class_id"]) for record in records] == [
        ("CUHK-PEDES/imgs/a.png", 3),
        ("CUHK-PEDES/imgs/a.png", 0),
        ("b.png", 1),
    ]
    assert len({record["id"] for record in records}) == 3


def test_file_is_the_json_list_of_the_records(tmp_path: Path) -> None:
    assert write_instructions(tmp_path / "instructions.json", ROWS) == 3
    text = (tmp_path / "instructions.json").read_text(encoding="utf-8")
    assert json.loads(text) == list(instruction_records(ROWS)) and "Ü, 红" in text
    assert write_instructions(tmp_path / "none.json", ROWS[1:2]) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize("instruction", ["<image>\nDescribe.", "  ", ""])
def test_bad_instruction_is_refused(instruction: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without <image>"):
        write_instructions(tmp_path / "instructions.json", ROWS, instruction)
    assert not list(tmp_path.iterdir())


def test_default_instruction_is_the_recorded_one(parity: Path) -> None:
    recorded = json.loads((parity / "llava_tiny.json").read_text(encoding="utf-8"))
    assert recorded["generation"]["query"] == DEFAULT_PROMPT
    theirs = recorded["conversations"][0]
    ours = next(instruction_records(ROWS))
    assert set(theirs) == set(ours) and theirs["conversations"][0] == ours["conversations"][0]


def test_captions_cannot_break_a_conversation() -> None:
    assert clean_caption(" a  man\n in\tred </s> <image> ") == "a man in red"
    assert clean_caption("<s>") == "" and clean_caption("size < 3 > 2") == "size < 3 > 2"
