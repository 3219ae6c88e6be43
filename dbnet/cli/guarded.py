"""Work in a process of its own, so that what a crashing runtime takes with it is that process and not the report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dbnet.cli.ending import FAILED, exit_code_of

#: Their threads do not survive a fork.
_THREADED = ("torch", "mindspore", "onnxruntime")
#: Seconds between two savings of what is known.
EVERY = 1.0
_KILLED = ("the process was killed, by somebody or for lack of memory (try smaller images, --limit, or another runner)",
           "a runtime crashed ({})")


class Keeper:
    """Keeps what is known so far where it outlives the process. folder: None keeps nothing."""

    def __init__(self, folder: Path | None, parent: int | None = None):
        self._file = None if folder is None else folder / "known.json"
        self._parent, self._last = parent, 0.0

    def keep(self, known: Callable[[], dict[str, Any]], now: bool = False) -> None:
        """Writes what `known` returns, unless that was done a moment ago. now: even then."""
        if self._file is None or (not now and time.monotonic() - self._last < EVERY):
            return
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(FAILED)  # nobody waits any more
        draft = self._file.with_suffix(".part")
        draft.write_text(json.dumps(known(), allow_nan=False), encoding="utf-8")
        draft.replace(self._file)
        self._last = time.monotonic()


def guarded(work: Callable[[Keeper], None], crashed: Callable[[dict[str, Any], str], None]) -> None:
    """Does the work in a child of this process. If that dies, `crashed` is told what was known last, and how it died.

    Where this process has threads already, as within other programs, the work is done in it. Raises
    click.exceptions.Exit with the child's exit code, and whatever `crashed` raises.
    """
    if not _can_fork():
        work(Keeper(None))
        return
    folder = Path(tempfile.mkdtemp(prefix="dbnet-"))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGINT, _interrupt_once)
            keeper = Keeper(folder, parent)
            code = exit_code_of(lambda: work(keeper))
            sys.stderr.flush()
            os._exit(code)
        status = _wait(child)
        if not os.WIFSIGNALED(status):
            if code := os.waitstatus_to_exitcode(status):
                raise click.exceptions.Exit(code)
            return
        kept = folder / "known.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    number = os.WTERMSIG(status)
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        raise click.Abort
    crashed(known, _KILLED[number != signal.SIGKILL].format(signal.Signals(number).name))


def _can_fork() -> bool:
    return (hasattr(os, "fork") and sys.stdout is sys.__stdout__ and threading.active_count() == 1
            and threading.current_thread() is threading.main_thread() and not any(name in sys.modules
                                                                                 for name in _THREADED))


def _interrupt_once(_number: int, _frame: object) -> None:
    """A terminal interrupts parent and child, and the parent passes it on: the second must not hit the way out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _wait(child: int) -> int:
    """The child's exit status. What would stop this process stops the child, whose end is then waited for."""
    def pass_on(number: int, _frame: object) -> None:
        os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return os.waitpid(child, 0)[1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
