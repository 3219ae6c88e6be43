"""Watches one reading of one file: what it touches, how long it takes, how much memory, and how it ends.

For a process of its own: the audit hook stays for good, memory's peak is the process's, and a signal ends what hangs.
What C libraries do by themselves (OpenCV, zlib) raises no audit events; only Python's own doors are watched.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dbnet.errors import DbnetError

MAX_SECONDS = 2.0
#: How many times its time a reading may take before it is told so, and (with a few seconds more, the kernel counting
#: whole ones) before the process is ended, should it not come back to Python.
ALARM, END, SPARE_SECONDS = 1.5, 2.0, 2
#: The kernel counts ticks for that end, and precisely for `process_time`: after minutes they lie seconds apart.
DRIFT = 1.1
#: Bytes of address space beyond those at the beginning: the machine must survive a finding.
SPACE = 4 << 30
MAX_MESSAGE = 500
#: Events that tell of nothing done: everything else is a finding.
HARMLESS = {"mmap.__new__", "object.__getattr__", "object.__setattr__", "sys._getframe", "builtins.id", "array.__new__",
            "gc.get_referrers", "sys.excepthook", "sys.unraisablehook"}
#: More, of a reader that goes on with the file it is given.
OF_WRITERS = {"os.truncate", "fcntl.flock", "fcntl.fcntl"}
READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


class BreachError(BaseException):
    """Raised in the middle of what is not allowed. No reader may catch it."""


class HangError(BaseException):
    """Raised when the time is over."""


@dataclass(frozen=True)
class Outcome:
    """finding: what is wrong, None if nothing. said: the message of a refusal, None for a file that was read.

    seconds: of the processor. peak: bytes of memory beyond those before, at most at a time.
    """

    finding: str | None
    said: str | None
    seconds: float
    peak: int


@dataclass(frozen=True)
class Limits:
    """What a reading may take. times: bytes of memory for each byte of `size`; floor: bytes for anything.

    writes: it goes on with the file itself.
    """

    size: int
    times: float = 1.5
    floor: int = 32 << 20
    seconds: float = MAX_SECONDS
    writes: bool = False


class Memory:
    """The peak of this process, on Linux; 0 elsewhere."""

    def __init__(self) -> None:
        self._status = self._reset = -1
        if os.path.exists("/proc/self/clear_refs"):
            self._status = os.open("/proc/self/status", os.O_RDONLY)
            self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)

    @property
    def known(self) -> bool:
        """Whether it can be told."""
        return self._reset >= 0

    def reset(self) -> int:
        """Begins anew, and tells the bytes that are in use."""
        if self._reset >= 0:
            os.pwrite(self._reset, b"5", 0)
        return self.peak()

    def peak(self) -> int:
        """Bytes in use at most since `reset`."""
        if self._status < 0:
            return 0
        status = os.pread(self._status, 8192, 0)
        start = status.index(b"VmHWM:") + 6
        return int(status[start:status.index(b"kB", start)]) * 1024


class Guard:
    """One for a process. Between readings it lets everything pass."""

    def __init__(self) -> None:
        self.memory = Memory()
        self._path: str | None = None
        self._writes = False
        self._breaches: list[str] = []
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if self.memory.known else 0
        if in_use:
            resource.setrlimit(resource.RLIMIT_AS, (in_use + SPACE, resource.RLIM_INFINITY))
        self._soft = resource.getrlimit(resource.RLIMIT_CPU)[1]
        signal.signal(signal.SIGPROF, self._hang)
        warnings.simplefilter("error", append=True)  # behind what the package itself leaves unsaid
        sys.addaudithook(self._audit)
        gc.collect()
        gc.freeze()

    def run(self, path: Path, read: Callable[[], int], limits: Limits) -> Outcome:
        """Calls `read`, which reads `path` and gives the bytes of what came of it."""
        open_before, before = _open_files(), path.read_bytes() if limits.writes else b""
        used = time.process_time()
        end = int(DRIFT * used + END * limits.seconds) + SPARE_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (end, self._soft))
        start = self.memory.reset()
        finding, said, model = self._guarded(path, read, limits)
        seconds, peak = time.process_time() - used, self.memory.peak() - start
        resource.setrlimit(resource.RLIMIT_CPU, (self._soft, self._soft))
        allowed = limits.floor + limits.times * limits.size + model
        if limits.writes and said is not None and path.read_bytes() != before:
            finding = finding or "refused, and changed all the same"
        if finding is None and peak > allowed:
            finding = f"took {peak >> 20} MiB of memory, where {int(allowed) >> 20} are allowed"
        if finding is None and seconds > limits.seconds:
            finding = f"took {seconds:.1f} s"
        if finding is None and _open_files() != open_before:
            gc.collect()
            left = _open_files() - open_before
            finding = f"left {left} files open" if left > 0 else None
        return Outcome(finding, said, seconds, peak)

    def _guarded(self, path: Path, read: Callable[[], int], limits: Limits) -> tuple[str | None, str | None, int]:
        """(finding, message of a refusal, bytes of the model)"""
        said: str | None = None
        self._breaches, model, finding = [], 0, None
        signal.setitimer(signal.ITIMER_PROF, ALARM * limits.seconds)
        self._path, self._writes = str(path), limits.writes
        try:
            model = read()
        except DbnetError as error:
            said = str(error)
            finding = wrong_message(said, path.name)
        except HangError:
            finding = f"took more than {ALARM * limits.seconds:.1f} s"
        except BreachError:
            finding = "asked for what is not allowed"
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is a finding)
            finding = f"raised {type(error).__name__}: {ascii(str(error))[:200]} {_place(error)}"
        finally:
            self._path = None
            signal.setitimer(signal.ITIMER_PROF, 0)
        if self._breaches:
            finding = f"asked for {', '.join(self._breaches[:3])}"
        return finding, said, model

    def _hang(self, _signal: int, _frame: FrameType | None) -> None:
        if self._path is not None:
            raise HangError

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._path is None or event in HARMLESS:
            return
        if event == "open":
            name, _, flags = arguments
            known = isinstance(name, int) or os.fspath(name) == self._path
            if known and (self._writes or isinstance(name, int) or flags & ~READING == 0):
                return
        elif self._writes and event in OF_WRITERS:
            return
        self._breaches.append(f"{event} {ascii(arguments)[:120]}")
        raise BreachError(event)


def wrong_message(said: str, name: str) -> str | None:
    """What is wrong with the message of a refusal."""
    if not said.isprintable():
        return f"said what cannot be printed: {said[:300]!r}"
    if len(said) >= MAX_MESSAGE:
        return f"said {len(said)} characters: {said[:300]}"
    return None if name in said else f"said without the file's name: {said}"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    places = []
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(places[:-5:-1])


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
