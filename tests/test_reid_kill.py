"""A retrieval checkpoint is killed at every file-system call: what is left is whole, and the resumed run ends byte-equal."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from test_reid_train import config_for, rows_of, world  # noqa: F401  (the fixture)

from ham.reid.checkpoints import lock_output, save_last
from ham.reid.resume import check_folder
from ham.reid.train import set_up, train

EVENTS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "tempfile.mkstemp",
    "tempfile.mkdtemp",
)
KILLED = 77
MOST_POINTS = 400


def kill_at(point: int, folder: Path) -> None:
    """End this process before its `point`-th file-system call in `folder`."""
    calls = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal calls
        if event in EVENTS and args and str(folder) in str(args[0]) and (event != "open" or is_write(args)):
            calls += 1
            if calls == point:
                os._exit(KILLED)

    sys.addaudithook(hook)


def is_write(args: tuple) -> bool:
    """Whether an open may change something; reading cannot."""
    mode, flags = args[1], args[2]
    return any(letter in (mode or "") for letter in "wax+") or bool(
        flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )


def in_child(work) -> int:
    """Run `work` in a forked process; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """Everything under `last/` and what the folder holds, without times and the lock."""
    files = {
        str(path.relative_to(out)): path.read_bytes() for path in (out / "last").rglob("*") if path.is_file()
    }
    return files | {
        "names": str(sorted(path.name for path in out.iterdir() if path.name != ".lock")).encode()
    }


@pytest.mark.slow
def test_a_checkpoint_killed_at_every_call_resumes_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    options = {"method": "rde", "epochs": 2, "batch_size": 20, "save_every_steps": 1}
    whole = tmp_path / "out"  # one path for all: config.yaml holds it
    train(config_for(world, whole, **options))
    expected, steps = contents(whole), [row["step"] for row in rows_of(whole)]
    shutil.rmtree(whole)
    # a run of two epochs, stopped after its first: what each kill starts from
    stop_after = {"calls": 0}

    class Stop(Exception):
        pass

    import ham.reid.train as module

    original = module.save_last

    def save_and_stop(run) -> None:
        original(run)
        stop_after["calls"] += 1
        if stop_after["calls"] == 2:
            raise Stop

    module.save_last = save_and_stop
    try:
        with pytest.raises(Stop):
            train(config_for(world, whole, **options))
    finally:
        module.save_last = original
    shutil.copytree(whole, tmp_path / "start")
    outcomes = []
    for point in range(1, MOST_POINTS):
        shutil.rmtree(whole)
        shutil.copytree(tmp_path / "start", whole)

        def save_again(point: int = point) -> None:
            with lock_output(whole):
                run = set_up(config_for(world, whole, **options))
                kill_at(point, whole)
                save_last(run)

        outcomes.append(in_child(save_again))
        if outcomes[-1] == 0:
            break
        assert outcomes[-1] == KILLED, f"call {point}"
        last = whole / "last" if (whole / "last").exists() else whole / ".last.previous"
        check_folder(last)
        train(config_for(world, whole, **options))
        assert contents(whole) == expected, f"killed at call {point}"
        assert [row["step"] for row in rows_of(whole)] == steps
    assert outcomes[-1] == 0 and len(outcomes) > 15, "every call of a save was tried"


def test_saving_the_same_weights_twice_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    run = set_up(config_for(world, tmp_path, method="rde"))
    save_last(run)
    first = contents(tmp_path)
    for _ in range(5):
        save_last(run)
        assert contents(tmp_path) == first
