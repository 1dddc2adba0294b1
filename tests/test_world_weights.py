"""The makers of the world's stand-in models run, and what they once made is what the repository holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ham.captioner.backbone import IS_LEGACY, load_tokenizer, tower_tokens
from ham.captioner.checkpoint import load_captioner
from ham.captioner.conversation import encode_conversation
from ham.captioner.decode import generate
from ham.captioner.images import open_image
from ham.clip import load_clip, tokenize
from ham.world.build import build_world
from ham.world.parser import score
from ham.world.syntax import syntax_of
from scripts.world.foundation import read_pictures
from scripts.world.llava import build_llava, caption_loss, conversation

TOP = Path(__file__).resolve().parent.parent
WEIGHTS = TOP / "ham" / "world" / "weights"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "nano"
    build_world(out, "nano", 0, 1)
    return out


def make(module: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=TOP, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
def test_captions_of_one_image_are_learned_together_as_each_alone() -> None:
    """Two images with three captions each, one with a hint where style prompts go, against the model's own forward."""
    torch.manual_seed(0)
    model, tokenizer = build_llava(), load_tokenizer(WEIGHTS / "llava", 512)
    told = [[dict(zip(("input_ids", "labels"), encode_conversation(tokenizer, conversation(hint, text, hint != ""))))
             for hint, text in (("", "A man."), ("(full; brief)", f"He wears a {colour} coat and shoes."), ("", colour))]
            for colour in ("red", "light grey")]
    images = torch.randn(2, 3, 112, 112)
    together = caption_loss(model, model.projector(tower_tokens(model.vision_tower, images)), told)
    total, learned = 0.0, 0
    for image, samples in zip(images, told):
        for sample in samples:
            count = int((sample["labels"] >= 0).sum())
            total += count * model(sample["input_ids"][None], sample["labels"][None], images=image[None]).loss.item()
            learned += count
    assert together.item() == pytest.approx(total / learned, rel=1e-5)


@pytest.mark.skipif(IS_LEGACY, reason="the makers of the weights need the current transformers")
@pytest.mark.slow
def test_the_recipe_of_the_llava_runs_and_goes_on(world: Path, tmp_path: Path) -> None:
    make("scripts.world.make_llava", "--world", str(world), "--out", str(tmp_path / "llava"), "--batch", "8",
         "--steps", *"22222222")
    first = (tmp_path / "llava" / "model.safetensors").read_bytes()
    captioner = load_captioner(tmp_path / "llava")
    assert captioner.num_styles == 0
    assert captioner.manifest["prompt"] == "Describe the person in the image."
    make("scripts.world.make_llava", "--world", str(world), "--out", str(tmp_path / "llava"), "--batch", "8",
         "--steps", *"22222222")
    assert (tmp_path / "llava" / "model.safetensors").read_bytes() == first


@pytest.mark.slow
def test_the_recipe_of_the_clip_runs(world: Path, tmp_path: Path) -> None:
    make("scripts.world.make_clip", "--world", str(world), "--out", str(tmp_path / "clip"), "--steps", "2", "--batch", "8")
    assert load_clip(tmp_path / "clip", None, None).embed_dim == 128


def test_the_committed_weights_are_small_and_load() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 6_000_000
    clip = load_clip(WEIGHTS / "clip", None, None)
    with torch.no_grad():
        feats = clip.encode_text(tokenize(["a man in a red coat", "a woman in blue jeans"], clip.config.context_length))
    assert feats.shape == (2, 128)


def test_the_committed_captioner_writes_plainly_about_what_it_sees(world: Path) -> None:
    """Far above chance (a caption of another picture); how good it is, `scripts/world/judge_captioner.py` says."""
    pictures = read_pictures(world)[:12]
    captions = [row[0] for row in generate(load_captioner(WEIGHTS / "llava"), [open_image(one.path) for one in pictures],
                                           [[-1]] * len(pictures), max_new_tokens=100)]
    assert all(syntax_of(caption) == "plain" for caption in captions)
    truths = [one.attributes for one in pictures]
    right, chance = score(captions, truths)["precision"], score(captions, truths[6:] + truths[:6])["precision"]
    assert right > 0.5
    assert right > chance + 0.2
