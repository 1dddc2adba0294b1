"""Compare a server with the native engine: equal captions, and captions per processor second.

    vllm serve EXPORT --port 8000 --dtype float32 & SERVER=$!
    python -m scripts.bench.serving --model-path CKPT --export EXPORT --image-root DIR \\
        --server http://127.0.0.1:8000 --server-pid $SERVER

Runs `caption.py` with each engine on `--images` images, and once more on a few, whose time is subtracted so that starting
Python does not count. A server's seconds are those of its processes. Start it again for each measurement: it caches images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ham.generation.plan import load_plan
from ham.generation.shards import read_rows, rows_file
from ham.runtime import UsageError, exit_code_of, set_up_logging

TOP = Path(__file__).resolve().parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main(words: list[str] | None = None) -> int:
    """Parse the options, run both engines and print a line of JSON."""
    set_up_logging()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-path", type=Path, required=True, help="checkpoint of the native engine")
    parser.add_argument("--export", type=Path, required=True, help="its export, which the server holds")
    parser.add_argument("--image-root", type=Path, required=True)
    parser.add_argument("--server", required=True, help="address")
    parser.add_argument("--server-pid", type=int, required=True, help="process whose tree is the server")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--few", type=int, default=10, help="images of the run that is subtracted")
    parser.add_argument("--styles", default="0,1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(options, Path(folder))))
    return 0


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of both engines."""
    native_words = ["--model-path", str(options.model_path), "--device", "cpu", "--dtype", "float32"]
    served_words = ["--engine", "server", "--server", options.server, "--model-path", str(options.export)]
    served_words += ["--concurrency", str(options.concurrency)]
    native, _ = run_job(options, folder / "native", options.images, native_words)
    client, server = run_job(options, folder / "served", options.images, served_words)
    native_few, _ = run_job(options, folder / "native-few", options.few, native_words)
    client_few, _ = run_job(options, folder / "served-few", options.few, served_words)
    expected, found = read_job(folder / "native"), read_job(folder / "served")
    captions = len(expected)
    counted = captions - len(read_job(folder / "native-few"))
    return {
        "captions": captions,
        "equal": sum(found.get(key) == text for key, text in expected.items()),
        "native_captions_per_cpu_s": round(counted / (native - native_few), 1),
        "server_captions_per_cpu_s": round(captions / server, 1),
        "client_cpu_ms_per_caption": round(1000 * (client - client_few) / counted, 2),
    }


def run_job(
    options: argparse.Namespace, out: Path, images: int, engine_words: list[str]
) -> tuple[float, float]:
    """Caption `images` images. Returns the processor seconds of the client's processes and of the server's."""
    words = ["--image-root", str(options.image_root), "--limit", str(images), "--styles", options.styles]
    words += ["--max-new-tokens", str(options.max_new_tokens), "--out", str(out), *engine_words]
    client, server = children_seconds(), tree_seconds(options.server_pid)
    done = subprocess.run([sys.executable, "caption.py", *words], cwd=TOP, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise UsageError(f"caption.py {' '.join(words)}: exit code {done.returncode}")
    return children_seconds() - client, tree_seconds(options.server_pid) - server


def read_job(out: Path) -> dict[tuple[str, int | None, int], str]:
    """Return the captions of a finished job by image, style and attempt."""
    plan = load_plan(out)
    rows = [row for shard in range(plan.num_shards) for row in read_rows(rows_file(out, shard))]
    return {(row.image, row.style_id, row.attempt): row.caption for row in rows}


def children_seconds() -> float:
    """Return the processor seconds of this process's ended children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_seconds(root: int) -> float:
    """Return the processor seconds of a process and its descendants, ended children included."""
    parents, seconds = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = sum(map(int, fields[11:15])) / TICKS_PER_S
    if root not in parents:
        raise UsageError(f"--server-pid {root}: no such process")
    tree = {root}
    while grown := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    return sum(seconds[pid] for pid in tree)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
