"""IRRA: the recorded reference, the loss list, masking, and what must not crash."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_reid import load_recorded, recorded_batch, tiny_clip

from ham.clip import EOT_ID, MASK_ID, build_clip, load_clip, tokenize
from ham.reid.irra import IRRA, IRRAOptions, parse_losses
from ham.reid.methods import build_method, joined, similarity
from ham.reid.mlm import augment_batch, mask_batch, mask_tokens
from ham.runtime import UsageError

MASKING = json.loads((Path(__file__).parent / "data/clip/tokens.json").read_text(encoding="utf-8"))[
    "mlm_masking"
]
SMALL = tiny_clip(context_length=12)


def small_batch() -> dict[str, torch.Tensor]:
    ids = tokenize(["a man in a red coat", "a red man", "a coat"], text_length=12)
    masked, labels = mask_batch(ids.numpy(), np.random.default_rng(0))
    return {
        "images": torch.randn(3, 3, 24, 16, generator=torch.Generator().manual_seed(0)),
        "caption_ids": ids,
        "person_ids": torch.tensor([0, 1, 0]),
        "mlm_ids": torch.from_numpy(masked),
        "mlm_labels": torch.from_numpy(labels),
    }


@pytest.fixture()
def recorded(parity: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(parity / "irra_tiny.npz").items()}


def reference_model(parity: Path, losses: str) -> IRRA:
    model = build_method(
        losses, load_clip(parity / "irra_tiny.safetensors", (96, 32), 16), 7, irra=IRRAOptions(cross_layers=2)
    )
    return load_recorded(model, parity / "irra_tiny.safetensors")


# ------------------------------------------------------------------------------------------------------------- reference


def test_activations_equal_recorded_reference(parity: Path, recorded: dict) -> None:
    model, batch = reference_model(parity, "sdm+mlm+id"), recorded_batch(recorded)
    image_tokens = model.base_model.encode_image_tokens(batch["images"])
    former = model.cross_former(model.base_model.encode_text_tokens(batch["mlm_ids"]), image_tokens)
    image, text = model.encode_image(batch["images"]), model.encode_text(batch["caption_ids"])
    for name, value in {
        "image_tokens": image_tokens,
        "text_tokens": model.base_model.encode_text_tokens(batch["caption_ids"]),
        "image_global": image,
        "text_global": text,
        "cross_former": former,
        "mlm_scores_at_labels": model.mlm_head(former).flatten(0, 1)[recorded["mlm_label_index"]],
        "image_logits": model.classifier(image),
        "text_logits": model.classifier(text),
    }.items():
        assert len(recorded[name]) >= 2
        torch.testing.assert_close(
            value[: len(recorded[name])],
            recorded[name],
            rtol=1e-4,
            atol=3e-5,
            msg=lambda why, name=name: f"{name}: {why}",
        )


@pytest.mark.parametrize(("losses", "prefix"), [("sdm+mlm+id", "ret."), ("itc+sdm+cmpm+id+mlm", "ret_all.")])
def test_losses_equal_recorded_reference(parity: Path, recorded: dict, losses: str, prefix: str) -> None:
    result = reference_model(parity, losses)(recorded_batch(recorded))
    expected = {
        name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)
    }
    assert result.keys() == expected.keys() - {"temperature", "total_loss"}
    for name, value in result.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4 if name.endswith("loss") else 0, atol=0)


def test_gradients_equal_recorded_reference(parity: Path, recorded: dict) -> None:
    model = reference_model(parity, "sdm+mlm+id")
    result = model(recorded_batch(recorded))
    total = sum(value for name, value in result.items() if name.endswith("_loss"))
    torch.testing.assert_close(total, recorded["ret.total_loss"], rtol=1e-4, atol=0)
    total.backward()
    norms = json.loads((parity / "irra_tiny.json").read_text())["grad_norms_of_total_loss"]
    trained = {
        name: value.grad.norm().item() for name, value in model.named_parameters() if value.requires_grad
    }
    assert trained.keys() == norms.keys()
    assert trained == pytest.approx(norms, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------- method


def test_loss_list_is_matched_by_whole_names() -> None:
    assert parse_losses("sdm+mlm+id") == parse_losses("id + sdm + mlm") == ("sdm", "id", "mlm")
    for text in ("sdm+idx", "side", "", "sdm+"):
        with pytest.raises(UsageError, match="join some of itc, sdm, cmpm, id, mlm"):
            parse_losses(text)
    with pytest.raises(UsageError, match="twice"):
        parse_losses("sdm+sdm")
    with pytest.raises(UsageError, match="method 'rdf' is not known: use rde, irra, or a loss list"):
        build_method("rdf", build_clip(SMALL))


def test_heads_exist_only_for_their_losses() -> None:
    assert {name for name, _ in build_method("sdm", build_clip(SMALL)).named_children()} == {"base_model"}
    assert hasattr(build_method("sdm+id", build_clip(SMALL), 5), "classifier")
    with pytest.raises(UsageError, match="num_classes is 0"):
        build_method("irra", build_clip(SMALL))


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = build_method("irra", build_clip(SMALL), 2)
    sum(value for name, value in model(small_batch()).items() if name.endswith("_loss")).backward()
    assert not [
        name for name, value in model.named_parameters() if value.requires_grad and value.grad is None
    ]
    assert model.mlm_head.fc.weight.shape == (SMALL_ROWS, 24)


SMALL_ROWS = len({*SMALL.token_ids, MASK_ID}) + 1


def test_masked_captions_for_all_losses_are_encoded_once_with_the_same_result() -> None:
    model = build_method("irra", build_clip(SMALL), 2).eval()
    batch = small_batch()
    twice = model(batch | {"caption_ids": batch["mlm_ids"].clone()})
    once = model(batch | {"caption_ids": batch["mlm_ids"]})
    assert twice.keys() == once.keys()
    for name in once:
        torch.testing.assert_close(once[name], twice[name])


def test_no_masked_word_costs_nothing() -> None:
    model = build_method("sdm+mlm", build_clip(SMALL))
    batch = small_batch()
    batch["mlm_labels"] = torch.zeros_like(batch["mlm_labels"])
    result = model(batch)
    assert result["mlm_loss"].item() == 0 and result["mlm_acc"].item() == 0
    result["mlm_loss"].backward()
    assert model.mlm_head.fc.weight.grad.eq(0).all()


def test_weights_of_the_losses_multiply() -> None:
    batch = small_batch()
    plain = build_method("irra", build_clip(SMALL), 2)
    heavy = build_method("irra", build_clip(SMALL), 2, irra=IRRAOptions(id_weight=2.0, mlm_weight=0.5))
    heavy.load_state_dict(plain.state_dict())
    light, weighted = plain(batch), heavy(batch)
    torch.testing.assert_close(weighted["id_loss"], light["id_loss"] * 2)
    torch.testing.assert_close(weighted["mlm_loss"], light["mlm_loss"] / 2)


def test_gather_reaches_all_that_is_compared_across_pairs() -> None:
    model = build_method("sdm", build_clip(SMALL), irra=IRRAOptions(soften_other_images=True))
    batch = small_batch() | {"image_ids": torch.tensor([4, 5, 6])}
    alone = model(batch)["sdm_loss"]
    shapes = []
    model.gather = lambda values: shapes.append(tuple(values.shape)) or torch.cat([values, values.flip(0)])
    assert model(batch)["sdm_loss"] != alone
    assert shapes == [(3, 24), (3, 24), (3,), (3,)]


def test_similarity_is_the_mean_of_the_cosines() -> None:
    query = [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0, 0.0]])]
    gallery = [torch.tensor([[4.0, 3.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0]])]
    expected = torch.tensor([[(24 / 25 + 1) / 2, 4 / 5 / 2]])
    torch.testing.assert_close(similarity(query, gallery), expected)
    torch.testing.assert_close(joined(query) @ joined(gallery).T, expected)
    torch.testing.assert_close(joined(query).norm(dim=1), torch.ones(1))
    with pytest.raises(ValueError, match="embeddings"):
        similarity(query, gallery[:1])


# --------------------------------------------------------------------------------------------------------------- masking


@pytest.mark.parametrize("row", MASKING, ids=lambda row: f"seed {row['random_seed']}")
def test_masking_equals_recorded_reference(row: dict) -> None:
    before = list(row["ids"])
    assert mask_tokens(row["ids"], random.Random(row["random_seed"])) == (row["mlm_ids"], row["mlm_labels"])
    assert row["ids"] == before


def test_masking_leaves_a_caption_without_words_alone() -> None:
    ids = tokenize("").tolist()[0]
    assert mask_tokens(ids, random.Random(0)) == (ids, [0] * 77)
    masked, labels = mask_batch(np.array([ids]), np.random.default_rng(0))
    assert masked.tolist() == [ids] and not labels.any()


def test_batch_masking_keeps_the_shares() -> None:
    ids = tokenize(["red coat " * 35] * 600).numpy()
    masked, labels = mask_batch(ids, np.random.default_rng(0))
    words = (ids > 0) & (ids < MASK_ID)
    chosen = labels != 0
    assert np.array_equal(labels[chosen], ids[chosen]) and not chosen[~words].any()
    assert np.array_equal(masked[~chosen], ids[~chosen])
    assert chosen.sum() / words.sum() == pytest.approx(0.15, abs=0.01)
    assert (masked == MASK_ID)[chosen].mean() == pytest.approx(0.8, abs=0.02)
    assert (masked == ids)[chosen].mean() == pytest.approx(0.1, abs=0.02)
    again = mask_batch(ids, np.random.default_rng(0))
    assert np.array_equal(again[0], masked) and np.array_equal(again[1], labels)


def test_batch_masking_chooses_at_least_one_word() -> None:
    masked, labels = mask_batch(tokenize(["coat"] * 200).numpy(), np.random.default_rng(0))
    assert (labels != 0).sum(axis=1).tolist() == [1] * 200
    assert (masked[:, 2] == EOT_ID).all()


def test_augmentation_keeps_the_shares_and_the_end() -> None:
    ids = tokenize(["red coat " * 35] * 600 + ["", "coat"]).numpy()
    changed = augment_batch(ids, np.random.default_rng(0))
    words = ((ids > 0) & (ids < MASK_ID)).sum()
    removed = (ids != 0).sum() - (changed != 0).sum()
    masked = (changed == MASK_ID).sum()
    assert masked / words == pytest.approx(0.2 * 0.6, abs=0.01) and removed / words == pytest.approx(
        0.2 * 0.2, abs=0.01
    )
    lengths = (changed != 0).sum(axis=1)
    assert (np.take_along_axis(changed, lengths[:, None] - 1, axis=1) == EOT_ID).all()
    assert (changed[-2] == ids[-2]).all() and lengths[-1] == 3
    for row, length in zip(changed, lengths):
        assert (row[length:] == 0).all()
