"""Measure captioning: this engine against the one-image-at-a-time loop, same weights and dtype, in one run.

    python -m scripts.bench.captions tiny            the world's LLaVA's shape            a minute on 2 CPU cores
    python -m scripts.bench.captions small           512 wide, 576 image tokens         a few minutes on 2 CPU cores
    python -m scripts.bench.captions 7b              LLaVA-1.6-7B's shape, bf16           GPU only

Random weights: the work is the real one, the captions are noise of the longest length. The loop compared with prefills the
whole prompt for each caption and calls `generate` of the installed transformers, batch 1, as the paper's released code does.
`python -m scripts.bench.caption_job` measures the job around the model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

from ham.captioner.engine import Decoder, DecodeSettings
from ham.captioner.model import Captioner, CaptionerModel
from ham.captioner.style_bank import StyleBank
from ham.generation.native_engine import CaptionerEngine
from ham.generation.plan import list_images, settle_plan
from ham.generation.run import Run
from ham.llava.model import make_projector
from ham.llava.preprocess import open_image, preprocess
from ham.llava.transformers_compat import build_llm, build_vision_tower, llm_config
from ham.runtime import UsageError, exit_code_of, resolve_device, resolve_dtype, seed_everything

YARDSTICK = 28.0  # images/s on one GPU: a million images with two captions each in ten hours


@dataclass(frozen=True)
class Shape:
    """Sizes of a captioner and of the work. tower: width, inner width, layers run, heads."""

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    image_px: int
    patch_px: int
    tower: tuple[int, int, int, int]
    before: int = 35
    style_tokens: int = 10
    after: int = 56
    new_tokens: int = 64
    images: int = 32
    baseline_images: int = 4
    styles_per_image: int = 2

    @property
    def image_tokens(self) -> int:
        return (self.image_px // self.patch_px) ** 2


SHAPES = {
    "tiny": Shape(
        96, 256, 4, 4, 1300, 112, 16, (96, 384, 4, 4), after=14, new_tokens=32, images=192, baseline_images=24
    ),
    "small": Shape(512, 1376, 8, 8, 32000, 336, 14, (256, 1024, 4, 4), images=24, baseline_images=3),
    "7b": Shape(4096, 11008, 32, 32, 32000, 336, 14, (1024, 4096, 23, 16), images=512, baseline_images=8),
}


class NoWords:
    """A tokenizer whose every token is one word, so that all captions pass the filter."""

    eos_token_id = 2

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(f"w{token}" for token in ids)


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> Captioner:
    """Build a captioner with random weights."""
    seed_everything(0)
    config = llm_config(
        {
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
    )
    width, inner, layers, heads = shape.tower
    tower = build_vision_tower(
        {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "image_size": shape.image_px,
            "patch_size": shape.patch_px,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "num_channels": 3,
        },
        layers,
    )
    bank = StyleBank(16, shape.style_tokens, shape.width)
    model = CaptionerModel(build_llm(config), tower, make_projector(width, shape.width), bank)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    value = torch.empty(parameter.shape, dtype=dtype, device=device)
                    fill = (
                        value.normal_(0, 0.02)
                        if parameter.ndim > 1 or name == "class_embedding"
                        else value.fill_(float(name == "weight"))
                    )
                    module._parameters[name] = torch.nn.Parameter(fill, requires_grad=False)
        for name, buffer in model.named_buffers():
            owner = model.get_submodule(name.rpartition(".")[0])
            owner._buffers[name.rpartition(".")[2]] = buffer.to(device)
        model.llm.lm_head.weight[2] = 0  # </s> never wins: all captions have full length
        bank.prompts.normal_()
    return Captioner(model.eval(), NoWords(), shape.image_px, shape.image_tokens)


def prompt(shape: Shape) -> tuple[list[int], list[int]]:
    return [1, *range(10, 9 + shape.before)], [*range(60, 60 + shape.after)]


def baseline(
    captioner: Captioner, shape: Shape, files: list[Path], styles: list[list[int]]
) -> list[list[list[int]]]:
    """Caption one image in one style at a time, the whole prompt each time."""
    model, device, (before, after) = captioner.model, captioner.device, prompt(shape)
    captions = []
    for file, own in zip(files, styles, strict=True):
        captions.append([])
        for style_id in own:
            pixels = preprocess(open_image(file), shape.image_px)[None].to(device)
            with torch.inference_mode():
                embeddings = torch.cat(
                    [
                        model.embed(torch.tensor([before], device=device)),
                        model.encode_images(pixels),
                        model.styles(torch.tensor([style_id], device=device)),
                        model.embed(torch.tensor([after], device=device)),
                    ],
                    dim=1,
                )
                mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=device)
                ids = model.llm.generate(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    max_new_tokens=shape.new_tokens,
                    do_sample=False,
                    num_beams=1,
                    use_cache=True,
                )
            captions[-1].append(ids[0].tolist())
    return captions


class BenchEngine(CaptionerEngine):
    """The run's engine with the bench's prompt."""

    def __init__(self, captioner: Captioner, shape: Shape, batch: int | None) -> None:
        settings = DecodeSettings(max_new_tokens=shape.new_tokens)
        super().__init__(
            captioner, settings, batch, shape.styles_per_image, Decoder(captioner, settings, prompt(shape))
        )
        self.decoder.synchronize = captioner.device.type == "cuda"


def best(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Give the shortest of several runs in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def machine(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure what this machine reaches: FLOP/s of a large matmul, bytes/s of a large copy (read and written)."""
    size, large = (8192, 2**29) if device.type == "cuda" else (1536, 2**26)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(large, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size**3 / best(lambda: a @ b, device), 2 * large / best(lambda: target.copy_(source), device)


def report(
    shape: Shape, engine: CaptionerEngine, run: Run, wall_s: float, device: torch.device, dtype: torch.dtype
) -> None:
    """Print the share of each phase and how near prefill and decode come to the machine."""
    decoder, seconds = engine.decoder, engine.decoder.seconds
    phases = {
        "decode images": run.seconds["load"],
        "vision": seconds["vision"],
        "prefill": seconds["prefill"],
        "decode": seconds["decode"],
        "recheck": seconds["recheck"],
        "write": run.seconds["write"],
    }
    phases["other"] = wall_s - sum(phases.values())
    print(
        "share of time: "
        + ", ".join(f"{name} {100 * spent / wall_s:.1f} %" for name, spent in phases.items())
    )
    weights = sum(
        parameter.numel()
        for name, parameter in decoder.model.llm.named_parameters()
        if "embed_tokens" not in name
    )
    flops, copied = machine(device, dtype)
    prefill = 2 * weights * decoder.tokens["prefill"] / seconds["prefill"]
    moved = (
        decoder.tokens["decode steps"] * weights * dtype.itemsize
        + decoder.tokens["decode positions"] * decoder.llama.bytes_per_position()
    ) / seconds["decode"]
    print(
        f"prefill {prefill / 1e9:.0f} GFLOP/s, {100 * prefill / flops:.0f} % of a large matmul's {flops / 1e9:.0f}; "
        f"decode {moved / 1e9:.1f} GB/s, {100 * moved / copied:.0f} % of a large copy's {copied / 1e9:.1f}"
    )


def measure(shape: Shape, device: torch.device, dtype: torch.dtype, batch: int | None, folder: Path) -> None:
    """Run both on the same images and print the comparison."""
    captioner = build(shape, device, dtype)
    chance = np.random.default_rng(0)
    for number in range(shape.images):
        noise = chance.integers(0, 255, (192, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((128, 384)).save(folder / f"{number:04d}.jpg", quality=90)
    pool = [*range(16)]
    settings = {
        "styles": "random",
        "style_pool": pool,
        "captions_per_image": shape.styles_per_image,
        "max_redraws": 0,
        "seed": 0,
        "reject_slash_n": False,
    }
    plan = settle_plan(folder / "out", lambda: list_images(folder), settings, {})
    styles = [plan.styles.sequence(image) for image in plan.images]

    warm_up = [folder / plan.images[0]]
    baseline(captioner, shape, warm_up, styles[:1])
    BenchEngine(captioner, shape, batch).decoder.caption(
        torch.zeros(1, 3, shape.image_px, shape.image_px), [[0, 1]]
    )

    engine = BenchEngine(captioner, shape, batch)
    run = Run(plan, engine, folder, workers=0 if device.type == "cpu" else 8)
    start, cpu = time.perf_counter(), time.process_time()
    run.work()
    ours_s, ours_cpu = time.perf_counter() - start, time.process_time() - cpu
    few = [folder / plan.images[index] for index in range(shape.baseline_images)]
    start, cpu = time.perf_counter(), time.process_time()
    expected = baseline(captioner, shape, few, styles[: len(few)])
    loop_s, loop_cpu = time.perf_counter() - start, time.process_time() - cpu

    captions = shape.images * shape.styles_per_image
    ours, loop = captions / ours_s, shape.baseline_images * shape.styles_per_image / loop_s
    print(
        f"this engine {ours:.2f} captions/s ({captions} captions, {engine.batch_images} images at a time, "
        f"{engine.decoder.rechecked} checked again in float64)"
    )
    print(
        f"one at a time {loop:.2f} captions/s: the engine is {ours / loop:.1f} times as fast "
        f"({(captions / ours_cpu) / (shape.baseline_images * shape.styles_per_image / loop_cpu):.1f} by processor time)"
    )
    pixels = torch.stack([preprocess(open_image(file), shape.image_px) for file in few])
    found = [[one.ids for one in own] for own in engine.decoder.caption(pixels, styles[: len(few)])]
    same = sum(
        a == b
        for mine, theirs in zip(found, expected, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    print(f"{same} of {len(few) * shape.styles_per_image} captions are the same, token for token")
    report(shape, engine, run, ours_s, device, dtype)
    images_per_s = shape.images / ours_s
    print(
        f"{images_per_s:.2f} images/s"
        + (
            f", {images_per_s / YARDSTICK:.2f} of the yardstick of {YARDSTICK:.0f} "
            f"(a million images in ten hours)"
            if device.type == "cuda"
            else ""
        )
    )


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, help="images at a time (default: found from the memory)")
    args = parser.parse_args()
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    if args.shape == "7b" and device.type != "cuda":
        raise UsageError("the 7b shape needs a GPU with 40 GB; use tiny or small here")
    print(
        f"{args.shape}: torch {torch.__version__}, transformers {transformers.__version__}, {dtype}, {device}, "
        f"{torch.get_num_threads()} threads"
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(SHAPES[args.shape], device, dtype, args.batch_size, Path(folder))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
