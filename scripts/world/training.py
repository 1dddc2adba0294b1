"""How each step of the LLaVA recipe is trained: batches from generators, two optimizers, and what an earlier run finished."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from ham.records import atomic_write
from ham.runtime import dist_info, log, numpy_generator
from scripts.world.foundation import average_gradients, warm_cosine

ADAM_RATE = 1.5e-3  # of everything that is no matrix inside a layer


def optimizers_of(modules: list[nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside layers, at `rate`, and AdamW for the rest."""
    named = [(name, parameter) for module in modules for name, parameter in module.named_parameters()]
    inside = [parameter for name, parameter in named if parameter.ndim == 2 and "layers." in name]
    chosen = {id(parameter) for parameter in inside}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    return [
        torch.optim.Muon(inside, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


class Batches(Dataset):
    """The batches of one process, each from its own generator: as a dataset, so that workers can make them ahead."""

    def __init__(self, make: Callable[[np.random.Generator], Any], seed: int, what: str, steps: int) -> None:
        self.make, self.seed, self.what, self.steps = make, seed, what, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        torch.set_num_threads(1)
        return self.make(numpy_generator(self.seed, self.what, step, dist_info().rank))


def train(
    what: str,
    modules: list[nn.Module],
    steps: int,
    rate: float,
    batch_of: Callable[[np.random.Generator], Any],
    loss_of: Callable[[Any], torch.Tensor],
    options: argparse.Namespace,
) -> None:
    """Run one of the three steps, or load its result from `options.work` when an earlier run finished it.

    batch_of(generator) makes a batch of this process; loss_of(batch) returns its loss.
    """
    folder: Path = options.work
    kept = folder / f"{what.replace(' ', '-')}-{steps}.pt"
    if kept.is_file():
        for module, state in zip(modules, torch.load(kept, map_location=options.device, weights_only=True)):
            module.load_state_dict(state)
        log.info("%s: taken from %s", what, kept)
        return
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizers = optimizers_of(modules, rate)
    schedules = [LambdaLR(optimizer, partial(warm_cosine, steps=steps)) for optimizer in optimizers]
    batches = DataLoader(
        Batches(batch_of, options.seed, what, steps),
        batch_size=None,
        collate_fn=lambda batch: batch,
        num_workers=options.workers,
    )
    start = time.monotonic()
    for step, batch in enumerate(batches):
        loss = loss_of(batch)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        if step % 50 == 0 or step == steps - 1:
            log.info(
                "%s: step %d/%d, loss %.3f, %.0f s",
                what,
                step + 1,
                steps,
                loss.item(),
                time.monotonic() - start,
            )
    if dist_info().is_main:
        with atomic_write(kept, "wb") as file:
            torch.save([module.state_dict() for module in modules], file)
