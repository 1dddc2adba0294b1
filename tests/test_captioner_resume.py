"""What style tuning resumes: only the same run, only whole checkpoints, one writer; and kills at every file-system call."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_captioner_train import base, data, losses, run, words  # noqa: F401
from tiny_llava import CONFIG, original_tensors, write_folder

from ham.captioner import resume
from ham.captioner.checkpoint import load_captioner
from ham.locks import FileLock
from ham.records import read_jsonl
from ham.runtime import UsageError, WorkError, exit_code_of

OPTIONS = ("--max_steps", "4", "--save_steps", "2", "--dataloader_num_workers", "0")


@pytest.fixture(scope="module")
def finished(base, data, tmp_path_factory) -> Path:
    """A run of four steps with checkpoints at 2 and 4."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, *words(base, data, out, *OPTIONS))
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


def same_adapter(a: Path, b: Path) -> bool:
    return (a / "adapter.safetensors").read_bytes() == (b / "adapter.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------------------------ the same run


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--learning_rate", "1e-4"), r"--learning_rate: it was 0\.01, now 0\.0001"),
        (("--style_prompt_lr", "1e-4"), "--style_prompt_lr: it was null"),
        (("--per_device_train_batch_size", "2"), "--per_device_train_batch_size: it was 4, now 2"),
        (("--gradient_accumulation_steps", "2"), "--gradient_accumulation_steps: it was 1, now 2"),
        (("--max_steps", "3"), "--max_steps: it was 4, now 3"),
        (("--max_steps", "6"), "--max_steps: it was 4, now 6\n.*--extend True"),
        (("--style_count", "7"), "--style_count: it was 4, now 7"),
        (("--style_tokens", "3"), "--style_tokens: it was 10, now 3"),
        (("--style_init", "vocab"), "--style_init"),
        (("--lora_enable", "True"), "--lora_enable: it was false, now true"),
        (("--freeze_mm_mlp_adapter", "True"), "--freeze_mm_mlp_adapter"),
        (("--lr_scheduler_type", "constant"), "--lr_scheduler_type"),
        (("--seed", "1"), "--seed: it was 42, now 1"),
        (("--model_max_length", "100"), "--model_max_length"),
        (("--version", "llava_v1"), "--version"),
    ],
)
def test_other_settings_are_refused_by_name(base, data, out, monkeypatch, more, said):
    before = (out / "training.json").read_bytes()
    with pytest.raises(UsageError, match=f"(?s){said}"):
        run(monkeypatch, *words(base, data, out, *OPTIONS, *more))
    assert (out / "training.json").read_bytes() == before


@pytest.mark.parametrize("change", ["caption", "fewer"])
def test_other_data_is_refused(base, data, out, tmp_path, monkeypatch, change):
    records = json.loads((data / "instructions.json").read_text())
    if change == "fewer":
        records = records[:12]
    else:
        records[5]["conversations"][1]["value"] = "Another caption."
    other = shutil.copytree(data, tmp_path / "other")
    (other / "instructions.json").write_text(json.dumps(records))
    with pytest.raises(UsageError, match="--data_path: it was"):
        run(monkeypatch, *words(base, other, out, *OPTIONS))


@pytest.mark.parametrize("part", ["model.layers.0.mlp.up_proj.weight", "model.mm_projector.0.bias"])
def test_another_base_model_is_refused(data, base, out, tmp_path, monkeypatch, part):
    tensors = {name: tensor for name, tensor in original_tensors().items() if "style_prompt" not in name}
    tensors[part][-1] += 1e-3
    other = write_folder(tmp_path / "llava", tensors, CONFIG)
    with pytest.raises(UsageError, match="--model_name_or_path: it was"):
        run(monkeypatch, *words(other, data, out, *OPTIONS))


def test_a_run_without_checkpoints_is_not_overwritten_by_another(base, data, out, monkeypatch):
    for step in (2, 4):
        shutil.rmtree(out / f"checkpoint-{step}")
    with pytest.raises(UsageError, match="--learning_rate"):
        run(monkeypatch, *words(base, data, out, *OPTIONS, "--learning_rate", "1e-4"))


