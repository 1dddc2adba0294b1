"""The retrieval bench: what it measures against computes the same as ours, its arithmetic is right, and it runs."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "bench"))

import reid as bench

from ham.clip import CLIPConfig, build_clip
from ham.reid.methods import build_method
from ham.reid.metrics import METRICS, retrieval_metrics
from ham.runtime import UsageError
from scripts.bench import reid_eval, reid_parts, reid_plain, reid_step

TINY = CLIPConfig(
    image_size_px=(32, 16),
    patch_px=8,
    stride_px=8,
    embed_dim=16,
    vision_width=64,
    vision_layers=2,
    text_width=64,
    text_layers=2,
    vocab_size=49408,
)


def test_obvious_step_computes_our_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 16, generator=draw)
    ids = torch.randint(1, 49000, (4, 77), generator=draw)
    ids[:, 20] = 49407
    ids[:, 21:] = 0
    persons = torch.tensor([0, 1, 0, 2])
    clip = build_clip(TINY)
    ours = build_method("sdm", clip)({"images": images, "caption_ids": ids, "person_ids": persons})[
        "sdm_loss"
    ]
    torch.testing.assert_close(reid_plain.PlainSDM(clip)(images, ids, persons), ours, rtol=1e-4, atol=1e-5)


def test_obvious_ranking_computes_our_metrics() -> None:
    draw = torch.Generator().manual_seed(0)
    ids = torch.arange(60) % 12
    query, gallery = (torch.randn(60, 8, generator=draw) for _ in range(2))
    ours = retrieval_metrics(query, gallery, ids, ids)
    plain = reid_eval.plain_metrics(query, gallery, ids, ids)
    assert {name: ours[name] for name in METRICS} == pytest.approx(plain, abs=1e-4)


def test_obvious_sample_is_one_augmented_image(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 20, 3), 255, np.uint8)).save(tmp_path / "a.png")
    sample = reid_plain.plain_sample(str(tmp_path / "a.png"), (96, 32), random.Random(0))
    assert sample.shape == (3, 96, 32) and sample.dtype == torch.float32
    assert sample[0].max().item() == pytest.approx((1 - 0.48145466) / 0.26862954)


def test_one_optimizer_group_for_each_parameter() -> None:
    clip = reid_plain.PlainSDM(build_clip(TINY))
    trainable = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    assert len(reid_plain.plain_optimizer(clip).param_groups) == len(trainable)


def test_flop_of_one_pair_by_hand() -> None:
    """ViT-B/16 at 384x128: the design's 0.12 TFLOP, and one layer counted term by term."""
    assert reid_step.pair_flop(CLIPConfig(), one_token_last=False) == pytest.approx(0.12e12, rel=0.01)
    n, d = 5, 8
    qkv, scores_and_values, out, mlp = (
        2 * n * d * 3 * d,
        2 * 2 * n * n * d,
        2 * n * d * d,
        2 * 2 * n * d * 4 * d,
    )
    assert reid_step.tower_flop(1, n, d, one_token_last=False) == qkv + scores_and_values + out + mlp
    one_token = 2 * n * d * 2 * d + 2 * d * d + 2 * 2 * n * d + 2 * d * d + 2 * 2 * d * 4 * d
    assert reid_step.tower_flop(1, n, d, one_token_last=True) == one_token


@pytest.mark.parametrize(
    "unit, ours, plain, gain", [("s", 2.0, 10.0, "5.0 x"), ("pairs/s", 10.0, 2.0, "5.0 x")]
)
def test_gain_knows_which_way_is_better(unit: str, ours: float, plain: float, gain: str) -> None:
    row = {"what": "w", "unit": unit, "ours": ours, "obvious": plain, "aim": ">= 5", "reached": True}
    lines = bench.table([row, {"what": "alone", "unit": "s", "ours": 1.0}]).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[5:8]] == [gain, ">= 5", "yes"]
    assert len({len(line) for line in lines}) == 1


def test_workers_that_feed_the_step() -> None:
    rows = [
        {"unit": "pairs/s", "what": "step", "ours": 800.0},
        {"unit": "images/s", "what": "loader, x", "ours": 400.0},
    ]
    assert bench.feeding(rows)[0]["ours"] == 2.0
    assert bench.feeding(rows[:1]) == []


def test_search_section_writes_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "--only",
        "search",
        "--quick",
        "--devices",
        "cpu",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "b.json"),
    ]
    bench.main(arguments)
    written = json.loads((tmp_path / "b.json").read_text())
    assert {row["section"] for row in written["rows"]} == {"search"} and written["machine"]["threads"] == 1
    assert "search 5000 images, 256 at a time, cpu" in capsys.readouterr().out


@pytest.mark.slow
def test_data_and_evaluation_sections_run() -> None:
    rows = [*reid_parts.measure_data(quick=True), *reid_eval.measure_eval(torch.device("cpu"), quick=True)]
    assert all(row["ours"] >= 0 for row in rows)
    assert next(row for row in rows if "difference" in row["what"])["reached"]


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="--only speed: not a section; use some of step, data, eval, search"):
        bench.read_options(["--only", "step,speed"])
    with pytest.raises(UsageError, match="give --threads 1 and --devices cpu"):
        bench.read_options(["--clock", "cpu"])
    assert bench.read_options(["--clock", "cpu", "--threads", "1"]).devices == "cpu"
