"""Where each token goes when a batch's text, image and style tokens are spliced into padded sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SpliceSlots:
    """The slots of a batch of spliced sequences, numbered row by row: row b has slots b L to (b + 1) L - 1.

    starts: [B, T], where the tokens of each input token begin in its sequence. totals: [B], lengths after the cut. longest: L,
    the largest of them. padding: [B], empty slots before each sequence. What the cut removes gets the one slot behind all rows.
    """

    starts: torch.Tensor
    totals: torch.Tensor
    longest: int
    padding: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor, max_length: int | None, padding_side: str) -> SpliceSlots:
        """Compute the slots for input tokens that become `lengths` [B, T] tokens each."""
        starts = lengths.cumsum(1) - lengths
        totals = lengths.sum(1)
        if max_length is not None:
            totals = totals.clamp(max=max_length)
        longest = int(totals.max())
        padding = longest - totals if padding_side == "left" else torch.zeros_like(totals)
        return cls(starts, totals, longest, padding)

    @property
    def count(self) -> int:
        """B L, which is also the number of the slot for what is cut."""
        return len(self.totals) * self.longest

    def of_tokens(self, which: torch.Tensor, count: int, offset: int = 0) -> torch.Tensor:
        """Return the slots [n * count] of `count` tokens each, from `offset` after the start of the n chosen input tokens.

        which: bool [B, T].
        """
        rows, _ = which.nonzero(as_tuple=True)
        within = torch.arange(count, device=which.device)
        at = self.starts[which][:, None] + offset + within  # [n, count]
        slots = rows[:, None] * self.longest + self.padding[rows][:, None] + at
        return slots.masked_fill(at >= self.longest, self.count).flatten()

    def mask(self) -> torch.Tensor:
        """Return which slots hold a token, bool [B, L]."""
        position = self._positions()
        return (position >= 0) & (position < self.totals[:, None])

    def position_ids(self) -> torch.Tensor:
        """Return the position of each slot in its sequence, [B, L]; 0 for padding."""
        return self._positions().masked_fill(~self.mask(), 0)

    def _positions(self) -> torch.Tensor:
        return torch.arange(self.longest, device=self.totals.device) - self.padding[:, None]
