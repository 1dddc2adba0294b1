"""A method of one's own is one file and one entry; RDE's division on augmented pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_reid_train import assert_same_run, config_for, rows_of, world  # noqa: F401  (the fixture)
from tiny_reid import interrupted_at

from ham.clip import CLIP
from ham.reid import methods, rde_division
from ham.reid.losses import itc_loss
from ham.reid.protocol import GlobalBatch, RetrievalMethod
from ham.reid.ranges import check_range
from ham.reid.rde import RDE, RDEOptions
from ham.reid.run import Run
from ham.reid.train import set_up, train
from ham.reid.weights import load_method
from ham.runtime import UsageError
from train_reid import main, parse

# ------------------------------------------------------------------------------------------------------------ a toy method


@dataclass(frozen=True)
class ToyOptions:
    """Options of the toy.

    Attributes:
        scale: factor on the cosines
        head_lr: learning rate of the head
    """

    scale: float = 20.0
    head_lr: float = 0.01

    def check(self) -> None:
        check_range("--toy.scale", self.scale, above=0)


class Toy(RetrievalMethod):
    """CLIP with one more linear layer; pairs of an epoch weigh more each time they were seen."""

    options_type = ToyOptions
    options_key = "toy"
    heads = ("toy_head",)

    def __init__(self, clip: CLIP, options: ToyOptions) -> None:
        super().__init__(clip, "toy")
        self.options = options
        self.toy_head = torch.nn.Linear(clip.embed_dim, clip.embed_dim)
        self.epochs_begun = np.zeros(1, np.int64)

    @classmethod
    def build(cls, name: str, clip: CLIP, num_classes: int, options: ToyOptions) -> Toy:
        return cls(clip, options)

    def image_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.toy_head(self.encode_image(images))]

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert set(batch["seen"].tolist()) == {int(self.epochs_begun[0])}
        (image,) = self.image_features(batch["images"])
        return {"toy_loss": itc_loss(image, self.encode_text(batch["caption_ids"]), self.options.scale)}

    def lr_rules(self) -> dict[str, float]:
        return {"toy_head": self.options.head_lr}

    def before_epoch(self, run: Run, epoch: int) -> None:
        self.epochs_begun = self.epochs_begun + 1

    def prepare_text(self, batch: GlobalBatch) -> dict[str, np.ndarray]:
        ids = super().prepare_text(batch)["caption_ids"].copy()
        swapped = batch.generator("toy").random(len(batch.ids))[batch.rows] < 0.5
        ids[swapped, 1:3] = ids[swapped, 2:0:-1]
        return {"caption_ids": ids}

    def pair_values(self, index: np.ndarray) -> dict[str, np.ndarray]:
        return {"seen": np.full(len(index), self.epochs_begun[0])}

    def training_state(self) -> dict[str, np.ndarray]:
        return {"epochs_begun": self.epochs_begun}

    def load_training_state(self, arrays: Mapping[str, np.ndarray], num_pairs: int) -> None:
        self.epochs_begun = arrays["epochs_begun"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "toy", Toy)


def toy_words(world: Path, out: Path, *more: str) -> list[str]:
    config = config_for(world, out)
    words = ["finetune", "--method", "toy", "--toy.head-lr", "0.05", "--train-datasets", "RSTPReid"]
    words += ["--output-dir", str(out), "--weights", str(config.weights), "--data-root", str(world)]
    words += ["--image-size-px", "48", "16", "--stride-px", "8", "--text-length", "24", "--epochs", "2"]
    words += [
        "--batch-size",
        "8",
        "--lr",
        "1e-3",
        "--num-workers",
        "0",
        "--device",
        "cpu",
        "--log-every",
        "1",
    ]
    return [*words, "--eval-every", "0", "--test-datasets", "RSTPReid", *more]


def test_a_method_of_ones_own_trains_saves_and_is_evaluated(
    toy: None,
    world: Path,
    tmp_path: Path,
) -> None:
    assert parse(toy_words(world, tmp_path))[1].toy == ToyOptions(head_lr=0.05)
    assert main(toy_words(world, tmp_path)) == 0
    losses = [row["toy_loss"] for row in rows_of(tmp_path)]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert np.load(tmp_path / "last/trainer_state/epochs_begun.npy") == 2
    model = load_method(tmp_path / "last")
    assert isinstance(model, Toy) and model.name == "toy"
    assert rows_of(tmp_path, "eval")[0]["gallery"] == 10


def test_a_method_of_ones_own_resumes_and_its_options_are_checked(
    toy: None,
    world: Path,
    tmp_path: Path,
) -> None:
    main(toy_words(world, tmp_path / "whole"))
    with interrupted_at(8):
        main(toy_words(world, tmp_path / "cut", "--save-every-steps", "2"))
    main(toy_words(world, tmp_path / "cut", "--save-every-steps", "2"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(UsageError, match=r"--toy\.scale is 0\.0; expected more than 0"):
        main(toy_words(world, tmp_path / "zero", "--toy.scale", "0"))
    with pytest.raises(UsageError, match=r"other options \(toy: .*'head_lr': 0\.05"):
        main(toy_words(world, tmp_path / "whole", "--toy.head-lr", "0.5"))


@pytest.mark.parametrize(
    "file", sorted(Path(methods.__file__).parent.glob("*.py")), ids=lambda file: file.name
)
def test_no_other_file_knows_a_method_by_name(file: Path) -> None:
    """A third method must not need a change elsewhere: no file but a method's own compares names or holds its constants."""
    own = {"rde.py", "rde_division.py", "irra.py", "methods.py", "losses.py", "mlm.py"}
    text = file.read_text(encoding="utf-8")
    if file.name not in own:
        for pattern in (
            r"[!=]= \"(rde|irra)\"",
            "visul_emb",
            "label_hat",
            "import IRRA",
            "import RDE",
        ):
            assert not re.search(pattern, text), f"{file.name} holds {pattern}"


