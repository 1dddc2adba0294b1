"""What users get wrong and what disks lose: refused with one clear line before the work, or repaired."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_reid_train import SCRIPT, config_for, world, write_world  # noqa: F401  (the fixture)

from ham.reid.checkpoints import lock_output, save_folder, trim_metrics
from ham.reid.data import Pairs, open_pairs
from ham.reid.irra import IRRAOptions
from ham.reid.loader import listed_images
from ham.reid.methods import METHODS
from ham.reid.optim import parameter_settings
from ham.reid.rde import RDE, RDEOptions
from ham.reid.train import set_up, train
from ham.runtime import UsageError, WorkError
from train_reid import parse

# ----------------------------------------------------------------------------------------------------- options out of range


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"instances": 0, "sampler": "identity"}, "--instances is 0; expected at least 1"),
        ({"pad_px": -1}, "--pad_px is -1; expected at least 0"),
        ({"num_workers": -1}, "--num_workers is -1; expected at least 0"),
        ({"lr": -1.0}, "--lr is -1.0; expected at least 0"),
        ({"lr": float("nan")}, "--lr is nan; expected at least 0"),
        ({"lr": float("inf")}, "--lr is inf; expected at least 0"),
        ({"weight_decay": -0.1}, "--weight_decay is -0.1"),
        ({"stride_px": 0}, "--stride_px is 0; expected at least 1"),
        ({"image_size_px": (48, 0)}, "--image_size_px is 0; expected at least 1"),
        ({"text_length": 2}, "--text_length is 2; expected at least 3 and at most 248"),
        ({"text_length": 249}, "--text_length is 249; expected at least 3 and at most 248"),
        ({"warmup_epochs": -1}, "--warmup_epochs is -1"),
        ({"warmup_factor": 1.5}, "--warmup_factor is 1.5; expected at least 0 and at most 1"),
        ({"milestones": [-1]}, "--milestones is -1"),
        ({"clip_grad_norm": 0.0}, "--clip_grad_norm is 0.0; expected more than 0"),
        ({"eval_every": -1}, "--eval_every is -1"),
        ({"save_every_steps": 0}, "--save_every_steps is 0; expected at least 1"),
        ({"caption_images": 0}, "--caption_images is 0; expected at least 1"),
        ({"max_failed_share": 1.1}, "--max_failed_share is 1.1; expected at least 0 and at most 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"device": "mps"}, "--device 'mps': expected auto, cpu, cuda or cuda:N"),
        ({"device": "0"}, "--device '0': expected auto, cpu, cuda or cuda:N; try cuda:0"),
        (
            {"method": "irra", "irra": IRRAOptions(temperature=0)},
            "--irra.temperature is 0; expected more than 0",
        ),
        ({"method": "irra", "irra": IRRAOptions(cross_layers=0)}, "--irra.cross_layers is 0"),
        (
            {"method": "rde", "rde": RDEOptions(select_ratio=2)},
            "--rde.select_ratio is 2; expected more than 0 and at most 1",
        ),
        ({"method": "rde", "rde": RDEOptions(tau=0)}, "--rde.tau is 0"),
        ({"method": "rde", "rde": RDEOptions(tse_dim=0)}, "--rde.tse_dim is 0; expected at least 2"),
        ({"method": "rde", "rde": RDEOptions(noise_rate=-0.1)}, "--rde.noise_rate is -0.1"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_read(
    tmp_path: Path, changes: dict, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        train(config_for(tmp_path / "no such world", tmp_path / "out", **changes))
    assert said in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "world_size", "refused"),
    [
        ({"batch_size": 1}, 1, True),
        ({"batch_size": 4, "accumulation_steps": 4}, 1, True),
        ({"batch_size": 2}, 2, True),
        ({"batch_size": 2, "gather": True}, 2, False),
        ({"batch_size": 4, "accumulation_steps": 2, "gather": True}, 2, False),
        ({"batch_size": 8, "accumulation_steps": 4}, 2, True),
        ({"batch_size": 8, "sampler": "identity", "instances": 8}, 1, True),
        ({"batch_size": 8, "sampler": "identity", "instances": 4, "accumulation_steps": 2}, 1, True),
        ({"batch_size": 8, "sampler": "identity", "instances": 4}, 1, False),
        ({"batch_size": 2}, 1, False),
    ],
)
def test_groups_that_cannot_hold_two_persons_are_refused(
    tmp_path: Path, changes: dict, world_size: int, refused: bool
) -> None:
    config = config_for(tmp_path, tmp_path, **changes)
    if not refused:
        config.check_groups(world_size)
        return
    with pytest.raises(
        UsageError, match="all of one person, so that there is nothing to learn: --batch_size is"
    ):
        config.check_groups(world_size)


def test_a_group_of_one_pair_is_refused_by_the_command(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compare 1 pair at a time, all of one person"):
        train(config_for(world, tmp_path / "out", batch_size=1))
    assert not (tmp_path / "out").exists()


def test_training_pairs_of_one_person_are_refused(world: Path, tmp_path: Path) -> None:
    captions = {f"0_{view}.png": ["a", "b", "c", "d"] for view in range(2)}
    (tmp_path / "one.json").write_text(json.dumps(captions))
    config = config_for(
        world,
        tmp_path / "out",
        train_datasets=[],
        train_captions=[str(tmp_path / "one.json")],
        train_images=world / "RSTPReid/imgs",
        person_is="folder",
        batch_size=4,
    )
    with pytest.raises(UsageError, match=r"all 8 training pairs are of one person.*--person_is image"):
        train(config)


def test_zero_means_zero() -> None:
    """`rate or default` would take a rate of 0 for "not given"."""
    rules = {"visul_emb_layer": 0.0}
    assert parameter_settings("visul_emb_layer.fc.weight", 1e-3, own_lr=rules) == (0.0, 4e-5)
    assert parameter_settings("a.weight", 0.0, weight_decay=0.0) == (0.0, 0.0)
    assert parameter_settings("a.bias", 1e-3, bias_lr_factor=0.0)[0] == 0.0
    assert parameter_settings("classifier.weight", 1e-3, new_layer_lr_factor=0.0)[0] == 0.0


def test_a_token_selection_rate_of_zero_freezes_those_layers(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path, method="rde", epochs=1, rde=RDEOptions(token_selection_lr=0.0))
    before = {name: value.clone() for name, value in set_up(config).method.state_dict().items()}
    train(replace(config, weight_decay=0.0))
    after = load_file(tmp_path / "last/model.safetensors")
    assert torch.equal(after["visul_emb_layer.fc.weight"], before["visul_emb_layer.fc.weight"])
    assert not torch.equal(after["visual.proj"], before["base_model.visual.proj"])


# ------------------------------------------------------------------------------------------------------------ list options


@pytest.mark.parametrize(
    "words",
    [
        ["--image-size-px", "96", "32"],
        ["--image-size-px", "96,32"],
        ["--image-size-px", "(96, 32)"],
        ["--image-size-px", "[96,32]"],
        ["--image-size-px=[96, 32]"],
        ["--image_size_px=96,32"],
        ["--image-size-px", "96x32"],
    ],
)
def test_a_size_may_be_written_in_any_common_form(words: list[str]) -> None:
    config = parse(["finetune", *words, "--epochs", "3"])[1]
    assert config.image_size_px == (96, 32) and config.epochs == 3


@pytest.mark.parametrize(
    "words",
    [
        ["CUHK-PEDES", "RSTPReid"],
        ["CUHK-PEDES,RSTPReid"],
        ["[CUHK-PEDES, RSTPReid]"],
        ["(CUHK-PEDES, RSTPReid)"],
        ["['CUHK-PEDES', 'RSTPReid']"],
    ],
)
def test_a_list_may_be_written_in_any_common_form(words: list[str]) -> None:
    config = parse(["finetune", "--test-datasets", *words, "--seed", "2"])[1]
    assert config.test_datasets == ["CUHK-PEDES", "RSTPReid"] and config.seed == 2


@pytest.mark.parametrize(
    "text",
    ["(96, 32)", "96,32", "96 32", "[96, 32]", "96x32"],
)
def test_a_file_may_hold_any_common_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"image_size_px: {text}\ntest_datasets: CUHK-PEDES, RSTPReid\n")
    config = parse(["finetune", "--config", str(tmp_path / "a.yaml")])[1]
    assert config.image_size_px == (96, 32) and config.test_datasets == ["CUHK-PEDES", "RSTPReid"]


@pytest.mark.parametrize("words", [["96"], ["96", "x"], ["[96]"], ["1,2,3"], ["big"], ["9.5,3"]])
def test_a_wrong_size_shows_the_form(words: list[str]) -> None:
    with pytest.raises(
        UsageError, match=r"--image_size_px.*expected height and width in pixels, for example \[384,128\]"
    ):
        parse(["finetune", "--image-size-px", *words])


def test_one_path_is_a_list_of_one() -> None:
    assert parse(["pretrain", "--train-captions", "a.json"])[1].train_captions == ["a.json"]
    assert parse(["pretrain", "--milestones", "3", "5"])[1].milestones == [3, 5]


def test_options_of_earlier_versions_are_accepted(tmp_path: Path) -> None:
    words = ["finetune", "--ccd", "false", "--token-selection-lr", "0.01", "--mask-all-losses=false"]
    config = parse([*words, "--tensorboard", "true"])[1]
    assert (config.rde.ccd, config.rde.token_selection_lr) == (False, 0.01)
    assert config.irra.mask_all_losses is False and config.trackers == ["tensorboard"]
    (tmp_path / "a.yaml").write_text("ccd: false\nnoise_rate: 0.5\nrde: {tau: 0.02}\ntensorboard: true\n")
    config = parse(["finetune", "--config", str(tmp_path / "a.yaml")])[1]
    assert config.rde == RDEOptions(ccd=False, noise_rate=0.5, tau=0.02) and config.trackers == [
        "tensorboard"
    ]


# -------------------------------------------------------------------------------------------------------- other data, NaN


@pytest.mark.parametrize("method", ["irra", "rde"])
@pytest.mark.parametrize("change", ["fewer persons", "more persons", "a caption", "an image"])
def test_other_data_is_refused_on_resume(tmp_path: Path, method: str, change: str) -> None:
    world = write_world(tmp_path / "world")
    config = config_for(world, tmp_path / "out", method=method, epochs=1)
    train(config)
    before = (tmp_path / "out/last/model.safetensors").read_bytes()
    path = world / "RSTPReid/data_captions.json"
    rows = json.loads(path.read_text())
    if change == "fewer persons":
        rows = [row for row in rows if row["id"] != 0]
    elif change == "more persons":
        rows += [{**row, "id": 1000 + row["id"]} for row in rows if row["split"] == "train"]
    elif change == "a caption":
        rows[0]["captions"][0] = "a person in a black shirt"
    else:
        shutil.copy(world / "RSTPReid/imgs/0_0.png", world / "RSTPReid/imgs/other.png")
        rows[0]["img_path"] = "other.png"
    path.write_text(json.dumps(rows))
    with pytest.raises(
        UsageError, match="was trained on other pairs: captions, persons or images have changed"
    ):
        train(config)
    assert (tmp_path / "out/last/model.safetensors").read_bytes() == before


def test_other_persons_are_refused_for_a_run_that_recorded_no_data(tmp_path: Path) -> None:
    """Runs of earlier versions have no digest: the classifier and the clean labels tell."""
    for method, said in (
        ("irra", "does not hold the heads of this run"),
        ("rde", "expected 36 labels of 0 or 1"),
    ):
        world = write_world(tmp_path / f"world_{method}")
        config = config_for(world, tmp_path / method, method=method, epochs=1)
        train(config)
        progress = tmp_path / method / "last/trainer_state/progress.json"
        progress.write_text(json.dumps(json.loads(progress.read_text()) | {"data": ""}))
        path = world / "RSTPReid/data_captions.json"
        path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["id"] != 0]))
        with pytest.raises(UsageError, match=said):
            train(config)


def test_a_moved_data_root_is_the_same_data(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    config = config_for(world, tmp_path / "out", method="rde", epochs=1)
    train(config)
    world.rename(tmp_path / "moved")
    train(replace(config, data_root=tmp_path / "moved", weights=world / "clip"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_at_the_start(
    world: Path, tmp_path: Path, value: float
) -> None:
    shutil.copytree(world / "clip", tmp_path / "clip")
    file = next((tmp_path / "clip").glob("*.safetensors"))
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["ln_final.weight"][3] = value
    save_file(tensors, file, metadata)
    with pytest.raises(UsageError, match=r"base_model\.ln_final\.weight holds values that are not finite"):
        train(config_for(world, tmp_path / "out", weights=tmp_path / "clip"))
    assert not (tmp_path / "out/last").exists()


def test_a_nan_in_the_first_epoch_names_no_checkpoint(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path / "out", lr=1e38, warmup_epochs=0)
    with pytest.raises(
        WorkError, match=r"There is no checkpoint yet\. .*start a new run with the same --weights"
    ):
        train(config)
    assert not (tmp_path / "out/last").exists()


def test_weights_that_became_non_finite_are_not_saved(world: Path, tmp_path: Path) -> None:
    """The last step's loss is computed before its update: a checkpoint after it could hold infinity."""
    config = config_for(world, tmp_path / "out", lr=1e38, warmup_epochs=0, epochs=1, batch_size=40)
    with pytest.raises(
        WorkError, match="holds values that are not finite; training stopped and did not save them"
    ):
        train(config)
    assert not (tmp_path / "out/last").exists()


