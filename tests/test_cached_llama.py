"""The cached forward against transformers: prefixes kept once, suffixes behind them, single tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from decode_helpers import make_llm

from ham.captioner.sampling import LOGIT_RISK
from ham.llava.cached_llama import CachedLlama
from ham.llava.shared_attention import attend, attend_step, merge_parts
from ham.llava.shared_cache import SharedCache
from ham.runtime import UsageError

TEXT, PATCHES, SUFFIX, MORE = 3, 6, 4, 5
WIDTH = 32


class Batch:
    """Three images with two captions each: embeddings of text, images, suffixes and the tokens after them."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.text = torch.randn(1, TEXT, WIDTH).to(dtype)
        self.images = torch.randn(3, PATCHES, WIDTH).to(dtype)
        self.suffixes = torch.randn(3, 2, SUFFIX, WIDTH).to(dtype)
        self.tokens = torch.randn(3, 2, MORE, WIDTH).to(dtype)

    def row(self, image: int, place: int) -> torch.Tensor:
        """Return the whole sequence of a caption, [1, L, D]."""
        parts = [self.text[0], self.images[image], self.suffixes[image, place], self.tokens[image, place]]
        return torch.cat(parts)[None]


def expected_logits(llm: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Compute with transformers the logits after the suffix and after each token, [6, 1 + MORE, V]."""
    rows = [llm(inputs_embeds=batch.row(image, place)).logits[0] for image in range(3) for place in range(2)]
    return torch.stack(rows)[:, TEXT + PATCHES + SUFFIX - 1 :]


def prefilled(llm: torch.nn.Module, batch: Batch, slots: list[int]) -> tuple:
    """Prefill the batch's images into the slots; returns the forward, the cache and the first logits [3, 2, V]."""
    fast = CachedLlama(llm)
    cache = fast.empty_cache(5, 2, TEXT + PATCHES, SUFFIX + 2, fast.text_prefix(batch.text))
    rows = torch.tensor([[2 * slot, 2 * slot + 1] for slot in slots])
    return fast, cache, fast.logits(fast.prefill(cache, slots, batch.images, batch.suffixes, rows))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [[0, 1, 2], [4, 0, 3]])
@pytest.mark.parametrize(
    "options", [{}, {"kv_heads": 2}, {"rope_scaling": {"type": "linear", "factor": 2.0}}]
)
@torch.inference_mode()
def test_prefill_and_steps_equal_transformers(options: dict, slots: list[int]) -> None:
    llm, batch = make_llm(**options), Batch()
    expected = expected_logits(llm, batch)
    fast, cache, first = prefilled(llm, batch, slots)
    assert close(first.flatten(0, 1), expected[:, 0])
    order = torch.tensor([2 * slot + place for slot in slots for place in range(2)])
    for number in range(MORE):
        if number == 2:
            cache.grow(SUFFIX + MORE)
        tokens = torch.zeros(10, WIDTH)
        tokens[order] = batch.tokens[:, :, number].flatten(0, 1)
        found = fast.step(cache, tokens, 5)  # rows without a caption are computed too
        assert close(found[order], expected[:, number + 1])


@torch.inference_mode()
def test_rows_may_be_few_moved_extended_and_of_different_lengths() -> None:
    llm, batch = make_llm(), Batch()
    expected = expected_logits(llm, batch).view(3, 2, 1 + MORE, -1)
    fast, cache, _ = prefilled(llm, batch, [0, 1, 2])
    live = torch.tensor([1, 2, 3, 5])
    found = fast.step(cache, batch.tokens[[0, 1, 1, 2], [1, 0, 1, 1], 0], 3, live, filled=SUFFIX + 1)
    assert close(found, expected[[0, 1, 1, 2], [1, 0, 1, 1], 1])
    cache.move(2, 0)  # image 2 in slot 0, whose row 0 is still behind
    again = fast.logits(fast.extend(cache, [1], batch.suffixes[1:2, :1], torch.tensor([[2]])))
    assert close(again[0, 0], expected[1, 0, 0])  # row 2 starts again
    tokens = torch.stack(
        [batch.tokens[2, 0, 0], batch.tokens[2, 1, 1], batch.tokens[1, 0, 0], batch.tokens[1, 1, 1]]
    )
    found = fast.step(cache, tokens, 2, None, filled=SUFFIX + 2)
    assert close(found, expected[[2, 2, 1, 1], [0, 1, 0, 1], [1, 2, 1, 2]])


@torch.inference_mode()
def test_every_position_of_a_suffix() -> None:
    llm, batch = make_llm(), Batch()
    whole = torch.cat([batch.suffixes, batch.tokens], dim=2)
    fast = CachedLlama(llm)
    cache = fast.empty_cache(3, 2, TEXT + PATCHES, SUFFIX + MORE, fast.text_prefix(batch.text))
    hidden = fast.prefill(cache, [0, 1, 2], batch.images, whole, torch.arange(6).view(3, 2), every=True)
    found = fast.logits(hidden[:, :, SUFFIX - 1 :]).flatten(0, 1)
    assert close(found, expected_logits(llm, batch))


def test_nan_of_a_row_does_not_reach_the_rows_next_caption() -> None:
    like = torch.zeros(1)
    cache = SharedCache(like, (2, 1, 4), 2, 2, 3, 5, None)
    cache.values[1][3] = float("nan")
    q, visible = torch.randn(4, 1, 4), torch.arange(5)[None] < torch.tensor([[2], [2], [2], [2]])
    arguments = (cache.prefix_keys[1], cache.prefix_values[1], cache.keys[1], cache.values[1], visible)
    assert attend_step(q, *arguments)[:3].isfinite().all() and attend_step(q, *arguments)[3].isnan().any()
    cache.clear(3)
    assert attend_step(q, *arguments).isfinite().all()


@pytest.mark.parametrize("is_causal", [False, True])
def test_parts_merge_into_one_softmax(is_causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, dtype=torch.float64) for _ in range(3))
    more_k, more_v = (torch.randn(2, 3, 7, 8, dtype=torch.float64) for _ in range(2))
    merged = merge_parts(*attend(q, more_k, more_v, False), *attend(q, k, v, is_causal))
    mask = torch.ones(5, 12, dtype=torch.bool)
    mask[:, 7:] = mask[:, 7:].tril() if is_causal else mask[:, 7:]
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, torch.cat([more_k, k], 2), torch.cat([more_v, v], 2), mask
    )
    assert torch.allclose(merged, expected)


def test_float32_stays_far_inside_the_rechecks_margin() -> None:
    with torch.inference_mode():
        for llm in (make_llm(), make_llm(7), make_llm(8, kv_heads=2)):
            exact = prefilled(copy.deepcopy(llm).double(), Batch(torch.float64), [0, 1, 2])[2]
            single = prefilled(llm, Batch(), [0, 1, 2])[2]
            worst = ((single - exact).abs().amax(-1) / single.abs().amax(-1)).max()
            assert 0 < worst < LOGIT_RISK / 5


def test_unknown_language_models_are_refused() -> None:
    llm = make_llm()
    llm.config.hidden_act = "gelu"
    with pytest.raises(UsageError, match="hidden_act is 'gelu'"):
        CachedLlama(llm)
    llm = make_llm()
    llm.config.rope_parameters = {"rope_type": "yarn", "factor": 4.0}
    with pytest.raises(UsageError, match="rotary scaling 'yarn'"):
        CachedLlama(llm)
