"""RDE: the recorded reference, short and empty captions, the division into clean and noisy pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_reid import load_recorded, recorded_batch, tiny_clip

from ham.clip import build_clip, load_clip, tokenize
from ham.reid.methods import build_method, similarity
from ham.reid.rde import RDE, RDEOptions, select
from ham.reid.rde_division import LOOSE, TIGHT, clean_probability, divide, mixture_settings, split_clean
from ham.runtime import UsageError, WorkError

SMALL = tiny_clip()
HARD = ["", "coat", "a man " * 60, "!", "a red coat"]


def small_batch(captions: list[str]) -> dict[str, torch.Tensor]:
    images = torch.randn(len(captions), 3, 24, 16, generator=torch.Generator().manual_seed(0))
    return {
        "images": images,
        "caption_ids": tokenize(captions),
        "person_ids": torch.arange(len(captions)) // 2,
    }


@pytest.fixture()
def recorded(parity: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(parity / "rde_tiny.npz").items()}


def reference_model(parity: Path, loss: str = "TAL") -> RDE:
    model = build_method(
        "rde", load_clip(parity / "rde_tiny.safetensors", (96, 48), 16), rde=RDEOptions(loss=loss)
    )
    return load_recorded(model, parity / "rde_tiny.safetensors")


# ------------------------------------------------------------------------------------------------------------- reference


def test_embeddings_equal_recorded_reference(parity: Path, recorded: dict) -> None:
    model, batch = reference_model(parity), recorded_batch(recorded)
    image, text = model.image_features(batch["images"]), model.text_features(batch["caption_ids"])
    close = {"rtol": 1e-4, "atol": 2e-5}
    for name, value in zip(("image_bge", "image_tse", "text_bge", "text_tse"), (*image, *text)):
        torch.testing.assert_close(value, recorded[name], **close)
    torch.testing.assert_close(model.encode_image(batch["images"]), recorded["image_bge"], **close)
    torch.testing.assert_close(model.encode_text(batch["caption_ids"]), recorded["text_bge"], **close)
    torch.testing.assert_close(model.encode_image_tse(batch["images"]), recorded["image_tse"], **close)
    torch.testing.assert_close(model.encode_text_tse(batch["caption_ids"]), recorded["text_tse"], **close)
    torch.testing.assert_close(similarity(text[:1], image[:1]), recorded["eval_sims_bge"], **close)
    torch.testing.assert_close(similarity(text[1:], image[1:]), recorded["eval_sims_tse"], **close)
    torch.testing.assert_close(similarity(text, image), recorded["eval_sims_fused"], **close)


@pytest.mark.parametrize("loss", ["TAL", "TRL", "InfoNCE", "SDM"])
def test_losses_equal_recorded_reference(parity: Path, recorded: dict, loss: str) -> None:
    model, batch, prefix = (
        reference_model(parity, loss),
        recorded_batch(recorded),
        "" if loss == "TAL" else f"{loss}.",
    )
    result, (bge, tse) = model(batch), model.per_pair(batch)
    torch.testing.assert_close(result["bge_loss"], recorded[f"{prefix}ret.bge_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(result["tse_loss"], recorded[f"{prefix}ret.tse_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(bge, recorded[f"{prefix}per_loss_bge"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(tse, recorded[f"{prefix}per_loss_tse"], rtol=1e-4, atol=2e-5)


def test_gradients_equal_recorded_reference(parity: Path, recorded: dict) -> None:
    model = reference_model(parity)
    sum(model(recorded_batch(recorded)).values()).backward()
    norms = json.loads((parity / "rde_tiny.json").read_text())["grad_norms_of_total_loss"]
    ours = {
        name: None if value.grad is None else value.grad.norm().item()
        for name, value in model.named_parameters()
        if name != "base_model.logit_scale"
    }
    assert {name for name, norm in ours.items() if norm is None} == {
        name for name, norm in norms.items() if norm is None
    }
    assert {k: v for k, v in ours.items() if v is not None} == pytest.approx(
        {k: v for k, v in norms.items() if v is not None}, rel=1e-3
    )
    assert not [
        name for name, value in model.named_parameters() if value.requires_grad and value.grad is None
    ]


def test_training_mode_equals_recorded_reference(parity: Path, recorded: dict) -> None:
    model = reference_model(parity).train()
    result = model(recorded_batch(recorded))
    torch.testing.assert_close(result["bge_loss"], recorded["train_mode.ret.bge_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(result["tse_loss"], recorded["train_mode.ret.tse_loss"], rtol=1e-4, atol=0)
    after, state = "train_mode.after.", model.state_dict()
    names = [name for name in recorded if name.startswith(after)]
    assert len(names) == 8
    for name in names:
        torch.testing.assert_close(state[name.removeprefix(after)], recorded[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("loose", mixture_settings("CUHK-PEDES", 0.2)),
        ("tight", mixture_settings("CUHK-PEDES", 0.5)),
        ("rstp", mixture_settings("RSTPReid", 0.0)),
    ],
)
def test_division_equals_recorded_reference(parity: Path, name: str, settings) -> None:
    recorded = np.load(parity / "rde_division.npz")
    for branch in "AB":
        probability = clean_probability(recorded[f"loss{branch}"], settings)
        np.testing.assert_allclose(probability, recorded[f"{name}.prob_{branch}"], atol=1e-3)
        assert np.array_equal(split_clean(probability), recorded[f"{name}.pred_{branch}"] == 1)
    division = divide(recorded["lossA"], recorded["lossB"], settings, seed=3, epoch=5)
    agree = recorded[f"{name}.consensus"] != 1
    assert np.array_equal(division.clean[agree], recorded[f"{name}.label_hat"][agree])
    assert division.disagree == (~agree).sum() == 14


def test_split_equals_recorded_reference(parity: Path) -> None:
    recorded = np.load(parity / "rde_division.npz")
    for name in ("split_prob", "split_prob_all_clean"):
        assert np.array_equal(split_clean(recorded[f"{name}.in"]), recorded[f"{name}.out"] == 1)


# ---------------------------------------------------------------------------------------------------------------- method


@pytest.mark.parametrize("training", [True, False])
def test_short_and_empty_captions_neither_crash_nor_spread_nan(training: bool) -> None:
    model = build_method("rde", build_clip(SMALL)).train(training)
    result = model(small_batch(HARD))
    sum(result.values()).backward()
    assert all(value.isfinite() for value in result.values())
    assert not [
        name
        for name, value in model.named_parameters()
        if value.grad is not None and not value.grad.isfinite().all()
    ]


def test_a_caption_without_words_is_zeros_and_leaves_the_others_alone() -> None:
    model = build_method("rde", build_clip(SMALL)).eval()
    together = model.encode_text_tse(tokenize(HARD))
    assert together[0].eq(0).all() and together[1:].norm(dim=1).min() > 0
    torch.testing.assert_close(together[1:], model.encode_text_tse(tokenize(HARD[1:])))


def test_a_single_person_or_pair_has_finite_gradients() -> None:
    model = build_method("rde", build_clip(SMALL))
    batch = small_batch(["a red coat", "a man"])
    sum(model(batch | {"person_ids": torch.zeros(2, dtype=torch.long)}).values()).backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_text_embedding_by_the_obvious_way() -> None:
    """One caption: sort its words by attention, embed the first k, take the maximum over those that exist."""
    model = build_method("rde", build_clip(SMALL)).eval()
    layer, ids = model.texual_emb_layer, tokenize(["a man in a red coat"])
    with torch.no_grad():
        tokens, attention = model.base_model.encode_text_with_attention(ids)
        order = sorted(range(1, 7), key=lambda place: -attention[0, place])
        words = torch.stack([tokens[0, place] / tokens[0, place].norm() for place in order])
        mlp = layer.mlp
        hidden = torch.relu(mlp.bns[0](mlp.layers[0](words)))
        expected = (mlp.layers[1](hidden) + layer.linear(words)).amax(dim=0)
        torch.testing.assert_close(layer(tokens, ids, attention)[0], expected, rtol=1e-4, atol=1e-5)


def test_text_selection_keeps_the_most_attended_words_only() -> None:
    tokens = torch.eye(4)[None] * 5
    assert select(tokens, torch.tensor([[0.1, 0.4, 0.2, 0.3]]), 2).argmax(dim=2).tolist() == [[1, 3]]


def test_shorter_padding_gives_the_same_embedding() -> None:
    model = build_method("rde", build_clip(SMALL)).eval()
    captions = ["a man in a red coat", "coat", "a " * 9]
    torch.testing.assert_close(
        model.encode_text_tse(tokenize(captions, 12)), model.encode_text_tse(tokenize(captions))
    )


def test_noisy_pairs_weigh_nothing() -> None:
    model = build_method("rde", build_clip(SMALL)).eval()
    batch = small_batch(["a red coat", "a man", "coat"])
    bge, tse = model.per_pair(batch)
    result = model(batch | {"label_hat": torch.tensor([1.0, 0.0, 1.0])})
    torch.testing.assert_close(result["bge_loss"], bge[0] + bge[2])
    torch.testing.assert_close(result["tse_loss"], tse[0] + tse[2])
    torch.testing.assert_close(model(batch)["bge_loss"], bge.sum())


def test_unknown_loss_names_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="'TLA' is not known; use one of TAL, TRL, InfoNCE, SDM"):
        build_method("rde", build_clip(SMALL), rde=RDEOptions(loss="TLA"))


# -------------------------------------------------------------------------------------------------------------- division


def two_heaps() -> np.ndarray:
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(0.2, 0.02, 80), draw.normal(0.8, 0.05, 20)])


def test_two_heaps_are_told_apart_at_any_scale() -> None:
    losses = two_heaps()
    for scaled in (losses, losses * 50 + 3):
        assert split_clean(clean_probability(scaled)).tolist() == [True] * 80 + [False] * 20


def test_agreement_decides_and_disagreement_is_a_seeded_coin() -> None:
    losses = two_heaps()
    other = losses.copy()
    other[:40] += 0.6  # the second branch calls these 40 noisy
    divisions = [
        divide(losses, other, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    first = divisions[0]
    assert first.disagree == 40 and first.clean[40:80].all() and not first.clean[80:].any()
    assert 8 < first.clean[:40].sum() < 32
    assert np.array_equal(first.clean, divisions[1].clean)
    assert not np.array_equal(first.clean, divisions[2].clean) and not np.array_equal(
        first.clean, divisions[3].clean
    )


def test_all_clean_forces_the_lowest_percent_noisy() -> None:
    probability = np.linspace(0.6, 0.9, 250)
    assert (~split_clean(probability)).sum() == 3 and not split_clean(probability)[:3].any()


@pytest.mark.parametrize("losses", [np.full(10, 0.3), np.array([0.4]), np.array([])])
def test_nothing_to_divide_is_all_clean(losses: np.ndarray) -> None:
    assert divide(losses, losses).clean.tolist() == [1.0] * losses.size


def test_a_loss_that_is_not_finite_stops() -> None:
    losses = two_heaps()
    losses[7] = np.nan
    with pytest.raises(WorkError, match=r"1 of 100 pairs .* pair 7"):
        divide(losses, two_heaps())


def test_settings_follow_dataset_and_noise() -> None:
    assert mixture_settings("ICFG-PEDES") == mixture_settings("CUHK-PEDES", 0.4) == LOOSE
    assert mixture_settings("RSTPReid") == mixture_settings("CUHK-PEDES", 0.5) == TIGHT
