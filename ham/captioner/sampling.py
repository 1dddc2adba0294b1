"""Choosing the next token, and knowing when the choice is too close to call in float32.

A choice is close when rounding could turn it. Close captions are computed again in float64 (decode.py), which is why captions
do not depend on the batch that they were computed in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

LOGIT_RISK = 1e-5  # of the largest logit: ten times what float32 loses in these models (tests/test_decode.py)
PROBABILITY_RISK = 1e-4
TIE = 1e-10  # closer than this in float64 are equal logits: the lowest id wins


class Choice(NamedTuple):
    """ids int64 [B]; is_close bool [B], or None where nobody asked."""

    ids: torch.Tensor
    is_close: torch.Tensor | None


def choose(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor | None, check: bool
) -> Choice:
    """Choose the next token of each row: the best one at temperature 0, else drawn with `uniform` [B] in [0, 1).

    logits: [B, V]. check: also say which choices rounding could turn.
    """
    if temperature == 0:
        return _best(logits, check)
    return _drawn(logits, temperature, top_p, uniform, check)


def _best(logits: torch.Tensor, check: bool) -> Choice:
    if logits.dtype == torch.float64:
        top = logits.amax(-1, keepdim=True)
        return Choice((logits >= top - TIE * top.abs()).to(torch.uint8).argmax(-1), None)
    ids = logits.argmax(-1)
    if not check:
        return Choice(ids, None)
    margin = LOGIT_RISK * logits.abs().amax(-1, keepdim=True)
    near = (logits >= logits.gather(-1, ids[:, None]) - margin).sum(-1)
    return Choice(ids, near > 1)


def _drawn(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor, check: bool
) -> Choice:
    """Draw by inverting the cumulative probabilities in the order of ids, so that near-equal tokens cannot swap places."""
    probabilities = (logits.double() / temperature).softmax(-1)
    is_close = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if top_p < 1:
        ordered = probabilities.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered  # [B, V], mass of the more probable ones
        kept = (before < top_p).sum(-1, keepdim=True)  # the nucleus: at least one token
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
    return Choice(ids, is_close if check else None)
