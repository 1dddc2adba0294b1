"""The makers of the world's stand-in models run, and what they once made is what the repository holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ham.captioner.checkpoint import load_captioner
from ham.captioner.decode import generate
from ham.captioner.model import CaptionerModel
from ham.clip import load_clip, tokenize
from ham.llava.conversation import encode_conversation
from ham.llava.preprocess import open_image
from ham.llava.transformers_compat import IS_LEGACY, load_tokenizer, tower_tokens
from ham.world.attributes import FIELDS
from ham.world.build import build_world
from ham.world.parser import score
from ham.world.syntax import syntax_of
from scripts.world.caption_loss import caption_loss, collate, conversation
from scripts.world.codes import Codes, Heads, code_loss, labels_of, mirror, mirror_labels, naming_loss
from scripts.world.foundation import read_pictures
from scripts.world.llava import CONFIG, TOWER, build_llava, invent
from scripts.world.make_llava import incomplete
from scripts.world.training import optimizers_of

TOP = Path(__file__).resolve().parent.parent
WEIGHTS = TOP / "ham" / "world" / "weights"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "nano"
    build_world(out, "nano", 0, 1)
    return out


def make(module: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def told_of(tokenizer: object) -> list[list[dict[str, torch.Tensor]]]:
    """Three samples about each of two images, one of them with a hint where style prompts go."""
    return [
        [
            dict(
                zip(
                    ("input_ids", "labels"),
                    encode_conversation(tokenizer, conversation(hint, text, hint != "")),
                )
            )
            for hint, text in (
                ("", "A man."),
                ("(full; brief)", f"He wears a {color} coat and shoes."),
                ("", color),
            )
        ]
        for color in ("red", "light grey")
    ]


def test_mirrored_image_exchanges_left_and_right_in_words_and_labels() -> None:
    attributes = {"bag_side": "left", "carried_side": "right", "scene": "street"}
    assert mirror(attributes) == {"bag_side": "right", "carried_side": "left", "scene": "street"}
    labels = torch.full((2, len(FIELDS)), -100)
    side = list(FIELDS).index("bag_side")
    labels[:, side], labels[:, 0] = 0, 1
    changed = mirror_labels(labels, np.array([True, False]))
    assert changed[:, side].tolist() == [1, 0] and changed[:, 0].tolist() == [1, 1]
    assert (changed == -100).sum() == (labels == -100).sum()


def mean_alone(
    model: CaptionerModel, samples: list[tuple[dict[str, torch.Tensor], torch.Tensor | None]]
) -> float:
    """Average over learned ids of the model's own loss of each sample with its image."""
    total, learned = 0.0, 0
    for sample, image in samples:
        count = int((sample["labels"] >= 0).sum())
        total += count * model(sample["input_ids"][None], sample["labels"][None], images=image).loss.item()
        learned += count
    return total / learned


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
def test_captions_of_one_image_are_learned_together_as_each_alone() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_llava(), load_tokenizer(WEIGHTS / "llava", 512)
    told, images = told_of(tokenizer), torch.randn(2, 3, 126, 126)
    together = caption_loss(model, model.projector(tower_tokens(model.vision_tower, images)), collate(told))
    alone = mean_alone(
        model, [(sample, image[None]) for samples, image in zip(told, images) for sample in samples]
    )
    assert together.item() == pytest.approx(alone, rel=1e-5)


def test_codes_say_what_is_shown_and_what_is_not_visible() -> None:
    codes, rng = Codes(CONFIG["hidden_size"]), np.random.default_rng(0)
    labels = labels_of([invent(rng) for _ in range(50)])
    assert (labels < 0).any()
    tokens = codes.write(labels)
    read = codes(tokens).argmax(dim=2)
    # Random codes in one token are nearly orthogonal.
    assert (read == codes.values_of(labels)).float().mean() > 0.99
    exact = code_loss(codes, tokens, labels)
    for wrong in (tokens.roll(1, dims=0), tokens.roll(1, dims=1), tokens + 1):
        assert code_loss(codes, wrong, labels) > exact + 0.5


