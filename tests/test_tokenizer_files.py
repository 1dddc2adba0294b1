"""Tokenizer files: damage is named, and the shipped tokenizer gives the same ids whichever library reads it."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tiny_llava import CONFIG, TOKENIZER, original_tensors, write_folder

from ham.captioner.checkpoint import load_captioner
from ham.llava.conversation import encode_conversation
from ham.llava.transformers_compat import load_tokenizer
from ham.records import DEFAULT_PROMPT
from ham.runtime import UsageError, log

SHIPPED = Path(__file__).resolve().parent.parent / "ham" / "world" / "weights" / "llava"
# Of the ids of `records()`. The legacy suite runs this test too: both stacks must give it.
IDS_OF_RECORDS = "67bc3c0d9421aa74"


def records() -> list[list[dict[str, str]]]:
    """200 conversations in the words of the synthetic dataset, with odd blanks, capitals and numbers among them."""
    openings = ("A man", "a WOMAN", "In this picture  there is a boy", "She", "The pedestrian seems to be")
    middles = (" wearing a light grey coat", " in jeans and white shoes,", ". He walks", "  carrying 2 bags")
    ends = (".", " and a cap .", "; probably a student", "...", "\nDark hair.")
    asked = (DEFAULT_PROMPT, "Describe the person in the image.")
    return [
        [{"from": "human", "value": f"<image>\n{prompt}"}, {"from": "gpt", "value": opening + middle + end}]
        for opening, middle, end, prompt in itertools.product(openings, middles, ends, asked)
    ]


def test_the_shipped_tokenizer_gives_the_same_ids_on_both_stacks() -> None:
    tokenizer = load_tokenizer(SHIPPED, 512)
    ids = [encode_conversation(tokenizer, record).input_ids.tolist() for record in records()]
    assert len(ids) == 200
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16] == IDS_OF_RECORDS


def test_the_shipped_tokenizer_gives_the_ids_of_sentencepiece_itself() -> None:
    """LLaVA's slow tokenizer hands each chunk of the prompt to sentencepiece."""
    tokenizer = load_tokenizer(SHIPPED, 512)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(SHIPPED / "tokenizer.model"))
    for record in records():
        ids, labels = encode_conversation(tokenizer, record)
        question, answer = record[0]["value"].removeprefix("<image>"), record[1]["value"]
        image = ids.tolist().index(-200)
        before, after = ids[1:image].tolist(), ids[image + 1 :].tolist()
        prompt = slow.encode(f"{question} ASSISTANT:")
        assert before == slow.encode(
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: "
        )
        assert after == [*prompt, *slow.encode(answer), 2]
        assert labels[labels != -100].tolist() == [*slow.encode(answer), 2]


def with_blanks_removed(folder: Path) -> Path:
    """Copy the shipped tokenizer as it was made before: with sentencepiece's default of removing extra blanks."""
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("*.safetensors", "vision_tower"))
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    model.normalizer_spec.remove_extra_whitespaces = True
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


def test_ids_that_depend_on_the_library_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_blanks_removed(tmp_path / "removed")
    log.propagate = True
    with caplog.at_level(logging.WARNING):
        load_tokenizer(SHIPPED, 512)
        assert "depend on the library" not in caplog.text
        load_tokenizer(folder, 512)
    assert "depend on the library" in caplog.text and "remove_extra_whitespaces=False" in caplog.text


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def write(content: bytes) -> object:
    return lambda file: file.write_bytes(content)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 499723\n"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("tokenizer.model", write(b""), "tokenizer.model: is empty"),
        ("tokenizer.model", cut, "tokenizer.model: is not a sentencepiece model, or was cut"),
        ("tokenizer.model", write(LFS), "a Git LFS pointer.*git lfs pull"),
        ("tokenizer.model", write(b"<html></html>"), "is not a sentencepiece model"),
        ("tokenizer_config.json", write(b"{"), "tokenizer_config.json: not valid JSON"),
        ("tokenizer_config.json", write(b"[]"), "tokenizer_config.json: expected a JSON object"),
        ("tokenizer_config.json", write(b"\xef\xbb\xbf{}"), "byte order mark"),
        ("tokenizer_config.json", write(b"\xff\xfe"), "tokenizer_config.json: not valid JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: object, said: str) -> None:
    folder = shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    damage(folder / name)
    with pytest.raises(UsageError, match=said.replace(".", r"\.").replace(r"\.*", ".*")) as caught:
        load_tokenizer(folder)
    assert "tiktoken" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"model": 5}', b'{"model": {}}', b"", LFS])
def test_a_damaged_fast_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_a_checkpoint_with_a_damaged_tokenizer_is_refused_whole(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG)
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"):
        load_captioner(folder)