def test_starting_again_keeps_the_earlier_run_apart(base, data, out, finished, monkeypatch):
    command = words(base, data, out, *OPTIONS, "--learning_rate", "1e-4")
    run(monkeypatch, *command, "--resume", "never")
    assert same_adapter(out / "earlier-1", finished)
    assert (out / "earlier-1" / "checkpoint-4").is_dir() and not same_adapter(out, finished)
    assert sorted(losses(out)) == [1, 2, 3, 4]


def test_a_finished_run_is_extended_when_asked_for(base, data, out, tmp_path, monkeypatch):
    longer = ("--max_steps", "6", "--save_steps", "2", "--extend", "True")
    run(monkeypatch, *words(base, data, out, *longer))
    assert sorted(losses(out)) == [1, 2, 3, 4, 5, 6]
    assert (out / "checkpoint-6").is_dir()
    run(monkeypatch, *words(base, data, out, *longer[:4]))  # the new length is now the run's


def test_a_run_of_an_older_version_still_resumes(base, data, out, finished, monkeypatch, caplog):
    record = json.loads((out / "training.json").read_text())
    del record["made_of"]
    (out / "training.json").write_text(json.dumps(record))
    for step in (2, 4):
        (out / f"checkpoint-{step}" / resume.RECEIPT).unlink()
    shutil.rmtree(out / "checkpoint-4")
    run(monkeypatch, *words(base, data, out, *OPTIONS))
    assert same_adapter(out, finished)


def test_the_same_command_again_changes_nothing(base, data, out, finished, monkeypatch):
    for _ in range(2):
        run(monkeypatch, *words(base, data, out, *OPTIONS))
    assert same_adapter(out, finished)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    steps = [row["step"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4]


def test_by_epochs_the_same_command_again_changes_nothing(base, data, tmp_path, monkeypatch):
    command = words(base, data, tmp_path, "--num_train_epochs", "1", "--lr_scheduler_type", "constant")
    run(monkeypatch, *command)
    before = (tmp_path / "adapter.safetensors").read_bytes()
    run(monkeypatch, *command)
    assert (tmp_path / "adapter.safetensors").read_bytes() == before
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_two_trainers_never_share_a_folder(base, data, tmp_path, monkeypatch):
    lock = FileLock(tmp_path / resume.LOCK)
    assert lock.try_acquire()
    with pytest.raises(UsageError, match="another training is writing to this folder"):
        run(monkeypatch, *words(base, data, tmp_path, *OPTIONS))
    lock.release()
    run(monkeypatch, *words(base, data, tmp_path, *OPTIONS))


# -------------------------------------------------------------------------------------------------------- whole checkpoints


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def garbage(path: Path) -> None:
    path.write_bytes(b"{}")


FILES = (
    "trainer_state.json",
    "adapter.safetensors",
    "manifest.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
)


@pytest.mark.parametrize("damage", [cut, empty, remove, garbage, flip])
@pytest.mark.parametrize("name", FILES)
def test_every_damage_to_every_file_is_seen(out, name, damage):
    damage(out / "checkpoint-4" / name)
    assert resume.what_is_broken(out / "checkpoint-4", 4) is not None
    assert resume.newest_whole(out, 1) == out / "checkpoint-2"


@pytest.mark.parametrize("damage", [cut, empty, remove, garbage])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_seen_without_a_receipt_too(out, name, damage):
    (out / "checkpoint-4" / resume.RECEIPT).unlink()
    assert resume.what_is_broken(out / "checkpoint-4", 4) is None
    damage(out / "checkpoint-4" / name)
    assert resume.newest_whole(out, 1) == out / "checkpoint-2"


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "adapter.safetensors"])
def test_a_broken_checkpoint_is_passed_over_and_written_again(base, data, out, finished, monkeypatch, name):
    cut(out / "checkpoint-4" / name)
    (out / "checkpoint-foo").mkdir()
    (out / "checkpoint-99").mkdir()
    empty(out / "checkpoint-99" / "trainer_state.json")
    run(monkeypatch, *words(base, data, out, *OPTIONS))
    assert same_adapter(out, finished) and same_adapter(out / "checkpoint-4", finished / "checkpoint-4")
    assert losses(out) == losses(finished)


