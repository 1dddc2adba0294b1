"""Make the world's LLaVA: the stand-in for the pretrained LLaVA-1.6 that cannot be shipped.

    python -m ham.world build --out runs/world --preset full
    python -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava --part text &
    python -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava --part tower &
    wait
    torchrun --nproc-per-node 2 -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava

Real architecture and on-disk layout (Llama, CLIP vision tower, two-layer projector, sentencepiece), 1.2 M parameters. In three
steps, on persons and annotators that no benchmark uses:

1. (text) the language model, without images, learns to put facts into words: in the plain manner, and, given a short textual
   hint of a manner in the instruction, in that manner. Without a hint it writes plain. This stands in for what a real LLM
   brings along: that it can write in any manner while it keeps to the facts;
2. (tower) the vision tower learns to name attributes;
3. (caption) both learn to caption images, plainly and by hints, in five lessons: later ones are mostly by hints, half of which
   stand at the place of a style prompt; the last is in the manners of thousands.

The weights in `ham/world/weights/llava` were made by this script, in an hour and a half on two busy cores (24 November 2026),
the first three lessons before captions of one image were read together; it is a fixture, never tuned on what it is judged by.
The script needs the current transformers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ham.captioner.backbone import load_tokenizer, tower_tokens
from ham.captioner.conversation import encode_conversation
from ham.captioner.data import Collator
from ham.records import atomic_write
from ham.runtime import exit_code_of, leave, log, numpy_generator, rank_and_world, seed_everything, set_up_logging
from ham.world.annotators import Annotator, annotator_population, hint_of, plain_description
from scripts.world.foundation import Picture, average_gradients, read_pictures, warm_cosine
from scripts.world.llava import (
    TOWER,
    AttributeHeads,
    Images,
    attribute_accuracy,
    attribute_loss,
    build_llava,
    caption_loss,
    conversation,
    facts_of,
    invent,
    labels_of,
    language_loss,
    train_tokenizer,
    with_facts,
    words_of,
    write_llava,
)


def train(what: str, modules: list[nn.Module], steps: int, rate: float, loss_of: Callable[[np.random.Generator], torch.Tensor],
          seed: int, folder: Path) -> None:
    """Run one of the three steps, or take its end from `folder` when an earlier run got there.

    loss_of(generator) gives this process's loss on a fresh batch.
    """
    kept = folder / f"{what.replace(' ', '-')}-{steps}.pt"
    if kept.is_file():
        for module, state in zip(modules, torch.load(kept, weights_only=True)):
            module.load_state_dict(state)
        log.info("%s: taken from %s", what, kept)
        return
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    start = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * warm_cosine(step, steps)
        loss = loss_of(numpy_generator(seed, what, step, rank_and_world().rank))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            log.info("%s: step %d/%d, loss %.3f, %.0f s", what, step + 1, steps, loss.item(), time.monotonic() - start)
    if rank_and_world().is_main:
        with atomic_write(kept, "wb") as file:
            torch.save([module.state_dict() for module in modules], file)


def log_accuracy(heads: nn.Module, tower: nn.Module, unseen: list[Picture]) -> None:
    """Say how well the tower names the attributes of persons that it has not seen."""
    if not unseen or not rank_and_world().is_main:
        return
    right = attribute_accuracy(heads, tower, Images(unseen), labels_of(unseen))
    log.info("vision tower on %d pictures of unseen persons: %.3f right; %s", len(unseen), np.nanmean(list(right.values())),
             ", ".join(f"{field} {share:.2f}" for field, share in right.items()))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=8, default=(1500, 3500, 2500, 1400, 1000, 900, 1500, 800),
                        metavar=("TEXT", "TOWER", "AGAIN", "CAPTION", "HINTED", "PLACED", "LONG", "CROWD"),
                        help="the tower learns in two rounds, captioning in five")
    parser.add_argument("--part", choices=("text", "tower", "all"), default="all",
                        help="text, tower: that step alone, one core each at the same time; all: what is still to do")
    parser.add_argument("--work", type=Path,
                        help="folder for what each step ends with (default: OUT.steps); delete it to begin anew")
    parser.add_argument("--batch", type=int, default=64, help="images per step of the vision tower, over all processes")
    return parser.parse_args()


@dataclass(frozen=True)
class Lesson:
    """A round of captioning.

    images: sixteenths of a batch; plain_shares: for each caption of an image, how often it is plain; placed: share of the
    samples whose hint stands behind the image, where a style prompt will; crowd: 4,000 writers in place of 240.
    """

    name: str
    images: int
    plain_shares: tuple[float, ...]
    placed: float = 0.0
    crowd: bool = False


LESSONS = (Lesson("captioning", 5, (1.0, 0.0, 0.0)),
           Lesson("captioning by hints", 7, (0.4, 0.0)),
           Lesson("captioning by placed hints", 7, (0.4, 0.0), placed=0.5),
           Lesson("captioning at length", 7, (0.5, 0.0, 0.0), placed=0.5),
           Lesson("captioning for a crowd", 7, (0.5, 0.0, 0.0), placed=0.5, crowd=True))


class Recipe:
    """What the steps share, and one loss for each: every `*_loss(..., generator)` is this process's, on a fresh batch."""

    def __init__(self, options: argparse.Namespace, pictures: list[Picture]) -> None:
        seed_everything(options.seed)
        self.model = build_llava()
        self.heads = AttributeHeads(TOWER["hidden_size"])
        self.tower = self.model.vision_tower
        self.seen = [picture for picture in pictures if not picture.held_out]
        self.share = max(1, options.batch // rank_and_world().world_size)
        self.writers = annotator_population(options.seed, "foundation", 240)
        self.crowd = [writer for group in range(16)
                      for writer in annotator_population(options.seed, f"foundation-{group}", 250)]
        if options.part != "text":
            self.images, self.labels = Images(self.seen), labels_of(self.seen)
        if options.part != "tower":
            self.tokenizer = load_tokenizer(options.out, 512)
            self.collate = Collator(self.tokenizer.pad_token_id)

    def told(self, attributes: dict[str, str], plainly: bool, rng: np.random.Generator, hint_first: bool = False,
             writers: list[Annotator] | None = None) -> dict[str, Any]:
        """Write one sample about `attributes`: plain without a hint, or as one of `writers` would whom the hint describes."""
        hint, text = "", plain_description(attributes).text
        if not plainly:
            writers = writers or self.writers
            writer = writers[rng.integers(len(writers))]
            hint, text = hint_of(writer.manner), writer.describe(attributes, rng).text
        ids, targets = encode_conversation(self.tokenizer, conversation(hint, text, hint_first))
        return {"input_ids": ids, "labels": targets, "pixels": torch.zeros(0), "class_id": 0}

    def text_loss(self, rng: np.random.Generator) -> torch.Tensor:
        samples = []
        for number in range(self.share * 3 // 4):
            attributes = invent(rng)
            samples.append(with_facts(self.tokenizer, self.told(attributes, number % 3 == 0, rng), facts_of(attributes, rng)))
        return language_loss(self.model.llm, self.collate(samples))

    def tower_loss(self, rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.integers(len(self.seen), size=self.share)
        return attribute_loss(self.heads, tower_tokens(self.tower, self.images.batch(chosen, rng)), self.labels[chosen])

    def caption_loss(self, lesson: Lesson, rng: np.random.Generator) -> torch.Tensor:
        """Caption a batch of images, each once for each of the lesson's plain shares; the tower names attributes beside it."""
        chosen = rng.integers(len(self.seen), size=max(1, self.share * lesson.images // 16))
        seen = tower_tokens(self.tower, self.images.batch(chosen, rng))
        tokens = self.model.projector(seen)
        told = [[self.told(self.seen[index].attributes, rng.random() < share, rng, rng.random() < lesson.placed,
                           self.crowd if lesson.crowd else self.writers) for index in chosen]
                for share in lesson.plain_shares]
        captions = caption_loss(self.model, tokens, [list(samples) for samples in zip(*told)])
        return captions + 0.3 * attribute_loss(self.heads, seen, self.labels[chosen])


def main() -> None:
    options = read_options()
    set_up_logging()
    place = rank_and_world()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    pictures = read_pictures(options.world)
    if options.part != "tower" and place.is_main and not (options.out / "tokenizer.model").is_file():
        train_tokenizer(words_of(options.world, [picture for picture in pictures if not picture.held_out], options.seed),
                        options.out)
    if place.world_size > 1:
        dist.barrier()
    recipe = Recipe(options, pictures)
    model, tower, heads = recipe.model, recipe.tower, recipe.heads
    work = options.work or options.out.with_name(options.out.name + ".steps")
    text_steps, tower_steps, caption_steps = options.steps[0], options.steps[1:3], options.steps[3:]
    if options.part != "tower":
        train("language model", [model.llm], text_steps, 2e-3, recipe.text_loss, options.seed, work)
    if options.part != "text":
        train("vision tower", [tower, heads], tower_steps[0], 1.5e-3, recipe.tower_loss, options.seed, work)
        train("vision tower again", [tower, heads], tower_steps[1], 1.2e-3, recipe.tower_loss, options.seed, work)
        log_accuracy(heads, tower, [picture for picture in pictures if picture.held_out][:600])
    if options.part == "all":
        for lesson, steps in zip(LESSONS, caption_steps):
            train(lesson.name, [model, heads], steps, 1.2e-3, partial(recipe.caption_loss, lesson), options.seed, work)
        if place.is_main:
            write_llava(options.out, model)
            log.info("written: %s", options.out)


if __name__ == "__main__":
    leave(exit_code_of(main))
