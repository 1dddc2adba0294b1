"""Compare the paper's stack with the current one on the same tiny checkpoint, and write the table into the README.

    python transformers-4.31.0/compare.py [--write]      after scripts/test_legacy.sh, in the environment with the current stack

Each stack computes the same things in a process of its own. Exit code 1 when a difference is larger than allowed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
PARITY = Path(os.environ.get("HAM_PARITY", TOP.parent / "shared" / "parity"))
START, END = "<!-- table: python transformers-4.31.0/compare.py --write -->", "<!-- end of table -->"
PACKAGES = ("transformers", "tokenizers", "accelerate", "torch", "numpy")
ROWS = (      # what, how it is compared, the largest difference allowed
    ("token ids and labels of six conversations", "equal", 0.0),
    ("spliced embeddings", "relative", 1e-5),
    ("logits", "absolute", 2e-4),
    ("loss", "relative", 1e-4),
    ("gradient of the style prompts", "relative", 1e-3),
    ("losses of six steps of style tuning, as logged (4 decimals)", "relative", 1e-4),
    ("style prompts after six steps", "relative", 1e-3),
    ("ids of greedy captions, this repository's engine", "equal", 0.0),
    ("ids of greedy captions, transformers' own forward and cache", "equal", 0.0),
)
QUESTION = "<image>\nDescribe the person in the picture."
ANSWERS = ("A man in a red coat walks.", "The woman wears white shoes.", "He carries a black bag and a blue umbrella.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy-python", type=Path, default=TOP / ".venv-4.31" / "bin" / "python",
                        help="the interpreter with the paper's stack (default %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="default: the recorded reference's if it is here, else one made here")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)      # one stack's part; the folder also holds the data
    options = parser.parse_args()
    if options.record:
        record(options.record, options.checkpoint)
        return 0
    if not options.legacy_python.exists():
        sys.exit(f"{options.legacy_python}: no such interpreter; scripts/test_legacy.sh makes it")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = options.checkpoint or PARITY / "llava_tiny"
        if not checkpoint.is_dir():
            checkpoint = make_checkpoint(work / "llava")
        write_data(work)
        old, new = (run(python, work / name, checkpoint) for name, python in
                    (("old", options.legacy_python), ("new", Path(sys.executable))))
    rows, is_good = differences(old, new)
    table = as_table(rows, old["stack"], new["stack"], f"checkpoint `{checkpoint.name}`")
    print(table)
    if options.write:
        write_table(HERE / "README.md", table)
    if not is_good:
        print("the two stacks differ by more than is allowed", file=sys.stderr)
    return 0 if is_good else 1


# ---------------------------------------------------------------------------------------------------------- the material


def make_checkpoint(folder: Path) -> Path:
    """Write the tests' tiny LLaVA with style prompts."""
    sys.path.insert(0, str(TOP / "tests"))
    from tiny_llava import CONFIG, original_tensors, write_folder

    return write_folder(folder, original_tensors(), CONFIG)


