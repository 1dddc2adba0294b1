"""Prompts, ids and label masks: exactly the reference's, and errors where it would mask a sample in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import LlamaTokenizer

from ham.llava.conversation import (
    DEFAULT_PROMPT,
    IGNORE_INDEX,
    TEMPLATES,
    encode_conversation,
    get_template,
    move_image_first,
    prompt_pieces,
    rounds_of,
)
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX, continuation_ids, prompt_ids
from ham.llava.transformers_compat import IS_LEGACY, load_tokenizer
from ham.runtime import UsageError, log

TOKENIZER = Path(__file__).parent / "data" / "captioner" / "tokenizer"
REFUSED = {"ends_with_human", "empty_answer", "answer_with_eos_text", "answer_with_assistant_tag"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def recorded(parity: Path) -> dict:
    return json.loads((parity / "llava_preprocess.json").read_text())


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


# ------------------------------------------------------------------------------------------------ the recorded reference


@pytest.mark.parametrize("folder", ["tokenizer"] if IS_LEGACY else ["tokenizer", "tokenizer_v5"])
@pytest.mark.parametrize("legacy", [False, True])
def test_ids_and_labels_match_the_reference(parity, recorded, folder, legacy) -> None:
    tokenizer = LlamaTokenizer.from_pretrained(parity / folder, legacy=legacy)
    cases = recorded[f"legacy_{str(legacy).lower()}"]
    compared = 0
    for case in cases:
        if case["mismatch_warning"] or case["name"] == "answer_with_image_token":
            continue
        encoded = encode_conversation(tokenizer, case["conversation"], "v1")
        assert encoded.input_ids.tolist() == case["input_ids"], case["name"]
        assert encoded.labels.tolist() == case["labels"], case["name"]
        assert int((encoded.labels != IGNORE_INDEX).sum()) == case["n_trained"]
        compared += 1
    assert compared == 14


def test_what_the_reference_masks_is_refused(parity, recorded) -> None:
    tokenizer = load_tokenizer(parity / "tokenizer")
    masked = [case for case in recorded["legacy_false"] if case["mismatch_warning"]]
    assert {case["name"] for case in masked} == REFUSED
    for case in masked:
        assert set(case["labels"]) == {IGNORE_INDEX}
        with pytest.raises(UsageError):
            encode_conversation(tokenizer, case["conversation"])


def test_turns_are_rewritten_as_in_the_reference(recorded) -> None:
    for case in recorded["legacy_false"]:
        rewritten = [move_image_first(turn["value"]) for turn in case["conversation"]]
        assert rewritten == case["values_after_preprocess_multimodal"]


@pytest.mark.parametrize("legacy", [False, True])
def test_prompt_ids_match_the_reference(parity, recorded, legacy) -> None:
    tokenizer = LlamaTokenizer.from_pretrained(
        parity / ("tokenizer" if IS_LEGACY else "tokenizer_v5"), legacy=legacy
    )
    for case in recorded["tokenizer_image_token"]:
        assert prompt_ids(tokenizer, case["prompt"]) == case[f"ids_legacy_{str(legacy).lower()}"], case[
            "prompt"
        ]


def test_image_conversations_are_not_cut_here(parity, recorded) -> None:
    tokenizer = load_tokenizer(parity / "tokenizer", max_length=64)
    for case in recorded["short_max_length_64_image"]:
        encoded = encode_conversation(tokenizer, case["conversation"])
        assert (encoded.input_ids.tolist(), encoded.labels.tolist()) == (case["input_ids"], case["labels"])


@pytest.mark.parametrize(
    "name, max_length", [("text_only_batch", None), ("text_only_batch_max_length_100", 100)]
)
def test_text_only_conversations_match_the_reference(parity, recorded, name, max_length) -> None:
    tokenizer = load_tokenizer(parity / "tokenizer")
    for number, conversation in enumerate(recorded[name]["conversations"]):
        encoded = encode_conversation(tokenizer, conversation, max_length=max_length)
        length = len(encoded.input_ids)
        assert encoded.input_ids.tolist() == recorded[name]["input_ids"][number][:length]
        assert encoded.labels.tolist() == recorded[name]["labels"][number][:length]
        assert set(recorded[name]["input_ids"][number][length:]) <= {0}


def test_caption_prompts_match_the_reference(parity, recorded) -> None:
    tokenizer = load_tokenizer(parity / "llava_tiny")
    prompts = recorded["caption_prompts"]
    assert prompts["query"] == DEFAULT_PROMPT
    assert set(prompts["by_conv_mode"]) == set(TEMPLATES)
    for name, case in prompts["by_conv_mode"].items():
        assert TEMPLATES[name].caption_prompt(DEFAULT_PROMPT) == case["prompt"]
        before, after = prompt_pieces(tokenizer, None, name)
        assert [*before, IMAGE_TOKEN_INDEX, *after] == case["input_ids"]


def test_templates_match_the_reference(recorded) -> None:
    for name, template in TEMPLATES.items():
        case = recorded["templates"][name]
        assert (template.system, [template.human, template.assistant]) == (case["system"], case["roles"])
        assert (template.human_end, template.answer_end) == (case["sep"], case["sep2"] or case["sep"])


# --------------------------------------------------------------------------------------------------------------- by hand


def test_one_round_is_prompt_then_learned_answer(tokenizer) -> None:
    encoded = encode_conversation(tokenizer, turns("<image>\nDescribe.", "A man."))
    before, after = prompt_pieces(tokenizer, "Describe.", "v1")
    answer = [*continuation_ids(tokenizer, "A man."), tokenizer.eos_token_id]
    assert encoded.input_ids.tolist() == [*before, IMAGE_TOKEN_INDEX, *after, *answer]
    assert encoded.labels.tolist() == [IGNORE_INDEX] * (len(before) + 1 + len(after)) + answer
    assert before[0] == tokenizer.bos_token_id
    assert encoded.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(answer).strip() == "A man.</s>"


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_template_trains_on_the_prompt_it_captions_with(tokenizer, name) -> None:
    encoded = encode_conversation(tokenizer, turns("<image>\nWho?", "A girl in red."), name)
    before, after = prompt_pieces(tokenizer, "Who?", name)
    start = len(before) + 1 + len(after)
    assert encoded.input_ids[:start].tolist() == [*before, IMAGE_TOKEN_INDEX, *after]
    assert (encoded.labels[:start] == IGNORE_INDEX).all()
    assert (encoded.labels[start:] == encoded.input_ids[start:]).all()
    learned = tokenizer.decode(encoded.labels[start:].tolist()).strip()
    assert learned == "A girl in red." + TEMPLATES[name].answer_end


def test_only_answers_are_learned_in_a_dialogue(tokenizer) -> None:
    dialogue = (
        turns("<image>\nDescribe.", "A man.")
        + turns("Shoes?", "White.")
        + turns("<image>\nAnd who?", "A boy.")
    )
    encoded = encode_conversation(tokenizer, dialogue)
    learned = tokenizer.decode(encoded.labels[encoded.labels != IGNORE_INDEX].tolist())
    assert [answer.strip() for answer in learned.split("</s>")] == ["A man.", "White.", "A boy.", ""]
    assert encoded.input_ids.tolist().count(IMAGE_TOKEN_INDEX) == 2


def test_rounds_leave_out_an_opening_of_the_assistant() -> None:
    assert rounds_of([{"from": "gpt", "value": "Hello!"}, *turns("Who? <image>", "A man.")]) == [
        ("<image>\nWho?", "A man.")
    ]


@pytest.mark.parametrize(
    "conversation, message",
    [
        ([], "no answer to its last question"),
        ([{"from": "human", "value": "Who?"}], "no answer to its last question"),
        ([{"from": "user", "value": "Who?"}], "turn 0 is .*expected .*'human' or 'gpt'"),
        ([{"from": "human"}], "turn 0"),
        (["Who?"], "turn 0"),
        ([*turns("Who?", "A man."), {"from": "gpt", "value": "A boy."}], "two turns of 'gpt' in a row"),
        (turns("Who?", " \n"), "an answer is empty"),
        (turns("Who?", "A man.</s> More."), "holds '</s>'"),
        (turns("Who?", "He said ASSISTANT: hello."), "holds ' ASSISTANT: '"),
        (turns("Who?", "See <image> here."), "holds '<image>'"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(tokenizer, conversation, message) -> None:
    with pytest.raises(UsageError, match=message):
        encode_conversation(tokenizer, conversation)


def test_unknown_templates_and_image_marks_in_prompts_are_refused(tokenizer) -> None:
    with pytest.raises(UsageError, match="'v2' is not known; use one of v1, llava_v1, llava_v0"):
        get_template("v2")
    with pytest.raises(UsageError, match="holds '<image>'"):
        prompt_pieces(tokenizer, "<image>\nDescribe.")


# ------------------------------------------------------------------------------------------------------------ tokenizers


def test_missing_padding_token_becomes_unk_and_is_logged(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(log, "propagate", True)
    shutil.copytree(TOKENIZER, tmp_path / "t")
    settings = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    assert settings.pop("pad_token")
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(settings))
    with caplog.at_level("INFO", logger="ham"):
        tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == 0
    assert "no padding token" in caplog.text


def test_folder_without_tokenizer_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_byte_level_tokenizer_keeps_the_space_before_an_answer() -> None:
    class ByteLevel:
        """One token a character, a space being part of nothing; no dummy prefix."""

        bos_token_id = 1

        def __call__(self, text: str, add_special_tokens: bool) -> object:
            return type("Encoding", (), {"input_ids": [ord(letter) for letter in text]})

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [chr(one) for one in ids]

    assert continuation_ids(ByteLevel(), "A") == [ord(" "), ord("A")]
    assert prompt_ids(ByteLevel(), " a<image> b") == [
        1,
        ord(" "),
        ord("a"),
        IMAGE_TOKEN_INDEX,
        ord(" "),
        ord("b"),
    ]
