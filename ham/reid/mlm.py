"""Random changes of caption tokens: IRRA's masking for masked language modeling, RDE's text augmentation.

Only words change: ids between padding (0) and the special tokens (49405 and above).
Nothing is changed in place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ham.clip import MASK_ID, PAD_ID

MASKED, REPLACED = 0.8, 0.9  # of the chosen tokens 80 % become the mask, 10 % a random word, 10 % stay
AUGMENT_MASKED, AUGMENT_REPLACED = 0.6, 0.8  # RDE: 60 % mask, 20 % a random word, 20 % are removed


def mask_tokens(ids: Sequence[int], draw: random.Random) -> tuple[list[int], list[int]]:
    """Mask the ids of one caption with Python's generator, with the reference's draws: masked ids and labels [T].

    A label is the id that stood there, 0 where nothing is to be predicted. At least one word is chosen.
    deviation: a caption without words is left as it is; the reference overwrites its end token.
    Source: IRRA, datasets/bases.py, ImageTextMLMDataset._build_random_masked_tokens_and_labels.
    """
    masked, labels = list(ids), [0] * len(ids)
    words = range(1, MASK_ID)
    for i, token in enumerate(ids):
        if not 0 < token < MASK_ID:
            continue
        chance = draw.random()
        if chance >= 0.15:
            continue
        labels[i], chance = token, chance / 0.15
        if chance < MASKED:
            masked[i] = MASK_ID
        elif chance < REPLACED:
            masked[i] = draw.choice(words)
    if not any(labels) and len(ids) > 1 and 0 < ids[1] < MASK_ID:
        masked[1], labels[1] = MASK_ID, ids[1]
    return masked, labels


def mask_batch(
    ids: np.ndarray, draw: np.random.Generator, probability: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a batch of captions at once, by the rules of `mask_tokens` with other draws: masked ids and labels, int64 [B, T]."""
    is_word = (ids > PAD_ID) & (ids < MASK_ID)
    chance = draw.random(ids.shape)
    chosen = is_word & (chance < probability)
    share = chance / probability
    first_is_word = np.zeros_like(is_word)
    first_is_word[:, 1:2] = is_word[:, 1:2]
    forced = first_is_word & ~chosen.any(axis=1, keepdims=True)
    masked = np.where(forced | (chosen & (share < MASKED)), MASK_ID, ids)
    replaced = chosen & (share >= MASKED) & (share < REPLACED)
    masked = np.where(replaced, draw.integers(1, MASK_ID, ids.shape), masked)
    return masked, np.where(chosen | forced, ids, 0)


def augment_batch(ids: np.ndarray, draw: np.random.Generator, probability: float = 0.2) -> np.ndarray:
    """Change 20 % of the words of a batch of captions (60 % mask, 20 % random, 20 % removed): int64 [B, T].

    The words after a removed one move up and padding follows; a caption keeps its last word.
    Source: RDE, datasets/bases.py, text augmentation of ImageTextDataset.
    """
    is_word = (ids > PAD_ID) & (ids < MASK_ID)
    chance = draw.random(ids.shape)
    chosen = is_word & (chance < probability)
    share = chance / probability
    changed = np.where(chosen & (share < AUGMENT_MASKED), MASK_ID, ids)
    replaced = chosen & (share >= AUGMENT_MASKED) & (share < AUGMENT_REPLACED)
    changed = np.where(replaced, draw.integers(1, MASK_ID, ids.shape), changed)
    removed = chosen & (share >= AUGMENT_REPLACED)
    removed &= (is_word & ~removed).any(axis=1, keepdims=True)
    order = np.argsort(removed, axis=1, kind="stable")  # the kept ones first, in their order
    moved = np.take_along_axis(changed, order, axis=1)
    return np.where(np.arange(ids.shape[1]) < (~removed).sum(axis=1, keepdims=True), moved, PAD_ID)
