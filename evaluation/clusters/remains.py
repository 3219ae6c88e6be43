"""What a cluster of ours has started: out of the way of signals to our group, and ended to the last process."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dbnet.signals import ENDING

#: What every process of a cluster of ours has in its environment, and whoever that starts: the cluster's folder.
_MARK = "DBNET_RAY_FOLDER"
#: Seconds for the kernel to end what was killed.
_SECONDS = 5.0
_apart = False


@contextlib.contextmanager
def of_their_own(folder: str) -> Iterator[None]:
    """Processes that are started within are marked, and those that Ray starts are in a group of their own: `timeout`
    and a terminal that closes signal a whole group, and a raylet that ends takes this process down in C.
    """
    global _apart
    _hook()
    os.environ[_MARK], _apart = folder, True
    try:
        yield
    finally:
        _apart = False
        os.environ.pop(_MARK, None)


def end_all_with(folder: str) -> None:
    """Kills what carries the mark, until nobody does (Linux only)."""
    end = time.monotonic() + _SECONDS
    while (found := _marked(folder)) and time.monotonic() < end:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _marked(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{_MARK}={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


@functools.cache
def _hook() -> None:
    """Once in a process, since Python has no way back."""
    os.register_at_fork(after_in_child=_leave_the_group)


def _leave_the_group() -> None:
    if _apart:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # else they would inherit what this process puts off
