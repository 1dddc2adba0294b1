"""Style tuning end to end on a tiny LLaVA: what trains, what is saved, resuming, and the same curve however it is launched."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import TORCHRUN, kill_all
from safetensors.torch import load_file
from tiny_llava import CONFIG, STYLES, TOKENS, TOWER_CONFIG, original_tensors, write_folder

from ham.captioner import train
from ham.captioner.checkpoint import load_captioner
from ham.captioner.epoch_sampler import EpochSampler
from ham.captioner.estimate import CLIP_LARGE_336, Settings, count_parameters, estimate
from ham.llava.transformers_compat import IS_LEGACY
from ham.records import read_jsonl
from ham.runtime import UsageError, WorkError, exit_code_of, log, torch_generator

TOP = Path(__file__).resolve().parent.parent
CAPTIONS = (
    "A man in a red coat.",
    "The woman wears white shoes. She walks.",
    "He carries a bag.",
    "Dark hair, a cap.",
)
UNSAVED = ("--save_strategy", "no")
LORA = ("--lora_enable", "True", "--lora_r", "4", "--lora_alpha", "8")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A plain LLaVA without styles."""
    tensors = {name: tensor for name, tensor in original_tensors().items() if "style_prompt" not in name}
    return write_folder(tmp_path_factory.mktemp("base") / "llava", tensors, CONFIG)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """24 records in styles 0, 1 and 3; style 2 has none."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    records = []
    for number in range(24):
        Image.fromarray(rng.integers(0, 255, (20, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nDescribe the person."},
            {"from": "gpt", "value": CAPTIONS[number % 4] + " He runs." * (number % 3)},
        ]
        style = (0, 1, 3)[number % 3]
        records.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "conversations": turns,
                "style_id": style,
                "class_id": style,
            }
        )
    (folder / "instructions.json").write_text(json.dumps(records))
    return folder


def words(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "--model_name_or_path",
        str(base),
        "--data_path",
        str(data / "instructions.json"),
        "--image_folder",
        str(data),
        "--output_dir",
        str(out),
        "--use_cpu",
        "True",
        "--per_device_train_batch_size",
        "4",
        "--learning_rate",
        "1e-2",
        "--num_train_epochs",
        "2",
        "--logging_steps",
        "1",
        "--save_steps",
        "4",
        "--warmup_ratio",
        "0.03",
        "--lr_scheduler_type",
        "cosine",
        "--group_by_modality_length",
        "True",
        "--allow_unused_styles",
        "True",
        *more,
    ]


def run(monkeypatch, *command: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *command])
    handlers = log.handlers[:]
    try:
        train.main()
    finally:
        log.handlers[:] = handlers
        log.propagate = True


def losses(out: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row}


def test_only_used_styles_and_the_projector_move(base, data, tmp_path, monkeypatch):
    run(monkeypatch, *words(base, data, tmp_path, *UNSAVED))
    before = load_captioner(base)
    after = load_captioner(tmp_path)
    assert after.num_styles == 4
    assert after.template == "v1"
    start = torch.randn(
        4, TOKENS, CONFIG["hidden_size"], generator=torch_generator(42, "style prompts", "normal")
    )
    moved = (after.model.style_bank.prompts - start).flatten(1).norm(dim=1)
    assert moved[2] == 0
    assert (moved[[0, 1, 3]] > 1e-2).all()
    for name, tensor in before.model.named_parameters():
        same = torch.equal(tensor, after.model.get_parameter(name))
        assert same == (not name.startswith("projector.")), name
    curve = losses(tmp_path)
    assert len(curve) == 12
    assert np.mean([curve[step] for step in (10, 11, 12)]) < np.mean([curve[step] for step in (1, 2, 3)])
    last = list(read_jsonl(tmp_path / "metrics.jsonl"))[-2]
    assert last["style_moved"] > 0
    assert json.loads((tmp_path / "training.json").read_text())["num_styles"] == 4


def test_a_frozen_projector_stays(base, data, tmp_path, monkeypatch):
    options = (*UNSAVED, "--max_steps", "3", "--style_init", "vocab", "--style_prompt_lr", "1e-3")
    run(monkeypatch, *words(base, data, tmp_path, *options, "--freeze_mm_mlp_adapter", "True"))
    before, after = (load_captioner(folder).model.projector.state_dict() for folder in (base, tmp_path))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lora_is_kept_and_merged_at_load(base, data, tmp_path, monkeypatch):
    command = words(base, data, tmp_path, *UNSAVED, *LORA, "--max_steps", "4")
    if IS_LEGACY:
        with pytest.raises(UsageError, match=r"--lora_enable needs peft 0\.5 or newer, here is 0\.4\.0"):
            run(monkeypatch, *command)
        return
    run(monkeypatch, *command)
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
    before, after = load_captioner(base).model.llm, load_captioner(tmp_path).model.llm
    assert not torch.equal(
        before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight
    )
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)


@pytest.mark.skipif(IS_LEGACY, reason="needs a newer peft")
def test_lora_resumes_exactly(base, data, tmp_path, monkeypatch):
    options = (*LORA, "--max_steps", "4", "--save_steps", "2")
    run(monkeypatch, *words(base, data, tmp_path / "whole", *options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    run(monkeypatch, *words(base, data, tmp_path / "cut", *options))
    assert sorted(losses(tmp_path / "cut")) == [3, 4]
    for name in ("adapter.safetensors", "lora/adapter_model.safetensors"):
        a, b = (load_file(str(tmp_path / folder / name)) for folder in ("whole", "cut"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.skipif(IS_LEGACY, reason="its environment has no TensorBoard")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_float32_prompts_and_tensorboard_gets_the_figures(
    base, data, tmp_path, monkeypatch, precision
):
    """On a CPU fp16 is that of the frozen weights: accelerate neither casts nor scales there."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    for name, more in (("float", ()), ("half", (f"--{precision}", "True", "--report_to", "tensorboard"))):
        run(
            monkeypatch,
            *words(base, data, tmp_path / name, *UNSAVED, "--max_steps", "4", *more),
        )
    assert {
        tensor.dtype for tensor in load_file(str(tmp_path / "half" / "adapter.safetensors")).values()
    } == {torch.float32}
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "float"), rel=0.02)
    assert losses(tmp_path / "half") != losses(tmp_path / "float")
    assert [file for file in (tmp_path / "board").rglob("events.out.tfevents*") if file.stat().st_size > 300]


