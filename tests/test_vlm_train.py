"""Tuning of the `vlm` family by the user's script, with DeepSpeed; the estimate; how a family is added."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ham.captioner import checkpoint, families
from ham.captioner.estimate import Settings
from ham.captioner.families import family_of
from ham.captioner.vlm_estimate import count_parts, empty_network
from ham.records import read_jsonl
from ham.runtime import UsageError
from ham.vlm.load import load_model

tiny_vlm = pytest.importorskip("tiny_vlm", exc_type=ImportError, reason="needs the current transformers")
from vlm_runs import STYLES, data, models, options, tune, write_data  # noqa: E402, F401

TOP = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_script_tunes_with_zero3_in_two_processes(models, tmp_path, monkeypatch) -> None:
    """scripts/v1_5/finetune_task.sh ends as one process without DeepSpeed does on the same batches."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install -e '.[train]')")
    data = tmp_path / "data"
    data.mkdir()
    write_data(
        data, ("a man in red.",) * STYLES
    )  # equally long, so that a mean over ranks is a mean over tokens
    model = models["qwen2_5_vl"]
    more = ("--weight_decay", "0.", "--warmup_ratio", "0.03", "--lr_scheduler_type", "cosine")
    more += ("--learning_rate", "4e-4", "--group_by_modality_length", "True", "--max_steps", "4")
    tune(monkeypatch, model, data, tmp_path / "one", *more)

    python = tmp_path / "bin" / "python"  # in place of an environment to install the package in
    python.parent.mkdir()
    python.write_text(f'#!/bin/bash\n[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    variables = {"MODEL": str(model), "DATA": str(data / "instructions.json"), "IMAGES": str(data)}
    variables |= {"OUT": str(tmp_path / "two"), "NPROC": "2", "DEEPSPEED": "configs/deepspeed/zero3.json"}
    variables |= {"VIRTUAL_ENV": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / ".torch-extensions"))
    flags = options(model, data, tmp_path / "two", "--per_device_train_batch_size", "3", "--max_steps", "4")
    done = subprocess.run(
        ["bash", str(TOP / "scripts" / "v1_5" / "finetune_task.sh"), *flags],
        env={**os.environ, **variables, "TORCH_EXTENSIONS_DIR": extensions},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("one", "two")
    )
    assert len(two) == 4 and two == pytest.approx(one, rel=1e-5)
    expected, found = (load_file(str(tmp_path / name / "adapter.safetensors")) for name in ("one", "two"))
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5) for name in expected)


@pytest.mark.parametrize(
    ("name", "parameters"), [("Qwen2.5-VL-3B", 3_754_622_976), ("Qwen2.5-VL-7B", 8_292_166_656)]
)
def test_published_models_are_counted_exactly(data, tmp_path, monkeypatch, capsys, name, parameters) -> None:
    """From configuration and processor alone, also with the script's ZeRO-3 configuration."""
    folder = tiny_vlm.write_published(tmp_path / name, name)
    counts = count_parts(empty_network(folder)[0], None, Settings(3000, 10))
    assert sum(counts.values()) - counts["style prompts"] == parameters
    zero3 = ("--deepspeed", str(TOP / "configs" / "deepspeed" / "zero3.json"))
    more = zero3 if importlib.util.find_spec("deepspeed") else ()
    tune(monkeypatch, folder, data, tmp_path / "out", "--estimate", "True", *more)
    assert ("ZeRO-3" if more else "no DeepSpeed") in capsys.readouterr().out
    importlib.import_module("transformers.integrations.deepspeed").unset_hf_deepspeed_config()


def test_the_estimate_counts_what_is_there(models, data, tmp_path, monkeypatch, capsys) -> None:
    """Parameters as in the loaded model; a smaller pixel budget needs less."""

    def estimated(*more: str) -> tuple[float, int]:
        tune(monkeypatch, models["qwen2_5_vl"], data, tmp_path / "out", "--estimate", "True", *more)
        text = capsys.readouterr().out
        activations = float(re.search(r"activations +([0-9.]+) GiB", text).group(1))
        return activations, int(re.search(r"(\d+) tokens for an image", text).group(1))

    _, tokens = estimated()
    _, fewer = estimated("--max_pixels", "3136")
    assert fewer < tokens and not (tmp_path / "out").exists()
    network = load_model(models["qwen2_5_vl"]).network
    counts = count_parts(empty_network(models["qwen2_5_vl"])[0], None, Settings(3, 4))
    assert counts.pop("style prompts") == 3 * 4 * 64
    assert sum(counts.values()) == sum(parameter.numel() for parameter in network.parameters())
    assert counts["projector"] == sum(one.numel() for one in network.model.visual.merger.parameters())


def test_a_broken_image_is_found_before_training(models, data, tmp_path, monkeypatch) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "3.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"3 of 24 records(.|\n)*3\.png"):
        tune(monkeypatch, models["qwen3_vl"], tmp_path / "data", tmp_path / "out", "--check_images", "True")


def test_a_family_is_one_file_and_one_entry(models, data, tmp_path, monkeypatch, capsys) -> None:
    """A module in FAMILIES is found by content and reached by every command."""
    module = types.ModuleType("another_family")
    module.recognizes = lambda folder: (folder / "config.json").is_file()
    module.prepare = lambda *arguments: pytest.fail("prepare called", pytrace=False)
    module.estimate = lambda model_args, settings: "the other family's estimate"
    module.describe = lambda path, base_model: "the other family's checkpoint"
    exported = []
    module.export = exported.append
    monkeypatch.setitem(sys.modules, "another_family", module)
    monkeypatch.setattr("ham.captioner.families.FAMILIES", {"other": "another_family", **families.FAMILIES})
    model = models["qwen2_5_vl"]
    assert family_of(model) == "other"
    tune(monkeypatch, model, data, tmp_path / "out", "--estimate", "True")
    for words in (["show", "--model-path", str(model)], ["merge", "--model-path", str(model), "--out", "x"]):
        monkeypatch.setattr(sys, "argv", ["checkpoint", *words])
        checkpoint.main()
    said = capsys.readouterr().out
    assert "other family's estimate" in said and "other family's checkpoint" in said and len(exported) == 1
    with pytest.raises(pytest.fail.Exception, match="prepare called"):
        tune(monkeypatch, model, data, tmp_path / "out")
