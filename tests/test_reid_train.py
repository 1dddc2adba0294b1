"""The training loop on a CLIP of 30,000 weights: resume, several processes, broken input, full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import TORCHRUN
from safetensors.torch import load_file
from tiny_reid import interrupted_at, tall_clip

from ham.clip import MASK_ID, build_clip, save_clip, tokenize
from ham.reid.batch import make_batch
from ham.reid.checkpoints import find_folder, plain, save_folder, save_last, trim_metrics
from ham.reid.config import TrainConfig
from ham.reid.irra import IRRAOptions
from ham.reid.rde import RDEOptions
from ham.reid.rde_division import divide_pairs
from ham.reid.run import Progress
from ham.reid.start import build_tracker
from ham.reid.train import set_up, train
from ham.reid.trainer_state import write_state
from ham.runtime import UsageError, WorkError

SCRIPT = Path(__file__).parent.parent / "train_reid.py"
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 40, 200),
    "black": (20, 20, 20),
    "white": (230, 230, 230),
}


def write_world(root: Path) -> Path:
    """RSTPReid of 10 training, 5 val and 5 test persons with 2 images and 2 captions each; a tiny CLIP beside it."""
    folder = root / "RSTPReid"
    (folder / "imgs").mkdir(parents=True)
    draw, rows = np.random.default_rng(0), []
    for person in range(20):
        split = "train" if person < 10 else "val" if person < 15 else "test"
        top, legs = list(COLOURS)[person % 5], list(COLOURS)[person // 5]
        for view in range(2):
            pixels = np.zeros((48, 16, 3), np.uint8)
            pixels[:24], pixels[24:] = COLOURS[top], COLOURS[legs]
            pixels = np.clip(pixels + draw.normal(0, 15, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"imgs/{person}_{view}.png")
            rows.append(
                {
                    "id": 3 * person,
                    "img_path": f"{person}_{view}.png",
                    "split": split,
                    "captions": [
                        f"a person in a {top} shirt and {legs} trousers",
                        f"someone wearing {top} over {legs}",
                    ],
                }
            )
    (folder / "data_captions.json").write_text(json.dumps(rows))
    ids = tokenize([caption for row in rows for caption in row["captions"]]).unique().tolist()
    clip = tall_clip(token_ids=(*ids, MASK_ID))
    save_clip(build_clip(clip), root / "clip")
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def config_for(world: Path, out: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        output_dir=out,
        weights=world / "clip",
        method="sdm",
        data_root=world,
        train_datasets=["RSTPReid"],
        image_size_px=(48, 16),
        stride_px=8,
        text_length=24,
        epochs=2,
        batch_size=8,
        lr=1e-3,
        num_workers=0,
        warmup_epochs=1,
        device="cpu",
        precision="fp32",
        log_every=1,
        eval_every=0,
    )
    return replace(config, **changes)


def rows_of(out: Path, event: str = "step") -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == event]


def losses_of(out: Path) -> list[tuple]:
    return [
        (row["step"], *(value for name, value in sorted(row.items()) if name.endswith(("_loss", "_acc"))))
        for row in rows_of(out)
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs ended in the same weights and optimizer state bit for bit, by the same losses."""
    first, second = load_file(one / "last/model.safetensors"), load_file(other / "last/model.safetensors")
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    first, second = (
        torch.load(folder / "last/trainer_state/optimizer.pt", weights_only=True)["optimizer"]["state"]
        for folder in (one, other)
    )
    assert [
        name for name in first if not torch.equal(first[name]["exp_avg_sq"], second[name]["exp_avg_sq"])
    ] == []
    assert losses_of(one) == losses_of(other)


# ---------------------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("method", ["sdm", "irra", "rde", "itc+cmpm"])
def test_training_lowers_the_loss_and_leaves_what_it_promises(
    world: Path, tmp_path: Path, method: str
) -> None:
    result = train(
        config_for(
            world,
            tmp_path,
            method=method,
            epochs=4,
            test_datasets=["RSTPReid"],
            val_datasets=["RSTPReid"],
            eval_every=2,
        )
    )
    losses = [
        sum(value for name, value in row.items() if name.endswith("_loss")) for row in rows_of(tmp_path)
    ]
    assert len(losses) == 4 * (40 // 8)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert [(row["split"], row["epoch"]) for row in rows_of(tmp_path, "eval")] == [
        ("val", 2),
        ("test", 2),
        ("val", 4),
        ("test", 4),
    ]
    assert {row["split"] for row in result["rows"]} == {"val", "test"}
    for name, word in (("val-best", "val split"), ("test-best", "TEST split: an upper bound")):
        note = json.loads((tmp_path / name / "results.json").read_text())
        assert word in note["note"] and (tmp_path / name / "model.safetensors").exists()
    written = (tmp_path / "config.yaml").read_text()
    assert written.startswith("# git revision ") and yaml.safe_load(written)["method"] == method


