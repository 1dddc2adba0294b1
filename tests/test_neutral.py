"""Neutralizers: what is replaced and what survives, the checks on a language model's answers, the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ham.runtime import UsageError
from ham.style.lexicon import (
    GENERAL,
    SAME_KIND,
    forms_of,
    lexicon,
    plural_of,
    read_sections,
    verb_forms,
)
from ham.style.llm_neutral import LlmNeutralizer, refusal, tidy
from ham.style.neutral import NeutralText, keep, lexicon_neutralizer, neutral_text
from ham.style.neutral_cache import neutralize_cached
from ham.style.spelling import correction

CASES = json.loads(
    (Path(__file__).parent / "data" / "style" / "neutral_cases.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("caption, neutral", CASES, ids=range(len(CASES)))
def test_reviewed_cases(caption: str, neutral: str) -> None:
    assert neutral_text(caption) == neutral


@pytest.mark.parametrize("caption, neutral", CASES, ids=range(len(CASES)))
def test_neutral_text_is_already_neutral(caption: str, neutral: str) -> None:
    assert neutral_text(neutral) == neutral


def test_two_persons_described_alike_become_equal() -> None:
    texts = {
        neutral_text(f"A {who} in {shade} {top} and {low}, holding {thing}.")
        for who, shade, top, low, thing in [
            ("man", "a navy blue", "jacket", "dark jeans", "an umbrella"),
            ("woman", "an orange", "tank top", "black shorts", "a cup"),
            ("lady", "a light-grey", "t-shirt", "olive green trousers", "a mobile phone"),
        ]
    }
    assert texts == {"A person in a colored garment and colored garments, holding an item."}


@pytest.mark.parametrize(
    "captions",
    [
        [
            "She has a red skirt.",
            "He has a blue T-shirt.",
            "She has a long dress.",
            "He has a black V-neck vest.",
        ],
        [
            "A man wearing glasses",
            "A lady wearing boots",
            "a man wearing jeans".capitalize(),
            "A boy wearing gloves",
        ],
        ["an adult Asian male rides a bike", "a little girl moves her arm", "a young lady turns his head"],
        ["The man's walk", "The lady's stride", "The boy's pace"],
        ["He walks down the stairs", "She steps down the steps", "He strolls down the stairs"],
        ["a leather, brown bag", "a canvas, tan purse"],
    ],
)
def test_form_betrays_no_content(captions: list[str]) -> None:
    """Captions of one frame become equal, whichever garment, person, action or place they name (qualities apart)."""
    texts = {neutral_text(caption).replace("colored ", "").replace("certain ", "") for caption in captions}
    parts = {text.replace("an item", "their part") for text in texts}
    assert len(parts) == 1, texts


@pytest.mark.parametrize(
    "caption, neutral",
    [
        ("a white, lacy top", "a colored, certain garment"),
        ("a white shirt over a black one", "a colored garment over a colored one"),
        ("dressed in black, carrying a bag", "dressed in color, carrying an item"),
        ("a black and a grey skirt", "a colored and a colored garment"),
        ("his hair is black and short", "their hair is colored and certain"),
        ("the top is a lighter blue.", "the garment is a color."),
    ],
)
def test_a_color_is_an_adjective_or_a_noun_by_what_stands_around(caption: str, neutral: str) -> None:
    assert neutral_text(caption) == neutral


@pytest.mark.parametrize(
    "word, meant",
    [
        ("sandles", "sandals"),
        ("blakc", "black"),
        ("trowsers", "trousers"),
        ("nike", "nike"),
        ("waisted", "waisted"),
        ("sunglassses", "sunglasses"),
        ("zzzzzz", "zzzzzz"),
    ],
)
def test_a_misspelling_is_corrected_to_the_likeliest_word(word: str, meant: str) -> None:
    assert correction(word) == meant or word in lexicon().phrases


def test_double_blanks_and_blanks_before_stops_stay() -> None:
    text = neutral_text("She  wears  a  dark  shirt , and a hat .  He  waits .")
    assert text == "One  wears  a  colored  garment , and a garment .  One  moves ."


@pytest.mark.parametrize(
    "caption",
    [
        "",
        " ",
        "...",
        "她穿着红色外套。",
        "Ein Mann trägt Blau",
        "a" * 500,
        "red\n\tred",
        "1, 2",
        "'s",
        "a a an",
    ],
)
def test_odd_captions_do_not_break(caption: str) -> None:
    assert isinstance(neutral_text(caption), str)


def test_other_alphabets_stay() -> None:
    assert neutral_text("她穿着红色外套。 Женщина, red coat") == "她穿着红色外套。 Женщина, colored garment"


def test_generalize_decides_about_unlisted_words() -> None:
    caption = "A man with epaulettes and a charming gizmo sauntering, ironed."
    assert neutral_text(caption) == "A person with things and a certain thing moving, ironed."
    assert (
        neutral_text(caption, generalize=False)
        == "A person with epaulettes and a charming gizmo moving, ironed."
    )


def test_slips_of_function_words_are_manner_and_stay() -> None:
    assert (
        neutral_text("teh man wiht a balck jaket adn glases")
        == "teh person wiht a colored garment adn garments"
    )


def test_forms_of_words() -> None:
    assert [plural_of(noun) for noun in ("watch", "accessory", "shoe", "dress", "key")] == [
        "watches",
        "accessories",
        "shoes",
        "dresses",
        "keys",
    ]
    assert verb_forms("jog") == {"base": "jog", "third": "jogs", "ing": "jogging", "past": "jogged"}
    assert verb_forms("ride", "rode") == {"base": "ride", "third": "rides", "ing": "riding", "past": "rode"}
    assert verb_forms("carry")["past"] == "carried" and verb_forms("go", "went")["third"] == "goes"
    assert forms_of("lower", "+shorts") == {"plural": "shorts"}
    assert forms_of("person", "man/men") == {"singular": "man", "plural": "men"}


def test_lists_are_sound() -> None:
    sections = read_sections(Path(__file__).parents[1] / "ham" / "style" / "words.txt")
    assert {SAME_KIND.get(name, name) for name in sections} == set(GENERAL) - {"thing"}
    for name, entries in sections.items():
        assert len(entries) == len(set(entries)), f"[{name}] repeats an entry"
    known = lexicon()
    assert known.phrases["shorts"] == ("lower", "plural") and known.phrases["short"] == ("quality", "any")
    assert known.kind_of("Navy") == "color" and known.kind_of("camera") is None
    assert all(phrase == phrase.lower().strip() for phrase in known.phrases)


# ------------------------------------------------------------------------------------------------------- language model


CAPTION = "A woman in a red coat and black jeans walks away."


@pytest.mark.parametrize(
    "answer, reason",
    [
        ("A person in a coloured top and coloured bottoms goes away.", None),
        ("A person in a certain garment and certain garments walks away.", None),
        ("", "empty"),
        ("Sure! A person in a garment and a garment walks away.", "chatter"),
        ("A person in a garment walks away.\nI replaced the words.", "chatter"),
        ("A person.", "length ratio 0.18"),
        ("word " * 30, "length ratio 2.73"),
        ("A person in a red garment and black jeans walks away.", "left: black, jeans, red"),
        ("A person in a RED garment and a garment walks away.", "left: red"),
        ("Somebody moves while wearing some garments there.", "only 0 % of the function words kept"),
    ],
)
def test_answers_are_checked(answer: str, reason: str | None) -> None:
    assert refusal(CAPTION, answer.strip()) == reason


def test_refused_answer_becomes_a_marked_fallback() -> None:
    answers = {"A man in red.": "Sure, here it is", "A man in blue.": '"A person in colour."'}
    neutralizer = LlmNeutralizer(
        "", answer=lambda texts: [answers[text.rsplit("Description: ")[-1]] for text in texts]
    )
    refused, taken = neutralizer(list(answers))
    assert refused == NeutralText("A man in red.", "A person in color.", "fallback", "chatter")
    assert taken == NeutralText("A man in blue.", "A person in colour.")
    assert tidy(" “a b” ") == "a b" and tidy('say "a"') == 'say "a"'


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neutral\.model .*nowhere.*lexicon"):
        LlmNeutralizer(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a word-level tokenizer and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<s>",
        "</s>",
        "A",
        "person",
        "in",
        "a",
        "coloured",
        "top",
        "man",
        "woman",
        "red",
        "walks",
        ".",
        ",",
    ]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    )
    folder = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_model_answers_in_batches_as_one_by_one(tiny_chat_model: Path) -> None:
    neutralizer = LlmNeutralizer(str(tiny_chat_model), max_new_tokens=8, device="cpu")
    requests = ["A man in red .", "A woman in a blue coat walks , walks , walks ."]
    together = neutralizer.answer(requests)
    assert together == [neutralizer.answer([request])[0] for request in requests]
    assert all(
        row.status == "fallback" and row.reason for row in neutralizer(requests)
    )  # a random model babbles


# ---------------------------------------------------------------------------------------------------------------- cache


def test_cache_asks_nothing_twice_and_survives_a_torn_line(tmp_path: Path) -> None:
    asked: list[str] = []

    def neutralizer(captions):
        asked.extend(captions)
        if "boom" in captions:
            raise RuntimeError("killed")
        return [NeutralText(caption, caption.upper()) for caption in captions]

    cache = tmp_path / "cache" / "neutral.jsonl"
    with pytest.raises(RuntimeError):
        neutralize_cached(["a", "b", "a", "boom"], neutralizer, cache, batch_size=2)
    with cache.open("a") as file:
        file.write('{"caption": "torn')
    rows = neutralize_cached(["b", "c", "a", "ü\u2028"], neutralizer, cache, batch_size=2)
    assert [row.neutral for row in rows] == ["B", "C", "A", "Ü\u2028"]
    assert asked == ["a", "b", "boom", "c", "ü\u2028"]
    assert [row.caption for row in neutralize_cached(["ü\u2028", "a"], neutralizer, cache)] == [
        "ü\u2028",
        "a",
    ]
    assert len(asked) == 5


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "neutral.jsonl"
    cache.write_text('{"capt\n{"caption": "a", "neutral": "b", "status": "ok", "reason": null}\n')
    with pytest.raises(UsageError, match=r"neutral\.jsonl: damaged"):
        neutralize_cached(["a"], keep, cache)


def test_neutralizers_return_one_row_per_caption() -> None:
    assert [row.neutral for row in keep(["in red", ""])] == ["in red", ""]
    assert [row.neutral for row in lexicon_neutralizer()(["in red", ""])] == ["in color", ""]
