"""The retrieval methods behind one face: build one by name, compare its features.

A method is a module with `forward(batch) -> dict` (losses end in `_loss`), `encode_image`, `encode_text`, `image_features`,
`text_features` (lists, one entry per embedding: IRRA one, RDE two) and `gather`, called on all that is compared across pairs;
the trainer replaces it to compare across ranks. Parameter names are the reference's, the CLIP towers under `base_model`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ham.clip import CLIP
from ham.reid.irra import IRRA, IRRAOptions, parse_losses
from ham.reid.rde import RDE, RDEOptions
from ham.runtime import UsageError

Method = IRRA | RDE
NAMED_LOSSES = {"irra": "sdm+mlm+id", "sdm": "sdm"}


def build_method(
    method: str,
    clip: CLIP,
    num_classes: int = 0,
    irra: IRRAOptions | None = None,
    rde: RDEOptions | None = None,
) -> Method:
    """Build a method over CLIP towers, its heads new.

    method: `rde`; `irra` (sdm+mlm+id); or a loss list for IRRA such as `sdm` or `sdm+mlm+id`. num_classes: persons of the
    training set, for the loss 'id' alone. Raises UsageError naming the valid methods and losses.
    """
    if method == "rde":
        return RDE(clip, rde)
    try:
        losses = parse_losses(NAMED_LOSSES.get(method, method))
    except UsageError as error:
        raise UsageError(f"method '{method}' is not known: use rde, irra, or a loss list; {error}") from None
    return IRRA(clip, losses, num_classes, irra)


def similarity(query_feats: Sequence[Tensor], gallery_feats: Sequence[Tensor]) -> Tensor:
    """Score queries against a gallery: the mean over embeddings of the cosines, [Q, G].

    query_feats, gallery_feats: what `text_features` and `image_features` gave, concatenated over batches.
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
    """Lay several embeddings side by side, [N, D1 + D2]: the cosine of two such rows is the mean of the embeddings' cosines.

    So one matrix product, one index and one metric serve every method.
    """
    return torch.cat([F.normalize(feats, dim=1) for feats in features], dim=1) / len(features) ** 0.5