def test_pretraining_on_a_caption_file(world: Path, tmp_path: Path) -> None:
    captions = {
        f"{person}_{view}.png": [f"red {person}", f"blue {view}"] for person in range(10) for view in range(2)
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    out = tmp_path / "out"
    train(
        config_for(
            world,
            out,
            train_datasets=[],
            train_captions=[str(tmp_path / "captions.json")],
            epochs=1,
            train_images=world / "RSTPReid/imgs",
            sampler="identity",
            instances=2,
        )
    )
    assert len(rows_of(out)) == 20 * 2 // 8


def test_the_same_seed_gives_the_same_run_and_another_another(world: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(config_for(world, tmp_path / name, method="irra", epochs=1, seed=seed))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert losses_of(tmp_path / "a") != losses_of(tmp_path / "c")


def test_workers_do_not_change_the_run(world: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        train(config_for(world, tmp_path / name, epochs=1, num_workers=workers))
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_bf16_keeps_fp32_weights(world: Path, tmp_path: Path) -> None:
    train(config_for(world, tmp_path, epochs=1, precision="bf16"))
    assert {tensor.dtype for tensor in load_file(tmp_path / "last/model.safetensors").values()} <= {
        torch.float32,
        torch.int64,
    }
    assert all(np.isfinite(row["sdm_loss"]) for row in rows_of(tmp_path))


# --------------------------------------------------------------------------------------------------------------- one batch


def batch_of(world: Path, out: Path, **changes) -> dict[str, torch.Tensor]:
    run = set_up(config_for(world, out, **changes))
    planned = np.array([0, 1, 2, 3, 9, 8, 7, 6])
    pixels = torch.zeros(8, 48, 16, 3, dtype=torch.uint8)
    return make_batch(run, pixels, torch.from_numpy(planned), planned, slice(0, 8), 0, 0, 0)


def test_masked_captions_go_to_all_losses_or_to_one(world: Path, tmp_path: Path) -> None:
    shared = batch_of(world, tmp_path / "a", method="irra")
    assert torch.equal(shared["caption_ids"], shared["mlm_ids"]) and (shared["mlm_ids"] == MASK_ID).any()
    apart = batch_of(world, tmp_path / "b", method="irra", irra=IRRAOptions(mask_all_losses=False))
    assert torch.equal(apart["mlm_ids"], shared["mlm_ids"]) and not (apart["caption_ids"] == MASK_ID).any()
    chosen = apart["mlm_labels"] != 0
    assert torch.equal(apart["mlm_labels"][chosen], apart["caption_ids"][chosen])


def test_only_rde_scrambles_captions_unless_told(world: Path, tmp_path: Path) -> None:
    plain_ids = batch_of(world, tmp_path / "a", method="sdm")["caption_ids"]
    assert not torch.equal(batch_of(world, tmp_path / "b", method="rde")["caption_ids"], plain_ids)
    assert torch.equal(
        batch_of(world, tmp_path / "c", method="rde", scramble_words=False)["caption_ids"], plain_ids
    )
    assert not torch.equal(
        batch_of(world, tmp_path / "d", method="sdm", scramble_words=True)["caption_ids"], plain_ids
    )


def test_rde_divides_every_pair_and_weighs_the_batch(world: Path, tmp_path: Path) -> None:
    run = set_up(
        config_for(world, tmp_path, method="rde", batch_size=16)
    )  # 40 pairs: the last batch is not full
    run.model.train()
    run.method.clean = divide_pairs(run, run.method, 0)
    assert (
        run.method.clean.shape == (40,)
        and set(run.method.clean.tolist()) <= {0.0, 1.0}
        and 0 < run.method.clean.sum() < 40
    )
    assert run.method.training  # the first release of RDE forgot
    assert np.array_equal(run.method.clean, divide_pairs(run, run.method, 0))
    planned = np.arange(16)
    batch = make_batch(
        run, torch.zeros(16, 48, 16, 3, dtype=torch.uint8), torch.arange(16), planned, slice(0, 16), 0, 0, 0
    )
    assert batch["label_hat"].tolist() == run.method.clean[:16].tolist()


def test_rde_without_division_counts_every_pair(world: Path, tmp_path: Path) -> None:
    for name, ccd in (("without", False), ("with", True)):
        train(config_for(world, tmp_path / name, method="rde", epochs=1, rde=RDEOptions(ccd=ccd)))
        assert (tmp_path / name / "last/trainer_state/clean.npy").exists() == ccd
    assert losses_of(tmp_path / "without") > losses_of(tmp_path / "with")  # a sum over more pairs


# ------------------------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("method", ["irra", "rde"])
def test_an_interrupted_run_goes_on_where_it_was(world: Path, tmp_path: Path, method: str) -> None:
    more = {"method": method, "save_every_steps": 2, "val_datasets": ["RSTPReid"], "eval_every": 1}
    train(config_for(world, tmp_path / "whole", **more))
    config = config_for(world, tmp_path / "cut", **more)
    with interrupted_at(8):  # the fourth batch of the second epoch; saved at step 6
        train(config)
    assert json.loads((tmp_path / "cut/last/trainer_state/progress.json").read_text())["step"] == 6
    train(replace(config, num_workers=1))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert rows_of(tmp_path / "whole", "eval")[-1]["R1"] == rows_of(tmp_path / "cut", "eval")[-1]["R1"]


def arguments_of(config: TrainConfig) -> list[str]:
    return [
        f"--{name}={json.dumps(value) if isinstance(value, list | bool) or value is None else value}"
        for name, value in plain(config).items()
        if not isinstance(value, dict)
    ]


@pytest.mark.slow
def test_a_killed_run_equals_an_uninterrupted_one(world: Path, tmp_path: Path) -> None:
    more = {"method": "irra", "epochs": 12, "save_every_steps": 3}
    config = config_for(world, tmp_path / "killed", **more)
    command = [sys.executable, str(SCRIPT), "finetune", *arguments_of(config)]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed/last/trainer_state/progress.json"
    while victim.poll() is None and not state.exists():
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere in the middle of something
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert find_folder(tmp_path / "killed/last") and 0 < json.loads(state.read_text())["step"] < 60
    train(config)
    train(config_for(world, tmp_path / "whole", **more))
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_run_stays_finished(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path, epochs=1)
    train(config)
    before = (tmp_path / "last/model.safetensors").read_bytes()
    assert train(config)["rows"] == [] and (tmp_path / "last/model.safetensors").read_bytes() == before


def test_other_options_are_refused_and_harmless_ones_are_not(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path, epochs=1)
    train(config)
    with pytest.raises(UsageError, match=r"holds a run with other options \(lr: 0\.001 there, 0\.5 now\)"):
        train(replace(config, lr=0.5))
    with pytest.raises(UsageError, match="holds a run already"):
        train(replace(config, resume=False))
    train(replace(config, num_workers=1, log_every=7))


def test_metrics_after_the_saved_step_are_dropped(tmp_path: Path) -> None:
    lines = [f'{{"event": "step", "step": {step}}}\n' for step in (1, 2, 3)] + ['{"event": "st']
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    trim_metrics(tmp_path / "metrics.jsonl", 2)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:2])


# ------------------------------------------------------------------------------------------------------- several processes


TWO_PROCESSES = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_reid_train import config_for
from ham.reid.train import train
world, out = Path({world!r}), Path({out!r})
for name, changes in json.loads({runs!r}).items():
    train(config_for(world, out / name, **changes))
"""


@pytest.mark.slow
def test_two_processes_equal_one(world: Path, tmp_path: Path) -> None:
    """With gathering the loss curve is one process's; without, each process is a part of an accumulated batch."""
    two = {
        "gathered": {"method": "irra", "gather": True},
        "apart": {"method": "sdm"},
        "divided": {"method": "rde", "gather": False, "epochs": 1, "test_datasets": ["RSTPReid"]},
    }
    script = tmp_path / "two.py"
    script.write_text(
        TWO_PROCESSES.format(
            tests=str(Path(__file__).parent), world=str(world), out=str(tmp_path), runs=json.dumps(two)
        )
    )
    run = subprocess.run(
        [*TORCHRUN, "2", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    train(config_for(world, tmp_path / "one", method="irra"))
    train(config_for(world, tmp_path / "parts", accumulation_steps=2))
    np.testing.assert_allclose(
        losses_of(tmp_path / "gathered"), losses_of(tmp_path / "one"), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        losses_of(tmp_path / "apart"), losses_of(tmp_path / "parts"), rtol=1e-4, atol=1e-4
    )
    assert rows_of(tmp_path / "divided", "eval")[0]["gallery"] == 10
    solo = set_up(config_for(world, tmp_path / "solo", method="rde"))
    clean = np.load(tmp_path / "divided/last/trainer_state/clean.npy")
    assert (
        np.mean(clean == divide_pairs(solo, solo.method, 0)) > 0.9
    )  # a last digit may flip a borderline pair


# --------------------------------------------------------------------------------------------------------------- bad input


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(
    world: Path, tmp_path: Path
) -> None:
    # the first epoch has a learning rate of 0, the second one beyond all bounds
    config = config_for(world, tmp_path, lr=1e38, warmup_factor=0.0)
    with pytest.raises(
        WorkError, match=r"step [78]: sdm_loss is nan; training stopped. The last good checkpoint is"
    ):
        train(config)
    assert json.loads((tmp_path / "last/trainer_state/progress.json").read_text())["step"] == 5
    weights = load_file(tmp_path / "last/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_full_disk_leaves_the_previous_checkpoint(world: Path, tmp_path: Path) -> None:
    run = set_up(config_for(world, tmp_path))
    save_last(run)
    before = (tmp_path / "last/model.safetensors").read_bytes()
    with torch.no_grad():
        run.method.base_model.ln_final.weight.mul_(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            WorkError, match=r"last could not be saved: .*; the previous checkpoint is untouched"
        ):
            save_last(run)
        with pytest.raises(WorkError, match="state could not be saved"):
            large = {"a": torch.zeros(100_000)}
            save_folder(tmp_path / "state", lambda folder: write_state(folder, Progress(), large))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "last/model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "config.yaml", "last"]


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    save_folder(tmp_path / "last", lambda folder: (folder / "a").write_text("old"))
    (tmp_path / "last").rename(tmp_path / ".last.previous")
    assert (find_folder(tmp_path / "last") / "a").read_text() == "old"
    save_folder(tmp_path / "last", lambda folder: (folder / "a").write_text("new"))
    assert (tmp_path / "last/a").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == [
        "last"
    ]


def test_broken_images_are_listed_and_too_many_stop_the_run(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    for name in ("0_0", "3_1"):
        (world / f"RSTPReid/imgs/{name}.png").write_bytes(b"no image")
    config = config_for(world, tmp_path / "out", epochs=1, max_failed_share=0.1)
    train(config)
    rows = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert (
        sorted(Path(row["image"]).name for row in rows) == ["0_0.png", "3_1.png"]
        and rows[0]["status"] == "failed"
    )
    with pytest.raises(WorkError, match="2 of 20 images could not be read"):
        train(replace(config, output_dir=tmp_path / "strict", max_failed_share=0.05))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": None}, "--weights is missing"),
        ({"train_datasets": []}, "nothing to train on: set --train_datasets"),
        ({"train_captions": ["a.json"]}, "--train_captions needs --train_images"),
        ({"data_root": None}, "--data_root is missing"),
        ({"epochs": 0}, "--epochs is 0; expected at least 1"),
        ({"method": "irraa"}, "method 'irraa' is not known: use rde, irra, or a loss list"),
        ({"method": "sdm+foo"}, "does not know 'foo'; join some of itc, sdm, cmpm, id, mlm"),
        ({"batch_size": 64}, "40 training pairs of 10 persons do not fill one batch of 64"),
        ({"accumulation_steps": 3}, "batch_size 8 does not divide by 1 processes x 3 accumulation steps"),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
        ({"train_datasets": ["CUHK"]}, "dataset 'CUHK' is not known; use one of CUHK-PEDES"),
        ({"test_datasets": ["RSTPReid", "ICFG-PEDES"]}, "ICFG-PEDES: no image folder; looked for"),
        ({"text_length": 249}, "--text_length is 249; expected"),
    ],
)
def test_wrong_options_are_named_before_any_work(
    world: Path, tmp_path: Path, changes: dict, said: str
) -> None:
    with pytest.raises(UsageError, match=said.replace("+", r"\+").replace("(", r"\(")):
        train(config_for(world, tmp_path, **changes))
    assert not (tmp_path / "last").exists()


def test_trackers_get_the_figures(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(config_for(world, tmp_path, epochs=1, trackers=["tensorboard"], test_datasets=["RSTPReid"]))
    (file,) = (tmp_path / "tensorboard").iterdir()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(file))
    events.Reload()
    assert {"lr", "sdm_loss", "pairs_per_s", "test/RSTPReid/R1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("sdm_loss")] == [1, 2, 3, 4, 5]


def test_wandb_gets_the_figures_offline(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config_for(world, tmp_path, epochs=1, trackers=["wandb"]))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--trackers wandb needs the package wandb: pip install"):
        build_tracker("wandb", config_for(world, tmp_path))
