"""What a training run holds between its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from ham.reid.config import TrainConfig
from ham.reid.data import Pairs
from ham.reid.loader import FailedImages
from ham.reid.protocol import RetrievalMethod
from ham.runtime import MetricsLog


@dataclass
class Progress:
    """How far a run is: the next batch of the next epoch, optimizer steps made, and the best mean R1 by checkpoint name."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """A training run. model: what is trained (perhaps wrapped); method: the same, unwrapped. data: digest of the pairs."""

    config: TrainConfig
    accelerator: Accelerator
    pairs: Pairs
    method: RetrievalMethod
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    dtype: torch.dtype
    failed: FailedImages
    metrics: MetricsLog
    state: Progress
    data: str