def test_gradient_checkpointing_changes_nothing(base, data, tmp_path, monkeypatch):
    for name, value in (("plain", "False"), ("checkpointed", "True")):
        options = (*UNSAVED, "--max_steps", "3", "--gradient_checkpointing", value)
        run(monkeypatch, *words(base, data, tmp_path / name, *options))
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "checkpointed"), rel=1e-6)


def test_a_non_finite_loss_stops_and_names_the_step(base, data, tmp_path, monkeypatch):
    options = (*UNSAVED, "--learning_rate", "1e38", "--max_grad_norm", "0")
    with pytest.raises(WorkError, match=r"at step [23]"):
        run(monkeypatch, *words(base, data, tmp_path, *options))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--style_count", "2"), r"--style_count 2.*class_id up to 3.*4 styles"),
        (("--mm_projector_type", "linear"), "only mlp2x_gelu"),
        (("--image_aspect_ratio", "anyres"), "only pad"),
        (("--version", "v7"), "v7"),
        (("--style_init", "zeros"), "zeros"),
        (("--resume", "/nowhere"), "/nowhere"),
        (("--eval_strategy", "steps"), "no evaluation set"),
        (("--evaluation_strategy", "epoch"), "no evaluation set"),
        (("--load_best_model_at_end", "True"), "load_best_model_at_end"),
        (("--per_device_train_batch_size", "0"), "per_device_train_batch_size 0: expected"),
        (("--gradient_accumulation_steps", "0"), "gradient_accumulation_steps 0: expected"),
        (("--style_tokens", "0"), "style_tokens 0: expected"),
        (("--style_count", "0"), "style_count 0: expected"),
        (("--learning_rate", "nan"), "learning_rate nan: expected"),
        (("--learning_rate", "-1"), "learning_rate -1"),
        (("--mm_projector_lr", "inf"), "mm_projector_lr inf"),
        (("--warmup_ratio", "1.5"), "warmup_ratio"),
        (("--max_steps", "0"), "max_steps 0"),
        (("--num_train_epochs", "0"), "num_train_epochs 0"),
        (("--save_total_limit", "0"), "save_total_limit 0"),
        (("--model_max_length", "0"), "model_max_length 0"),
        (("--dataloader_num_workers", "-1"), "dataloader_num_workers -1"),
        (("--lora_r", "0"), "lora_r 0"),
        (("--report_to", "nobody"), "--report_to nobody: not known"),
        (("--bits", "4"), "bits 4: only 16"),
        (("--mm_vision_select_layer", "-1"), "mm_vision_select_layer -1.*trained with -2"),
        (("--learning_rat", "1"), "unknown option --learning_rat; did you mean --learning_rate"),
        (("--check-imagess", "1"), "unknown option --check-imagess; did you mean --check_images"),
        (("--resume_from_checkpoint", "/nonexistent"), "--resume /nonexistent: no trainer_state.json"),
        (("--resume", "never", "--resume_from_checkpoint", "/x"), "two names of one option"),
        (("--allow_unused_styles", "False"), r"class_id goes up to 3, but no record has 2: .*renumber"),
    ],
)
def test_wrong_options_are_told(base, data, tmp_path, monkeypatch, more, said):
    with pytest.raises(UsageError, match=said):
        run(monkeypatch, *words(base, data, tmp_path, *more))


