"""Keys and values of a batch of captions whose images' prefixes are kept once.

slot   an image: its prefix [text | image], one copy
row    a caption: its own positions [style | instruction | caption]; slot i has the rows i * group ... (i + 1) * group - 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Prefix(NamedTuple):
    """Keys and values of some positions, per layer [1, H, T, d]."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class SharedCache:
    """Prefixes per layer [slots, H, prefix, d], own positions per layer [slots * group, H, capacity, d].

    lengths: int64 [slots * group], the own positions that are filled.
    """

    def __init__(
        self,
        like: torch.Tensor,
        sizes: tuple[int, int, int],
        slots: int,
        group: int,
        prefix: int,
        capacity: int,
        text: Prefix | None,
    ) -> None:
        layers, heads, width = sizes
        self.slots = slots
        self.group = group
        self.prefix = prefix
        self.capacity = capacity
        self.text_length = 0 if text is None else text.keys[0].shape[2]

        def new(count: int, positions: int) -> list[torch.Tensor]:
            return [like.new_zeros(count, heads, positions, width) for _ in range(layers)]

        self.prefix_keys = new(slots, prefix)
        self.prefix_values = new(slots, prefix)
        self.keys = new(slots * group, capacity)
        self.values = new(slots * group, capacity)
        self.lengths = torch.zeros(slots * group, dtype=torch.long, device=like.device)
        if text is not None:
            for mine, theirs in zip(
                (*self.prefix_keys, *self.prefix_values), (*text.keys, *text.values), strict=True
            ):
                mine[:, :, : self.text_length] = theirs

    @property
    def end(self) -> int:
        """The number of positions that a row can have."""
        return self.prefix + self.capacity

    def write_prefix(
        self, layer: int, slots: Sequence[int], keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Store an image's keys and values [n, H, P, d] behind the text."""
        index = _index(slots)
        self.prefix_keys[layer][index, :, self.text_length :] = keys
        self.prefix_values[layer][index, :, self.text_length :] = values

    def prefix_of(self, layer: int, slots: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prefixes of some slots, [n, H, prefix, d]: a view where the slots are neighbors."""
        index = _index(slots)
        return self.prefix_keys[layer][index], self.prefix_values[layer][index]

    def clear(self, row: int) -> None:
        """Forget a row's own positions: NaN would otherwise reach the row's next caption."""
        for tensor in (*self.keys, *self.values):
            tensor[row] = 0

    def grow(self, capacity: int) -> None:
        """Allocate more own positions; layer by layer, so that only one layer is held twice."""
        for tensors in (self.keys, self.values):
            for number, old in enumerate(tensors):
                new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
                new[:, :, : self.capacity] = old
                tensors[number] = new
        self.capacity = capacity

    def move(self, source: int, target: int) -> None:
        """Copy a slot with its rows over another."""
        for tensor in (*self.prefix_keys, *self.prefix_values):
            tensor[target] = tensor[source]
        theirs = slice(source * self.group, (source + 1) * self.group)
        mine = slice(target * self.group, (target + 1) * self.group)
        for tensor in (*self.keys, *self.values, self.lengths):
            tensor[mine] = tensor[theirs]


def _index(slots: Sequence[int]) -> slice | list[int]:
    """Return a slice where slots are neighbors in order, else the list."""
    first = slots[0]
    if list(slots) == list(range(first, first + len(slots))):
        return slice(first, first + len(slots))
    return list(slots)