def test_a_broken_checkpoint_asked_for_by_name_is_refused(base, data, out, monkeypatch):
    remove(out / "checkpoint-4" / "optimizer.pt")
    with pytest.raises(UsageError, match=r"not whole: optimizer\.pt is missing"):
        run(monkeypatch, *words(base, data, out, *OPTIONS, "--resume", str(out / "checkpoint-4")))


def test_trainers_own_option_resumes(base, data, out, finished, monkeypatch):
    command = words(base, data, out, *OPTIONS, "--resume_from_checkpoint", str(out / "checkpoint-2"))
    run(monkeypatch, *command)
    assert same_adapter(out, finished) and losses(out) == losses(finished)


# --------------------------------------------------------------------------------------------------------------- non-finite


def test_weights_that_are_not_finite_are_never_saved(base, data, tmp_path, monkeypatch):
    command = words(
        base, data, tmp_path, "--learning_rate", "1e38", "--max_grad_norm", "0", "--save_steps", "1"
    )
    with pytest.raises(WorkError, match=r"(is not finite after|at) step") as caught:
        run(monkeypatch, *command)
    for folder in tmp_path.glob("checkpoint-*"):
        assert all(bool(t.isfinite().all()) for t in load_file(str(folder / "adapter.safetensors")).values())
        assert str(folder) in str(caught.value)


def test_the_advice_after_a_nan_works(base, data, out, tmp_path, monkeypatch):
    """The checkpoint that the message names can be tuned with a lower rate, and it is really lower."""
    from ham.captioner.trainer import CaptionerTrainer

    step = CaptionerTrainer.training_step

    def poisoned(self, *words):
        if self.state.global_step == 3:
            with torch.no_grad():
                self.model.projector[0].bias.fill_(float("nan"))
        return step(self, *words)

    shutil.rmtree(out / "checkpoint-4")
    monkeypatch.setattr(CaptionerTrainer, "training_step", poisoned)
    with pytest.raises(
        WorkError, match=r"loss is nan at step 4; the weights of .*checkpoint-2 are finite"
    ) as caught:
        run(monkeypatch, *words(base, data, out, *OPTIONS))
    monkeypatch.setattr(CaptionerTrainer, "training_step", step)
    advised = str(caught.value).split("--model_name_or_path ")[1].split()[0]
    run(monkeypatch, *words(Path(advised), data, tmp_path / "new", *OPTIONS, "--learning_rate", "1e-5"))
    rates = [row["learning_rate"] for row in read_jsonl(tmp_path / "new" / "metrics.jsonl") if "loss" in row]
    assert max(rates) <= 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.mm_projector.2.bias", "lm_head.weight"]
)
def test_a_base_that_is_not_finite_is_refused_at_load(tmp_path, name, value):
    tensors = original_tensors()
    tensors[name][-1] = value
    with pytest.raises(UsageError, match=f"'{name}' holds NaN or infinity"):
        load_captioner(write_folder(tmp_path / "llava", tensors, CONFIG))


def test_a_style_that_is_not_finite_is_refused_at_load(out):
    tensors = load_file(str(out / "adapter.safetensors"))
    tensors["style_prompts"][1, 3, 2] = float("nan")
    save_file(tensors, str(out / "adapter.safetensors"))
    with pytest.raises(UsageError, match="style_prompts' holds NaN"):
        load_captioner(out)


def test_weights_beyond_float16_name_the_dtypes_that_hold_them(tmp_path):
    tensors = original_tensors()
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    folder = write_folder(tmp_path / "llava", tensors, CONFIG)
    load_captioner(folder, dtype=torch.bfloat16)
    with pytest.raises(UsageError, match=r"does not fit into float16.*use bfloat16 or float32"):
        load_captioner(folder, dtype=torch.float16)


