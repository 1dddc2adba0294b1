"""A process that captions what it is asked to, with the code that PYTHONPATH names: for comparing two commits in one run.

Reads lines of JSON, {"styles": 2, "tokens": 64, "images": 16, "way": "engine" | "loop", "recheck": true}; answers each with a
line of JSON: captions, processor and wall seconds, rechecked captions, and a digest of the token ids.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
import time
from typing import Any

import torch

if importlib.util.find_spec("ham.captioner.engine"):
    from ham.captioner.engine import Decoder, DecodeSettings
    from scripts.bench.shapes import SHAPES, Shape, build, prompt
else:  # the layout before 2026-11-27
    from ham.captioner.decoder import Decoder, DecodeSettings

    from scripts.bench.captions import SHAPES, Shape, build, prompt


def loop(captioner: Any, shape: Shape, pixels: torch.Tensor, styles: list[list[int]]) -> list[list[int]]:
    """Caption one image in one style at a time with `generate` of transformers, the whole prompt each time."""
    model, (before, after) = captioner.model, prompt(shape)
    captions = []
    for image, own in zip(pixels, styles, strict=True):
        for style_id in own:
            parts = [
                model.embed(torch.tensor([before])),
                model.encode_images(image[None]),
                model.styles(torch.tensor([style_id])),
                model.embed(torch.tensor([after])),
            ]
            embeddings = torch.cat(parts, dim=1)
            ids = model.llm.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                max_new_tokens=shape.new_tokens,
                do_sample=False,
                use_cache=True,
            )
            captions.append(ids[0].tolist())
    return captions


class Worker:
    """A captioner with random weights, and decoders for it that are kept between requests."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.captioner = build(shape, torch.device("cpu"), torch.float32)
        self.decoders: dict[int, Any] = {}

    def decoder(self, tokens: int) -> Any:
        if tokens not in self.decoders:
            settings = DecodeSettings(max_new_tokens=tokens)
            self.decoders[tokens] = Decoder(self.captioner, settings, prompt(self.shape))
        return self.decoders[tokens]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        shape = dataclasses.replace(self.shape, new_tokens=request["tokens"])
        chance = torch.Generator().manual_seed(0)
        pixels = torch.rand(request["images"], 3, shape.image_px, shape.image_px, generator=chance)
        styles = [[(image + one) % 16 for one in range(request["styles"])] for image in range(len(pixels))]
        decoder = self.decoder(request["tokens"])
        decoder.seconds.clear()
        checks, rechecked = decoder.checks, decoder.rechecked
        decoder.checks = checks and request["recheck"]
        start, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            if request["way"] == "loop":
                ids = loop(self.captioner, shape, pixels, styles)
            else:
                ids = [one.ids for own in decoder.caption(pixels, styles) for one in own]
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
        decoder.checks = checks
        return {
            "captions": len(ids),
            "cpu_s": cpu,
            "wall_s": wall,
            "rechecked": decoder.rechecked - rechecked,
            "seconds": dict(decoder.seconds),
            "digest": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12],
        }


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)
    worker = Worker(SHAPES[sys.argv[1]])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
