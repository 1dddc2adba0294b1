"""The losses: recorded references, slow oracles in float64, hand-computed numbers and the batches that broke the references."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ham.reid import losses
from ham.runtime import UsageError

VALUE = {"rtol": 1e-5, "atol": 1e-6}
GRADIENT = {"rtol": 1e-4, "atol": 5e-6}
PER_PAIR = sorted(losses.PAIR_LOSSES)


@pytest.fixture(scope="module")
def recorded(parity: Path) -> dict[str, torch.Tensor]:
    with np.load(parity / "losses.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def pair(recorded: dict, suffix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(recorded[f"{side}_features{suffix}"].clone().requires_grad_() for side in ("image", "text"))


def batch(
    size: int = 8, width: int = 16, persons: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
):
    draw = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(size, width, generator=draw, dtype=dtype).requires_grad_() for _ in range(2))
    return image, text, torch.randint(persons, (size,), generator=draw)


def every_loss(image: torch.Tensor, text: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    scalars = {
        "sdm": losses.sdm_loss(image, text, ids, 50.0),
        "itc": losses.itc_loss(image, text, 50.0),
        "sdm_image_ids": losses.sdm_loss(image, text, ids, 50.0, image_ids=torch.arange(len(ids))),
        "cmpm": losses.cmpm_loss(image, text, ids),
    }
    return scalars | {kind: losses.pair_losses(kind, image, text, ids).sum() for kind in PER_PAIR}


# --------------------------------------------------------------------------------------------------- recorded references


@pytest.mark.parametrize("name", ["sdm", "sdm_image_id", "itc", "cmpm"])
def test_irra_losses_and_gradients_equal_the_reference(recorded: dict, name: str) -> None:
    image, text = pair(recorded)
    ids, scale = recorded["pids"], recorded["logit_scale"]
    loss = {
        "sdm": lambda: losses.sdm_loss(image, text, ids, scale),
        "sdm_image_id": lambda: losses.sdm_loss(image, text, ids, scale, image_ids=recorded["image_ids"]),
        "itc": lambda: losses.itc_loss(image, text, scale),
        "cmpm": lambda: losses.cmpm_loss(image, text, ids),
    }[name]()
    torch.testing.assert_close(loss, recorded[f"irra.{name}"], **VALUE)
    loss.backward()
    torch.testing.assert_close(image.grad, recorded[f"irra.{name}.grad_image"], **GRADIENT)
    torch.testing.assert_close(text.grad, recorded[f"irra.{name}.grad_text"], **GRADIENT)


def test_other_irra_losses_equal_the_reference(recorded: dict) -> None:
    image, text = pair(recorded)
    softened = losses.sdm_loss(
        image, text, recorded["pids"], 50.0, recorded["image_ids"], factor=0.7, epsilon=1e-6
    )
    torch.testing.assert_close(softened, recorded["irra.sdm_image_id_f07"], **VALUE)
    found = losses.id_loss(recorded["id_image_logits"], recorded["id_text_logits"], recorded["id_labels"])
    torch.testing.assert_close(found, recorded["irra.id"], **VALUE)
    torch.testing.assert_close(
        losses.mlm_loss(recorded["mlm_scores"], recorded["mlm_labels"]), recorded["irra.mlm"], **VALUE
    )


@pytest.mark.parametrize("kind", PER_PAIR)
def test_rde_losses_and_gradients_equal_the_reference(recorded: dict, kind: str) -> None:
    tau, margin = float(recorded["rde_tau"]), float(recorded["rde_margin"])
    total = 0.0
    sides = {}
    for branch, suffix in (("bge", ""), ("tse", "_tse")):
        sides[suffix] = image, text = pair(recorded, suffix)
        per_pair = losses.pair_losses(kind, image, text, recorded["pids"], tau, margin, 50.0)
        if not suffix:
            torch.testing.assert_close(per_pair, recorded[f"rde.compute_per_loss.{kind}"], **VALUE)
            torch.testing.assert_close(per_pair, recorded[f"rde.per.{kind}"], **VALUE)
        loss = losses.weigh_pairs(kind, per_pair, recorded["rde_label_hat"])
        torch.testing.assert_close(loss, recorded[f"rde.rbs.{kind}.{branch}"], **VALUE)
        total = total + loss
    total.backward()
    for suffix, (image, text) in sides.items():
        torch.testing.assert_close(image.grad, recorded[f"rde.rbs.{kind}.grad_image{suffix}"], **GRADIENT)
        torch.testing.assert_close(text.grad, recorded[f"rde.rbs.{kind}.grad_text{suffix}"], **GRADIENT)


def test_rde_losses_with_other_margins_equal_the_reference(recorded: dict) -> None:
    image, text = pair(recorded)
    for kind, name in (("TRL", "rde.per.TRL_default"), ("TAL", "rde.per.TAL_m02_t02")):
        found = losses.pair_losses(kind, image, text, recorded["pids"], tau=0.02, margin=0.2)
        torch.testing.assert_close(found, recorded[name], **VALUE)
    torch.testing.assert_close(losses.cosine_scores(image, text), recorded["rde_scores"], **VALUE)


# ------------------------------------------------------------------------------------------------- hand-computed, oracles


def test_two_orthogonal_pairs_by_hand() -> None:
    """Cosines are the identity matrix, so every number follows from exp(scale) against exp(0)."""
    eye, ids = torch.eye(2), torch.tensor([3, 9])
    right = math.exp(2.0) / (math.exp(2.0) + 1.0)
    wrong = 1.0 - right
    assert losses.itc_loss(eye, eye, 2.0).item() == pytest.approx(-math.log(right), rel=1e-6)
    sdm = 2 * (right * math.log(right / (1 + 1e-8)) + wrong * (math.log(wrong) - math.log(1e-8)))
    assert losses.sdm_loss(eye, eye, ids, 2.0).item() == pytest.approx(sdm, rel=1e-5)
    assert losses.tal_loss(eye, eye, ids, 0.5, 1.5).tolist() == pytest.approx(
        [1.0, 1.0], abs=1e-6
    )  # 2 * [1.5 - 1 + 0]
    assert losses.trl_loss(eye, eye, ids, 0.5, 0.5).tolist() == [0.0, 0.0]
    assert losses.trl_loss(eye, -eye, ids, 0.5, 0.25).tolist() == [2.5, 2.5]  # 2 * [0.25 + 1 + 0]


def test_hardest_negative_below_zero_counts_as_it_is() -> None:
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert losses.trl_loss(image, image, torch.tensor([0, 1]), 0.02, 2.5).tolist() == [
        1.0,
        1.0,
    ]  # 2 * [2.5 - 1 - 1]


def test_tal_equals_the_formula_row_by_row() -> None:
    image, text, ids = batch(10)
    cosine = torch.nn.functional.cosine_similarity(text[:, None], image[None], dim=2)
    tau, margin = 0.05, 0.2
    expected = []
    for i in range(10):
        total = 0.0
        for row in (cosine[i], cosine[:, i]):
            same = ids == ids[i]
            weight = torch.exp(row[same] / tau) / torch.exp(row[same] / tau).sum()
            total += max(
                0.0,
                (margin - (weight * row[same]).sum() + tau * torch.exp(row[~same] / tau).sum().log()).item(),
            )
        expected.append(total)
    assert losses.tal_loss(image, text, ids, tau, margin).tolist() == pytest.approx(expected, rel=1e-9)


def test_sdm_rows_sum_to_one_on_request() -> None:
    image, text, _ = batch(4)
    ids, image_ids = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 2])
    target = torch.tensor(
        [[1.0, 1, 0.3, 0], [1, 1, 0.3, 0], [0.3, 0.3, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    target = target / target.sum(1, keepdim=True)
    logits = 5.0 * losses.cosine_scores(image, text)
    expected = sum(
        (p.softmax(1) * (p.log_softmax(1) - (target + 1e-8).log())).sum(1).mean() for p in (logits, logits.T)
    )
    found = losses.sdm_loss(image, text, ids, 5.0, image_ids, rows_sum_to_one=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(losses.sdm_loss(image, text, ids, 5.0, image_ids), expected)


@pytest.mark.parametrize("name", ["sdm", "itc", "cmpm", "sdm_image_ids", *PER_PAIR])
def test_gradients_are_the_slope(name: str) -> None:
    """TAL and TRL hold their positives' weights constant, so with one image a person the slope is exact."""
    image, text, _ = batch(5, 6)
    ids = torch.arange(5) if name in losses.SUMMED_LOSSES else torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(
        lambda a, b: every_loss(a, b, ids)[name], (image, text), atol=1e-4, rtol=1e-3
    )