def test_a_field_that_is_not_visible_is_not_learned_by_the_heads() -> None:
    torch.manual_seed(0)
    heads, features = Heads(TOWER["hidden_size"]), torch.randn(2, 81, TOWER["hidden_size"])
    labels = torch.zeros(2, len(FIELDS), dtype=torch.long)
    labels[:, 3], labels[1, 4] = -100, -100
    naming_loss(heads, features, labels).backward()
    moved = heads.weight.grad.abs().sum(dim=(1, 2)) > 0
    assert not moved[3] and moved.sum() == len(FIELDS) - 1
    logits = heads(features)
    for place, values in enumerate(FIELDS.values()):
        assert logits[:, place].isfinite().sum(dim=1).tolist() == [len(values)] * 2


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
def test_each_parameter_has_one_optimizer_and_only_matrices_inside_layers_have_muon() -> None:
    model = build_llava()
    muon, rest = (
        [parameter for group in one.param_groups for parameter in group["params"]]
        for one in optimizers_of([model], 1e-3)
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names) == sorted(id(parameter) for parameter in muon + rest)
    assert {names[id(parameter)].split(".")[-2] for parameter in muon} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "out_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "fc1",
        "fc2",
    }


def test_an_incomplete_hint_holds_some_parts_of_the_whole_in_order() -> None:
    parts = ["list", "casual words", "exact colours", "hair first", "brief"]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        kept = incomplete("(" + "; ".join(parts) + ")", rng)[1:-1].split("; ")
        kept = [] if kept == [""] else kept
        assert kept == [part for part in parts if part in kept]
        seen.add(len(kept))
    assert seen == {0, 1, 2, 3, 4, 5}


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
@pytest.mark.slow
def test_the_recipe_of_the_llava_is_the_same_for_any_workers_and_goes_on(world: Path, tmp_path: Path) -> None:
    def run(out: str, *words: str) -> None:
        options = ["--world", str(world), "--out", str(tmp_path / out), "--batch", "8", "--steps", *"333"]
        make("scripts.world.make_llava", *options, *words)

    def weights(out: str) -> bytes:
        return (tmp_path / out / "model.safetensors").read_bytes()

    run("llava", "--workers", "2")
    first, captioner = weights("llava"), load_captioner(tmp_path / "llava")
    assert captioner.num_styles == 0
    assert captioner.manifest["prompt"] == "Describe the person in the image."
    run("llava")
    run("parts", "--part", "text")
    run("parts", "--part", "tower")
    run("parts")
    assert first == weights("llava") == weights("parts")


@pytest.mark.slow
def test_the_recipe_of_the_clip_runs(world: Path, tmp_path: Path) -> None:
    make(
        "scripts.world.make_clip",
        "--world",
        str(world),
        "--out",
        str(tmp_path / "clip"),
        "--steps",
        "2",
        "--batch",
        "8",
    )
    assert load_clip(tmp_path / "clip", None, None).embed_dim == 128


def test_the_committed_weights_are_small_and_load() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 6_000_000
    clip = load_clip(WEIGHTS / "clip", None, None)
    with torch.no_grad():
        feats = clip.encode_text(
            tokenize(["a man in a red coat", "a woman in blue jeans"], clip.config.context_length)
        )
    assert feats.shape == (2, 128)


def test_the_committed_captioner_writes_plainly_about_what_it_sees(world: Path) -> None:
    """Far above chance (a caption of another picture); how good it is, `scripts/world/judge_captioner.py` says."""
    pictures = read_pictures(world)[:12]
    captions = [
        row[0]
        for row in generate(
            load_captioner(WEIGHTS / "llava"),
            [open_image(one.path) for one in pictures],
            [[-1]] * len(pictures),
            max_new_tokens=100,
        )
    ]
    assert all(syntax_of(caption) == "plain" for caption in captions)
    truths = [one.attributes for one in pictures]
    right, chance = (
        score(captions, truths)["precision"],
        score(captions, truths[6:] + truths[:6])["precision"],
    )
    assert right > 0.5
    assert right > chance + 0.2
