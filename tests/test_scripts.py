"""Tests of the scripts: the environment that env.sh selects, the demo's folder, launching, what git ignores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
PRINT_STATE = 'source scripts/env.sh test && command -v python && echo "$TORCH_EXTENSIONS_DIR"'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of two files, without a .venv of its own."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("scripts/env.sh", "pyproject.toml"):
        shutil.copy(TOP / name, folder / name)
    return folder


def make_environment(folder: Path, checkout: Path) -> Path:
    """Create what looks like an environment in which the package is installed."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    checksum = subprocess.run(
        ["cksum"], stdin=(TOP / "pyproject.toml").open(), capture_output=True, text=True, check=True
    )
    (folder / ".ham-test").write_text(f"{checkout} {checksum.stdout}")
    return folder


def source_env(checkout: Path, **variables: str) -> subprocess.CompletedProcess:
    removed = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "TORCH_EXTENSIONS_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    return subprocess.run(
        ["bash", "-ec", PRINT_STATE],
        cwd=checkout,
        env={**environment, "PYTHON": "false", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used(checkout: Path, tmp_path: Path, variable: str) -> None:
    folder = make_environment(tmp_path / "env", checkout)
    done = source_env(checkout, **{variable: str(folder)})
    assert done.stdout.split() == [f"{folder}/bin/python", f"{folder}/.torch-extensions"], done.stderr


def test_a_venv_inside_conda_is_preferred(checkout: Path, tmp_path: Path) -> None:
    conda, venv = (make_environment(tmp_path / name, checkout) for name in ("conda", "venv"))
    done = source_env(checkout, CONDA_PREFIX=str(conda), CONDA_DEFAULT_ENV="ham", VIRTUAL_ENV=str(venv))
    assert done.stdout.startswith(f"{venv}/bin/python"), done.stderr


def test_nothing_is_installed_into_condas_base(checkout: Path, tmp_path: Path) -> None:
    done = source_env(
        checkout, CONDA_PREFIX=str(make_environment(tmp_path / "conda", checkout)), CONDA_DEFAULT_ENV="base"
    )
    assert done.returncode != 0 and f"creating the environment {checkout}/.venv" in done.stdout


def test_an_environment_without_python_is_an_error(checkout: Path, tmp_path: Path) -> None:
    done = source_env(checkout, CONDA_PREFIX=str(tmp_path))
    assert done.returncode == 2 and "has no bin/python" in done.stderr


def test_data_and_outputs_are_ignored_only_at_the_top() -> None:
    ignored = (TOP / ".gitignore").read_text().split("\n")
    for name in ("data", "work", "runs", "checkpoints", "weights"):
        assert f"/{name}" in ignored and name not in ignored and f"{name}/" not in ignored


# ------------------------------------------------------------------------------------------------------------------ demo


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Start the demo with an environment that cannot be used: only checks before the first step succeed."""
    environment = {**os.environ, "RUN": str(folder), "VIRTUAL_ENV": str(folder / "no environment")}
    return subprocess.run(
        ["bash", str(TOP / "scripts" / "demo.sh"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_finished_demo_is_left_alone(tmp_path: Path) -> None:
    steps = '{"step": "Report", "complete": true, "seconds": 3}\n'
    (tmp_path / "steps.jsonl").write_text(steps)
    (tmp_path / "report.html").write_text("page")
    done = demo(tmp_path)
    assert done.returncode == 0 and "This demo is finished" in done.stdout
    assert (tmp_path / "steps.jsonl").read_text() == steps and (
        tmp_path / "report.html"
    ).read_text() == "page"


def test_an_interrupted_demo_continues(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text('{"step": "Report", "complete": false, "seconds": 3}\n')
    done = demo(tmp_path)
    assert done.returncode == 2 and "has no bin/python" in done.stderr  # it got as far as the environment


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock on this machine")
def test_a_second_demo_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = demo(tmp_path)
    assert done.returncode == 2 and "another demo is running" in done.stderr


def test_another_preset_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    demo(tmp_path)
    done = demo(tmp_path, "--fast")
    assert done.returncode == 2 and "holds a demo of preset demo" in done.stderr
    assert demo(tmp_path, "--slow").returncode == 2


# ---------------------------------------------------------------------------------------------------------------- launch


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_launched_error_has_no_traceback_of_torchrun(tmp_path: Path, code: int) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(f"import sys\nprint('error: no such folder', file=sys.stderr)\nsys.exit({code})\n")
    done = subprocess.run(
        [
            sys.executable,
            str(TOP / "scripts" / "launch.py"),
            "--standalone",
            "--nproc-per-node",
            "1",
            str(worker),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: no such folder") == 1