def test_mlm_ignores_label_zero_and_survives_an_unmasked_batch() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[0, 4, 0], [2, 0, 0]])
    expected = -(logits[0, 1].log_softmax(0)[4] + logits[1, 0].log_softmax(0)[2]) / 2
    torch.testing.assert_close(losses.mlm_loss(logits, labels), expected)
    nothing = losses.mlm_loss(logits, torch.zeros_like(labels))
    nothing.backward()
    assert nothing.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# --------------------------------------------------------------------------------------------------- what broke elsewhere


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_single_person_gives_finite_losses_and_gradients(dtype: torch.dtype) -> None:
    image, text, _ = batch(6, dtype=torch.float32)
    image, text = (side.detach().to(dtype).requires_grad_() for side in (image, text))
    for name, loss in every_loss(image, text, torch.zeros(6, dtype=torch.long)).items():
        assert loss.dtype == torch.float32 and loss.isfinite(), name
        image.grad = text.grad = None
        loss.backward()
        assert image.grad.isfinite().all() and text.grad.isfinite().all(), name
    assert losses.tal_loss(image, text, torch.zeros(6)).tolist() == [0.0] * 6


def test_infonce_stays_finite_where_a_softmax_underflows() -> None:
    image = torch.eye(2)
    found = losses.infonce_per_pair(image, image.flip(0), 500.0)
    assert found.tolist() == [500.0, 500.0]