def write_data(folder: Path) -> None:
    """Write twelve pictures of noise and their conversations, in four styles."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    records = []
    for number in range(12):
        Image.fromarray(chance.integers(0, 255, (60 + number, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": QUESTION},
                 {"from": "gpt", "value": ANSWERS[number % 3] + " He runs." * (number % 4)}]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns, "style_id": number % 4,
                        "class_id": number % 4})
    (folder / "instructions.json").write_text(json.dumps(records))


def run(python: Path, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Let one stack compute its part."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(python), str(Path(__file__).resolve()), "--record", str(folder), "--checkpoint", str(checkpoint.resolve())]
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-4000:]}")
    return json.loads((folder / "result.json").read_text())


# ------------------------------------------------------------------------------------------------------- one stack's part


def record(folder: Path, checkpoint: Path) -> None:
    """Compute everything that ROWS names with the installed stack, and write result.json."""
    import torch

    from ham.captioner.checkpoint import load_captioner
    from ham.llava.conversation import get_template
    from ham.captioner.data import Collator, InstructionDataset, InstructionFile

    torch.set_num_threads(1)
    captioner = load_captioner(checkpoint)
    data = folder.parent
    dataset = InstructionDataset(InstructionFile(data / "instructions.json"), data, captioner.tokenizer,
                                 get_template(captioner.template), captioner.image_size_px)
    batch = Collator(captioner.tokenizer.pad_token_id)([dataset[number] for number in range(6)])
    model = captioner.model
    model.style_bank.requires_grad_(True)
    output = model(**batch, return_logits=True)
    output.loss.backward()
    with torch.no_grad():
        spliced = model.splice(**batch)
    numbers = {"spliced embeddings": spliced.embeddings[spliced.mask], "logits": output.logits.detach()[spliced.mask],
               "loss": output.loss.detach(), "gradient of the style prompts": model.style_bank.prompts.grad}
    equal = {"token ids and labels of six conversations": [batch["input_ids"].tolist(), batch["labels"].tolist()]}
    numbers.update(tune(folder / "tuned", data, checkpoint))
    equal.update(captions(captioner, data))
    (folder / "result.json").write_text(json.dumps({
        "stack": {name: importlib.metadata.version(name) for name in PACKAGES}, "equal": equal,
        "numbers": {name: torch.as_tensor(values).flatten().tolist() for name, values in numbers.items()},
    }))


def tune(folder: Path, data: Path, checkpoint: Path) -> dict[str, Any]:
    """Tune for six steps through the command line, as finetune_task.sh does."""
    from safetensors.torch import load_file

    from ham.captioner import train
    from ham.captioner.adapter import ADAPTER_STYLES, ADAPTER_WEIGHTS
    from ham.records import read_jsonl

    sys.argv = ["train", "--model_name_or_path", str(checkpoint), "--data_path", str(data / "instructions.json"),
                "--image_folder", str(data), "--output_dir", str(folder), "--use_cpu", "True", "--save_strategy", "no",
                "--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--learning_rate", "1e-3",
                "--logging_steps", "1", "--lr_scheduler_type", "cosine", "--warmup_ratio", "0.03",
                "--group_by_modality_length", "True", "--gradient_checkpointing", "True", "--report_to", "none"]
    train.main()
    # Trainer 4.31 rounds the losses that it logs to four places; the prompts are not rounded.
    losses = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    return {"losses of six steps of style tuning, as logged (4 decimals)": [round(loss, 4) for loss in losses],
            "style prompts after six steps": load_file(str(folder / ADAPTER_WEIGHTS))[ADAPTER_STYLES]}


def captions(captioner: Any, data: Path) -> dict[str, list[str]]:
    """Caption three pictures in three styles each: with the engine, and with the installed transformers alone."""
    import torch
    from PIL import Image

    from ham.captioner.engine import Decoder, DecodeSettings
    from ham.llava.preprocess import preprocess

    pixels = torch.stack([preprocess(Image.open(data / f"{number}.png"), captioner.image_size_px) for number in range(3)])
    styles = [[0, 1, 2], [3, 0, 1], [2, 3, 0]]
    decoder = Decoder(captioner, DecodeSettings(max_new_tokens=20))
    # Ids alone: the texts of invalid byte sequences, which random weights write, differ between tokenizers.
    engine = [f"{list(one.ids)}" for image in decoder.caption(pixels, styles) for one in image]
    plain = []
    model, llm = captioner.model, captioner.model.llm
    with torch.no_grad():
        for image, chosen in zip(pixels, styles):
            for style in chosen:
                x = torch.cat([model.embed(decoder.before), model.encode_images(image[None]),
                               model.styles(torch.tensor([style])), model.embed(decoder.after)], dim=1)
                ids, past = [], None
                while len(ids) < 20 and (not ids or ids[-1] not in decoder.stop_ids):
                    output = llm(inputs_embeds=x, past_key_values=past, use_cache=True)
                    past = output.past_key_values
                    ids.append(int(output.logits[0, -1].argmax()))
                    x = model.embed(torch.tensor([[ids[-1]]]))
                plain.append(f"{ids}")
    return {"ids of greedy captions, this repository's engine": engine, "ids of greedy captions, transformers' own forward and cache": plain}


# ------------------------------------------------------------------------------------------------------------- the table


def largest(old: list[float], new: list[float], kind: str) -> float:
    """Give the largest difference; relative: to the largest value. Not a number anywhere makes it infinite."""
    if len(old) != len(new):
        raise ValueError(f"{len(old)} numbers against {len(new)}")
    gaps = [abs(a - b) for a, b in zip(old, new)]
    if not all(map(math.isfinite, gaps)):
        return math.inf
    return max(gaps) / (max(map(abs, old)) if kind == "relative" else 1.0)


def differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[tuple[str, str, str]], bool]:
    """Compare two results. Returns (what, largest difference, allowed) for every row, and whether all are allowed."""
    rows, is_good = [], True
    for name, kind, allowed in ROWS:
        if kind == "equal":
            fits = old["equal"][name] == new["equal"][name]
            rows.append((name, "equal" if fits else "NOT equal", "equal"))
        else:
            found = largest(old["numbers"][name], new["numbers"][name], kind)
            fits = found <= allowed
            rows.append((name, f"{found:.1e}" + ("" if fits else " NOT allowed"), f"{allowed:.0e} {kind}"))
        is_good &= fits
    return rows, is_good


def as_table(rows: list[tuple[str, str, str]], old: dict[str, str], new: dict[str, str], checkpoint: str) -> str:
    stacks = [", ".join(f"{name} {stack[name]}" for name in stack) for stack in (old, new)]
    lines = [f"{stacks[0]}, against {stacks[1]}; {checkpoint}, float32 on a CPU.", "",
             "| | largest difference | allowed |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write_table(readme: Path, table: str) -> None:
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
