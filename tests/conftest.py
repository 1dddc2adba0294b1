"""Shared by all tests: the recordings of the reference implementations, and one thread for each process."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from parity_files import unpack_all


@pytest.fixture(scope="session")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of recorded inputs and outputs of the reference implementations (tests/data/parity; HAM_PARITY: another)."""
    if "HAM_PARITY" in os.environ:
        return Path(os.environ["HAM_PARITY"])
    return unpack_all(tmp_path_factory.mktemp("parity"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