def test_a_row_of_zeros_has_finite_gradients() -> None:
    image, text, ids = batch(4, dtype=torch.float32)
    image.data[2] = 0.0
    sum(every_loss(image, text, ids).values()).backward()
    assert image.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision() -> None:
    image, text, ids = batch(8, 64, dtype=torch.float32)
    outside = every_loss(image, text, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = every_loss(image, text, ids)
    for name, value in outside.items():
        assert torch.equal(inside[name], value), name


def test_unknown_loss_names_the_known_ones() -> None:
    image, text, ids = batch(2)
    with pytest.raises(UsageError, match=r"'tal' is not known; use one of TAL, TRL, InfoNCE, SDM"):
        losses.pair_losses("tal", image, text, ids)


def test_no_clean_pair_costs_nothing() -> None:
    for kind in PER_PAIR:
        assert losses.weigh_pairs(kind, torch.ones(3), torch.zeros(3)).item() == 0.0


# ------------------------------------------------------------------------------------------------------------- invariants


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 12), persons=st.integers(1, 6))
def test_losses_ignore_order_length_of_features_and_names_of_persons(
    seed: int, size: int, persons: int
) -> None:
    image, text, ids = batch(size, 8, persons, seed)
    before = every_loss(image, text, ids)
    shuffle = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    after = every_loss(image[shuffle], text[shuffle], 1000 - 7 * ids[shuffle])
    scaled = every_loss(3.0 * image, 0.5 * text, ids)
    for name, value in before.items():
        assert value.isfinite()
        torch.testing.assert_close(after[name], value, rtol=1e-8, atol=1e-8, msg=name)
        if name != "cmpm":  # the one loss that depends on the length of the features
            torch.testing.assert_close(scaled[name], value, rtol=1e-8, atol=1e-8, msg=name)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 10))
def test_sides_are_symmetric_and_sdm_is_the_mean_of_its_pairs(seed: int, size: int) -> None:
    image, text, ids = batch(size, 8, 3, seed)
    for name, value in every_loss(text, image, ids).items():
        torch.testing.assert_close(value, every_loss(image, text, ids)[name], rtol=1e-8, atol=1e-8, msg=name)
    per_pair = losses.sdm_per_pair(image, text, ids, 50.0)
    torch.testing.assert_close(per_pair.mean(), losses.sdm_loss(image, text, ids, 50.0))
    assert (losses.tal_loss(image, text, ids) >= 0).all()
