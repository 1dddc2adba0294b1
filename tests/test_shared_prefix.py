"""An image's prefix computed once: loss, gradients and order equal the separate computation's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from decode_helpers import K, S, V, tiny_captioner

from ham.captioner.data import Collator
from ham.captioner.epoch_sampler import EpochSampler, grouped_order
from ham.captioner.shared_prefix import block_mask, first_of_each, group_images
from ham.llava.conversation import IGNORE_INDEX
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.llava.transformers_compat import IS_LEGACY

needs_shared_prefix = pytest.mark.skipif(IS_LEGACY, reason="the shared prefix is off on transformers 4.31")

BEFORE = [1, 7, 9]


def sample(image: int, style_id: int, caption: list[int], before: list[int] = BEFORE) -> dict:
    """Return a record as the dataset makes it; images are told apart by name."""
    after = [11, 4]
    pixels = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(image))
    ids = torch.tensor([*before, IMAGE_TOKEN_INDEX, *after, *caption])
    labels = ids.clone()
    labels[: len(before) + 1 + len(after)] = IGNORE_INDEX
    return {
        "input_ids": ids,
        "labels": labels,
        "pixels": pixels,
        "style_id": style_id,
        "image": f"{image}.jpg",
    }


def batch_of(samples: list[dict], share: bool) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([one["input_ids"] for one in samples], batch_first=True)
    lengths = torch.tensor([len(one["input_ids"]) for one in samples])
    batch = {
        "input_ids": ids,
        "labels": pad([one["labels"] for one in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": torch.arange(ids.shape[1])[None] < lengths[:, None],
        "images": torch.stack([one["pixels"] for one in samples]),
        "style_ids": torch.tensor([one["style_id"] for one in samples]),
    }
    if share:
        index = group_images(samples)
        assert index is not None
        batch |= {"image_index": index, "images": batch["images"][first_of_each(index)]}
    return batch


def gradients(batch: dict[str, torch.Tensor], max_length: int | None) -> dict[str, torch.Tensor]:
    model = tiny_captioner().model
    model.max_length = max_length
    model.style_bank.requires_grad_(True)
    model.projector.requires_grad_(True)
    loss = model(**batch).loss
    loss.backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"loss": loss.detach(), **found}


MIXED = [
    sample(0, 1, [20, 21, 22, 2]),
    sample(1, 2, [30, 2]),
    sample(0, 3, [23, 24, 25, 26, 27, 28, 2]),
    sample(0, 1, [29, 2]),
    sample(2, 0, [31, 32, 2]),
    sample(1, 4, [33, 34, 35, 36, 2]),
]


@needs_shared_prefix
@pytest.mark.parametrize("max_length", [None, 15])
def test_loss_and_gradients_equal_the_separate_computation(max_length: int | None) -> None:
    separate = gradients(batch_of(MIXED, share=False), max_length)
    shared = gradients(batch_of(MIXED, share=True), max_length)
    assert separate.keys() == shared.keys() and len(separate) == 1 + 1 + 4
    for name, expected in separate.items():
        difference = (shared[name] - expected).norm() / expected.norm()
        assert difference < 1e-5, name
    if max_length is not None:
        assert separate["loss"] != gradients(batch_of(MIXED, share=False), None)["loss"]


@needs_shared_prefix
def test_records_do_not_see_each_other() -> None:
    """Another record's caption changes neither the loss of a record nor its style's gradient."""
    others = [sample(0, 3, [60, 61, 62, 63]), sample(0, 3, [70, 71, 72, 2])]
    found = []
    for other in others:
        other["labels"][:] = IGNORE_INDEX
        found.append(gradients(batch_of([MIXED[0], other, MIXED[4]], share=True), None))
    for name, first in found[0].items():
        assert torch.allclose(first, found[1][name], rtol=1e-5, atol=1e-7), name


def test_which_samples_share() -> None:
    assert group_images(MIXED).tolist() == [0, 1, 0, 0, 2, 1]
    assert first_of_each(group_images(MIXED)) == [0, 1, 4]
    assert group_images([MIXED[0], MIXED[1]]) is None  # nothing to share
    other_text = sample(0, 1, [20], before=[1, 7, 10])
    assert group_images([MIXED[0], other_text, MIXED[2]]).tolist() == [0, 1, 0]
    no_image = {**MIXED[0], "input_ids": torch.tensor([1, 2, 3])}
    assert group_images([MIXED[0], MIXED[2], no_image]) is None


def test_block_mask() -> None:
    seen = block_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.float32)[0, 0] == 0
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1],
        ]
    )
    assert torch.equal(seen, expected.bool()) and K > 0 and S > 4 and V > 72


# ------------------------------------------------------------------------------------------------------ batches and order


def test_the_collator_gives_each_image_once() -> None:
    batch = Collator(0, share_prefix=True)(MIXED)
    assert batch["image_index"].tolist() == [0, 1, 0, 0, 2, 1] and len(batch["images"]) == 3
    assert torch.equal(batch["images"][2], MIXED[4]["pixels"])
    for samples, share in ((MIXED, False), (MIXED[:2], True)):
        alone = Collator(0, share_prefix=share)(samples)
        assert "image_index" not in alone and len(alone["images"]) == len(samples)


@pytest.mark.parametrize("lengths", [None, list(range(1, 61))])
def test_an_images_records_follow_one_another(lengths: list[int] | None) -> None:
    groups = np.repeat(np.arange(20), [1, 2, 3, 6] * 5)
    sampler = EpochSampler(60, 3, 1, lengths, groups)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        assert sorted(order) == list(range(60))
        met = [group for group, _ in itertools.groupby(groups[order])]
        assert len(met) == len(set(met)) == 20  # every image once
        assert met != sorted(met)
    assert any(a > b for order in orders for a, b in itertools.pairwise(order) if groups[a] == groups[b])


def test_lengths_order_the_images_of_a_megabatch() -> None:
    groups = np.repeat(np.arange(10), 3)
    lengths = [10 * (group % 5) + 1 for group in groups]
    order = grouped_order(groups, lengths, 15, torch.Generator().manual_seed(0))
    found = [lengths[index] for index in order]
    assert found[:15] == sorted(found[:15], reverse=True) and found[15:] == sorted(found[15:], reverse=True)
