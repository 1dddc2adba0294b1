"""scripts/v1_5/finetune_task.sh: what it launches, with which values, on which machine; a stand-in `python` notes the words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from ham.captioner.arguments import DataArguments, ModelArguments, TrainingArguments, check_fixed_options
from ham.llava.transformers_compat import IS_LEGACY

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "v1_5" / "finetune_task.sh"
NEEDED = {"MODEL": "llava", "DATA": "styles/instructions.json", "IMAGES": "data"}
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then echo "$FAKE_GPUS" && exit; fi
printf '%s\\n' "$@" >"$FAKE_WORDS"
echo "$CUDA_VISIBLE_DEVICES" >"$FAKE_WORDS.gpus"
"""


def run(folder: Path, gpus: int, *flags: str, **variables: str) -> subprocess.CompletedProcess:
    python = folder / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={
            **kept,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(folder),
            "FAKE_GPUS": str(gpus),
            "FAKE_WORDS": str(folder / "words"),
            **variables,
        },
    )


def launched(folder: Path, gpus: int, *flags: str, **variables: str) -> tuple[list[str], list[str]]:
    """Give torchrun's words and those of the training."""
    done = run(folder, gpus, *flags, **{**NEEDED, **variables})
    assert done.returncode == 0, done.stderr
    words = (folder / "words").read_text().splitlines()
    assert words[0] == "scripts/launch.py"
    place = words.index("ham.captioner.train")
    return words[1 : place - 1], words[place + 1 :]


def value(words: list[str], option: str) -> str | None:
    """The value of an option; the last one counts."""
    places = [place for place, word in enumerate(words) if word == option]
    return words[places[-1] + 1] if places else None


@pytest.mark.skipif(IS_LEGACY, reason="reads the options of transformers 5")
def test_the_papers_values_are_the_defaults_and_every_flag_is_known(tmp_path: Path) -> None:
    torchrun, words = launched(tmp_path, 0)
    assert torchrun == ["--standalone", "--nproc-per-node", "1"]
    words += ["--output_dir", str(tmp_path / "out")]
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model, data, training = parser.parse_args_into_dataclasses(words)
    check_fixed_options(model, data)
    assert (model.model_name_or_path, model.version, model.style_init) == ("llava", "v1", "normal")
    assert (data.data_path, data.image_folder) == ("styles/instructions.json", "data")
    assert (training.per_device_train_batch_size, training.num_train_epochs, training.learning_rate) == (
        20,
        2,
        4e-4,
    )
    assert (training.warmup_steps, training.lr_scheduler_type, training.weight_decay) == (0.03, "cosine", 0)
    assert (training.model_max_length, training.group_by_modality_length, training.deepspeed) == (
        2048,
        True,
        None,
    )
    assert training.use_cpu and not training.bf16


def test_gpus_get_bf16_checkpointing_and_zero3_with_offload(tmp_path: Path) -> None:
    torchrun, words = launched(tmp_path, 4, GPUS="0,1,2,3")
    assert value(torchrun, "--nproc-per-node") == "4" and (tmp_path / "words.gpus").read_text() == "0,1,2,3\n"
    assert all(value(words, name) == "True" for name in ("--bf16", "--tf32", "--gradient_checkpointing"))
    assert value(words, "--deepspeed") == "configs/deepspeed/zero3_offload.json" and "--use_cpu" not in words
    assert (SCRIPT.parent.parent.parent / value(words, "--deepspeed")).is_file()
    _, plain = launched(tmp_path, 4, "--learning_rate", "1e-3", DEEPSPEED="none", OUT="elsewhere", NPROC="2")
    assert "--deepspeed" not in plain and value(plain, "--output_dir") == "elsewhere"
    assert value(plain, "--learning_rate") == "1e-3"  # flags come last and win


def test_several_nodes_meet_at_the_first(tmp_path: Path) -> None:
    torchrun, _ = launched(tmp_path, 8, NNODES="4", NODE_RANK="2", MASTER_ADDR="host0")
    assert torchrun == [
        "--nnodes",
        "4",
        "--node-rank",
        "2",
        "--master-addr",
        "host0",
        "--master-port",
        "29500",
        "--nproc-per-node",
        "8",
    ]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "set MODEL to the folder of a LLaVA checkpoint"),
        ({"MODEL": "llava"}, "set DATA to instructions.json"),
        ({**NEEDED, "NNODES": "2"}, "set NODE_RANK, 0 to NNODES - 1"),
        ({**NEEDED, "NNODES": "2", "NODE_RANK": "0"}, "set MASTER_ADDR to the first node"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = run(tmp_path, 1, **variables)
    assert done.returncode != 0 and said in done.stderr
