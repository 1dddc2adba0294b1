"""Measure style tuning as `scripts/v1_5/finetune_task.sh` runs it: tokens per second, and memory beside what was estimated.

    python -m scripts.bench.tuning tiny              the world's LLaVA's shape           a minute on 2 CPU cores
    python -m scripts.bench.tuning 7b                LLaVA-1.6-7B's shape, bf16          GPU with 40 GB; 14 GB of disk

Random weights on disk in the original layout, so that loading is measured too; noise for images, words for captions. One
process without DeepSpeed unless the environment says otherwise (DEEPSPEED, NPROC: see finetune_task.sh).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub import save_torch_state_dict
from PIL import Image

from ham.captioner.model import Captioner
from ham.llava.conversation import encode_conversation
from ham.llava.transformers_compat import load_tokenizer
from ham.records import DEFAULT_PROMPT, read_jsonl, write_json
from ham.runtime import UsageError, WorkError, exit_code_of, resolve_device
from scripts.bench.shapes import SHAPES, Shape, build

TOP = Path(__file__).resolve().parents[2]
TOKENIZER = TOP / "ham" / "world" / "weights" / "llava"
STYLES = 2000
UNTIMED = 3  # first steps: the allocator and the kernels settle


def write_checkpoint(shape: Shape, captioner: Captioner, folder: Path) -> None:
    """Write random weights as a LLaVA of the original layout with a CLIP tower beside it."""
    tower = shape.tower_settings()
    tower_layers = tower["num_hidden_layers"] + 1  # LLaVA reads the last layer but one
    (folder / "tower").mkdir(parents=True)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    write_json(
        folder / "tower" / "config.json",
        {**tower, "model_type": "clip_vision_model", "num_hidden_layers": tower_layers},
    )
    write_json(
        folder / "config.json",
        {
            **shape.llm_settings(),
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "mm_vision_tower": "tower",
            "mm_hidden_size": tower["hidden_size"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "image_aspect_ratio": "pad",
            "tokenizer_model_max_length": 2048,
        },
    )
    state = captioner.model.state_dict()
    tower_tensors = {
        f"vision_model.{name.removeprefix('vision_tower.')}": tensor
        for name, tensor in state.items()
        if name.startswith("vision_tower.")
    }
    rest = {name.removeprefix("llm."): tensor for name, tensor in state.items() if name.startswith("llm.")}
    rest |= {f"model.mm_{name}": tensor for name, tensor in state.items() if name.startswith("projector.")}
    save_torch_state_dict(tower_tensors, folder / "tower")
    save_torch_state_dict(rest, folder)


def write_records(folder: Path, count: int, words: int, each: int) -> int:
    """Write instructions, `each` per random image. Returns the text tokens of a record."""
    chance = np.random.default_rng(0)
    vocabulary = [
        "a",
        "man",
        "woman",
        "wears",
        "red",
        "blue",
        "coat",
        "with",
        "black",
        "shoes",
        "and",
        "carries",
        "bag",
    ]
    records = []
    for number in range(count):
        image = f"{number // each}.jpg"
        if number % each == 0:
            noise = chance.integers(0, 255, (96, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((128, 384)).save(folder / image, quality=90)
        records.append(
            {
                "id": str(number),
                "image": image,
                "class_id": number % STYLES,
                "style_id": number % STYLES,
                "conversations": [
                    {"from": "human", "value": f"<image>\n{DEFAULT_PROMPT}"},
                    {"from": "gpt", "value": " ".join(chance.choice(vocabulary, words)) + "."},
                ],
            }
        )
    write_json(folder / "instructions.json", records)
    return len(encode_conversation(load_tokenizer(TOKENIZER), records[0]["conversations"]).input_ids)


def tune(folder: Path, steps: int, batch: int, share: bool) -> str:
    """Run the script. Returns what it printed."""
    options = {
        "style_count": STYLES,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "share_prefix": share,
    }
    where = {
        "MODEL": folder / "model",
        "DATA": folder / "instructions.json",
        "IMAGES": folder,
        "OUT": folder / "out",
    }
    done = subprocess.run(
        ["bash", "scripts/v1_5/finetune_task.sh", *(f"--{name}={value}" for name, value in options.items())],
        cwd=TOP,
        env={"DEEPSPEED": "none", **os.environ, **{name: str(path) for name, path in where.items()}},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise WorkError(f"finetune_task.sh ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def estimate(folder: Path, batch: int, device: torch.device) -> str:
    """Return what the trainer's own --estimate says of the same run."""
    options = {
        "model_name_or_path": folder / "model",
        "data_path": folder / "instructions.json",
        "image_folder": folder,
        "output_dir": folder / "estimate",
        "style_count": STYLES,
        "per_device_train_batch_size": batch,
        "estimate": True,
        **({"bf16": True, "gradient_checkpointing": True} if device.type == "cuda" else {"use_cpu": True}),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ham.captioner.train",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        cwd=TOP,
        text=True,
        capture_output=True,
        check=False,
    )
    return done.stdout or done.stderr


