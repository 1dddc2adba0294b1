"""The style bank: K prompt tokens of the language model's width for every style.

Knows nothing of text or images.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ham.runtime import UsageError, torch_generator

StyleInit = Literal["normal", "vocab"]


class StyleBank(nn.Module):
    """Store `prompts` [S, K, D]; calling it with style ids [B] gives [B, K, D].

    A style that no sample of the batch uses gets a gradient of exactly zero.
    Source: HAM, transformers-4.31.0, modeling_llama.py, Style_Prompt (which holds [S*K, D]).
    """

    def __init__(
        self,
        num_styles: int,
        style_tokens: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.num_styles = num_styles
        self.style_tokens = style_tokens
        self.width = width
        self.prompts = nn.Parameter(torch.zeros(num_styles, style_tokens, width, dtype=dtype, device=device))

    def forward(self, style_ids: torch.Tensor) -> torch.Tensor:
        """Look up styles [B] -> [B, K, D]. Raises UsageError for a style out of range where the ids are on the CPU.

        deviation: an id out of range gives an empty slice in the reference.
        """
        if style_ids.device.type == "cpu":
            check_style_ids(style_ids, self.num_styles)
        rows = F.embedding(style_ids.to(self.prompts.device), self.prompts.flatten(1))  # [B, K*D]
        return rows.view(-1, self.style_tokens, self.width)  # [B, K, D]


def check_style_ids(style_ids: torch.Tensor, num_styles: int) -> None:
    """Raise UsageError when a style id is not in 0 .. num_styles - 1."""
    wrong = style_ids[(style_ids < 0) | (style_ids >= num_styles)]
    if len(wrong):
        raise UsageError(
            f"style id {int(wrong[0])} asked for, but the checkpoint has {num_styles} styles "
            f"(0 to {num_styles - 1})"
        )


@torch.no_grad()
def initialize(
    bank: StyleBank,
    how: StyleInit,
    seed: int,
    embeddings: torch.Tensor | None = None,
    skip_ids: frozenset[int] = frozenset(),
) -> None:
    """Fill a style bank, repeatably.

    how: `normal` = N(0, 1), as the reference, some fifty times larger than Llama's embeddings; `vocab` = every token is a
    row of `embeddings` [V, D], drawn evenly among the ids that are not in `skip_ids` (start, stop, unknown).
    """
    generator = torch_generator(seed, "style prompts", how)
    shape = bank.prompts.shape
    if how == "normal":
        values = torch.randn(shape, generator=generator)
    elif how == "vocab":
        if embeddings is None:
            raise UsageError("style initialization 'vocab' needs the language model's embeddings")
        allowed = torch.tensor([i for i in range(len(embeddings)) if i not in skip_ids])
        drawn = allowed[torch.randint(len(allowed), shape[:2], generator=generator)]  # [S, K]
        values = embeddings[drawn.to(embeddings.device)]
    else:
        raise UsageError(f"style initialization '{how}' is not known; use normal or vocab")
    bank.prompts.copy_(values)
