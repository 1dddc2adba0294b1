"""Instruction files: reading, grouping lengths, batches, and the check that finds every bad record before training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ham.captioner.check import check_instructions
from ham.captioner.data import Collator, InstructionDataset, InstructionFile
from ham.llava.conversation import IGNORE_INDEX, get_template
from ham.llava.transformers_compat import load_tokenizer
from ham.runtime import UsageError, WorkError

TOKENIZER = Path(__file__).parent / "data" / "captioner" / "tokenizer"


def record(number: int, caption: str = "A man in a coat.", **changes) -> dict:
    turns = [{"from": "human", "value": "<image>\nDescribe the person."}, {"from": "gpt", "value": caption}]
    plain = {
        "id": str(number),
        "image": f"{number}.png",
        "conversations": turns,
        "style_id": 1,
        "class_id": number % 3,
    }
    return plain | changes


def write(folder: Path, records: list) -> InstructionFile:
    for number in range(len(records)):
        Image.new("RGB", (6, 12), (number, 90, 30)).save(folder / f"{number}.png")
    (folder / "instructions.json").write_text(json.dumps(records))
    return InstructionFile(folder / "instructions.json")


def check(file: InstructionFile, folder: Path, **changes) -> None:
    options = {"num_styles": 3, "image_and_style_tokens": 14, "max_length": 512} | changes
    check_instructions(file, folder, load_tokenizer(TOKENIZER), get_template("v1"), **options)


def test_records_come_back_and_the_highest_class_id_counts_the_styles(tmp_path):
    records = [record(0), record(1, "Ein Mädchen", class_id=6), record(2)]
    file = write(tmp_path, records)
    assert [file[index] for index in range(len(file))] == records
    assert file.styles_needed() == 7
    assert file.style_ids.tolist() == [0, 6, 2]


def test_words_are_the_references_lengths(parity, tmp_path):
    recorded = json.loads((parity / "llava_preprocess.json").read_text())
    cases = recorded["legacy_false"]
    lengths = recorded["dataset_lengths"]["modality_lengths"]
    images = [{"image": "0.png"} if length > 0 else {} for length in lengths]
    file = write(
        tmp_path, [{"conversations": case["conversation"], **image} for case, image in zip(cases, images)]
    )
    assert file.words.tolist() == lengths


def test_collator_is_the_references(parity):
    recorded = json.loads((parity / "llava_preprocess.json").read_text())
    cases = {case["name"]: case for case in recorded["legacy_false"]}
    expected = recorded["collator"]
    samples = [
        {
            "input_ids": torch.tensor(cases[name]["input_ids"]),
            "labels": torch.tensor(cases[name]["labels"]),
            "pixels": torch.zeros(3, 4, 4),
            "style_id": style,
        }
        for name, style in zip(expected["instances"], expected["class_ids"])
    ]
    batch = Collator(pad_id=0)(samples)
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["labels"].tolist() == expected["labels"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]
    assert batch["style_ids"].tolist() == expected["class_ids"]


def test_the_mask_follows_lengths_not_the_padding_id():
    samples = [
        {
            "input_ids": torch.tensor([1, 0, 5]),
            "labels": torch.tensor([IGNORE_INDEX, 0, 5]),
            "pixels": torch.zeros(3, 2, 2),
            "style_id": 0,
        },
        {
            "input_ids": torch.tensor([1]),
            "labels": torch.tensor([1]),
            "pixels": torch.zeros(3, 2, 2),
            "style_id": 2,
        },
    ]
    assert Collator(pad_id=0)(samples)["attention_mask"].tolist() == [
        [True, True, True],
        [True, False, False],
    ]


def test_samples_are_made_lazily_from_files(tmp_path):
    file = write(tmp_path, [record(0), record(1)])
    dataset = InstructionDataset(
        file, tmp_path, load_tokenizer(TOKENIZER), get_template("v1"), image_size_px=28
    )
    sample = dataset[1]
    assert sample["pixels"].shape == (3, 28, 28)
    assert sample["style_id"] == 1
    assert (sample["labels"] != IGNORE_INDEX).sum() > 1
    (tmp_path / "0.png").write_bytes(b"not an image")
    with pytest.raises(WorkError, match=r"instructions\.json, record 0: .*0\.png.*not an image"):
        dataset[0]


def test_sound_data_passes(tmp_path):
    check(write(tmp_path, [record(number) for number in range(5)]), tmp_path)


HUMAN = {"from": "human", "value": "<image>\nDescribe the person."}
ANSWER = {"from": "gpt", "value": "A man."}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "gone.png"}, r"no image .*gone\.png"),
        ({"image": "../0.png"}, "leaves its root"),
        ({"image": ["0.png", "1.png"]}, "expected one path"),
        ({"class_id": 3}, r"class_id 3, but there are 3 styles"),
        ({"class_id": -1}, "class_id -1"),
        ({"class_id": "2"}, "'class_id' is '2'"),
        ({"class_id": None}, "'class_id' is None"),
        ({"conversations": None}, "expected a list of turns"),
        ({"conversations": [{"from": "user", "value": "hi"}, ANSWER]}, "human"),
        ({"conversations": [{"from": "human", "value": "Describe."}, ANSWER]}, "0 times '<image>'"),
        ({"conversations": [HUMAN, ANSWER, HUMAN, ANSWER]}, "2 times '<image>'"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": " "}]}, "empty"),
        ({"conversations": [HUMAN]}, "no answer"),
    ],
)
def test_every_violation_is_told_with_its_record(tmp_path, changes, said):
    file = write(tmp_path, [record(0), record(1, **changes), record(2)])
    with pytest.raises(UsageError, match=said) as caught:
        check(file, tmp_path)
    assert "1 violation(s) in 3 records" in str(caught.value)
    assert "record 1:" in str(caught.value)


def test_a_target_beyond_the_cut_is_a_violation(tmp_path):
    file = write(tmp_path, [record(0)])
    check(file, tmp_path, max_length=300)
    with pytest.raises(UsageError, match="--model_max_length 60"):
        check(file, tmp_path, max_length=60)


def test_the_last_allowed_length_still_has_a_target(tmp_path):
    """The check's arithmetic against the splice itself: place + patches + style tokens - 1."""
    file = write(tmp_path, [record(0)])
    ids, labels = (
        InstructionDataset(file, tmp_path, load_tokenizer(TOKENIZER), get_template("v1"), 28)[0][name]
        for name in ("input_ids", "labels")
    )
    place = int((labels != IGNORE_INDEX).nonzero()[0])
    assert (ids == -200).sum() == 1
    check(file, tmp_path, max_length=place + 14)
    with pytest.raises(UsageError, match="first target token"):
        check(file, tmp_path, max_length=place + 13)


