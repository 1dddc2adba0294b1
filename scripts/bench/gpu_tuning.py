"""Measure style tuning's forward, backward and optimizer step on a GPU, random weights, nothing on disk: part of gpu.sh.

Records of one image stand together in a batch, as the sampler groups them: with the image's prefix computed once, and with
one sequence per record.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import torch

from ham.captioner.estimate import Settings, estimate
from ham.captioner.style_bank import StyleBank
from ham.llava.conversation import IGNORE_INDEX
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX
from ham.llava.transformers_compat import set_checkpointing
from scripts.bench.shapes import SHAPES, Shape, build, prompt

STYLES = 2000


def trainable(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a captioner whose style prompts and projector train in float32."""
    model = build(shape, device, dtype).model
    model.style_bank = StyleBank(STYLES, shape.style_tokens, shape.width, device=device)
    model.projector.float()
    model.requires_grad_(False)
    for module in (model.style_bank, model.projector):
        for name, parameter in module.named_parameters():
            owner = module.get_submodule(name.rpartition(".")[0])
            value = torch.nn.Parameter(parameter.detach().float())
            setattr(owner, name.rpartition(".")[2], value)
    torch.nn.init.normal_(model.style_bank.prompts)
    set_checkpointing(model.llm)
    return model.train()


def make_batch(
    shape: Shape, records: int, each: int, words: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Make a batch of `records` with `each` records an image: the inputs of the model's forward, one image per record."""
    before, after = prompt(shape)
    chance = torch.Generator().manual_seed(0)
    captions = torch.randint(
        min(100, shape.vocabulary // 2), shape.vocabulary, (records, words), generator=chance
    )
    start = torch.tensor([*before, IMAGE_TOKEN_INDEX, *after])
    input_ids = torch.cat([start.expand(records, -1), captions], dim=1)
    labels = input_ids.clone()
    labels[:, : len(start)] = IGNORE_INDEX
    image_of = torch.arange(records) // each
    images = torch.rand(int(image_of[-1]) + 1, 3, shape.image_px, shape.image_px, generator=chance)
    batch = {
        "input_ids": input_ids,
        "labels": labels,
        "attention_mask": torch.ones_like(input_ids, dtype=torch.bool),
        "images": images,
        "image_index": image_of,
        "style_ids": torch.randint(STYLES, (records,), generator=chance),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def separate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch as one sequence per record, each with its own copy of its image."""
    rest = {name: tensor for name, tensor in batch.items() if name != "image_index"}
    return {**rest, "images": batch["images"][batch["image_index"]]}


def measure(model: Any, batch: dict[str, torch.Tensor], steps: int) -> dict[str, Any]:
    """Time optimizer steps on a batch, on a CPU in processor seconds; the first step is not timed."""
    device = batch["input_ids"].device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    clock = time.perf_counter if device.type == "cuda" else time.process_time  # a CPU may be shared
    loss = step()
    start = clock()
    for _ in range(steps):
        step()
    spent = (clock() - start) / steps
    records = len(batch["input_ids"])
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"step_s": spent, "records_per_s": records / spent, "first_loss": loss, "peak_gib": peak}


def estimated_gib(shape: Shape, records: int, words: int) -> float:
    """Return what `--estimate` says for the separate computation."""
    width, inner, layers, _ = shape.tower
    llm = {
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "patch_size": shape.patch_px,
        "image_size": shape.image_px,
    }
    text = shape.before + shape.after + words
    settings = Settings(STYLES, shape.style_tokens, records, text, 1, 0)
    return estimate(llm, vision, settings)["gpu_total_gib"]


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--out", type=Path, required=True, help="file that a line of JSON per row is added to"
    )
    parser.add_argument("--seconds", type=float, default=100.0, help="start no case after this")
    parser.add_argument("--words", type=int, default=60, help="tokens of a caption (default: %(default)s)")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    device = torch.device(args.device)
    is_gpu = device.type == "cuda"
    shape = SHAPES[args.shape]
    model = trainable(shape, device, torch.bfloat16 if is_gpu else torch.float32)
    records, steps = (24, 3) if is_gpu else (6, 1)
    for each in (6, 3, 1):
        if time.monotonic() > end - (20 if is_gpu else 0):
            return
        batch = make_batch(shape, records, each, args.words, device)
        ways = {"shared": batch, "separate": separate(batch)}
        for name in ways if each > 1 else ["separate"]:
            row = {
                "case": "tuning",
                "records": records,
                "records_an_image": each,
                "prefix": name,
                **measure(model, ways[name], steps),
                "estimated_gib": estimated_gib(shape, records, args.words) if name == "separate" else None,
            }
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
