"""Packed linear layers against the plain ones."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from ham.llava import packed_linear
from ham.llava.packed_linear import PackedLinears

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 3, 5)])
def test_packed_layers_compute_what_plain_ones_compute(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 131, bias=bias)
    linear = PackedLinears(nn.ModuleList([layer]))
    assert len(linear) == 1
    x = torch.randn(*shape, 48)
    with torch.inference_mode():
        torch.testing.assert_close(linear(layer, x), layer(x), rtol=1e-5, atol=1e-6)


def test_other_dtypes_and_kinds_stay_plain() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    layers = [nn.Linear(8, 8).double(), nn.Linear(8, 8).bfloat16(), Own(8, 8)]
    linear = PackedLinears(nn.ModuleList(layers))
    assert len(linear) == 0
    for layer in layers:
        x = torch.randn(2, 8, dtype=layer.weight.dtype)
        assert torch.equal(linear(layer, x), layer(x))


def test_many_parameters_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "MAX_PARAMETERS", 100)
    assert len(PackedLinears(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]))) == 0


@needs_onednn
@pytest.mark.parametrize("fault", ["wrong", "absent"])
def test_a_torch_that_packs_differently_uses_the_plain_layers(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(packed: torch.Tensor, module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if fault == "absent":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")
        return module(x) * 1.01

    monkeypatch.setattr(packed_linear, "_apply", broken)
    layer = nn.Linear(8, 8)
    with caplog.at_level(logging.WARNING):
        linear = PackedLinears(nn.ModuleList([layer]))
    assert len(linear) == 0 and "captioning without packed weights" in caplog.text
    x = torch.randn(2, 8)
    assert torch.equal(linear(layer, x), layer(x))
