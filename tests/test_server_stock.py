"""Captions through a real server around stock transformers equal the native engine's, also when both sides are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ham.captioner.checkpoint import add_styles, load_captioner, save_adapter
from ham.llava.transformers_compat import IS_LEGACY
from ham.records import read_json
from ham.runtime import UsageError
from ham.world.build import build_world
from scripts.bench import pad_heads, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(IS_LEGACY, reason="the export needs transformers 5")]
TOP = Path(__file__).resolve().parent.parent
SHIPPED = TOP / "ham" / "world" / "weights" / "llava"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    captioner = load_captioner(SHIPPED)
    add_styles(captioner, 4, 10, "vocab", seed=3)
    folder = tmp_path_factory.mktemp("world") / "adapter"
    save_adapter(folder, captioner, prompt="Describe the person in the image.")
    return folder


@pytest.fixture(scope="module")
def export(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "export"
    command = [sys.executable, "-m", "ham.captioner.checkpoint", "merge", "--layout", "llava-hf"]
    subprocess.run([*command, "--model-path", str(adapter), "--out", str(out)], check=True, cwd=TOP)
    return out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    build_world(folder / "nano", "nano", 0, 1)
    return folder / "nano" / "SYNTH-PEDES"


class StockServer:
    """The server's process and its address."""

    def __init__(self, export: Path) -> None:
        self.export = export
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "tests/stock_server.py", str(self.export), str(self.port)]
        self.process = subprocess.Popen(command, cwd=TOP, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(export: Path) -> Iterator[StockServer]:
    server = StockServer(export)
    yield server
    server.kill()


def command_of(out: Path, root: Path, model: Path, *more: str) -> list[str]:
    words = [
        sys.executable,
        "caption.py",
        "--model-path",
        str(model),
        "--image-root",
        str(root),
        "--out",
        str(out),
    ]
    words += ["--limit", "10", "--shard-size", "4", "--max-new-tokens", "40", "--workers", "0", *more]
    return words


def shards(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("[0-9]*.jsonl")}


def test_captions_equal_the_native_engines_through_kills_of_both_sides(
    adapter: Path, export: Path, root: Path, server: StockServer, tmp_path: Path
) -> None:
    native = tmp_path / "native"
    subprocess.run(command_of(native, root, adapter, "--device", "cpu"), check=True, cwd=TOP)
    expected = shards(native)
    assert len(expected) == 3 and any(b"accepted" in rows for rows in expected.values())

    out = tmp_path / "served"
    words = ["--engine", "server", "--server", f"http://127.0.0.1:{server.port}", "--concurrency", "4"]
    words += ["--server-patience-s", "300"]
    client = subprocess.Popen(command_of(out, root, export, *words), cwd=TOP)
    wait_for_rows(out, client)
    server.kill()
    server.start()
    time.sleep(1)
    client.kill()
    assert client.wait() == -signal.SIGKILL
    subprocess.run(command_of(out, root, export, *words), check=True, cwd=TOP)
    assert shards(out) == expected
    assert (out / "captions.json").read_bytes() == (native / "captions.json").read_bytes()
    assert read_json(out / "plan.json")["info"]["servers"][0]["model"] == str(export)


def wait_for_rows(out: Path, client: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not any(file.stat().st_size for file in out.glob("*.partial")) and time.monotonic() < deadline:
        assert client.poll() is None, "the job ended before anything could be killed"
        time.sleep(0.05)


def test_the_export_of_another_captioner_is_refused(
    export: Path, root: Path, server: StockServer, tmp_path: Path
) -> None:
    other = tmp_path / "export"
    captioner = load_captioner(SHIPPED)
    add_styles(captioner, 6, 10, "vocab", seed=4)
    save_adapter(tmp_path / "adapter", captioner, prompt="Describe the person in the image.")
    command = [sys.executable, "-m", "ham.captioner.checkpoint", "merge", "--layout", "llava-hf"]
    subprocess.run(
        [*command, "--model-path", str(tmp_path / "adapter"), "--out", str(other)], check=True, cwd=TOP
    )
    words = [
        "--engine",
        "server",
        "--server",
        f"http://127.0.0.1:{server.port}",
        "--server-patience-s",
        "120",
    ]
    done = subprocess.run(
        command_of(tmp_path / "out", root, other, *words), cwd=TOP, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "has no style 5, export has 6 styles" in done.stderr.splitlines()[-1]


def test_the_bench_of_servers_counts_equal_captions(
    adapter: Path, export: Path, root: Path, server: StockServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model-path", str(adapter), "--export", str(export), "--image-root", str(root)]
    words += ["--server", f"http://127.0.0.1:{server.port}", "--server-pid", str(server.process.pid)]
    words += ["--images", "3", "--few", "1", "--styles", "0,3", "--max-new-tokens", "40"]
    assert serving.main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["captions"] == figures["equal"] == 6
    assert figures["server_captions_per_cpu_s"] > 0


@torch.inference_mode()
def test_wider_heads_compute_the_same(export: Path, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration  # not in 4.31

    pad_heads.pad_export(export, tmp_path / "wide", 32)
    config = read_json(tmp_path / "wide" / "config.json")
    assert config["text_config"]["head_dim"] == 32 and config["ham"]["num_styles"] == 4
    ids = torch.tensor([[1, *[config["image_token_index"]] * 81, *range(1301, 1311), *range(5, 30)]])
    pixels = torch.rand(1, 3, 126, 126, generator=torch.Generator().manual_seed(0))
    logits = [
        LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        .eval()(input_ids=ids, pixel_values=pixels)
        .logits
        for folder in (export, tmp_path / "wide")
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="--head-dim 24"):
        pad_heads.pad_export(export, tmp_path / "same", 24)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
