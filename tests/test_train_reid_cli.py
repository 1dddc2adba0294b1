"""The command line of train_reid.py: every config and every command written in one parses; eval and search end to end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from test_reid_train import SCRIPT, config_for, world  # noqa: F401  (the fixture)
from tiny_reid import eval_words

from ham.reid.config import EvalConfig, SearchConfig, TrainConfig
from ham.reid.irra import IRRAOptions
from ham.reid.train import train
from ham.reid.weights import start_method
from ham.runtime import UsageError
from train_reid import COMMANDS, main, parse

TOP = SCRIPT.parent
FILES = sorted((TOP / "configs/reid").glob("*.yaml"))


def command_of(file: Path) -> str:
    return next((word for word in COMMANDS if word in file.stem), "eval")


# ----------------------------------------------------------------------------------------------------------------- configs


def test_there_is_a_config_for_each_row_of_the_results() -> None:
    names = {file.stem for file in FILES}
    assert {"pretrain_ham_1m", "pretrain_ham_0.1m", "transfer"} <= names
    assert {
        f"finetune_{method}_{data}" for method in ("irra", "rde") for data in ("cuhk", "icfg", "rstp")
    } <= names
    worlds = {"pretrain", "transfer", "finetune_irra", "finetune_irra_clip", "finetune_rde"}
    assert {f"world_{name}" for name in worlds} <= names


def as_yaml(found: object, value: object) -> object:
    """Return a parsed option as YAML has it; of a group of options, those that `value` names."""
    if is_dataclass(found):
        return {name: getattr(found, name) for name in value}
    return str(found) if isinstance(found, Path) else list(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_parses_and_says_what_it_is_for(file: Path) -> None:
    command, config = parse([command_of(file), "--config", str(file)])
    for key, value in yaml.safe_load(file.read_text()).items():
        assert as_yaml(getattr(config, key), value) == value
    head = file.read_text().split("\n\n")[0]
    assert "\n# Hardware and time: " in head and "\n# Expected" in head
    written = re.findall(
        r"^#     (?:torchrun --nproc-per-node \d+|python) train_reid\.py (.*)$", head, re.MULTILINE
    )
    assert written and f"{command} --config {file.relative_to(TOP)}" in written[0]
    for line in written:
        words = shlex.split(line)
        words[words.index("--config") + 1] = str(TOP / words[words.index("--config") + 1])
        parse(words)


def test_finetuning_halves_the_learning_rate() -> None:
    for file in FILES:
        if file.stem.startswith("finetune"):
            assert yaml.safe_load(file.read_text())["lr"] == TrainConfig().lr / 2


# ------------------------------------------------------------------------------------------------------------ command line


def test_the_command_line_wins_over_the_file_and_dashes_are_underscores(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "batch_size: 32\nlr: 3.0e-4\nirra:\n  temperature: 0.05\ntrain_datasets: [RSTPReid]\n"
    )
    command, config = parse(
        [
            "finetune",
            "--config",
            str(tmp_path / "a.yaml"),
            "--batch-size",
            "16",
            "--image-size-px=[96, 32]",
            "--weights",
            "some-where/a-b.pt",
        ]
    )
    assert (command, config.batch_size, config.lr, config.image_size_px) == ("finetune", 16, 3e-4, (96, 32))
    assert config.irra == IRRAOptions(temperature=0.05) and config.train_datasets == ["RSTPReid"]
    assert config.weights == Path("some-where/a-b.pt")
    assert isinstance(
        parse(["search", "--checkpoint", "c", "--gallery", "g", "a man", "a --dashed query"])[1], SearchConfig
    )


def test_defaults_of_the_command_line_are_the_dataclass(tmp_path: Path) -> None:
    assert parse(["pretrain"])[1] == TrainConfig()
    assert parse(["eval"])[1] == EvalConfig()
    assert parse(["search", "a", "b"])[1] == SearchConfig(query=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["pretrain", "--batch-sise", "3"],
            r"arguments: --batch_sise 3; did you mean batch_size\? The valid keys are config, ",
        ),
        (["pretrain", "--batch", "3"], "unrecognized arguments: --batch 3"),
        (["pretrain", "--irra.temp", "3"], r"did you mean irra\.temperature\?"),
        (["finetune", "--precision", "fp8"], "precision.*'fp32', 'bf16', 'fp16'"),
        (["finetune", "--epochs", "many"], "epochs"),
        (["eval", "--config", "absent.yaml"], "absent.yaml"),
        (["evaluate"], "the commands are pretrain, finetune, eval, search, embed, serve"),
        ([], "the commands are pretrain, finetune, eval, search, embed, serve"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.compile(said, re.DOTALL)):
        parse(arguments)


def test_an_unknown_key_in_a_file_lists_the_valid_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("wights: clip.pt\n")
    with pytest.raises(
        UsageError, match=r"'wights'; did you mean weights\? The valid keys are config, output_dir, weights"
    ):
        parse(["pretrain", "--config", str(tmp_path / "a.yaml")])


def test_print_config_prints_what_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["pretrain", "--batch-size", "24", "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert end.value.code == 0 and printed["batch_size"] == 24 and printed["rde"]["margin"] == 0.1


def test_exit_codes() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "eval", "--data-root", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "") and run.stderr.startswith("error: --checkpoint is missing")


# --------------------------------------------------------------------------------------------------------- eval and search


@pytest.fixture(scope="module")
def checkpoint(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of RDE, trained for one epoch."""
    out = tmp_path_factory.mktemp("run")
    train(config_for(world, out, method="rde", epochs=1))
    return out / "last"


