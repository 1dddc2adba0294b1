"""Style features: what they see, what they do not, and how they fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ham.runtime import UsageError
from ham.style.features import (
    chars_features,
    check_known_tokens,
    clip_features,
    hf_features,
    marks_of,
    skeleton_of,
)

THINGS = ["coat", "hat", "bag", "shoe", "scarf", "belt", "skirt", "vest"]
MANNERS = [
    lambda thing: f"The person is wearing a {thing}.",
    lambda thing: f"{thing}, worn; one {thing} seen!!",
    lambda thing: f"in this picture there seems to be someone with a {thing} on",
]


def test_skeleton_keeps_function_words_only() -> None:
    assert skeleton_of("The man is, well, tall")[:7] == ["the", "*", "is", ",", "well", ",", "*"]
    assert "the * is" in skeleton_of("The man is") and "* is" in skeleton_of("The man is")


def test_marks_see_stops_and_capitals() -> None:
    assert marks_of("A man. BIG a!") == ["^C", "Cc", "c.", ".CC", "CCc", "c!", "!$", "length 0"]
    assert marks_of("big a man") == ["^c", "c$", "length 0"]


def test_chars_tell_manners_apart_whatever_the_thing() -> None:
    texts = [manner(thing) for manner in MANNERS for thing in THINGS]
    features = chars_features(texts, dim=8)
    assert features.shape == (24, 8) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    similarity = features @ features.T
    same = np.kron(np.eye(3), np.ones((8, 8))) > 0
    assert similarity[same].min() > similarity[~same].max()


def test_chars_are_repeatable_and_depend_on_the_seed_only_through_the_svd() -> None:
    texts = [manner(thing) for manner in MANNERS for thing in THINGS]
    np.testing.assert_array_equal(chars_features(texts, 4, seed=1), chars_features(texts, 4, seed=1))


def test_chars_take_every_alphabet_and_odd_texts() -> None:
    features = chars_features(
        ["她穿着红色外套", "她穿着蓝色外套", "Женщина в пальто", "plain words", ""], dim=3
    )
    assert np.isfinite(features).all() and features.shape == (5, 3)
    assert features[0] @ features[1] > features[0] @ features[3]


@pytest.mark.parametrize("texts", [[], ["only one"], [""]])
def test_chars_refuse_too_little(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="chars features"):
        chars_features(texts)


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one-layer BERT that knows a few English words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {
        word: index for index, word in enumerate(["[PAD]", "[UNK]", "a", "person", "in", "red", "."])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=7,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    return folder


def test_hf_mean_ignores_padding(tiny_encoder: Path) -> None:
    texts = ["a person", "a person in red . a person in red .", "a"]
    raw = hf_features(texts, str(tiny_encoder), normalize=False, batch_size=3, device="cpu")
    alone = np.concatenate(
        [hf_features([text], str(tiny_encoder), normalize=False, device="cpu") for text in texts]
    )
    np.testing.assert_allclose(raw, alone, atol=1e-5)
    unit = hf_features(texts, str(tiny_encoder), device="cpu")
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_hf_refuses_a_text_without_known_tokens(tiny_encoder: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokens for 1 of 2 texts, such as '她穿着'.*chars"):
        hf_features(["a person", "她穿着"], str(tiny_encoder), device="cpu")


def test_a_text_with_one_known_token_is_fine(tiny_encoder: Path) -> None:
    from transformers import AutoTokenizer

    check_known_tokens(["她 person"], AutoTokenizer.from_pretrained(tiny_encoder), "tiny")


def test_missing_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features\.source .*nowhere"):
        hf_features(["a"], str(tmp_path / "nowhere"), device="cpu")


@pytest.mark.parametrize("normalize", [False, True])
def test_clip_features_are_the_text_towers(tmp_path: Path, normalize: bool) -> None:
    from ham.clip import CLIPConfig, build_clip, save_clip, tokenize

    model = build_clip(
        CLIPConfig(
            image_size_px=(32, 16),
            embed_dim=8,
            vision_width=16,
            vision_layers=1,
            text_width=16,
            text_layers=1,
            vision_heads=1,
            text_heads=1,
        )
    ).eval()
    save_clip(model, tmp_path / "clip.safetensors")
    texts = ["a person in red", "她穿着红色外套", "a " * 200]
    with torch.no_grad():
        expected = model.encode_text(tokenize(texts)).numpy()
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    features = clip_features(texts, tmp_path / "clip.safetensors", normalize, batch_size=2, device="cpu")
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_clip_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        clip_features(["a"], tmp_path / "nowhere", device="cpu")