def test_long_lists_are_cut_and_counted(tmp_path):
    file = write(tmp_path, [record(number, class_id=9) for number in range(12)])
    with pytest.raises(UsageError, match=r"(?s)12 violation.*\.\.\. and 7 more") as caught:
        check_instructions(
            file, tmp_path, load_tokenizer(TOKENIZER), get_template("v1"), 3, 14, 512, at_most=5
        )
    assert str(caught.value).count("record ") == 5


@pytest.mark.parametrize(
    ("content", "said"), [("{}", "JSON list"), ("[]", "an empty list"), ("[", "not valid JSON")]
)
def test_a_file_that_is_no_list_is_refused(tmp_path, content, said):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        InstructionFile(tmp_path / "x.json")


def test_the_block_of_records_is_one_array(tmp_path):
    file = write(tmp_path, [record(number) for number in range(50)])
    assert isinstance(file.block, np.ndarray)
    assert len(file.block) == file.ends[-1]


def test_half_an_emoji_in_a_record_is_refused_by_name(tmp_path):
    """UTF-8 cannot hold it: the worker processes would fail at this record, hours later."""
    file = tmp_path / "instructions.json"
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cap \ud83d"}]
    file.write_text(json.dumps([{"id": "0", "image": "0.png", "conversations": turns, "class_id": 0}]))
    with pytest.raises(UsageError, match=r"instructions\.json.*surrogate"):
        InstructionFile(file)
