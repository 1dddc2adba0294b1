from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ham.images import ImageError
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


def disk_error(number: int, *rest: str) -> OSError:
    return OSError(number, os.strerror(number), *rest)


class OutOfMemoryError(RuntimeError):
    """As torch's, which is recognized by its name so that torch need not be imported."""


WRAPPED = (
    "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "x.py", line 1, in f\n    g()\nham.images.ImageError: a.jpg: truncated: OSError: 3 bytes\n'
)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("--x: bad"), 2, "error: --x: bad"),
        (UsageError("two\nlines"), 2, "error: two lines"),
        (WorkError("loss is nan"), 1, "failed: loss is nan"),
        (WorkError(WRAPPED), 1, "failed: a.jpg: truncated: OSError: 3 bytes"),
        (RuntimeError(WRAPPED), 1, "failed: a.jpg: truncated: OSError: 3 bytes"),
        (
            RuntimeError(WRAPPED.replace("images.ImageError", "errors.UsageError")),
            2,
            "error: a.jpg: truncated",
        ),
        (disk_error(errno.ENOSPC, "/data/x"), 1, "failed: /data/x: no space to write"),
        (disk_error(errno.EDQUOT, "/data/x"), 1, "free some space"),
        (disk_error(errno.EFBIG, "/data/x"), 1, "ulimit -f"),
        (OSError("5082 requested and 936 written"), 1, "no space to write"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "no space to write"),
        (disk_error(errno.EACCES, "/data/x"), 1, "Permission denied (/data/x)"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "closed it"),
        (MemoryError(), 1, "out of memory"),
        (disk_error(errno.ENOMEM), 1, "out of memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "smaller batch"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: ..."
            ),
            1,
            "out of",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 1, "fewer workers"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), 1, "fewer workers"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (
            UnicodeEncodeError("utf-8", "\ud800.jpg", 0, 1, "surrogates not allowed"),
            2,
            "cannot be read or written as UTF-8",
        ),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, line, capsys):
    def main():
        raise error

    assert exit_code_of(main) == code
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


class Broken(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            ImageError("a.jpg", "truncated: OSError: 3 bytes"),
            1,
            "failed: a.jpg: truncated: OSError: 3 bytes\n",
        ),
        (UsageError("record 3: no image"), 2, "error: record 3: no image\n"),
        (WorkError("two\nlines"), 1, "failed: two lines\n"),
    ],
)
def test_errors_of_worker_processes_are_their_own_line(error, code, line, capsys):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=1)
    assert exit_code_of(lambda: list(loader) and 0) == code
    assert capsys.readouterr().err == line


def run(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], text=True, stderr=subprocess.PIPE, **options)


def test_sigterm_ends_with_a_line_that_says_where(tmp_path):
    program = (
        "import os, signal, sys\nfrom ham.runtime import exit_code_of, progress\n"
        "def items():\n    yield 1\n    os.kill(os.getpid(), signal.SIGTERM)\n    yield 2\n"
        "sys.exit(exit_code_of(lambda: list(progress(items())) and 0))"
    )
    done = run(program)
    assert done.returncode == 143
    assert done.stderr == "stopped by SIGTERM in ham.runtime.progress; the same command continues\n"


def test_workers_die_by_sigterm_as_ever():
    program = (
        "import multiprocessing, sys, time\nfrom ham.runtime import exit_code_of\n"
        "def main():\n"
        "    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)); worker.start()\n"
        "    time.sleep(0.3)\n"
        "    worker.terminate(); worker.join(); return abs(worker.exitcode)\n"
        "sys.exit(exit_code_of(main))"
    )
    done = run(program)
    assert (done.returncode, done.stderr) == (15, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_one_line():
    program = (
        "import sys; from ham.runtime import exit_code_of; sys.exit(exit_code_of(lambda: print('x' * 9000)))"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(program, stdout=full)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no space" in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = run(program, stdout=writing)
    assert done.returncode == 1 and done.stderr == "failed: the program that read this output closed it\n"


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


@pytest.mark.parametrize(
    "name", ["mps", "gpu", "GPU", "0", "xyz", "cuda:", "cuda:-1", "cuda:x", "", "cpu:0", "cuda:99999"]
)
def test_devices_that_cannot_be_are_refused_with_the_choices(name):
    with pytest.raises(UsageError, match=r"--device .*(expected auto, cpu, cuda or cuda:N|no GPU)"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("rank", "world_size"),
    [("x", "2"), ("0", "0"), ("-1", "2"), ("2", "2"), ("0", "two"), ("1.0", "2"), ("٣", "4")],
)
def test_ranks_that_cannot_be_are_refused(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(UsageError, match=r"environment: (RANK|WORLD_SIZE)="):
        dist_info()


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
