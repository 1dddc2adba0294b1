"""Ways through the training loop beside one plain process in float32: accelerate launch, torch.compile, fp16, odd captions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from processes import TORCHRUN, kill_all
from test_reid_train import (
    SCRIPT,
    arguments_of,
    assert_same_run,
    config_for,
    losses_of,
    rows_of,
    world,  # noqa: F401  (the fixture)
    write_world,
)
from tiny_reid import interrupted_at, tall_clip

from ham.reid import train as train_module
from ham.reid.config import TrainConfig
from ham.reid.train import set_up, train
from ham.runtime import UsageError


@pytest.mark.slow
def test_accelerate_launch_with_two_processes_gives_the_curve_of_one(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path / "two", method="irra", gather=True)
    # --multi_gpu is accelerate's word for "through torchrun"; with --cpu it would start a single process.
    start = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *start.split(),
            str(SCRIPT),
            "pretrain",
            *arguments_of(config),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "on 2 x cpu" in run.stderr
    train(config_for(world, tmp_path / "one", method="irra"))
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_uninterrupted_ones(world: Path, tmp_path: Path) -> None:
    def launch(config: TrainConfig) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*TORCHRUN, "2", str(SCRIPT), "finetune", *arguments_of(config)],
            stderr=(tmp_path / "said").open("a"),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    more = {"method": "irra", "gather": True, "epochs": 12, "save_every_steps": 3}
    config = config_for(world, tmp_path / "killed", **more)
    state = tmp_path / "killed/last/trainer_state/progress.json"
    victim = launch(config)
    while victim.poll() is None and not state.exists():
        time.sleep(0.01)
    assert victim.poll() is None, (tmp_path / "said").read_text()
    kill_all(victim)
    assert 0 < json.loads(state.read_text())["step"] < 60, "it ended before it could be killed"
    assert launch(config).wait(300) == 0, (tmp_path / "said").read_text()
    assert launch(config_for(world, tmp_path / "whole", **more)).wait(300) == 0, (
        tmp_path / "said"
    ).read_text()
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_compiled_model_trains_the_same(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as a whole; without inductor's code, which takes a minute to build (and gave the same)."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for name in ("plain", "compiled"):
        train(
            config_for(
                world, tmp_path / name, epochs=1, compile=name == "compiled", test_datasets=["RSTPReid"]
            )
        )
    np.testing.assert_allclose(
        losses_of(tmp_path / "compiled"), losses_of(tmp_path / "plain"), rtol=1e-4, atol=1e-4
    )
    run = set_up(config_for(world, tmp_path / "compiled", epochs=1, compile=True, test_datasets=["RSTPReid"]))
    assert run.state.step == 5 and type(run.model).__name__ == "OptimizedModule"  # its checkpoint resumes


def test_compiling_without_a_compiler_is_refused(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler \(g\+\+\) on a CPU"):
        train(config_for(world, tmp_path, compile=True))


# -------------------------------------------------------------------------------------------------------------------- fp16


def scaled_accelerator(config: TrainConfig) -> tuple[Accelerator, torch.dtype]:
    """What accelerate builds for fp16 on a GPU, on the CPU: float16 autocast and a gradient scaler that soon grows."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    return accelerator, torch.float16


def test_fp16_resumes_with_its_gradient_scale(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "start_accelerator", scaled_accelerator)
    train(config_for(world, tmp_path / "whole"))
    with interrupted_at(7):
        train(config_for(world, tmp_path / "cut"))
    resumed = set_up(config_for(world, tmp_path / "cut"))
    assert (resumed.state.step, resumed.accelerator.scaler.get_scale()) == (
        5,
        1024.0,
    )  # grown twice in five steps
    train(config_for(world, tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_module, "start_accelerator", scaled_accelerator)
    config = config_for(world, tmp_path)
    run = set_up(config)
    run.accelerator.scaler._init_scale = 2.0**60
    before = {name: tensor.clone() for name, tensor in run.method.state_dict().items()}
    train_module.train_epoch(run, 0)
    assert run.accelerator.scaler.get_scale() == 2.0**55  # halved in each of five steps
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.method.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ odd captions


@pytest.mark.parametrize("method", ["sdm", "irra", "rde"])
def test_captions_of_any_kind_train(tmp_path: Path, method: str) -> None:
    """No word, one word, 500 words, other alphabets, the words that trip the references up."""
    root = write_world(tmp_path / "world")
    file = root / "RSTPReid" / "data_captions.json"
    rows = json.loads(file.read_text())
    odd = [
        "",
        "  ",
        "red",
        "red shirt " * 250,
        "человек в красном",
        "穿红衣服的人",
        "jekyll <|endoftext|> red",
        "\U0001f468",
    ]
    for number, row in enumerate(rows):
        row["captions"] = [odd[number % len(odd)], row["captions"][1]]
    file.write_text(json.dumps(rows))
    full = replace(
        config_for(root, tmp_path / "out", method=method, epochs=1, test_datasets=["RSTPReid"], eval_every=1),
        weights=full_clip(tmp_path / "clip"),
    )
    train(full)
    assert all(np.isfinite(list(values)).all() for values in losses_of(tmp_path / "out"))
    assert rows_of(tmp_path / "out", "eval")[0]["queries"] == 20


def full_clip(folder: Path) -> Path:
    """A tiny CLIP that knows every token."""
    from ham.clip import build_clip, save_clip

    save_clip(build_clip(tall_clip()), folder)
    return folder
