"""Every measurement script imports and answers --help; those of captioning run on a small case."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from scripts.bench import caption_job

TOP = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(file.stem for file in (TOP / "scripts" / "bench").glob("*.py"))
PARTS = [  # parts of other scripts, or processes that those start: they take no options
    "caption_worker",
    "reid_clock",
    "reid_eval",
    "reid_parts",
    "reid_plain",
    "reid_step",
    "gpu_bench",
    "gpu_kernels",
    "shapes",
]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in PARTS])
def test_a_script_answers_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.delitem(sys.modules, f"scripts.bench.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"scripts.bench.{name}", run_name="__main__")
    assert ended.value.code in (0, None)
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", PARTS)
def test_a_part_imports(name: str) -> None:
    importlib.import_module(f"scripts.bench.{name}")


def test_the_captioning_job_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert caption_job.main(["--images", "400", "--shards", "2", "--folder", str(tmp_path)]) == 0
    figures = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(figures) == ["plan", "caption", "resume"]
    assert "planning_s" in figures["plan"] and "resuming_s" in figures["resume"]
    assert "cpu_ms_per_caption" in figures["caption"]
