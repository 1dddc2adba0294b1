"""Which training pairs make up which batch: a pure function of (seed, epoch), the same for any number of processes.

A plan is an int64 array [batches, global batch] of pair numbers; `rank_slice` selects a process's rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from ham.runtime import UsageError, numpy_generator


def random_batches(
    person_labels: Sequence[int] | np.ndarray, batch_size: int, seed: int, epoch: int
) -> np.ndarray:
    """Shuffle all pairs and cut them into whole batches: int64 [batches, batch_size].

    deviation: a last batch that is not full is left out, so that every process has the same work; the references train on it.
    """
    order = numpy_generator(seed, "order", epoch).permutation(len(person_labels))
    return _whole_batches(order, batch_size)


def identity_batches(
    person_labels: Sequence[int] | np.ndarray, batch_size: int, seed: int, epoch: int, instances: int = 4
) -> np.ndarray:
    """Build batches of batch_size / instances different persons with `instances` pairs each: int64 [batches, batch_size].

    A person's pairs are shuffled and cut into groups of `instances`; a person with fewer pairs repeats some. The last
    groups, too few for a batch of different persons, are dropped. Source: IRRA, datasets/sampler.py, RandomIdentitySampler.
    """
    if batch_size % instances:
        raise UsageError(
            f"batch_size {batch_size} is not a multiple of instances {instances}; change one of them"
        )
    draw = numpy_generator(seed, "identities", epoch)
    labels = np.asarray(person_labels)
    order = draw.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by person, shuffled within each
    starts = (
        np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
        if len(order)
        else np.zeros(0, int)
    )
    groups = []
    for pairs in np.split(order, starts[1:]):
        if len(pairs) < instances:
            pairs = np.concatenate([pairs, draw.choice(pairs, instances - len(pairs))])
        groups += list(pairs[: len(pairs) // instances * instances].reshape(-1, instances))
    return _batches_of_different_persons(
        [groups[at] for at in draw.permutation(len(groups))], labels, batch_size // instances
    )


def _batches_of_different_persons(groups: list[np.ndarray], labels: np.ndarray, persons: int) -> np.ndarray:
    """Fill batches in the groups' order; a group whose person is already in the batch goes to the next one."""
    waiting, batches = deque(groups), []
    while True:
        chosen: dict[int, np.ndarray] = {}
        postponed = []
        while waiting and len(chosen) < persons:
            group = waiting.popleft()
            if labels[group[0]] in chosen:
                postponed.append(group)
            else:
                chosen[labels[group[0]]] = group
        if len(chosen) < persons:
            break
        waiting.extendleft(reversed(postponed))
        batches.append(np.concatenate(list(chosen.values())))
    size = persons * len(groups[0]) if groups else 0
    return np.stack(batches).astype(np.int64) if batches else np.zeros((0, size), np.int64)


def _whole_batches(order: np.ndarray, batch_size: int) -> np.ndarray:
    whole = len(order) // batch_size * batch_size
    return order[:whole].reshape(-1, batch_size).astype(np.int64)


SAMPLERS = {"random": random_batches, "identity": identity_batches}


def rank_slice(batch: np.ndarray, rank: int, world_size: int, part: int = 0, parts: int = 1) -> slice:
    """Return the rows of a global batch that fall to a process in one accumulation part: contiguous, equal and disjoint.

    A step covers one section of the batch, divided among the processes, so the same pairs meet in a step for any number of
    processes. Raises UsageError when the batch does not divide evenly.
    """
    if len(batch) % (world_size * parts):
        raise UsageError(
            f"batch_size {len(batch)} does not divide by {world_size} processes x {parts} accumulation steps; "
            "choose a multiple"
        )
    size = len(batch) // (world_size * parts)
    start = (part * world_size + rank) * size
    return slice(start, start + size)
