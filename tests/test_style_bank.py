"""Style prompts: how they start, and that only used ones learn."""

from __future__ import annotations

import pytest
import torch
from tiny_llava import CONFIG, original_tensors, write_folder

from ham.captioner.checkpoint import add_styles, load_captioner
from ham.captioner.style_bank import StyleBank, initialize
from ham.runtime import UsageError


def test_normal_initialization_is_standard_normal_and_seeded() -> None:
    banks = [StyleBank(50, 10, 32) for _ in range(3)]
    for bank, seed in zip(banks, (0, 0, 1)):
        initialize(bank, "normal", seed)
    first, same, other = (bank.prompts for bank in banks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert abs(first.mean().item()) < 0.03
    assert abs(first.std().item() - 1) < 0.03


def test_vocab_initialization_draws_rows_of_the_embeddings() -> None:
    embeddings = torch.randn(20, 8)
    bank = StyleBank(40, 10, 8)
    initialize(bank, "vocab", 0, embeddings, skip_ids=frozenset({0, 1, 2}))
    same = (bank.prompts.detach()[:, :, None] == embeddings).all(-1)  # [S, K, V]
    assert same.any(-1).all()
    assert same.any(0).any(0).nonzero().flatten().tolist() == list(range(3, 20))


def test_bad_initializations_are_refused() -> None:
    with pytest.raises(UsageError, match="needs the language model's embeddings"):
        initialize(StyleBank(1, 1, 1), "vocab", 0)
    with pytest.raises(UsageError, match="not known"):
        initialize(StyleBank(1, 1, 1), "zeros", 0)


def test_new_styles_replace_the_bank(tmp_path) -> None:
    captioner = load_captioner(write_folder(tmp_path / "llava", original_tensors(), CONFIG))
    add_styles(captioner, 9, 4, "vocab", seed=3)
    assert (captioner.num_styles, captioner.style_tokens) == (9, 4)
    assert captioner.model.styles(torch.tensor([8, 0])).shape == (2, 4, 32)
    assert captioner.manifest["num_styles"] == 9
    special = captioner.model.embed(torch.tensor(captioner.tokenizer.all_special_ids))
    prompts = captioner.model.style_bank.prompts
    assert not (prompts[:, :, None] == special).all(-1).any()


def test_unused_styles_get_a_gradient_of_exactly_zero() -> None:
    bank = StyleBank(5, 2, 3)
    initialize(bank, "normal", 0)
    bank(torch.tensor([3, 1, 3])).square().sum().backward()
    assert torch.equal(
        bank.prompts.grad, bank.prompts.detach() * torch.tensor([0, 2, 0, 4, 0])[:, None, None]
    )
