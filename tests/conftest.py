"""Shared by all tests: where the recorded references lie, and one thread for each process."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

PARITY = Path(os.environ.get("HAM_PARITY", Path(__file__).resolve().parents[2] / "shared" / "parity"))


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of recorded inputs and outputs of the reference implementations; skips where a user has none."""
    if not PARITY.is_dir():
        pytest.skip(f"no recorded reference outputs at {PARITY} (set HAM_PARITY to a copy)")
    return PARITY


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
