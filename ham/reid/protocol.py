"""What a retrieval method offers: features for evaluation and search, and hooks that the training loop calls.

A new method subclasses `RetrievalMethod` in a file of its own and gets an entry in `ham/reid/methods.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham.clip import CLIP
from ham.distributed import no_gather
from ham.runtime import numpy_generator

if TYPE_CHECKING:
    from ham.reid.run import Run


class RetrievalModel(Protocol):
    """What evaluation and search need: features of both sides, not normalized, one tensor [B, D] per embedding."""

    def image_features(self, images: Tensor) -> list[Tensor]: ...

    def text_features(self, ids: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True)
class GlobalBatch:
    """The captions of one batch over all processes, and which rows this process computes.

    ids: int64 [global B, T]. rows: this process's rows. part: the rows of the current gradient accumulation step over all
    processes. compared: number of processes whose pairs are compared with each other (1 without gathering).
    """

    ids: np.ndarray
    rows: slice
    part: slice
    compared: int
    seed: int
    epoch: int
    number: int

    def generator(self, purpose: str) -> np.random.Generator:
        """Create the generator of one purpose for this batch: the same for any number of processes."""
        return numpy_generator(self.seed, purpose, self.epoch, self.number)


class RetrievalMethod(nn.Module):
    """Base class of the retrieval methods: CLIP towers under `base_model`, and the hooks with their defaults.

    A subclass defines `forward`. Names of parameters are the reference's.

    Attributes:
        options_type: dataclass of the method's own options; its `check()` raises UsageError
        options_key: the key of these options in a YAML file and on the command line
        heads: prefixes of the tensors by which a checkpoint of this method is recognized
        unused_tensors: prefixes of tensors that the reference's checkpoints hold and nothing uses
        scrambles_words: whether captions are scrambled unless --scramble_words says otherwise
        towers_alone: what the towers without the heads compute, where it is not the method's own score
        moved_options: options of earlier versions that are now under `options_key`
        options_before: values that a run of an earlier version had for options that did not exist yet
        gather: called on everything that is compared across pairs; the trainer replaces it to compare across processes
    """

    options_type: ClassVar[type]
    options_key: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()
    unused_tensors: ClassVar[tuple[str, ...]] = ()
    scrambles_words: ClassVar[bool] = False
    towers_alone: ClassVar[str | None] = None
    moved_options: ClassVar[tuple[str, ...]] = ()
    options_before: ClassVar[Mapping[str, Any]] = {}
    gather: Callable[[Tensor], Tensor]

    def __init__(self, clip: CLIP, name: str) -> None:
        super().__init__()
        self.name = name
        self.gather = no_gather
        self.base_model = clip
        clip.logit_scale.requires_grad_(False)  # the temperature is fixed, and DDP rejects unused parameters

    @classmethod
    def build(cls, name: str, clip: CLIP, num_classes: int, options: Any) -> RetrievalMethod:
        """Build the method for training under the name the user gave, with new heads."""
        raise NotImplementedError

    @classmethod
    def build_for_evaluation(cls, clip: CLIP, tensors: Mapping[str, Tensor]) -> RetrievalMethod:
        """Build what the features need, without heads that only training uses; `tensors` are a checkpoint's heads."""
        return cls.build(cls.options_key, clip, 0, cls.options_type())

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute a training batch's figures; those whose name ends in `_loss` are added up and minimized.

        batch: images [B, 3, H, W], caption_ids [B, T], person_ids, image_ids and index [B], and what the hooks add.
        """
        raise NotImplementedError

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to global features [B, D], not normalized."""
        return self.base_model.encode_image(images).float()

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids [B, T] to global features [B, D], not normalized."""
        return self.base_model.encode_text(ids).float()

    def image_features(self, images: Tensor) -> list[Tensor]:
        """Return the embeddings whose cosines with `text_features` are averaged into the score."""
        return [self.encode_image(images)]

    def text_features(self, ids: Tensor) -> list[Tensor]:
        """Return the embeddings whose cosines with `image_features` are averaged into the score."""
        return [self.encode_text(ids)]

    # ------------------------------------------------------------------------------------------------ hooks of training

    def lr_rules(self) -> dict[str, float]:
        """Return {part of a parameter's name: its learning rate}, where it is not a factor of the base rate."""
        return {}

    def before_epoch(self, run: Run, epoch: int) -> None:
        """Run before the first batch of an epoch."""

    def prepare_text(self, batch: GlobalBatch) -> dict[str, np.ndarray]:
        """Return the text inputs of this process's rows, at least `caption_ids`; draws come from `batch.generator`."""
        return {"caption_ids": batch.ids[batch.rows]}

    def pair_values(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return further inputs of a batch by the numbers of its pairs [B]."""
        return {}

    def training_state(self) -> dict[str, np.ndarray]:
        """Return arrays that a resumed run needs beside the weights; they are saved as `<name>.npy`."""
        return {}

    def load_training_state(self, arrays: Mapping[str, np.ndarray], num_pairs: int) -> None:
        """Load what `training_state` returned. Raises UsageError when it does not fit the training pairs."""


def similarity(query_feats: Sequence[Tensor], gallery_feats: Sequence[Tensor]) -> Tensor:
    """Compute the scores of queries against a gallery [Q, G]: the mean over embeddings of the cosines.

    query_feats, gallery_feats: what `text_features` and `image_features` returned, concatenated over batches.
    Source: RDE, utils/metrics.py, Evaluator.eval (with one embedding: IRRA's).
    """
    if len(query_feats) != len(gallery_feats):
        raise ValueError(f"{len(query_feats)} embeddings of queries and {len(gallery_feats)} of the gallery")
    cosines = [
        F.normalize(query, dim=1) @ F.normalize(gallery, dim=1).T
        for query, gallery in zip(query_feats, gallery_feats)
    ]
    return sum(cosines[1:], start=cosines[0]) / len(cosines)


def joined(features: Sequence[Tensor]) -> Tensor:
    """Concatenate several embeddings [N, D1 + D2] so that a cosine of two rows is the mean of the embeddings' cosines.

    One matrix product, one index and one metric then serve every method.
    """
    return torch.cat([F.normalize(feats, dim=1) for feats in features], dim=1) / len(features) ** 0.5
