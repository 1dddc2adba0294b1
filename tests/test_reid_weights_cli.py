"""Weights as users give them to train_reid.py: one figure per file, unknown words and unusual files refused in one line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_reid_train import world  # noqa: F401  (the fixture)
from tiny_reid import eval_words

from ham.clip import build_clip, load_clip
from ham.reid.methods import build_method
from ham.reid.rde import RDEOptions
from ham.reid.weights import main as weights_main
from ham.reid.weights import save_method
from ham.runtime import exit_code_of
from train_reid import main


def evaluate(world: Path, checkpoint: Path, out: Path, *options: str) -> float:
    """Run `eval`; returns mAP, or NaN where it was refused."""
    words = eval_words(world, checkpoint, "--output-dir", str(out), "--pictures", "0", *options)
    code = exit_code_of(lambda: main(words))
    assert code in (0, 2)
    return (
        json.loads((out / "evaluation.json").read_text())["results"][0]["mAP"] if code == 0 else float("nan")
    )


@pytest.fixture(scope="module")
def rde(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of RDE whose token selection changes the figures."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("rde")
    save_method(
        build_method("rde", load_clip(world / "clip", None, None), rde=RDEOptions(tse_dim=16)), folder
    )
    return folder


@pytest.mark.parametrize("command", ["eval", "search"])
@pytest.mark.parametrize("word", ["RDE", "IRRA", "foo"])
def test_an_unknown_method_ends_with_exit_code_2(
    world: Path, rde: Path, tmp_path: Path, capsys, command: str, word: str
) -> None:
    if command == "eval":
        assert np.isnan(evaluate(world, rde, tmp_path, "--method", word))
    else:
        words = ["search", "--checkpoint", str(rde), "--gallery", str(world), "--method", word, "a man"]
        assert exit_code_of(lambda: main([*words, "--device", "cpu"])) == 2
    assert f"method '{word}' is not known" in capsys.readouterr().err


def test_a_checkpoint_of_rde_is_measured_as_rde(world: Path, rde: Path, tmp_path: Path) -> None:
    own = evaluate(world, rde, tmp_path / "a")
    assert own == evaluate(world, rde, tmp_path / "b", "--method", "rde")
    assert own != evaluate(world, rde, tmp_path / "c", "--method", "irra")


def test_one_figure_for_a_foreign_file_whichever_command(world: Path, tmp_path: Path, monkeypatch) -> None:
    """A checkpoint of IRRA's code at 2:1: `eval`, `weights import` and the size by hand."""
    config = replace(
        load_clip(world / "clip", None, None).config,
        image_size_px=(32, 16),
        stride_px=8,
        vision_heads=None,
        text_heads=None,
    )
    state = build_clip(config, seed=3).state_dict()
    torch.save({"model": {f"base_model.{name}": one for name, one in state.items()}}, tmp_path / "x.pth")
    monkeypatch.setattr(sys, "argv", ["weights", "import", str(tmp_path / "x.pth"), str(tmp_path / "ours")])
    monkeypatch.setattr("ham.reid.weights.set_up_logging", lambda: None)
    assert exit_code_of(weights_main) == 0
    figures = {
        evaluate(world, tmp_path / "x.pth", tmp_path / "a"),
        evaluate(world, tmp_path / "ours", tmp_path / "b"),
        evaluate(world, tmp_path / "x.pth", tmp_path / "c", "--image-size-px=[32,16]", "--stride-px", "8"),
    }
    assert len(figures) == 1


def test_tensors_that_change_features_are_refused_unless_ignored(world: Path, tmp_path: Path, capsys) -> None:
    clip = load_clip(world / "clip", None, None)
    heads = f"[{clip.visual.transformer.heads},{clip.transformer.heads}]"
    size = f"--image-size-px=[{clip.image_size_px[0]},{clip.image_size_px[1]}]"
    file = tmp_path / "x.pth"
    tensors = {f"base_model.{name}": one for name, one in clip.state_dict().items()}
    torch.save({"model": tensors | {"base_model.visual.adapter.weight": torch.zeros(3)}}, file)
    options = [size, f"--stride-px={clip.config.stride_px}", f"--heads={heads}"]
    assert np.isnan(evaluate(world, file, tmp_path / "a", *options))
    assert "visual.adapter.weight" in capsys.readouterr().err
    ignored = evaluate(world, file, tmp_path / "b", *options, "--ignore-tensors=[visual.adapter]")
    assert ignored == evaluate(world, world / "clip", tmp_path / "c")


class Options:
    """Some project's configuration."""


def test_a_checkpoint_with_numpy_and_options_beside_the_weights_is_measured(
    world: Path, tmp_path: Path
) -> None:
    clip = load_clip(world / "clip", None, None)
    facts = {"vision_heads": clip.visual.transformer.heads, "text_heads": clip.transformer.heads}
    facts |= {"image_size_px": clip.image_size_px, "stride_px": clip.config.stride_px}
    state = {f"base_model.{name}": one for name, one in clip.state_dict().items()}
    beside = {"best_top1": np.float64(61.2), "cfg": Options(), "ham.clip": facts}
    torch.save({"model": state, **beside}, tmp_path / "best.pth")
    found = evaluate(world, tmp_path / "best.pth", tmp_path / "a")
    assert found == evaluate(world, world / "clip", tmp_path / "b")


@pytest.mark.parametrize("kind", ["model", "yaml", "lfs", "html", "cut"])
def test_files_that_are_no_weights_end_with_one_line(world: Path, tmp_path: Path, capsys, kind: str) -> None:
    file = tmp_path / "x.pth"
    if kind == "model":
        torch.save(torch.nn.Linear(2, 2), file)
    elif kind == "cut":
        torch.save({"w": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:1000])
    else:
        texts = {
            "yaml": "lr: 1\n",
            "lfs": "version https://git-lfs.github.com/spec/v1\n",
            "html": "<!doctype html>",
        }
        file.write_text(texts[kind])
    assert np.isnan(evaluate(world, file, tmp_path / "out"))
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(file) in err and "\x1b" not in err and "weights_only" not in err


def test_a_checkpoint_is_opened_once(world: Path, rde: Path, tmp_path: Path, monkeypatch) -> None:
    from ham.tensor_files.reading import open_file

    opened = []

    def counted(path: Path):
        opened.append(path)
        return open_file(path)

    monkeypatch.setattr("ham.tensor_files.reading.open_file", counted)
    evaluate(world, rde, tmp_path)
    assert opened == [rde / "model.safetensors"]
    opened.clear()
    words = ["search", "--checkpoint", str(rde), "--gallery", str(world), "--index", str(tmp_path / "i")]
    assert (
        exit_code_of(lambda: main([*words, "--output", str(tmp_path / "s.png"), "--device", "cpu", "a man"]))
        == 0
    )
    assert opened.count(rde / "model.safetensors") == 1