# ------------------------------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and go on."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[str]:
    """Die at the given file-system call while a checkpoint is written; the list names the calls that were made."""
    made: list[str] = []
    real = {
        name: getattr(os, name) for name in ("open", "replace", "rename", "mkdir", "unlink", "rmdir", "fsync")
    }
    for name, function in real.items():

        def wrapped(*words, _name=name, _function=function, **options):
            if counting["on"]:
                made.append(_name)
                if len(made) == call:
                    counting["on"] = False
                    raise Killed(_name)
            return _function(*words, **options)

        monkeypatch.setattr(os, name, wrapped)
    counting = {"on": False}
    from ham.captioner.trainer import CaptionerTrainer

    save = CaptionerTrainer._save_checkpoint

    def watched(self, *words, **options):
        counting["on"] = self.state.global_step == 4
        save(self, *words, **options)
        counting["on"] = False

    monkeypatch.setattr(CaptionerTrainer, "_save_checkpoint", watched)
    return made


@pytest.mark.slow
def test_a_kill_at_any_file_system_call_of_a_checkpoint_resumes_byte_equal(base, data, finished, tmp_path):
    start = shutil.copytree(finished, tmp_path / "start")
    shutil.rmtree(start / "checkpoint-4")
    (start / "adapter.safetensors").unlink()
    (start / "manifest.json").unlink()
    call, names = 1, []
    while True:
        folder = shutil.copytree(start, tmp_path / f"kill-{call}")
        with pytest.MonkeyPatch.context() as patch:
            made = kill_at(patch, call)
            try:
                run(patch, *words(base, data, folder, *OPTIONS))
                names = made
                break
            except Killed:
                pass
        with pytest.MonkeyPatch.context() as patch:
            run(patch, *words(base, data, folder, *OPTIONS))
        assert same_adapter(folder, finished), f"after a kill at call {call}"
        assert same_adapter(folder / "checkpoint-4", finished / "checkpoint-4")
        assert losses(folder) == losses(finished)
        assert not (folder / resume.UNFINISHED).exists()
        shutil.rmtree(folder)
        call += 1
    assert 10 <= len(names) < 80 and {"replace", "fsync"} <= set(names), names


def test_a_full_disk_is_one_line(base, data, out, monkeypatch, capsys):
    import errno
    import sys

    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device", str(words[0]))

    shutil.rmtree(out / "checkpoint-4")
    monkeypatch.setattr("ham.captioner.trainer.put_in_place", full)
    monkeypatch.setattr(sys, "argv", ["train", *words(base, data, out, *OPTIONS)])
    from ham.captioner import train

    assert exit_code_of(train.main) == 1
    assert "no space to write" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_broken_image_in_training_is_one_line(base, data, tmp_path, monkeypatch, capsys, workers):
    import sys

    from ham.captioner import train

    broken = shutil.copytree(data, tmp_path / "data")
    (broken / "5.png").write_bytes((broken / "5.png").read_bytes()[:60])
    command = words(base, broken, tmp_path / "out", "--dataloader_num_workers", workers)
    monkeypatch.setattr(sys, "argv", ["train", *command])
    assert exit_code_of(train.main) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("failed: ") and "5.png" in last and "Traceback" not in last
    monkeypatch.setattr(sys, "argv", ["train", *command, "--check_images", "True"])
    assert exit_code_of(train.main) == 2
    found = capsys.readouterr().err
    assert "record 5: " in found and "1 violation(s)" in found


def test_captions_that_are_cut_are_counted_in_a_warning(base, data, tmp_path, monkeypatch, capsys):
    records = json.loads((data / "instructions.json").read_text())
    records[7]["conversations"][1]["value"] = "A man walks. " * 40
    other = shutil.copytree(data, tmp_path / "data")
    (other / "instructions.json").write_text(json.dumps(records))
    run(monkeypatch, *words(base, other, tmp_path / "out", "--max_steps", "1", "--model_max_length", "300"))
    assert "1 of 24 captions are longer than --model_max_length 300" in capsys.readouterr().err
