"""Train the world's LLaVA, the stand-in for the pretrained LLaVA-1.6 that cannot be shipped.

    python -m ham.world build --out runs/weights --preset weights
    make="python -m scripts.world.make_llava --world runs/weights --out ham/world/weights/llava"
    $make --workers 7 --part text &
    $make --workers 2 --part tower &
    wait
    $make --workers 12

Real architecture and on-disk layout (Llama, CLIP vision tower, two-layer projector, sentencepiece), 1.5 M parameters. In three
steps, on persons and annotators that no benchmark uses:

1. (text) the language model, without images, learns to write what image tokens say, which are codes here (codes.py): in the
   plain manner, and, given a short textual hint of a manner in the instruction, in that manner. Without a hint it
   writes plain. This replaces what a real LLM has learned: it can write in any manner and stay true to the facts. 4,000 writers
   from the first step: of a few hundred it would memorize the list;
2. (tower) the vision tower learns to name what an image shows, and the projector to write its codes;
3. (caption) all of them learn to caption images, plainly and by hints, most of which are at the place of a style prompt.

Hints are incomplete. A learned prompt expresses what no hint does, and a model that knows only whole hints is then less true
to the facts (claims that are true in learned styles,
in a trial with and without words left out: 0.81 and 0.79; 26 November 2026).

The weights in `ham/world/weights/llava` are what these commands made on 27 November 2026 on one H200 with 16 cores: 29 s for
the dataset, 125 and 151 s for the steps of the two parts at the same time, 169 s for those of the captioning, seven
minutes in all. Two cores without a GPU would take hours: about eight by the steps of an earlier recipe, not run. A fixture,
never tuned on what it is measured by. Needs the current transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ham.distributed import leave
from ham.llava.conversation import encode_conversation
from ham.llava.transformers_compat import load_tokenizer, tower_tokens
from ham.runtime import dist_info, exit_code_of, log, resolve_device, seed_everything, set_up_logging
from ham.world.annotators import annotator_population, hint_of, plain_description
from ham.world.attributes import FIELDS
from scripts.world.caption_loss import Captions, caption_loss, collate, conversation
from scripts.world.codes import Codes, Heads, code_loss, labels_of, mirror, mirror_labels, naming_loss
from scripts.world.foundation import Picture, read_pictures
from scripts.world.llava import (
    CONFIG,
    TOWER,
    Images,
    build_llava,
    invent,
    train_tokenizer,
    words_of,
    write_llava,
)
from scripts.world.training import train

PLAIN = (0.6, 0.2, 0.0)  # for each caption of an image, how often it is plain
PLACED = 0.7  # how often a hint follows the image, where a style prompt will be
NOISE = 0.05  # of each number of a code in the first step: unit codes have 0.1
NAMING = 0.15  # weight of naming what is shown, beside captioning it
SHIFT_PX = 4  # how far an image is moved at most, each way


def incomplete(hint: str, rng: np.random.Generator) -> str:
    """Leave out parts of a hint, anything from none to all: "(list; casual words; brief)" -> "(casual words)"."""
    kept = rng.random()
    return "(" + "; ".join(part for part in hint.strip("()").split("; ") if rng.random() < kept) + ")"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, nargs=3, default=(1400, 5000, 1600), metavar=("TEXT", "TOWER", "CAPTION")
    )
    parser.add_argument(
        "--part",
        choices=("text", "tower", "all"),
        default="all",
        help="text, tower: that step alone, both at the same time; all: what is still to do",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for what each step ends with (default: OUT.steps); delete it to start again",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=512,
        help="images per step of the vision tower, over all processes; a quarter of that many are captioned",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="a GPU, where there is one, takes minutes, the CPU hours (auto, cpu, cuda, cuda:N)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that make batches ahead, for a GPU (default: none)",
    )
    options = parser.parse_args()
    options.work = options.work or options.out.with_name(options.out.name + ".steps")
    return options


class Recipe:
    """What the steps share; for each of them a batch from a generator, made by a worker, and this process's loss on it."""

    def __init__(self, options: argparse.Namespace, pictures: list[Picture]) -> None:
        seed_everything(options.seed)
        self.device = options.device
        self.model = build_llava().to(self.device)
        self.codes = Codes(CONFIG["hidden_size"]).to(self.device)
        self.heads = Heads(TOWER["hidden_size"]).to(self.device)
        self.seen = [picture for picture in pictures if not picture.held_out]
        self.named = max(1, options.batch // dist_info().world_size)
        self.captioned = max(1, self.named // 4)
        if options.part != "text":
            self.images = Images(self.seen, self.device)
            self.labels = labels_of([picture.attributes for picture in self.seen]).to(self.device)
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

    def text_batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, Captions]:
        people = [invent(rng) for _ in range(self.captioned)]
        return labels_of(people), collate([self.told(shown, rng) for shown in people])

    def text_loss(self, batch: tuple[torch.Tensor, Captions]) -> torch.Tensor:
        """Caption invented people whose image tokens are codes."""
        labels, captions = batch
        tokens = self.codes.write(labels.to(self.device))
        return caption_loss(self.model, tokens + NOISE * torch.randn_like(tokens), captions.to(self.device))

    def tower_batch(self, rng: np.random.Generator) -> tuple[Any, ...]:
        return self.image_batch(rng, self.named)

    def image_batch(self, rng: np.random.Generator, count: int) -> tuple[Any, ...]:
        """Return which images are taken, which of them are mirrored, and by how many pixels all are shifted."""
        chosen = rng.integers(len(self.seen), size=count)
        mirrored = rng.random(count) < 0.5
        return chosen, mirrored, tuple(rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist())

    def look(self, batch: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image tokens [B, patches, D] of a batch of images, and the loss of naming what they show."""
        chosen, mirrored, shift = batch
        features = tower_tokens(self.model.vision_tower, self.images.batch(chosen, mirrored, shift))
        tokens = self.model.projector(features)
        labels = mirror_labels(self.labels[torch.from_numpy(chosen).to(self.device)], mirrored)
        return tokens, naming_loss(self.heads, features, labels) + code_loss(self.codes, tokens, labels)

    def tower_loss(self, batch: tuple[Any, ...]) -> torch.Tensor:
        return self.look(batch)[1]

    def caption_batch(self, rng: np.random.Generator) -> tuple[tuple[Any, ...], Captions]:
        batch = self.image_batch(rng, self.captioned)
        shown = [
            mirror(self.seen[index].attributes) if mirrored else self.seen[index].attributes
            for index, mirrored in zip(*batch[:2])
        ]
        return batch, collate([self.told(attributes, rng) for attributes in shown])

    def caption_loss(self, batch: tuple[tuple[Any, ...], Captions]) -> torch.Tensor:
        """Caption a batch of images; the tower and the projector continue to name what they show."""
        images, captions = batch
        tokens, naming = self.look(images)
        return caption_loss(self.model, tokens, captions.to(self.device)) + NAMING * naming

    @torch.no_grad()
    def log_accuracy(self, unseen: list[Picture]) -> None:
        """Log the share of the images showing a field whose value is named, by the heads and by the codes."""
        if not unseen or not dist_info().is_main:
            return
        images = Images(unseen, self.device)
        labels = labels_of([picture.attributes for picture in unseen]).to(self.device)
        named = []
        for start in range(0, len(labels), 100):
            chosen = np.arange(start, min(start + 100, len(labels)))
            features = tower_tokens(self.model.vision_tower, images.batch(chosen))
            tokens = self.model.projector(features)
            named.append(torch.stack([self.heads(features).argmax(2), self.codes(tokens).argmax(2)]))
        right = ((torch.cat(named, dim=1) == labels) & (labels >= 0)).sum(1) / (labels >= 0).sum(0)
        log.info(
            "named on %d pictures of unseen persons: %.3f by the heads, %.3f by the codes; by field: %s",
            len(unseen),
            *right.nanmean(dim=1).tolist(),
            ", ".join(f"{field} {one:.2f} {two:.2f}" for field, (one, two) in zip(FIELDS, right.T.tolist())),
        )


def main() -> None:
    options = read_options()
    set_up_logging()
    options.device = str(resolve_device(options.device))
    place = dist_info()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    pictures = read_pictures(options.world)
    unseen = [picture for picture in pictures if picture.held_out][:1200]
    if options.part != "tower" and place.is_main and not (options.out / "tokenizer.model").is_file():
        seen = [picture for picture in pictures if not picture.held_out]
        train_tokenizer(words_of(options.world, seen), options.out)
    if place.world_size > 1:
        dist.barrier()
    recipe = Recipe(options, pictures)
    model, names = recipe.model, [recipe.codes, recipe.heads]
    text, tower, caption = options.steps
    if options.part != "tower":
        train("language model", [model.llm], text, 6e-3, recipe.text_batch, recipe.text_loss, options)
    if options.part != "text":
        modules = [model.vision_tower, model.projector, *names]
        train("vision tower", modules, tower, 6e-3, recipe.tower_batch, recipe.tower_loss, options)
        recipe.log_accuracy(unseen)
    if options.part == "all":
        modules = [model, *names]
        train("captioning", modules, caption, 4e-3, recipe.caption_batch, recipe.caption_loss, options)
        recipe.log_accuracy(unseen)
        if place.is_main:
            write_llava(options.out, model.cpu())
            log.info("written: %s", options.out)


if __name__ == "__main__":
    leave(exit_code_of(main))