def test_more_epochs_for_a_finished_run_are_explained(world: Path, tmp_path: Path) -> None:
    config = config_for(world, tmp_path, epochs=1)
    train(config)
    with pytest.raises(
        UsageError, match=r"epochs: 1 there, 3 now.*to train longer, start a new run with --weights"
    ):
        train(replace(config, epochs=3))


# ------------------------------------------------------------------------------------------------------- damaged run files


def damage_trainer_state(folder: Path, name: str) -> None:
    state = folder / "trainer_state"
    cut = {
        "cut optimizer": state / "optimizer.pt",
        "cut clean": state / "clean.npy",
        "cut model": folder / "model.safetensors",
    }
    if name in cut:
        cut[name].write_bytes(cut[name].read_bytes()[:100])
    elif name == "no optimizer":
        (state / "optimizer.pt").unlink()
    elif name == "empty optimizer":
        torch.save({}, state / "optimizer.pt")
    elif name == "other optimizer":
        values = torch.load(state / "optimizer.pt", weights_only=True)
        values["optimizer"]["param_groups"] = values["optimizer"]["param_groups"][:1]
        torch.save(values, state / "optimizer.pt")
    elif name == "short clean":
        np.save(state / "clean.npy", np.ones(3, np.float32))
    elif name == "strange clean":
        np.save(state / "clean.npy", np.full(40, 7.0, np.float32))
    elif name.startswith("progress "):
        (state / "progress.json").write_text(name.removeprefix("progress "))
    elif name == "no progress":
        (state / "progress.json").unlink()
    else:
        (folder / "config.yaml").write_bytes(CONFIGS[name])


