"""Tokens added to a model: names in the tokenizer, rows in the embedding; the old rows stay as they are.

Only the added rows are parameters. peft's TrainableTokens copies the whole table in every forward (measured: 1 s of CPU
and 800 MiB on a table of 785 MiB); looking the added ids up in a table of their own costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ham.runtime import UsageError


class ExtendedEmbedding(nn.Module):
    """An embedding whose ids from `first_id` on are looked up in a second table.

    base: the frozen embedding [V, D]. rows: callable that returns the added rows [A, D], called in every forward, so that
    the rows may be parameters of another module. The outputs have the dtype of the base table.
    """

    def __init__(self, base: nn.Embedding, rows: Any, first_id: int, count: int) -> None:
        super().__init__()
        self.base = base
        self._rows = rows
        self.first_id = first_id
        self.count = count

    @property
    def weight(self) -> nn.Parameter:
        """The frozen table [V, D]: transformers reads dtype, device and size of an embedding from here."""
        return self.base.weight

    @property
    def embedding_dim(self) -> int:
        return self.base.embedding_dim

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids [...] -> [..., D]."""
        is_added = (ids >= self.first_id) & (ids < self.first_id + self.count)
        embedded = self.base(ids.masked_fill(is_added, 0))  # [..., D]
        added = F.embedding((ids - self.first_id).clamp(0, self.count - 1), self._rows())  # [..., D]
        if hasattr(self.base, "embed_scale"):
            added = added * self.base.embed_scale
        return torch.where(is_added[..., None], added.to(embedded.dtype), embedded)


def extend_embedding(network: nn.Module, rows: Any, first_id: int, count: int) -> ExtendedEmbedding:
    """Replace a network's input embedding by one with `count` added rows; output embeddings are left alone.

    Raises UsageError where the network's embedding is not an ordinary table, or one that scales its rows (Gemma 3).
    """
    base = network.get_input_embeddings()
    is_plain = isinstance(base, nn.Embedding) and type(base).forward is nn.Embedding.forward
    if not is_plain and not (isinstance(base, nn.Embedding) and hasattr(base, "embed_scale")):
        raise UsageError(
            f"{type(network).__name__}: its input embedding is a {type(base).__name__}; tokens can only be added to an "
            "ordinary torch.nn.Embedding, so this model cannot be style-tuned"
        )
    extended = ExtendedEmbedding(base, rows, first_id, count)
    network.set_input_embeddings(extended)
    return extended


def add_tokens(tokenizer: Any, names: Sequence[str]) -> int:
    """Add special tokens to a tokenizer, in order, and return the id of the first.

    Raises UsageError where a name is in the vocabulary already, where ids do not follow each other, or where the tokenizer
    splits one of the names.
    """
    from tokenizers import AddedToken

    known = [name for name in names[:1] if name in tokenizer.get_vocab()]
    if known:
        raise UsageError(
            f"the tokenizer has the token {known[0]} already: this model has styles; use another base model"
        )
    tokens = [AddedToken(name, special=True, normalized=False, lstrip=False, rstrip=False) for name in names]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return check_tokens(tokenizer, names)


def check_tokens(tokenizer: Any, names: Sequence[str]) -> int:
    """Check that each name is one id and that ids follow each other; return the first.

    Source of the failures: slow tokenizers that treat added tokens as text, vocabularies with holes.
    """
    ids = tokenizer.convert_tokens_to_ids(list(names))
    first = ids[0]
    if ids != list(range(first, first + len(names))):
        raise UsageError(
            f"the tokenizer gave the {len(names)} added tokens ids that do not follow each other ({ids[:4]} ...)"
        )
    sample = list(names[:16])
    split = tokenizer("".join(sample), add_special_tokens=False)["input_ids"]
    if split != ids[: len(sample)]:
        raise UsageError(
            f"the tokenizer splits the added token {sample[0]} (ids {split[:6]}, expected {ids[: len(sample)][:6]}); "
            "a fast tokenizer (tokenizer.json) is needed"
        )
    return first
