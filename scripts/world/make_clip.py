"""Train the world's CLIP, the stand-in for OpenAI's ViT-B/16, weak on purpose.

    python -m ham.world build --out runs/world --preset full
    python -m scripts.world.make_clip --world runs/world --out ham/world/weights/clip

Real architecture, 1.3 M parameters, trained with InfoNCE on short texts of one to three attributes ("woman in red coat") about
persons that no benchmark holds: like the real CLIP it has seen people and words, but not this task. Some batches have
several such texts in a row, so that late positions are trained too. --steps sets how weak it is: its direct
transfer should have a Rank-1 of 10 to 20, as the real one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.nn import functional as F

from ham.clip import CLIPConfig, build_clip, save_clip, tokenize
from ham.distributed import leave
from ham.records import read_jsonl
from ham.runtime import dist_info, exit_code_of, log, numpy_generator, set_up_logging
from ham.world.annotators import short_description
from scripts.world.foundation import Picture, average_gradients, load_pixels, read_pictures, warm_cosine

IMAGE_SIZE_PX = (96, 32)
SHORT_TEXT_TOKENS, JOINED_TEXT_TOKENS = 24, 64
FEWEST = 10  # a token that is rarer than this shares the row of unknown ones
JOINED, EVERY = 4, 5  # short texts in a row, in one batch of this many
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True, help="a world made by python -m ham.world build")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400, help="more steps make a stronger start")
    parser.add_argument(
        "--batch", type=int, default=96, help="pairs per process and step; each process contrasts its own"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    options = parser.parse_args()
    set_up_logging()
    place = dist_info()
    if place.world_size > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)

    clip = weak_clip(options.world, options.seed)
    seen = [picture for picture in read_pictures(options.world) if not picture.held_out]
    pixels = load_pixels(seen, lambda image: image.resize(IMAGE_SIZE_PX[::-1], Image.Resampling.BILINEAR))
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    start = time.monotonic()
    for step in range(options.steps):
        rng = numpy_generator(options.seed, "weak CLIP", step, place.rank)
        chosen = rng.choice(len(seen), size=min(options.batch, len(seen)), replace=False)
        images = (torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 255 - mean) / std
        ids = (
            tokenize(short_texts(seen, chosen, rng, JOINED), JOINED_TEXT_TOKENS)
            if step % EVERY == 0
            else tokenize(short_texts(seen, chosen, rng), SHORT_TEXT_TOKENS)
        )
        loss = info_nce(clip, images, ids)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * warm_cosine(step, options.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(clip.parameters())
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=np.log(100))
        if step % 50 == 0 or step == options.steps - 1:
            log.info(
                "weak CLIP: step %d/%d, loss %.3f, %.0f s",
                step + 1,
                options.steps,
                loss.item(),
                time.monotonic() - start,
            )
    if place.is_main:
        file = save_clip(clip.half(), options.out)
        log.info("written: %s, %.2f MB", file, file.stat().st_size / 1e6)


def weak_clip(world: Path, seed: int) -> torch.nn.Module:
    """Return a small CLIP with fresh weights."""
    config = CLIPConfig(
        image_size_px=IMAGE_SIZE_PX,
        patch_px=8,
        stride_px=8,
        embed_dim=128,
        vision_width=96,
        vision_layers=4,
        vision_heads=4,
        text_width=96,
        text_layers=4,
        text_heads=4,
        token_ids=words_of(world),
    )
    return build_clip(config, seed)


def words_of(world: Path) -> tuple[int, ...]:
    """Return the token ids that the foundation's annotators write at least FEWEST times; the model keeps rows for these."""
    folder = world / "foundation"
    texts = [
        row["caption"]
        for name in ("texts", "captions", "short")
        for row in read_jsonl(folder / f"{name}.jsonl")
    ]
    ids, counts = tokenize(texts).unique(return_counts=True)
    return tuple(ids[counts >= FEWEST].tolist())


def short_texts(
    seen: list[Picture], chosen: np.ndarray, rng: np.random.Generator, joined: int = 1
) -> list[str]:
    """Write `joined` alt texts in a row about each chosen image."""
    return [
        ", ".join(short_description(seen[index].attributes, rng).text for _ in range(joined))
        for index in chosen
    ]


def info_nce(clip: torch.nn.Module, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return CLIP's loss: each image against all texts of the batch, and the reverse."""
    image_feats, text_feats = (
        F.normalize(feats, dim=-1) for feats in (clip.encode_image(images), clip.encode_text(ids))
    )
    logits = clip.logit_scale.exp() * image_feats @ text_feats.T  # [B, B]
    targets = torch.arange(len(logits))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


if __name__ == "__main__":
    leave(exit_code_of(main))