# ---------------------------------------------------------------------------------------------------------- RDE's division


def divided(world: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options) -> tuple[dict, np.ndarray]:
    """Divide the pairs of an epoch: the inputs of each batch by number, and the clean labels."""
    seen, original = {}, rde_division.division_batch

    def record(run: Run, method: RDE, pixels, index, epoch: int, number: int) -> dict:
        seen[number] = original(run, method, pixels, index, epoch, number)
        return seen[number]

    monkeypatch.setattr(rde_division, "division_batch", record)
    run = set_up(config_for(world, out, method="rde", batch_size=16, rde=RDEOptions(**options)))
    clean = rde_division.divide_pairs(run, run.method, 0)
    monkeypatch.setattr(rde_division, "division_batch", original)
    return seen, clean


def test_the_division_sees_augmented_images_and_scrambled_captions_by_default(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, _ = divided(world, tmp_path / "plain", monkeypatch, augment_division=False)
    augmented, _ = divided(world, tmp_path / "augmented", monkeypatch)
    again, _ = divided(world, tmp_path / "again", monkeypatch)
    assert plain.keys() == augmented.keys() == {0, 1, 2}
    for number in plain:
        assert torch.equal(plain[number]["index"], augmented[number]["index"])
        assert torch.equal(plain[number]["person_ids"], augmented[number]["person_ids"])
        for name in ("images", "caption_ids"):
            assert not torch.equal(plain[number][name], augmented[number][name])
            assert torch.equal(again[number][name], augmented[number][name])
    moved = [not torch.equal(one, other) for one, other in zip(plain[0]["images"], augmented[0]["images"])]
    assert np.mean(moved) > 0.8
    # another batch of the same pass has other draws
    assert not torch.equal(augmented[0]["images"], augmented[1]["images"])


def test_the_division_is_not_augmented_where_training_is_not(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = set_up(config_for(world, tmp_path, method="rde", augment_images=False, scramble_words=False))
    pixels, index = torch.randint(0, 255, (8, 48, 16, 3), dtype=torch.uint8), torch.arange(8)
    batch = rde_division.division_batch(run, run.method, pixels, index, 0, 0)
    assert np.array_equal(batch["caption_ids"], run.pairs.rows(index.numpy())["caption_ids"])
    run = set_up(config_for(world, tmp_path / "b", method="rde", rde=RDEOptions(augment_division=False)))
    assert torch.equal(
        rde_division.division_batch(run, run.method, pixels, index, 0, 0)["images"], batch["images"]
    )


def test_the_division_does_not_depend_on_the_number_of_processes(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks, one after the other, compute the inputs and losses that one process computes."""
    whole, _ = divided(world, tmp_path / "one", monkeypatch)
    for rank in range(2):
        run = set_up(config_for(world, tmp_path / f"rank{rank}", method="rde", batch_size=16))
        seen, original = {}, rde_division.division_batch

        def record(
            run: Run, method: RDE, pixels, index, epoch: int, number: int, into=seen, call=original
        ) -> dict:
            into[number] = call(run, method, pixels, index, epoch, number)
            return into[number]

        monkeypatch.setattr(rde_division, "division_batch", record)
        monkeypatch.setattr(
            rde_division, "dist_info", lambda rank=rank: type("Info", (), {"rank": rank, "world_size": 2})()
        )
        rde_division.divide_pairs(run, run.method, 0)
        monkeypatch.undo()
        assert list(seen) == [number for number in whole if number % 2 == rank]
        for number, batch in seen.items():
            for name in ("index", "images", "caption_ids"):
                assert torch.equal(batch[name], whole[number][name])


def test_a_run_killed_in_mid_epoch_keeps_its_division(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {"method": "rde", "save_every_steps": 1}
    train(config_for(world, tmp_path / "whole", **more))
    with interrupted_at(8):
        train(config_for(world, tmp_path / "cut", **more))
    saved = np.load(tmp_path / "cut/last/trainer_state/clean.npy")
    monkeypatch.setattr(rde_division, "divide", None)  # nothing is divided again in this epoch
    config = config_for(world, tmp_path / "cut", **more)
    train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert np.array_equal(np.load(tmp_path / "cut/last/trainer_state/clean.npy"), saved)


def test_a_run_from_before_the_augmented_division_goes_on_as_it_began(
    world: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An old run's config.yaml has RDE's options at the top level and no `augment_division`."""
    import yaml

    config = config_for(world, tmp_path, method="rde", rde=RDEOptions(augment_division=False))
    train(replace(config, epochs=2))
    path = tmp_path / "last/config.yaml"
    old = yaml.safe_load(path.read_text())
    group = old.pop("rde")
    del group["augment_division"]
    old |= {name: group.pop(name) for name in ("ccd", "noise_rate", "token_selection_lr")}
    old |= {"rde": group, "mask_all_losses": old["irra"].pop("mask_all_losses"), "tensorboard": False}
    for name in ("trackers", "gradient_checkpointing", "expected", "estimate"):
        del old[name]
    path.write_text(yaml.safe_dump(old))
    progress = tmp_path / "last/trainer_state/progress.json"
    state = json.loads(progress.read_text())
    del state["data"]
    progress.write_text(json.dumps(state))
    with caplog.at_level("INFO", logger="ham"):
        run = set_up(replace(config, rde=RDEOptions()))
    assert (
        run.config.rde.augment_division is False
        and "it continues with {'augment_division': False}" in caplog.text
    )
