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
from ham.llava.tokenizer import plain_ids
from ham.llava.transformers_compat import IS_LEGACY, load_tokenizer, tower_tokens
from ham.world.attributes import FIELDS
from ham.world.build import build_world
from ham.world.parser import score
from ham.world.syntax import syntax_of
from scripts.world.foundation import read_pictures
from scripts.world.llava import (
    PERSON,
    build_llava,
    caption_loss,
    conversation,
    facts_loss,
    mirror,
    mirror_labels,
    person_tokens,
)
from scripts.world.make_llava import incomplete, optimizers_of

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
    told, images = told_of(tokenizer), torch.randn(2, 3, 112, 112)
    together = caption_loss(model, model.projector(tower_tokens(model.vision_tower, images)), told)
    alone = mean_alone(
        model, [(sample, image[None]) for samples, image in zip(told, images) for sample in samples]
    )
    assert together.item() == pytest.approx(alone, rel=1e-5)


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
def test_captions_of_bare_facts_are_learned_together_as_each_alone() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_llava(), load_tokenizer(WEIGHTS / "llava", 512)
    told, facts = told_of(tokenizer), ["upper coat", "shoes boots upper colour light grey"]

    def spelled_out(sample: dict[str, torch.Tensor], text: str) -> dict[str, torch.Tensor]:
        at, ids = int((sample["input_ids"] < 0).nonzero()[0]), torch.tensor(plain_ids(tokenizer, text))
        return {
            name: torch.cat([sample[name][:at], inside, sample[name][at + 1 :]])
            for name, inside in (("input_ids", ids), ("labels", torch.full_like(ids, -100)))
        }

    alone = mean_alone(
        model, [(spelled_out(sample, text), None) for samples, text in zip(told, facts) for sample in samples]
    )
    assert facts_loss(model.llm, tokenizer, facts, told).item() == pytest.approx(alone, rel=1e-5)


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
def test_the_patches_of_the_person_stand_where_they_stand_in_the_whole_image() -> None:
    """In the tower, where patches do not look at each other; in the language model, where the others are masked."""
    torch.manual_seed(0)
    model, tokenizer = build_llava(), load_tokenizer(WEIGHTS / "llava", 512)
    sample, images = told_of(tokenizer)[0][1], torch.randn(1, 3, 112, 112)
    for layer in model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
    whole = tower_tokens(model.vision_tower, images)
    torch.testing.assert_close(person_tokens(model.vision_tower, images), whole[:, PERSON])

    tokens, at = model.projector(whole), int((sample["input_ids"] < 0).nonzero()[0])
    embeddings = torch.cat(
        [model.embed(sample["input_ids"][:at]), tokens[0], model.embed(sample["input_ids"][at + 1 :])]
    )
    labels = torch.cat([torch.full((at + tokens.shape[1],), -100), sample["labels"][at + 1 :]])
    seen = torch.ones(len(embeddings), dtype=torch.long)
    seen[at : at + tokens.shape[1]] = torch.isin(torch.arange(tokens.shape[1]), PERSON).long()
    logits = model.llm(
        inputs_embeds=embeddings[None],
        attention_mask=seen[None],
        position_ids=torch.arange(len(embeddings))[None],
    ).logits
    alone = torch.nn.functional.cross_entropy(logits[0, :-1], labels[1:])
    assert caption_loss(model, tokens[:, PERSON], [[sample]], PERSON).item() == pytest.approx(
        alone.item(), rel=1e-5
    )


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
def test_the_recipe_of_the_llava_runs_and_goes_on(world: Path, tmp_path: Path) -> None:
    make(
        "scripts.world.make_llava",
        "--world",
        str(world),
        "--out",
        str(tmp_path / "llava"),
        "--batch",
        "8",
        "--steps",
        *"333",
    )
    first = (tmp_path / "llava" / "model.safetensors").read_bytes()
    captioner = load_captioner(tmp_path / "llava")
    assert captioner.num_styles == 0
    assert captioner.manifest["prompt"] == "Describe the person in the image."
    make(
        "scripts.world.make_llava",
        "--world",
        str(world),
        "--out",
        str(tmp_path / "llava"),
        "--batch",
        "8",
        "--steps",
        *"333",
    )
    assert (tmp_path / "llava" / "model.safetensors").read_bytes() == first


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
