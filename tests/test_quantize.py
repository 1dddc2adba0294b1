"""Optional int8 and FP8 weights: what they change, what is recorded, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from decode_helpers import tiny_captioner
from generation_helpers import make_plan
from PIL import Image
from torch import nn

from ham.captioner import quantize as quantize_module
from ham.captioner.engine import Decoder, DecodeSettings
from ham.captioner.quantize import check_weights, is_quantized, quantize
from ham.generation.config import JobOptions, check
from ham.generation.native_engine import CaptionerEngine
from ham.generation.plan import check_settings
from ham.runtime import UsageError

PIECES = ([1, 7, 9], [11, 4, 6, 5])
CPU = torch.device("cpu")


def captions(decoder: Decoder) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    made = decoder.caption(torch.rand(12, 3, 8, 8, generator=draw), [[number % 5] for number in range(12)])
    return [one[0].ids for one in made]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_layers_caption_and_are_not_checked_in_float64(kind: str) -> None:
    pytest.importorskip("torchao")
    settings = DecodeSettings(max_new_tokens=12)
    plain = tiny_captioner()
    expected = captions(Decoder(plain, settings, PIECES))
    captioner = tiny_captioner()
    quantize(captioner.model.llm, kind, CPU)
    decoder = Decoder(captioner, settings, PIECES)
    assert is_quantized(captioner.model) and not is_quantized(plain.model)
    assert type(captioner.model.llm.lm_head.weight.data) is torch.Tensor
    assert not decoder.checks and captioner.dtype == torch.float32
    found = captions(decoder)
    assert found == captions(decoder)
    same = sum(a[0] == b[0] for a, b in zip(expected, found, strict=True))
    assert same >= 6  # random weights: margins are small
    projection = captioner.model.llm.model.layers[0].mlp.up_proj
    x = torch.randn(3, 32)
    exact = plain.model.llm.model.layers[0].mlp.up_proj(x)
    assert 0 < (projection(x) - exact).abs().max() < 0.2 * exact.abs().max()


def test_full_weights_are_left_alone() -> None:
    llm = nn.Module()
    quantize(llm, "full", CPU)
    check_weights("full", CPU)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_without_torchao_the_error_has_the_install_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"--weights {kind} needs torchao.*pip install"):
        check_weights(kind, CPU)


def test_fp8_is_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_module, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UsageError, match=r"has 8\.0; use --weights int8"):
        check_weights("fp8", torch.device("cuda"))
    check_weights("int8", torch.device("cuda"))


def test_other_engines_refuse_quantized_weights(tmp_path: Path) -> None:
    options = JobOptions(image_root=str(tmp_path), out=str(tmp_path / "out"), engine="server", weights="int8")
    with pytest.raises(UsageError, match="--weights int8 is for --engine native"):
        check(options)


def test_the_plan_records_the_weights(tmp_path: Path) -> None:
    Image.new("RGB", (4, 8)).save(tmp_path / "a.png")
    decoder = Decoder(tiny_captioner(), DecodeSettings(), PIECES)
    engine = CaptionerEngine(decoder.captioner, decoder.settings, decoder=decoder)
    assert engine.settings["weights"] == "full"
    plan = make_plan(tmp_path / "out", tmp_path)
    check_settings(plan, {"weights": "full"})  # a job that was begun before there was the option
    with pytest.raises(UsageError, match="weights was 'full', now 'int8'"):
        check_settings(plan, {"weights": "int8"})
