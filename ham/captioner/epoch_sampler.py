"""The order of samples in an epoch of style tuning: random, by length, or by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ham.runtime import torch_generator

MEGABATCH = 50  # global batches inside which samples are ordered by length


class EpochSampler(Sampler[int]):
    """The order of samples in an epoch, drawn from (seed, epoch) alone: the same after a restart and on any number of ranks.

    With `lengths`, samples of like length share a global batch. Source: LLaVA, llava/train/llava_trainer.py,
    get_length_grouped_indices; deviation: seeded by epoch, the reference draws from the global generator.
    With `groups` [N], the samples of a group (the records of an image) follow one another.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        global_batch: int,
        lengths: Sequence[int] | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.count = count
        self.seed = seed
        self.global_batch = global_batch
        self.lengths = lengths
        self.groups = groups
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch_generator(self.seed, "order of samples", self.epoch)
        if self.groups is not None:
            return iter(grouped_order(self.groups, self.lengths, MEGABATCH * self.global_batch, generator))
        if self.lengths is None:
            return iter(torch.randperm(self.count, generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.global_batch, generator=generator))


def grouped_order(
    groups: np.ndarray, lengths: Sequence[int] | None, megabatch: int, generator: torch.Generator
) -> list[int]:
    """Return a random order in which the samples of a group follow one another, the groups in random order too.

    lengths: within about `megabatch` samples the groups stand by their longest sample, the longest first.
    """
    shuffled = torch.randperm(len(groups), generator=generator).numpy()
    count = int(groups.max()) + 1
    rank = torch.randperm(count, generator=generator).numpy()[groups]  # of each sample's group
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    if lengths is None:
        return order.tolist()
    longest = np.zeros(count, dtype=np.int64)
    np.maximum.at(longest, groups, np.abs(lengths))
    sizes = np.bincount(rank, minlength=count)
    first = np.cumsum(sizes) - sizes  # where each group begins, by rank
    keys = (rank[order], -longest[groups[order]], first[rank[order]] // megabatch)  # the last counts most
    return order[np.lexsort(keys)].tolist()
