"""The fused kernels against the plain code, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = """
import torch
from ham.llava import kernels
from ham.llava.load_kernels import largest_difference
from ham.llava.shared_attention import attend_step

torch.manual_seed(0)
for slots, group, heads, repeat, prefix, capacity, width in (
    (3, 2, 2, 1, 70, 40, 32), (2, 3, 2, 2, 5, 130, 16), (2, 1, 1, 4, 64, 64, 64)
):
    rows = slots * group
    q = torch.randn(rows, heads * repeat, width)
    shared = torch.randn(2, slots, heads, prefix, width)
    own = torch.randn(2, rows, heads, capacity, width)
    lengths = torch.randint(0, capacity, (rows,))
    visible = torch.arange(capacity)[None] <= lengths[:, None]
    expected = attend_step(q, *shared, *own, visible)
    for row in range(rows):
        own[:, row, :, lengths[row] + 1 :] = float("nan")  # never read
    found = kernels.attend_step(q, *shared, *own, lengths)
    assert (found - expected).abs().max() < 1e-6, (slots, group)
assert [kernels.is_supported(width) for width in (8, 16, 24, 128)] == [False, True, False, True]
out = torch.full((2, 9, 3, 16), float("nan"))
x, angles = torch.randn(2, 5, 3, 16), torch.randn(2, 5, 8).repeat(1, 1, 2)
kernels.rotate(x, *angles, out[:, 4:])
assert out[:, :4].isnan().all() and torch.equal(out[:, 4:], kernels.rotate(x, *angles))
assert largest_difference(kernels, 32, torch.zeros(1)) < 1e-5
broken = type("Broken", (), {**vars(kernels), "gate": staticmethod(lambda gates, up: gates)})
assert largest_difference(broken, 32, torch.zeros(1)) > 0.05
print("equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which torch's CUDA builds bring"
)
def test_the_kernel_equals_the_plain_attention() -> None:
    top = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": top}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
