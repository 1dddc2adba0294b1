"""Errors of the package, and the exit code and the one line that each becomes on a command line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
MEMORY_ADVICE = "use a smaller batch or fewer workers, or a machine with more memory"
MEMORY_SIGNS = (  # of torch, its allocators and C++, which raise plain RuntimeErrors
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",
    "Cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
    "can't start new thread",
)


OUR_ERROR = re.compile(r"ham\.[\w.]*?(\w+Error): ")


class UsageError(Exception):
    """The request is wrong: a missing file, an invalid option, malformed data. Exit code 2."""


class WorkError(Exception):
    """The request is valid but the work failed: a non-finite loss, a full disk, too many broken images. Exit code 1."""


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, as Slurm and Kubernetes send it before they kill. Exit code 143."""


def exit_code_of(main: Callable[[], int | None]) -> int:
    """Run `main`; turn every expected kind of failure into one clear line on standard error and an exit code.

    Returns: 0 or what `main` returned; 2 for `UsageError` and for data that Python cannot hold (nested too deeply, not
    encodable); 1 for `WorkError`, operating-system errors, memory that ran out and dead worker processes; 130 for Ctrl-C,
    143 for SIGTERM. Other exceptions are bugs and keep their traceback.
    """
    previous = _raise_on_sigterm()
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        known = _explain(error)
        if known is None:
            raise
        code, line = known
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(_one_line(line) + "\n")
        _detach_stdout()
        return code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _explain(error: BaseException) -> tuple[int, str] | None:
    """Return the exit code and the line for an exception, or None when it is a bug."""
    text = str(error)
    from_worker = _error_of_worker(text)
    if from_worker is not None:
        return from_worker
    if isinstance(error, UsageError):
        return 2, f"error: {text}"
    if isinstance(error, Terminated):
        return 143, f"stopped by SIGTERM{_place_of(error)}; the same command continues"
    if isinstance(error, KeyboardInterrupt):
        return 130, f"stopped by Ctrl-C{_place_of(error)}"
    if _is_out_of_memory(error):
        return 1, f"failed: out of memory: {text or type(error).__name__}; {MEMORY_ADVICE}"
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return 1, (
            f"failed: a data-loading worker died ({text}); the same command continues, with fewer workers if memory "
            "is short"
        )
    if isinstance(error, WorkError):
        return 1, f"failed: {text}"
    if isinstance(error, BrokenPipeError):
        return 1, "failed: the program that read this output closed it"
    if isinstance(error, OSError) or _is_disk_full(text):
        return 1, f"failed: {_explain_os_error(error)}"
    if isinstance(error, RecursionError):
        return 2, f"error: the input is nested too deeply for Python{_place_of(error)}: {text}"
    if isinstance(error, UnicodeError):
        return (
            2,
            f"error: text that cannot be read or written as UTF-8{_place_of(error)}: {ascii(text)[1:-1]}",
        )
    return None


def _explain_os_error(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    where = getattr(error, "filename", None)
    named = f"{where}: " if where else ""
    if code in DISK_FULL or _is_disk_full(str(error)):
        what = os.strerror(code) if code in DISK_FULL else str(error)
        return f"{named}no space to write ({what}); free some space there, then run the same command again"
    if code == errno.EFBIG:
        return (
            f"{named}{os.strerror(code)}: above a limit on file sizes (`ulimit -f`, or the file system's); raise it, "
            "then run the same command again"
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{reason} ({where})" if where else reason


def _is_disk_full(text: str) -> bool:
    """Recognize a full disk in the messages of libraries that write without errno: safetensors, torch.save, NumPy."""
    return "No space left on device" in text or re.search(r"\d+ requested and \d+ written", text) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


def _error_of_worker(text: str) -> tuple[int, str] | None:
    """Return code and line for one of our errors that torch raised again from a worker process, traceback included.

    torch keeps the type only where it is made of one text, so it is read from the traceback's last line.
    """
    if "in DataLoader worker process" not in text or "Original Traceback" not in text:
        return None
    lines = text.rstrip().splitlines()
    last = max((place for place, line in enumerate(lines) if OUR_ERROR.match(line)), default=None)
    if last is None:
        return None
    name, message = re.fullmatch(OUR_ERROR.pattern + "(.*)", lines[last]).groups()  # type: ignore[union-attr]
    message = " ".join([message, *lines[last + 1 :]])
    return (2, f"error: {message}") if name == "UsageError" else (1, f"failed: {message}")


def _place_of(error: BaseException) -> str:
    """Return the name of the innermost function of this package in an exception's traceback."""
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("ham.") and module != __name__:
            place = f" in {module}.{frame.f_code.co_name}"
    return place


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


def _raise_on_sigterm() -> Any:
    """Turn SIGTERM into `Terminated` in this process. Returns the previous handler; None outside the main thread."""
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a forked worker ends as it would have without us
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    return signal.signal(signal.SIGTERM, handle)


def _detach_stdout() -> None:
    """Flush standard output; where that fails, point it to nowhere so that the interpreter's exit does not fail again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
