from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from ham.runtime import (
    MetricsLog,
    UsageError,
    WorkError,
    derive_seed,
    dist_info,
    exit_code_of,
    git_revision,
    numpy_generator,
    progress,
    resolve_device,
    resolve_dtype,
    torch_generator,
)


def test_seeds_depend_on_every_part_and_on_nothing_else():
    assert derive_seed(0, "styles", "a.jpg") == 762664687511028668
    assert (
        len({derive_seed(0, "ab"), derive_seed(0, "a", "b"), derive_seed(1, "ab"), derive_seed(0, "ab", 0)})
        == 4
    )


def test_generators_repeat():
    assert numpy_generator(3, "x").integers(1 << 30) == numpy_generator(3, "x").integers(1 << 30)
    draws = [torch.rand(4, generator=torch_generator(3, "x", index)) for index in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("--x: bad"), 2, "error: --x: bad"),
        (WorkError("loss is nan"), 1, "failed: loss is nan"),
        (OSError(28, "No space left on device", "/data/x"), 1, "No space left on device (/data/x)"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, line, capsys):
    def main():
        raise error

    assert exit_code_of(main) == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_success_is_zero_and_other_errors_are_bugs_that_show():
    assert exit_code_of(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0)


@pytest.mark.parametrize("grouped", [False, True])
def test_leaving_gives_the_code_after_all_that_was_promised(grouped, tmp_path):
    program = (
        "import atexit, torch.distributed as dist; from ham.distributed import leave\n"
        "atexit.register(print, 'promised', end='')\n"
        f"if {grouped}: dist.init_process_group('gloo', init_method='file://{tmp_path}/meet', rank=0, world_size=1)\n"
        "print('said', end=' '); leave(3)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "said promised"), done.stderr


def test_dtypes_and_devices():
    assert resolve_dtype("bf16") is torch.bfloat16
    assert resolve_dtype("auto", torch.device("cpu")) is torch.float32
    with pytest.raises(UsageError, match="int8"):
        resolve_dtype("int8")
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_where_there_is_none_says_so():
    with pytest.raises(UsageError, match="no GPU"):
        resolve_device("cuda")


def test_rank_comes_from_the_launcher(monkeypatch):
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    place = dist_info()
    assert (place.rank, place.world_size, place.local_rank, place.is_main) == (3, 4, 1, False)


def test_metrics_are_one_object_per_line(tmp_path):
    metrics = MetricsLog(tmp_path / "sub" / "metrics.jsonl")
    metrics.write(step=1, loss=2.5)
    metrics.write(step=2, loss=1.5)
    rows = [json.loads(line) for line in (tmp_path / "sub" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [2.5, 1.5]
    assert all(row["time_s"] >= 0 for row in rows)


def test_progress_passes_everything_through():
    assert list(progress(iter(range(5)), what="x", every_s=0)) == [0, 1, 2, 3, 4]


def test_revision_is_a_word():
    assert git_revision()