def test_the_references_whole_command_line_runs(base, data, tmp_path, monkeypatch):
    """LLaVA's finetune.sh and finetune_lora.sh, flag by flag, on a machine without GPU."""
    command = words(base, data, tmp_path, "--max_steps", "1", *UNSAVED)
    reference = {
        "--mm_projector_type": "mlp2x_gelu",
        "--mm_vision_select_layer": "-2",
        "--mm_use_im_start_end": "False",
        "--mm_use_im_patch_token": "False",
        "--mm_patch_merge_type": "flat",
        "--image_aspect_ratio": "pad",
        "--per_device_eval_batch_size": "4",
        "--gradient_accumulation_steps": "1",
        "--evaluation_strategy": "no",
        "--save_total_limit": "1",
        "--weight_decay": "0.",
        "--tf32": "True",
        "--model_max_length": "2048",
        "--gradient_checkpointing": "True",
        "--dataloader_num_workers": "0",
        "--lazy_preprocess": "True",
        "--report_to": "none",
        "--tune_mm_mlp_adapter": "False",
        "--freeze_backbone": "True",
        "--bits": "16",
        "--lora_bias": "none",
        "--local_rank": "-1",
    }
    run(monkeypatch, *command, *(word for pair in reference.items() for word in pair))
    assert (tmp_path / "adapter.safetensors").is_file()


def test_a_tracker_that_is_not_installed_is_one_line_before_loading(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    with pytest.raises(
        UsageError, match="--report_to wandb: the package is not installed; pip install wandb"
    ):
        run(monkeypatch, *words(tmp_path / "no model", data, tmp_path, "--report_to", "wandb"))


@pytest.mark.parametrize(
    ("option", "part"), [("--mm_projector_lr", "projector"), ("--style_prompt_lr", "style")]
)
def test_a_learning_rate_of_zero_is_zero(base, data, tmp_path, monkeypatch, option, part):
    run(monkeypatch, *words(base, data, tmp_path, "--max_steps", "3", *UNSAVED, option, "0"))
    tuned = load_file(str(tmp_path / "adapter.safetensors"))
    projector = load_captioner(base).model.projector.state_dict()
    start = torch.randn(
        4, TOKENS, CONFIG["hidden_size"], generator=torch_generator(42, "style prompts", "normal")
    )
    still = {
        "projector": all(
            torch.equal(tuned[f"projector.{name}"], tensor) for name, tensor in projector.items()
        ),
        "style": torch.equal(tuned["style_prompts"], start),
    }
    assert still == {name: name == part for name in still}


def test_a_checkpoint_with_fewer_styles_says_both_numbers(data, tmp_path, monkeypatch):
    ham = write_folder(tmp_path / "ham", original_tensors(), CONFIG)
    assert load_captioner(ham).num_styles == STYLES
    with pytest.raises(UsageError, match=rf"{STYLES} styles.*asks for 9"):
        run(monkeypatch, *words(ham, data, tmp_path / "out", "--style_count", "9"))


def test_an_error_of_the_user_is_exit_code_2(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", *words(base, tmp_path, tmp_path / "out")])
    assert exit_code_of(train.main) == 2
    assert "instructions.json: no such file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- estimate


def test_parameters_are_counted_exactly(base, data, tmp_path, monkeypatch, capsys):
    captioner = load_captioner(base)
    counts = count_parameters(CONFIG, TOWER_CONFIG, num_styles=4, style_tokens=10)
    assert counts["language model"] == sum(p.numel() for p in captioner.model.llm.parameters())
    assert counts["projector"] == sum(p.numel() for p in captioner.model.projector.parameters())
    from transformers import CLIPVisionConfig, CLIPVisionModel

    whole = CLIPVisionModel(CLIPVisionConfig(**TOWER_CONFIG))
    assert counts["vision tower"] == sum(p.numel() for p in whole.parameters())
    run(monkeypatch, *words(base, data, tmp_path / "never", "--estimate", "True"))
    assert "gpu total" in capsys.readouterr().out
    assert not (tmp_path / "never").exists()


def test_llava_7b_has_the_published_sizes():
    llm = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    }
    result = estimate(llm, CLIP_LARGE_336, Settings(num_styles=3000))
    assert result["parameters"]["language model"] == 6_738_415_616  # Llama-2-7B
    assert result["parameters"]["style prompts"] == 122_880_000  # 123 M in the paper's accounts
    assert round(result["parameters"]["projector"] / 1e6) == 21
    less = estimate(llm, CLIP_LARGE_336, Settings(num_styles=3000, gpus=8))
    assert less["weights_gib"] < result["weights_gib"]


# --------------------------------------------------------------------------------------------------- order and resuming


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = EpochSampler(50, seed=3, global_batch=8, lengths=list(range(50)))
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(50))
    assert list(EpochSampler(50, 3, 8)) != list(range(50))


