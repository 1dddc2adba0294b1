"""Make the world's LLaVA: the stand-in for the pretrained LLaVA-1.6 that cannot be shipped.

    python -m ham.world build --out runs/world --preset demo
    torchrun --nproc-per-node 2 -m scripts.world.make_llava --world runs/world --out ham/world/weights/llava

Real architecture and on-disk layout (Llama, CLIP vision tower, two-layer projector, sentencepiece), 1.2 M parameters. In three
steps, on persons and annotators that no benchmark uses:

1. the language model, without images, learns to put facts into words: in the plain manner, and, given a short textual hint of
   a manner in the instruction, in that manner. Without a hint it writes plain. This stands in for what a real LLM brings along:
   that it can write in any manner while it keeps to the facts;
2. the vision tower learns to name attributes;
3. both learn to caption images, plainly and by hints.

The weights in `ham/world/weights/llava` were made by this script; it is a fixture, never tuned on what it is judged by.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ham.captioner.backbone import load_tokenizer, tower_tokens
from ham.captioner.conversation import encode_conversation
from ham.captioner.data import Collator
from ham.records import atomic_write
from ham.runtime import exit_code_of, log, numpy_generator, rank_and_world, seed_everything, set_up_logging
from ham.world.annotators import annotator_population, hint_of, plain_description
from scripts.world.foundation import average_gradients, read_pictures, warm_cosine
from scripts.world.llava import (
    TOWER,
    AttributeHeads,
    Images,
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


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=3, default=(1200, 2400, 800), metavar=("TEXT", "TOWER", "CAPTION"))
    parser.add_argument("--work", type=Path,
                        help="folder for what each step ends with (default: OUT.steps); delete it to begin anew")
    parser.add_argument("--batch", type=int, default=64, help="images per step of the vision tower, over all processes")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    set_up_logging()
    place = rank_and_world()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    seen = [picture for picture in read_pictures(options.world) if not picture.held_out]
    if place.is_main:
        train_tokenizer(words_of(options.world, seen, options.seed), options.out)
    if place.world_size > 1:
        dist.barrier()
    tokenizer = load_tokenizer(options.out, 512)
    seed_everything(options.seed)
    model = build_llava()
    llm, tower, heads = model.llm, model.vision_tower, AttributeHeads(TOWER["hidden_size"])
    images, labels = Images(seen), labels_of(seen)
    share = max(1, options.batch // place.world_size)
    text_steps, tower_steps, caption_steps = options.steps
    work = options.work or options.out.with_name(options.out.name + ".steps")

    collate = Collator(tokenizer.pad_token_id)
    writers = annotator_population(options.seed, "foundation", 240)

    def put_into_words(rng: np.random.Generator) -> torch.Tensor:
        samples = []
        for number in range(share * 3 // 4):
            attributes = invent(rng)
            hint, text = "", plain_description(attributes).text
            if number % 3:
                writer = writers[rng.integers(len(writers))]
                hint, text = hint_of(writer.manner), writer.describe(attributes, rng).text
            ids, targets = encode_conversation(tokenizer, conversation(hint, text))
            samples.append(with_facts(tokenizer, ids, targets, facts_of(attributes, rng)))
        return language_loss(llm, collate(samples))

    train("language model", [llm], text_steps, 2e-3, put_into_words, options.seed, work)

    def name_attributes(rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.integers(len(seen), size=share)
        return attribute_loss(heads, tower_tokens(tower, images.batch(chosen, rng)), labels[chosen])

    train("vision tower", [tower, heads], tower_steps, 1.5e-3, name_attributes, options.seed, work)

    def caption(rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.integers(len(seen), size=max(1, share * 5 // 16))
        tokens = model.projector(tower_tokens(tower, images.batch(chosen, rng)))
        total = []
        for kind in ("plain", "hinted", "hinted"):
            samples = []
            for index in chosen:
                hint, text, _ = seen[index].hinted[rng.integers(len(seen[index].hinted))] if kind == "hinted" else (
                    "", seen[index].plain, {})
                ids, targets = encode_conversation(tokenizer, conversation(hint, text))
                samples.append({"input_ids": ids, "labels": targets, "pixels": torch.zeros(0), "class_id": 0})
            total.append(caption_loss(model, tokens, collate(samples)))
        return torch.stack(total).mean()

    train("captioning", [model, heads], caption_steps, 1.2e-3, caption, options.seed, work)
    if place.is_main:
        write_llava(options.out, model)
        log.info("written: %s", options.out)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
