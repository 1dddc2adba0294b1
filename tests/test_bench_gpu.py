"""The GPU script: it runs on a CPU, with only the packages that a GPU machine has, and keeps what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ham.runtime import UsageError
from scripts.bench import gpu, reid

TOP = Path(__file__).resolve().parent.parent
ABSENT = "open_clip deepspeed jsonargparse textblob sklearn webdataset gradio faiss wandb sacrebleu"
HIDE = f"""
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT.split()!r} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""


def test_the_parts_run_without_the_packages_that_a_gpu_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    options = [
        "--device",
        "cpu",
        "--shape",
        "micro",
        "--quick",
        "--minutes",
        "5",
        "--out",
        str(tmp_path / "out"),
    ]
    gpu.main([*options, "--only", "captions agreement,captions,tuning"])
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert [part["part"] for part in parts] == [
        "captions",
        "tuning",
        "captions agreement",
    ]
    assert all(part["status"] == "done" for part in parts), parts
    rows = {part["part"]: part["rows"] for part in parts}
    assert {row["case"] for row in rows["captions"]} == {"machine", "captions", "phases"}
    assert all(row["captions_equal"] == 1 for row in rows["captions agreement"][:3])
    prefixes = [(row["records_an_image"], row["prefix"]) for row in rows["tuning"]]
    assert prefixes == [(6, "shared"), (6, "separate"), (3, "shared"), (3, "separate"), (1, "separate")]
    assert "images_per_s" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_part_that_fails_or_takes_too_long_keeps_its_rows(tmp_path: Path) -> None:
    row = "import sys; open(sys.argv[1], 'w').write('{\"case\": 1}\\n{\"cut'); "
    slow = gpu.Part("slow", 9, [sys.executable, "-c", row + "import time; time.sleep(60)", "{out}"])
    found = gpu.run_part(slow, 1.5, "cpu", tmp_path)
    assert (found["status"], found["rows"]) == ("out of time", [{"case": 1}])
    broken = gpu.Part("broken", 9, [sys.executable, "-c", row + "sys.exit('no such kernel')", "{out}"])
    found = gpu.run_part(broken, 20, "cpu", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.log"]
    assert found["status"] == "exit 1" and found["rows"] == [{"case": 1}] and "no such kernel" in found["log"]


def test_every_part_is_called_with_options_that_it_takes() -> None:
    """The parts that need packages which are hidden above: their own parsers read the commands."""
    parts = [part for part in gpu.plan_parts("7b", TOP, False) if "scripts.bench.reid" in part.command]
    assert [part.name for part in parts] == ["retrieval step", "evaluation and search"]
    for part in parts:
        words = part.command[part.command.index("scripts.bench.reid") + 1 :]
        options = reid.read_options([word.format(device="cuda", out="rows.json") for word in words])
        assert options.devices == "cuda" and str(options.out) == "rows.json"
    scripts = {
        word for part in gpu.plan_parts("7b", TOP, False) for word in part.command if word.endswith(".py")
    }
    assert len(scripts) == 3 and all(Path(script).is_file() for script in scripts)


def test_the_shell_script_names_its_parts_and_refuses_others() -> None:
    with pytest.raises(UsageError, match="--only speed: no such part; the parts are captions, tuning"):
        gpu.main(["--only", "speed", "--device", "cpu"])
    done = subprocess.run(
        ["bash", "scripts/bench/gpu.sh", "--help"],
        cwd=TOP,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "--before" in done.stdout, done.stderr
