"""Choosing tokens: the best, the drawn, and which choices rounding could turn."""

from __future__ import annotations

import torch

from ham.captioner.sampling import choose


def test_greedy_choice_and_its_doubts() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [5.0, 5.0 - 1e-6, 1.0], [3.0, -9.0, 3.0]])
    choice = choose(logits, 0.0, 1.0, None, check=True)
    assert choice.ids.tolist()[:2] == [1, 0] and choice.is_close.tolist() == [False, True, True]
    assert choose(logits.double(), 0.0, 1.0, None, check=False).ids.tolist() == [
        1,
        0,
        0,
    ]  # ties: the lowest id
    assert (
        choose(logits.double() + torch.tensor([0, 0, 1e-13]), 0.0, 1.0, None, check=False).ids.tolist()[2]
        == 0
    )


def test_sampling_inverts_the_cumulative_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(4, 1)
    uniform = torch.tensor([0.1, 0.2001, 0.69, 0.71])
    assert choose(logits, 1.0, 1.0, uniform, check=False).ids.tolist() == [0, 1, 1, 2]
    close = choose(logits, 1.0, 1.0, torch.tensor([0.1, 0.20001, 0.45, 0.7]), check=True).is_close
    assert close.tolist() == [False, True, False, True]
    # the nucleus of 0.6 is {1, 2}, with probabilities 5/8 and 3/8
    assert choose(logits, 1.0, 0.6, torch.tensor([0.0, 0.62, 0.63, 0.99]), check=False).ids.tolist() == [
        1,
        1,
        2,
        2,
    ]
    assert choose(
        logits, 1.0, 0.5001, torch.tensor([0.1] * 4), check=True
    ).is_close.all()  # the nucleus's own edge
    sharp = choose(logits, 0.1, 1.0, torch.tensor([0.5] * 4), check=False).ids
    assert sharp.tolist() == [1] * 4