def test_eval_prints_a_table_and_writes_figures_and_pictures(
    world: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(eval_words(world, checkpoint, "--image-to-text", "true", "--pictures", "3")) == 0
    table = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")][:8] == [
        "dataset",
        "split",
        "direction",
        "R1",
        "R5",
        "R10",
        "mAP",
        "mINP",
    ]
    assert len(table) == 4 and "image-to-text" in table[3]
    results = json.loads((checkpoint / "eval/evaluation.json").read_text())["results"]
    assert [(row["direction"], row["queries"], row["gallery"]) for row in results] == [
        ("text-to-image", 20, 10),
        ("image-to-text", 10, 20),
    ]
    assert Image.open(checkpoint / "eval/gallery_RSTPReid.png").width > 300


def test_clip_itself_can_be_measured_and_is_no_rde(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = eval_words(world, world / "clip", "--output-dir", str(tmp_path), "--pictures", "0")
    assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "evaluation.json"]
    with pytest.raises(UsageError, match=r"no RDE checkpoint: the heads visul_emb_layer, .* are missing"):
        main([*arguments, "--method", "rde"])


def test_a_finetune_from_a_pretrained_checkpoint_has_new_heads_only(
    world: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(config_for(world, tmp_path, epochs=1))
    with caplog.at_level("INFO", logger="ham"):
        start_method("irra", tmp_path / "last", 10, (48, 16), 8)
    text = caplog.text
    assert "missing: none" in text and "heads loaded: none; new: classifier, cross_attn" in text


def test_search_answers_and_draws(
    world: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "search",
                "--checkpoint",
                str(checkpoint),
                "--gallery",
                str(world / "RSTPReid/imgs"),
                "--index",
                str(tmp_path),
                "--output",
                str(tmp_path / "found.png"),
                "--top",
                "4",
                "--num-workers",
                "0",
                "--device",
                "cpu",
                "a person in a red shirt",
                "someone in blue",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [len(lines), lines[0], lines[5]] == [10, "a person in a red shirt", "someone in blue"]
    scores = [float(line.split()[0]) for line in lines[1:5]]
    assert scores == sorted(scores, reverse=True)
    assert Image.open(tmp_path / "found.png").height > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "--checkpoint", "c", "--gallery", "g"], "nothing to search for: give a sentence"),
        (["search", "a man", "--gallery", "g"], "--checkpoint is missing"),
        (["eval", "--checkpoint", "c"], "--data_root is missing"),
        (
            ["eval", "--checkpoint", "absent.pt", "--data-root", "d"],
            "CUHK-PEDES: no image folder; looked for d/CUHK-PEDES/imgs",
        ),
        (
            ["search", "a man", "--checkpoint", "absent.pt", "--gallery", "g"],
            "absent.pt: no such file or folder",
        ),
    ],
)
def test_missing_options_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        main(arguments)