def launch(out: Path, *command: str, processes: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOP)}
    start = [sys.executable, "-m", "ham.captioner.train"]
    if processes > 1:
        start = [*TORCHRUN, str(processes), "-m", "ham.captioner.train"]
    return subprocess.Popen(
        [*start, *command],
        cwd=TOP,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(out.parent / f"{out.name}.err").open("w"),
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(base, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--num_train_epochs", "6", "--save_steps", "5")
    assert launch(whole, *words(base, data, whole, *options)).wait(120) == 0
    first = launch(killed, *words(base, data, killed, *options))
    while first.poll() is None and not (killed / "checkpoint-10" / "trainer_state.json").is_file():
        time.sleep(0.005)
    assert first.poll() is None, "it ended before it could be killed"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (killed / "adapter.safetensors").exists()
    assert launch(killed, *words(base, data, killed, *options)).wait(120) == 0
    a, b = load_file(str(whole / "adapter.safetensors")), load_file(str(killed / "adapter.safetensors"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses(whole) == losses(killed)
    steps = [row["step"] for row in read_jsonl(killed / "metrics.jsonl") if "loss" in row]
    assert 1 not in steps[1:], "it began again instead of resuming"


@pytest.mark.slow
def test_two_processes_with_and_without_deepspeed_give_the_same_curve_also_after_a_kill(base, data, tmp_path):
    """Both DeepSpeed runs are killed after their first checkpoint; resumed, they are what an uninterrupted plain run is."""
    if IS_LEGACY or importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed (pip install -e '.[train]'), or transformers is 4.31")
    for name in ("none", "zero2", "zero3"):
        out = tmp_path / name
        more = () if name == "none" else ("--deepspeed", str(TOP / "configs" / "deepspeed" / f"{name}.json"))
        command = words(base, data, out, "--per_device_train_batch_size", "2", "--save_steps", "5", *more)
        if name != "none":
            first = launch(out, *command, processes=2)
            while (
                first.poll() is None and not (out / "checkpoint-5" / "trainer_state.json").is_file()
            ):  # DeepSpeed compiles
                time.sleep(0.005)
            assert first.poll() is None, (tmp_path / f"{name}.err").read_text()
            kill_all(first)
            assert not (out / "adapter.safetensors").exists()
        assert launch(out, *command, processes=2).wait(600) == 0, (tmp_path / f"{name}.err").read_text()
        assert name == "none" or f"resuming from {out}/checkpoint-" in (tmp_path / f"{name}.err").read_text()
        assert len(losses(out)) == 12
        assert losses(out) == pytest.approx(losses(tmp_path / "none"), rel=1e-5)
        a, b = (load_file(str(folder / "adapter.safetensors")) for folder in (out, tmp_path / "none"))
        assert all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-5) for name in b)
