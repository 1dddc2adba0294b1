"""The matching losses of CLIP, IRRA and RDE as pure functions of features and person ids.

Features are not normalized and have any float dtype; every loss is computed in float32 even under autocast (float64 stays
float64). Row i of the image features and row i of the text features are one pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ham.runtime import UsageError

# in place of minus infinity in a log-sum-exp: finite, so that a row without negatives has gradient 0
NO_NEGATIVE = -1e9


def cosine_scores(image_feats: Tensor, text_feats: Tensor) -> Tensor:
    """Compute the cosine of every text and every image: [B, D], [B, D] -> [B texts, B images], never in half precision."""
    with torch.autocast(image_feats.device.type, enabled=False):
        return F.normalize(_full(text_feats), dim=1) @ F.normalize(_full(image_feats), dim=1).T


# ---------------------------------------------------------------------------------------------------- one number per batch


def sdm_loss(
    image_feats: Tensor,
    text_feats: Tensor,
    person_ids: Tensor,
    logit_scale: float | Tensor,
    image_ids: Tensor | None = None,
    factor: float = 0.3,
    epsilon: float = 1e-8,
    rows_sum_to_one: bool = False,
) -> Tensor:
    """Compute IRRA's similarity distribution matching, both directions added, mean over the batch.

    KL(p || q + epsilon): p [B, B] softmax of logit_scale * cosine; q the same-person indicator normalized per row.
    person_ids, image_ids: [B] integers. With image_ids a positive pair of the same person but of another image counts
    `factor` instead of 1; the reference then divides by the sums of the *columns*, so that rows do not add up to 1; this
    does the same unless rows_sum_to_one is set.
    Source: IRRA, model/objectives.py, compute_sdm.
    """
    scores = cosine_scores(image_feats, text_feats)
    weights = _same(person_ids).to(scores.dtype)
    if image_ids is not None:
        same_image = _same(image_ids).to(scores.dtype)
        weights = (weights - same_image) * factor + same_image
    sums = weights.sum(dim=1, keepdim=rows_sum_to_one)
    return _kl_both_ways(logit_scale * scores, logit_scale * scores.T, weights / sums, epsilon).mean()


def itc_loss(image_feats: Tensor, text_feats: Tensor, logit_scale: float | Tensor) -> Tensor:
    """Compute CLIP's image-text contrast (InfoNCE): each pair is its own class; mean of both directions and of the batch.

    Source: IRRA, model/objectives.py, compute_itc.
    """
    return infonce_per_pair(image_feats, text_feats, logit_scale).mean()


def cmpm_loss(image_feats: Tensor, text_feats: Tensor, person_ids: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Compute cross-modal projection matching: raw features of one side projected on unit features of the other.

    The same-person indicator is divided by its L2 norm, as in the reference, so it is no distribution.
    Source: IRRA, model/objectives.py, compute_cmpm.
    """
    with torch.autocast(image_feats.device.type, enabled=False):
        image, text = _full(image_feats), _full(text_feats)
        image_to_text = image @ F.normalize(text, dim=1).T  # [B, B]
        text_to_image = text @ F.normalize(image, dim=1).T
    same = _same(person_ids).to(image_to_text.dtype)
    return _kl_both_ways(text_to_image, image_to_text, same / same.norm(dim=1), epsilon).mean()


