"""RDE's confident consensus division (CCD): which pairs of the training set look mismatched, from their losses.

Before every epoch the loss of each training pair is computed in eval mode, on the same augmented images and scrambled captions
as in training. A Gaussian mixture per embedding then separates low losses from high ones.
Source: RDE, processor/processor.py, get_loss, split_prob, do_train.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ham.distributed import no_gather, sum_over_ranks
from ham.reid.batch import draw_images, image_inputs, scrambles
from ham.reid.encode import evaluation_mode
from ham.reid.loader import image_loader, num_workers
from ham.reid.mlm import augment_batch
from ham.runtime import WorkError, dist_info, log, numpy_generator, progress

if TYPE_CHECKING:
    from ham.reid.rde import RDE
    from ham.reid.run import Run


@dataclass(frozen=True)
class MixtureSettings:
    """How the two-component Gaussian mixture is fitted."""

    max_iter: int = 10
    tol: float = 1e-2
    reg_covar: float = 5e-4


LOOSE, TIGHT = MixtureSettings(), MixtureSettings(max_iter=100, tol=1e-4, reg_covar=1e-6)


@dataclass(frozen=True)
class Division:
    """Clean labels of all pairs: clean [N] 1.0 or 0.0; bge, tse bool [N] by embedding; on how many pairs they disagree."""

    clean: np.ndarray
    bge: np.ndarray
    tse: np.ndarray
    disagree: int


def mixture_settings(dataset: str, noise_rate: float = 0.0) -> MixtureSettings:
    """Return the reference's settings: the tight ones for RSTPReid and for a noise rate above 0.4."""
    return TIGHT if dataset == "RSTPReid" or noise_rate > 0.4 else LOOSE


def clean_probability(losses: np.ndarray, settings: MixtureSettings = LOOSE, seed: int = 0) -> np.ndarray:
    """Compute every pair's probability [N] of belonging to the component of low losses; 1 if all losses are equal.

    losses: [N], any scale (they are scaled to 0..1 first). Raises WorkError when one is not finite.
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
    """Return which pairs are clean, those with a probability above the threshold: bool [N].

    If none would be noisy, the lowest 1 % are (as in the reference: those not above the probability at position N // 100 of
    the sorted ones). If all probabilities are equal, all pairs are clean.
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

    1 if both embeddings say clean, 0 if both say noisy, else a fair coin seeded by (seed, epoch).
    """
    bge, tse = (split_clean(clean_probability(losses, settings, seed)) for losses in (bge_losses, tse_losses))
    coin = numpy_generator(seed, "ccd", epoch).integers(0, 2, bge.size).astype(bool)
    clean = np.where(bge == tse, bge, coin)
    return Division(clean.astype(np.float32), bge, tse, int((bge != tse).sum()))


def divide_pairs(run: Run, method: RDE, epoch: int) -> np.ndarray:
    """Compute the loss of every training pair in eval mode and divide the pairs by it: clean labels, float32 [N pairs].

    Pairs are compared in shuffled batches of one training step's size, each on one process as a whole; the order and the
    augmentation of a batch depend on (seed, epoch, batch), so the result is the same for any number of processes.
    deviation: the last batch is filled up with pairs of the first, whose losses are not taken from it.
    """
    config = run.config
    place = dist_info()
    total = len(run.pairs)
    size = min(config.batch_size // config.accumulation_steps, total)
    order = numpy_generator(config.seed, "ccd order", epoch).permutation(total)
    batches = np.resize(order, (-(-total // size), size))
    mine = range(place.rank, len(batches), place.world_size)
    loader = image_loader(
        run.pairs, [batches[number] for number in mine], config.image_size_px, num_workers(config)
    )
    losses = torch.zeros(2, total, dtype=torch.float64)
    gather, method.gather = method.gather, no_gather
    with evaluation_mode(method), run.accelerator.autocast():
        for number, (pixels, index, failures) in zip(mine, progress(loader, what="CCD", unit="batch")):
            run.failed.add(failures)
            batch = division_batch(run, method, pixels, index, epoch, number)
            kept = min(size, total - number * size)
            both = torch.stack(method.per_pair(batch))  # [2, B]
            losses[:, batches[number][:kept]] = both[:, :kept].double().cpu()
    method.gather = gather
    losses = sum_over_ranks(losses.to(run.accelerator.device)).cpu()
    dataset = "RSTPReid" if "RSTPReid" in config.train_datasets else ""
    settings = mixture_settings(dataset, method.options.noise_rate)
    division = divide(*losses.numpy(), settings, config.seed, epoch)
    log.info(
        "CCD: %d of %d pairs are clean; BGE and TSE disagree on %d",
        division.clean.sum(),
        total,
        division.disagree,
    )
    return division.clean


def division_batch(
    run: Run, method: RDE, pixels: torch.Tensor, index: torch.Tensor, epoch: int, number: int
) -> dict[str, torch.Tensor]:
    """Build the inputs of one batch of the division, with draws of its own."""
    config, device = run.config, run.accelerator.device
    augment = method.options.augment_division
    rows = run.pairs.rows(index.numpy())
    if augment and scrambles(config, method):
        draw = numpy_generator(config.seed, "division words", epoch, number)
        rows["caption_ids"] = augment_batch(rows["caption_ids"], draw)
    batch = {name: torch.from_numpy(values).to(device) for name, values in rows.items()}
    draws = None
    if augment and config.augment_images:
        generator = numpy_generator(config.seed, "division images", epoch, number)
        draws = draw_images(len(index), config.image_size_px, generator, config.pad_px)
    batch["images"] = image_inputs(pixels.to(device), draws, config.pad_px)
    return batch
