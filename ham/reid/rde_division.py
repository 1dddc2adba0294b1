"""RDE's confident consensus division: which pairs of the training set look wrongly matched, from their losses.

Knows nothing of models: the trainer computes the losses of all pairs and hands the clean labels to the next epoch.
Source: RDE, processor/processor.py, get_loss, split_prob, do_train.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ham.runtime import WorkError, numpy_generator


@dataclass(frozen=True)
class MixtureSettings:
    """How the two-component Gaussian mixture is fitted."""

    max_iter: int = 10
    tol: float = 1e-2
    reg_covar: float = 5e-4


LOOSE, TIGHT = MixtureSettings(), MixtureSettings(max_iter=100, tol=1e-4, reg_covar=1e-6)


@dataclass(frozen=True)
class Division:
    """Clean labels of all pairs: clean [N] 1.0 or 0.0; bge, tse [N] what each branch says; how many disagree (a coin each)."""

    clean: np.ndarray
    bge: np.ndarray
    tse: np.ndarray
    disagree: int


def mixture_settings(dataset: str, noise_rate: float = 0.0) -> MixtureSettings:
    """Choose the fit as the reference does: the tight one for RSTPReid and for more than 40 % of noise."""
    return TIGHT if dataset == "RSTPReid" or noise_rate > 0.4 else LOOSE


def clean_probability(losses: np.ndarray, settings: MixtureSettings = LOOSE, seed: int = 0) -> np.ndarray:
    """Give every pair's probability [N] to belong to the component of low losses; equal losses are all clean.

    losses: [N], any scale (they are brought to 0..1 first). Raises WorkError when one is not finite.
    deviation: the mixture is seeded; the reference's depends on NumPy's global state.
    """
    losses = np.asarray(losses, dtype=np.float32).reshape(-1)
    if not np.isfinite(losses).all():
        broken = np.flatnonzero(~np.isfinite(losses))
        raise WorkError(
            f"CCD: {broken.size} of {losses.size} pairs have a loss that is not finite, the first is pair "
            f"{broken[0]}"
        )
    if losses.size < 2 or losses.max() == losses.min():
        return np.ones(losses.size)
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    mixture = GaussianMixture(
        2, max_iter=settings.max_iter, tol=settings.tol, reg_covar=settings.reg_covar, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are the method's choice
        mixture.fit(scaled)
    return mixture.predict_proba(scaled)[:, mixture.means_.argmin()]


def split_clean(probability: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Call pairs above the threshold clean: bool [N].

    When none would be noisy, the lowest 1 % are (with ties, and one more, as in the reference: those not above the
    probability of place N // 100). Equal probabilities leave nothing to divide: all clean.
    """
    if probability.size and probability.min() > threshold and probability.min() < probability.max():
        threshold = np.sort(probability)[probability.size // 100]
    return probability > threshold


def divide(
    bge_losses: np.ndarray,
    tse_losses: np.ndarray,
    settings: MixtureSettings = LOOSE,
    seed: int = 0,
    epoch: int = 0,
) -> Division:
    """Divide all training pairs by their two losses [N] each.

    Both branches say clean: 1. Both noisy: 0. Else a fair coin, seeded by (seed, epoch).
    """
    bge, tse = (split_clean(clean_probability(losses, settings, seed)) for losses in (bge_losses, tse_losses))
    coin = numpy_generator(seed, "ccd", epoch).integers(0, 2, bge.size).astype(bool)
    clean = np.where(bge == tse, bge, coin)
    return Division(clean.astype(np.float32), bge, tse, int((bge != tse).sum()))
