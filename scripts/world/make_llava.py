"""Train the world's LLaVA, the stand-in for the pretrained LLaVA-1.6 that cannot be shipped.

    python -m ham.world build --out runs/world --preset full
    python -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava --part text &
    python -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava --part tower &
    wait
    torchrun --nproc-per-node 2 -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava

Real architecture and on-disk layout (Llama, CLIP vision tower, two-layer projector, sentencepiece), 1.5 M parameters. In three
steps, on persons and annotators that no benchmark uses:

1. (text) the language model, without images, learns to write facts as sentences: in the plain manner, and, given a short
   textual hint of a manner in the instruction, in that manner. Without a hint it writes plain. This replaces what a real LLM
   has learned: it can write in any manner and stay true to the facts. 4,000 writers from the first step: of a few
   hundred it would memorize the list;
2. (tower) the vision tower learns to name attributes, first on the patches that hold a person, which is twice as fast;
3. (caption) both learn to caption images, plainly and by hints, most of which are at the place of a style prompt.

Hints are incomplete. A learned prompt expresses what no hint does, and a model that knows only whole hints is then less true
to the facts (claims that are true in learned styles,
in a trial with and without words left out: 0.81 and 0.79; 26 November 2026).

The weights in `ham/world/weights/llava` are what these commands made on 27 November 2026, on two cores that other processes
shared: 17 and 20 minutes by the clock for the two parts, 19 for the captioning (not timed on idle cores). The text part had
read the texts of a slightly earlier version of the annotators. A fixture, never tuned on what it is measured by. Needs the
current transformers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ham.distributed import leave
from ham.llava.conversation import encode_conversation
from ham.llava.transformers_compat import load_tokenizer, tower_tokens
from ham.records import atomic_write
from ham.runtime import dist_info, exit_code_of, log, numpy_generator, seed_everything, set_up_logging
from ham.world.annotators import annotator_population, hint_of, plain_description
from scripts.world.foundation import Picture, average_gradients, read_pictures, warm_cosine
from scripts.world.llava import (
    ALL,
    PERSON,
    TOWER,
    AttributeHeads,
    Images,
    attribute_accuracy,
    attribute_loss,
    build_llava,
    caption_loss,
    conversation,
    facts_loss,
    facts_of,
    invent,
    labels_of,
    mirror,
    mirror_labels,
    person_tokens,
    train_tokenizer,
    words_of,
    write_llava,
)

ADAM_RATE = 1.5e-3  # of everything that is no matrix inside a layer
PLAIN = (0.6, 0.2, 0.0)  # for each caption of an image, how often it is plain
PLACED = 0.7  # how often a hint follows the image, where a style prompt will be
NARROW = 2 / 3  # of the steps with images, the share that sees the patches of the person alone


def incomplete(hint: str, rng: np.random.Generator) -> str:
    """Leave out parts of a hint, anything from none to all: "(list; casual words; brief)" -> "(casual words)"."""
    kept = rng.random()
    return "(" + "; ".join(part for part in hint.strip("()").split("; ") if rng.random() < kept) + ")"


def optimizers_of(modules: list[nn.Module], rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside layers, at `rate`, and AdamW for the rest."""
    named = [(name, parameter) for module in modules for name, parameter in module.named_parameters()]
    inside = [parameter for name, parameter in named if parameter.ndim == 2 and "layers." in name]
    chosen = {id(parameter) for parameter in inside}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    return [
        torch.optim.Muon(inside, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def train(
    what: str,
    modules: list[nn.Module],
    steps: int,
    rate: float,
    loss_of: Callable[[np.random.Generator, float], torch.Tensor],
    seed: int,
    folder: Path,
) -> None:
    """Run one of the three steps, or load its result from `folder` when an earlier run finished it.

    loss_of(generator, done) returns this process's loss on a fresh batch; done: the share of the steps already done.
    """
    kept = folder / f"{what.replace(' ', '-')}-{steps}.pt"
    if kept.is_file():
        for module, state in zip(modules, torch.load(kept, weights_only=True)):
            module.load_state_dict(state)
        log.info("%s: taken from %s", what, kept)
        return
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizers = optimizers_of(modules, rate)
    schedules = [LambdaLR(optimizer, partial(warm_cosine, steps=steps)) for optimizer in optimizers]
    start = time.monotonic()
    for step in range(steps):
        loss = loss_of(numpy_generator(seed, what, step, dist_info().rank), step / steps)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        if step % 50 == 0 or step == steps - 1:
            log.info(
                "%s: step %d/%d, loss %.3f, %.0f s",
                what,
                step + 1,
                steps,
                loss.item(),
                time.monotonic() - start,
            )
    if dist_info().is_main:
        with atomic_write(kept, "wb") as file:
            torch.save([module.state_dict() for module in modules], file)


def log_accuracy(heads: nn.Module, tower: nn.Module, unseen: list[Picture]) -> None:
    """Return how well the tower names the attributes of persons that it has not seen."""
    if not unseen or not dist_info().is_main:
        return
    right = attribute_accuracy(heads, tower, Images(unseen), labels_of(unseen))
    log.info(
        "vision tower on %d pictures of unseen persons: %.3f right; %s",
        len(unseen),
        np.nanmean(list(right.values())),
        ", ".join(f"{field} {share:.2f}" for field, share in right.items()),
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, nargs=3, default=(750, 4000, 2000), metavar=("TEXT", "TOWER", "CAPTION")
    )
    parser.add_argument(
        "--part",
        choices=("text", "tower", "all"),
        default="all",
        help="text, tower: that step alone, one core each at the same time; all: what is still to do",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for what each step ends with (default: OUT.steps); delete it to start again",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=64,
        help="images per step of the vision tower, over all processes; 7/16 of that many are captioned",
    )
    return parser.parse_args()


class Recipe:
    """What the steps share, and one loss for each: every `*_loss` is this process's, on a fresh batch (see `train`)."""

    def __init__(self, options: argparse.Namespace, pictures: list[Picture]) -> None:
        seed_everything(options.seed)
        self.model = build_llava()
        self.heads = AttributeHeads(TOWER["hidden_size"])
        self.tower = self.model.vision_tower
        self.seen = [picture for picture in pictures if not picture.held_out]
        self.share = max(1, options.batch // dist_info().world_size)
        self.captioned = max(1, self.share * 7 // 16)
        if options.part != "text":
            self.images, self.labels = Images(self.seen), labels_of(self.seen)
        if options.part != "tower":
            self.tokenizer = load_tokenizer(options.out, 512)
            self.writers = [
                writer
                for group in range(16)
                for writer in annotator_population(options.seed, f"foundation-{group}", 250)
            ]

    def told(self, attributes: dict[str, str], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return the samples about `attributes`: plain without a hint, or in the manner that the hint describes."""
        samples = []
        for share in PLAIN:
            hint, text = "", plain_description(attributes).text
            if rng.random() >= share:
                writer = self.writers[rng.integers(len(self.writers))]
                hint, text = incomplete(hint_of(writer.manner), rng), writer.describe(attributes, rng).text
            ids, targets = encode_conversation(
                self.tokenizer, conversation(hint, text, rng.random() < PLACED)
            )
            samples.append({"input_ids": ids, "labels": targets})
        return samples

    def text_loss(self, rng: np.random.Generator, done: float) -> torch.Tensor:
        people = [invent(rng) for _ in range(self.captioned)]
        return facts_loss(
            self.model.llm,
            self.tokenizer,
            [facts_of(attributes, rng) for attributes in people],
            [self.told(attributes, rng) for attributes in people],
        )

    def tower_loss(self, rng: np.random.Generator, done: float) -> torch.Tensor:
        chosen = rng.integers(len(self.seen), size=self.share)
        mirrored = rng.random(len(chosen)) < 0.5
        look = person_tokens if done < NARROW else tower_tokens
        seen = look(self.tower, self.images.batch(chosen, rng, mirrored))
        return attribute_loss(self.heads, seen, mirror_labels(self.labels[chosen], mirrored))

    def caption_loss(self, rng: np.random.Generator, done: float) -> torch.Tensor:
        """Caption a batch of images; the tower continues to predict attributes."""
        chosen = rng.integers(len(self.seen), size=self.captioned)
        mirrored = rng.random(len(chosen)) < 0.5
        look, patches = (person_tokens, PERSON) if done < NARROW else (tower_tokens, ALL)
        seen = look(self.tower, self.images.batch(chosen, rng, mirrored))
        told = []
        for index, is_mirrored in zip(chosen, mirrored):
            shown = self.seen[index].attributes
            told.append(self.told(mirror(shown) if is_mirrored else shown, rng))
        return caption_loss(self.model, self.model.projector(seen), told, patches) + 0.3 * attribute_loss(
            self.heads, seen, mirror_labels(self.labels[chosen], mirrored)
        )


def main() -> None:
    options = read_options()
    set_up_logging()
    place = dist_info()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    pictures = read_pictures(options.world)
    if options.part != "tower" and place.is_main and not (options.out / "tokenizer.model").is_file():
        train_tokenizer(
            words_of(options.world, [picture for picture in pictures if not picture.held_out], options.seed),
            options.out,
        )
    if place.world_size > 1:
        dist.barrier()
    recipe = Recipe(options, pictures)
    model, tower, heads = recipe.model, recipe.tower, recipe.heads
    work = options.work or options.out.with_name(options.out.name + ".steps")
    text_steps, tower_steps, caption_steps = options.steps
    if options.part != "tower":
        train("language model", [model.llm], text_steps, 6e-3, recipe.text_loss, options.seed, work)
    if options.part != "text":
        train("vision tower", [tower, heads], tower_steps, 6e-3, recipe.tower_loss, options.seed, work)
        log_accuracy(heads, tower, [picture for picture in pictures if picture.held_out][:600])
    if options.part == "all":
        train("captioning", [model, heads], caption_steps, 4e-3, recipe.caption_loss, options.seed, work)
        if place.is_main:
            write_llava(options.out, model)
            log.info("written: %s", options.out)


if __name__ == "__main__":
    leave(exit_code_of(main))