def measure(shape: Shape, device: torch.device, args: argparse.Namespace, folder: Path) -> None:
    """Write checkpoint and records, tune, and print the figures."""
    steps, batch = args.steps, args.batch_size
    start = time.monotonic()
    captioner = build(shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    count = sum(parameter.numel() for parameter in captioner.model.parameters())
    write_checkpoint(shape, captioner, folder / "model")
    del captioner
    if device.type == "cuda":
        torch.cuda.empty_cache()
    text_tokens = write_records(folder, steps * batch, args.words, args.records_per_image)
    print(
        f"{count / 1e9:.2f} G parameters and {steps * batch} records written in {time.monotonic() - start:.0f} s"
    )
    start = time.monotonic()
    printed = tune(folder, steps, batch, not args.separate)
    whole_s = time.monotonic() - start
    # the largest process; in KiB on Linux
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rows = [row for row in read_jsonl(folder / "out" / "metrics.jsonl") if "loss" in row]
    step_s = (rows[-1]["time_s"] - rows[UNTIMED - 1]["time_s"]) / (len(rows) - UNTIMED)
    tokens = batch * (shape.image_tokens + shape.style_tokens + text_tokens - 1)
    print(
        f"{step_s:.2f} s a step of {batch} records, {tokens} tokens: {tokens / step_s:.0f} tokens/s, "
        f"{batch / step_s:.1f} records/s; starting and {len(rows)} steps {whole_s:.0f} s; "
        f"loss {rows[0]['loss']:.2f} -> {rows[-1]['loss']:.2f}; {peak_gib:.2f} GiB of main memory"
    )
    for line in printed.splitlines():
        if re.search("trains:|peak memory|vision tower:", line):
            print(line)
    print(estimate(folder, batch, device))


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--batch-size", type=int, default=20, help="records per step (the paper's 20)")
    parser.add_argument("--words", type=int, default=60, help="words of a caption")
    parser.add_argument(
        "--records-per-image", type=int, default=6, help="default: %(default)s, as in UPS' data"
    )
    parser.add_argument(
        "--separate", action="store_true", help="compute each record's prefix, --share_prefix False"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work; emptied afterwards (default: the system's)"
    )
    args = parser.parse_args()
    if args.steps <= UNTIMED:
        raise UsageError(f"--steps {args.steps}: expected more than the {UNTIMED} that are not timed")
    device = resolve_device("auto")
    if args.shape == "7b" and device.type != "cuda":
        raise UsageError("the 7b shape needs a GPU with 40 GB; use tiny or small here")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"{args.shape}: torch {torch.__version__}, transformers {transformers.__version__}, {device}, {name}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measure(SHAPES[args.shape], device, args, Path(folder))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
