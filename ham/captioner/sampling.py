"""Choosing the next token, and detecting choices that are too close to call in float32.

A choice is close when rounding could change it. Close choices are computed again in float64 (recheck.py); therefore captions do
not depend on the batch that they were computed in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

LOGIT_RISK = 1e-5  # of the largest logit: ten times what float32 loses in these models (tests/test_decode.py)
PROBABILITY_RISK = 1e-4
TIE = 1e-10  # logits closer than this in float64 are equal: the lowest id wins


class Choice(NamedTuple):
    """ids int64 [B]; is_close bool [B], or None where it was not checked; is_finite bool [B]: False for NaN or infinity."""

    ids: torch.Tensor
    is_close: torch.Tensor | None
    is_finite: torch.Tensor


def choose(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor | None, check: bool
) -> Choice:
    """Choose the next token of each row: the best one at temperature 0, else drawn with `uniform` [B] in [0, 1).

    logits: [B, V]. check: also return which choices rounding could change. The id of a row that is not finite has no meaning.
    """
    if temperature == 0:
        return _best(logits, check)
    return _drawn(logits, temperature, top_p, uniform, check)


def _best(logits: torch.Tensor, check: bool) -> Choice:
    if logits.dtype == torch.float64:
        top = logits.amax(-1, keepdim=True)
        ids = (logits >= top - TIE * top.abs()).to(torch.uint8).argmax(-1)
        return Choice(ids, None, top.isfinite().squeeze(-1))
    top, ids = logits.max(-1, keepdim=True)  # NaN counts as the largest
    is_finite = top.isfinite().squeeze(-1)
    if not check:
        return Choice(ids.squeeze(-1), None, is_finite)
    margin = LOGIT_RISK * torch.maximum(top.abs(), logits.amin(-1, keepdim=True).abs())
    near = (logits >= top - margin).sum(-1)
    return Choice(ids.squeeze(-1), near > 1, is_finite)


def _drawn(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor, check: bool
) -> Choice:
    """Draw by inverting the cumulative probabilities in the order of ids, so that near-equal tokens cannot swap places."""
    probabilities = (logits.double() / temperature).softmax(-1)
    is_close = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if top_p < 1:
        ordered = probabilities.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered  # [B, V], mass of the more probable ones
        kept = (before < top_p).sum(-1, keepdim=True).clamp(min=1)  # the nucleus: at least one token
        last = ordered.gather(-1, kept - 1)
        if check:
            following = ordered.gather(-1, kept.clamp(max=ordered.shape[-1] - 1))
            is_close |= ((before - top_p).abs().amin(-1) < PROBABILITY_RISK) | (
                (last - following) < 1e-3 * last
            ).squeeze(-1)
        probabilities = torch.where(probabilities >= last, probabilities, 0.0)
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    ids = (cumulative <= target).sum(-1).clamp(max=logits.shape[-1] - 1)
    if check:
        is_close |= (cumulative - target).abs().amin(-1) < PROBABILITY_RISK
    is_finite = cumulative[:, -1].isfinite() & (cumulative[:, -1] > 0)
    return Choice(ids, is_close if check else None, is_finite)