def id_loss(image_logits: Tensor, text_logits: Tensor, person_ids: Tensor) -> Tensor:
    """Compute IRRA's identity loss: logits [B, persons], contiguous person_ids [B]; mean of both cross entropies.

    Source: IRRA, model/objectives.py, compute_id.
    """
    return (
        F.cross_entropy(_full(image_logits), person_ids) + F.cross_entropy(_full(text_logits), person_ids)
    ) / 2


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the MLM loss: logits [..., V], labels [...] with 0 = not masked; mean over the masked positions.

    A batch without any masked position costs 0 (the reference: NaN). Source: IRRA, model/objectives.py, compute_mlm.
    """
    labels = labels.reshape(-1)
    total = F.cross_entropy(
        _full(logits).reshape(labels.numel(), -1), labels, ignore_index=0, reduction="sum"
    )
    return total / (labels != 0).sum().clamp(min=1)


# ----------------------------------------------------------------------------------------------------- one number per pair


def tal_loss(
    image_feats: Tensor, text_feats: Tensor, person_ids: Tensor, tau: float = 0.015, margin: float = 0.1
) -> Tensor:
    """Compute RDE's triplet alignment loss per pair: [B], both directions added, not averaged.

    [margin - S+ + tau * log(sum over negatives of exp(S / tau))]+ with S+ the positives weighted by their own softmax
    (no gradient through the weights). A row without negatives (one single person in the batch) costs 0 and has gradient 0
    where the reference has NaN. Source: RDE (Noisy-Correspondence Learning for TI-ReID), model/objectives.py,
    compute_TAL_per.
    """
    same = _same(person_ids)

    def one_way(scores: Tensor) -> Tensor:
        # deviation: a log-sum-exp; the reference clamps the sum of exponentials and has NaN gradients where it is empty
        negatives = (scores / tau).masked_fill(same, NO_NEGATIVE)
        return (margin - _soft_positive(scores, same, tau) + tau * negatives.logsumexp(dim=1)).clamp(min=0)

    scores = cosine_scores(image_feats, text_feats)
    return one_way(scores) + one_way(scores.T)


def trl_loss(
    image_feats: Tensor, text_feats: Tensor, person_ids: Tensor, tau: float = 0.015, margin: float = 0.1
) -> Tensor:
    """Compute the triplet ranking loss with the hardest negative per pair: [B], both directions added.

    A row without negatives costs 0. Source: RDE, model/objectives.py, compute_TRL_per.
    """
    same = _same(person_ids)

    def one_way(scores: Tensor) -> Tensor:
        # deviation: the reference multiplies by the mask, so that a hardest negative below 0 counts as 0
        hardest = scores.masked_fill(same, NO_NEGATIVE).max(dim=1).values
        return (margin - _soft_positive(scores, same, tau) + hardest).clamp(min=0)

    scores = cosine_scores(image_feats, text_feats)
    return one_way(scores) + one_way(scores.T)


def infonce_per_pair(image_feats: Tensor, text_feats: Tensor, logit_scale: float | Tensor) -> Tensor:
    """Compute InfoNCE per pair: [B], mean of both directions.

    Source: RDE, model/objectives.py, compute_InfoNCE_per.
    """
    logits = logit_scale * cosine_scores(image_feats, text_feats)
    # deviation: log-softmax; the reference's logarithm of a softmax is minus infinity where the softmax underflows
    return -(logits.log_softmax(dim=1).diagonal() + logits.log_softmax(dim=0).diagonal()) / 2


def sdm_per_pair(
    image_feats: Tensor,
    text_feats: Tensor,
    person_ids: Tensor,
    logit_scale: float | Tensor,
    epsilon: float = 1e-8,
) -> Tensor:
    """Compute SDM per pair: [B], both directions added. Source: RDE, model/objectives.py, compute_sdm_per."""
    scores = cosine_scores(image_feats, text_feats)
    same = _same(person_ids).to(scores.dtype)
    return _kl_both_ways(logit_scale * scores, logit_scale * scores.T, same / same.sum(dim=1), epsilon)


PAIR_LOSSES: dict[str, Callable[..., Tensor]] = {
    "TAL": lambda image, text, ids, tau, margin, scale: tal_loss(image, text, ids, tau, margin),
    "TRL": lambda image, text, ids, tau, margin, scale: trl_loss(image, text, ids, tau, margin),
    "InfoNCE": lambda image, text, ids, tau, margin, scale: infonce_per_pair(image, text, scale),
    "SDM": lambda image, text, ids, tau, margin, scale: sdm_per_pair(image, text, ids, scale),
}
SUMMED_LOSSES = ("TAL", "TRL")


def pair_losses(
    kind: str,
    image_feats: Tensor,
    text_feats: Tensor,
    person_ids: Tensor,
    tau: float = 0.015,
    margin: float = 0.1,
    logit_scale: float | Tensor = 50.0,
) -> Tensor:
    """Compute RDE's loss `kind` per pair: [B]. Raises UsageError for a name that is not in PAIR_LOSSES.

    Source: RDE, model/objectives.py, compute_per_loss.
    """
    if kind not in PAIR_LOSSES:
        raise UsageError(f"loss '{kind}' is not known; use one of {', '.join(PAIR_LOSSES)}")
    return PAIR_LOSSES[kind](image_feats, text_feats, person_ids, tau, margin, logit_scale)


def weigh_pairs(kind: str, per_pair: Tensor, clean: Tensor) -> Tensor:
    """Reduce pair losses [B] by their clean labels [B]: summed for TAL and TRL, divided by the clean count for the others.

    The sum is the reference's and matters, since Adam's epsilon of 1e-3 makes the update depend on the loss's scale.
    Source: RDE, model/objectives.py, compute_rbs.
    """
    total = (clean * per_pair).sum()
    return total if kind in SUMMED_LOSSES else total / clean.sum().clamp(min=1)


# ------------------------------------------------------------------------------------------------------------------- parts


def _full(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _same(ids: Tensor) -> Tensor:
    """Return which pairs share an id: [B] -> bool [B, B]."""
    ids = ids.reshape(-1)
    return ids[:, None] == ids[None, :]


def _kl_both_ways(rows: Tensor, columns: Tensor, target: Tensor, epsilon: float) -> Tensor:
    """Compute KL(softmax(logits) || target + epsilon), summed over the two directions' logits [B, B]: per row, [B]."""
    log_target = (target + epsilon).log()

    def one_way(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=1)
        return (log_p.exp() * (log_p - log_target)).sum(dim=1)

    return one_way(rows) + one_way(columns)


def _soft_positive(scores: Tensor, same: Tensor, tau: float) -> Tensor:
    """Compute each row's positives' mean, weighted by their softmax at temperature tau without gradient: [B]."""
    weights = (scores.detach() / tau).masked_fill(~same, -math.inf).softmax(dim=1)
    return (weights * scores).sum(dim=1)