CONFIGS = {
    "cut config": b"epochs: [1, ",
    "empty config": b"",
    "list config": b"- 1\n- 2\n",
    "binary config": b"\xff\xfe\x00epochs",
    "tagged config": b"epochs: !!python/object:os.system {}\n",
}
DAMAGES = [
    *CONFIGS,
    "cut optimizer",
    "no optimizer",
    "empty optimizer",
    "other optimizer",
    "cut model",
    "cut clean",
    "short clean",
    "strange clean",
    "no progress",
    "progress {}",
    "progress []",
    'progress {"epoch": "1", "batch": 0, "step": 5, "best": {}}',
    'progress {"epoch": -1, "batch": 0, "step": 5, "best": {}}',
    'progress {"epoch": 1, "batch": 0',
    "progress " + "[" * 100_000,
]


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    train(config_for(world, out, method="rde", epochs=1))
    return out


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name[:30])
def test_a_damaged_checkpoint_is_one_clear_line(
    world: Path, finished: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    damage_trainer_state(out / "last", damage)
    with pytest.raises((UsageError, WorkError)) as error:
        train(config_for(world, out, method="rde", epochs=1))
    text = str(error.value)
    assert str(out / "last") in text and len(text) < 700


@pytest.mark.parametrize(
    "damage",
    ["cut config", "no optimizer", "progress {}", "no progress", "cut model", "cut clean", "cut optimizer"],
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    world: Path, finished: Path, tmp_path: Path, damage: str
) -> None:
    """A kill between the renames and the removal leaves both; damage to the newer one must not end the run."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.copytree(out / "last", out / ".last.previous")
    damage_trainer_state(out / "last", damage)
    train(config_for(world, out, method="rde", epochs=1))


def test_a_broken_line_in_metrics_is_removed(tmp_path: Path) -> None:
    good = b'{"event": "step", "step": 1}\n'
    lines = [
        good,
        b"not json\n",
        b"[1]\n",
        b'{"event": "step"}\n',
        b"\xff\xfe\n",
        b'{"event": "step", "step": 9}\n',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    trim_metrics(tmp_path / "metrics.jsonl", 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good


def test_the_list_of_unreadable_images_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "failed.jsonl"
    path.write_text('{"image": "a"}\n{"ima')
    assert listed_images(path) == {"a"} and path.read_text() == '{"image": "a"}\n'
    for broken in ('{"file": "a"}\n', "[]\n", "nothing\n", "3\n"):
        path.write_text(broken)
        with pytest.raises(
            UsageError, match=r"failed\.jsonl, line 1: expected an object with the key 'image'; delete"
        ):
            listed_images(path)


@pytest.mark.parametrize("name", ["image.npy", "person.npy", "ids.npy", "images"])
@pytest.mark.parametrize("damage", ["cut", "empty", "shorter", "out of range"])
def test_a_damaged_cache_is_written_again(world: Path, tmp_path: Path, name: str, damage: str) -> None:
    config = config_for(world, tmp_path / "out")
    whole = open_pairs(config)
    digest = whole.digest(world)
    (file,) = (tmp_path / "out/cache").glob(f"pairs-*.{name}")
    before = file.read_bytes()
    if damage == "cut":
        file.write_bytes(before[: len(before) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif name == "images":
        pytest.skip("strings have no shape")
    elif damage == "shorter":
        np.save(file, np.load(file)[:5])
    elif name == "image.npy":
        np.save(file, np.load(file) + 1000)
    elif name == "person.npy":
        np.save(file, np.load(file) - 1000)
    else:
        np.save(file, np.load(file).astype(np.int64))
    again = open_pairs(config)
    assert again.digest(world) == digest and Pairs.open(again.stem).digest(world) == digest


# ------------------------------------------------------------------------------------------------------------- two trainers


def test_a_second_trainer_is_refused_and_harms_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ham.reid.checkpoints.LOCK_WAIT_S", 0.2)
    config = config_for(world, tmp_path)
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from ham.reid.checkpoints import lock_output\n"
            "with lock_output(sys.argv[1]): print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parent,
    )
    try:
        assert held.stdout.readline() == "held\n"
        living = tmp_path / ".last.living.tmp"
        living.mkdir()
        with pytest.raises(UsageError, match="another training run is writing to"):
            train(config)
        assert living.exists() and not (tmp_path / "metrics.jsonl").exists()
    finally:
        held.kill()
        held.wait()
    train(config)  # the lock of a killed process is free
    assert not living.exists() and (tmp_path / "last").exists()


def test_one_process_may_train_twice_in_a_row(tmp_path: Path) -> None:
    with lock_output(tmp_path):
        save_folder(tmp_path / "last", lambda folder: (folder / "a").write_text("x"))
    start = time.monotonic()
    with lock_output(tmp_path):
        pass
    assert time.monotonic() - start < 5


def test_methods_are_classes_of_one_dict() -> None:
    assert METHODS["rde"] is RDE and yaml.safe_dump(sorted(METHODS)) == "- irra\n- rde\n"
