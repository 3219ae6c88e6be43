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
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from dbnet.cli.ending import FAILED, exit_code_of
from dbnet.errors import DbnetError

#: Their threads do not survive a fork.
_THREADED = ("torch", "mindspore", "onnxruntime")
#: Seconds between two savings of what is known, and how many times as long as one takes.
EVERY, SPARSELY = 1.0, 30.0
#: Files in the folder: what is known; that the child came to its end; what must not happen, and did.
KNOWN, ENDED, BROKEN = "known.json", "ended", "broken"


class Keeper:
    """Keeps what is known so far where it outlives the process. folder: None keeps nothing."""

    def __init__(self, folder: Path | None, parent: int | None = None):
        self._file = None if folder is None else folder / KNOWN
        self._parent, self._next = parent, 0.0

    def keep(self, known: Callable[[], dict[str, Any]], now: bool = False) -> None:
        """Writes what `known` returns, unless that was done a moment ago. now: even then."""
        begin = time.monotonic()
        if self._file is None or (not now and begin < self._next):
            return
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(FAILED)  # nobody waits any more
        draft = self._file.with_suffix(".part")
        try:
            draft.write_text(json.dumps(known(), allow_nan=False), encoding="utf-8")
            draft.replace(self._file)
        except OSError:  # no room; the comparison matters more
            self._file = None
        end = time.monotonic()
        self._next = end + max(EVERY, SPARSELY * (end - begin))


def guarded(work: Callable[[Keeper], None], crashed: Callable[[dict[str, Any], str], None]) -> None:
    """Does the work in a child of this process. If that dies, or the work fails in a way that nobody has thought of,
    `crashed` is told what was known last, and how it ended.

    Where this process has threads already, as within other programs, the work is done in it. Raises
    click.exceptions.Exit with the child's exit code, and whatever `crashed` raises.
    """
    folder = _folder() if _can_fork() else None
    if folder is None:
        work(Keeper(None))
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if not child:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, _interrupt_once)
            _be_the_child(lambda: _noted(work, folder, parent), folder / ENDED)
        status, stopped = _wait(child)
        kept, broken = folder / KNOWN, folder / BROKEN
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        why = broken.read_text(encoding="utf-8") if broken.exists() else ""
        ended = (folder / ENDED).exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _end(status, ended, stopped, lambda how: crashed(known, why or how))


def _be_the_child(work: Callable[[], None], ended: Path) -> NoReturn:
    """Never returns into what the parent does."""
    try:
        code = exit_code_of(work)
        ended.touch()
    except SystemExit as stop:  # not ours: somebody's library has had enough
        code = stop.code if isinstance(stop.code, int) else FAILED
    sys.stderr.flush()
    os._exit(code)


def _end(status: int, ended: bool, stopped: bool, crashed: Callable[[str], None]) -> None:
    """ended: the child came to its end. stopped: somebody wanted this process to stop."""
    code = os.waitstatus_to_exitcode(status)
    if ended:
        if code:
            raise click.exceptions.Exit(code)
    elif stopped:
        raise click.Abort
    elif code == -signal.SIGKILL:
        crashed("the process was killed, by somebody or for lack of memory (try smaller images, --limit, or another "
                "runner)")
    else:
        crashed(f"a runtime crashed ({signal.Signals(-code).name})" if code < 0 else
                f"a runtime ended the process (exit code {code})")


def _noted(work: Callable[[Keeper], None], folder: Path, parent: int) -> None:
    """Does the work; leaves a note of what must not happen, for the parent to tell."""
    try:
        work(Keeper(folder, parent))
    except (click.ClickException, click.exceptions.Exit, click.Abort, DbnetError, BrokenPipeError):
        raise
    except Exception as error:
        if os.environ.get("DBNET_TRACEBACK"):
            traceback.print_exc()
        (folder / BROKEN).write_text(f"internal error, please report it ({type(error).__name__}: {error}; "
                                     f"DBNET_TRACEBACK=1 shows where)", encoding="utf-8", errors="replace")
        os._exit(FAILED)
        raise  # not reached: says that nothing is hidden


def _folder() -> Path | None:
    """Where to keep things; None if there is no room for it."""
    try:
        return Path(tempfile.mkdtemp(prefix="dbnet-"))
    except OSError:
        return None


def _can_fork() -> bool:
    return (hasattr(os, "fork") and sys.stdout is sys.__stdout__ and threading.active_count() == 1
            and threading.current_thread() is threading.main_thread() and not any(name in sys.modules
                                                                                 for name in _THREADED))


def _interrupt_once(_number: int, _frame: object) -> None:
    """A terminal interrupts parent and child, and the parent passes it on: the second must not hit the way out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _wait(child: int) -> tuple[int, bool]:
    """The child's exit status, and whether somebody wanted to stop this process, which stops the child."""
    stopped = []

    def pass_on(number: int, _frame: object) -> None:
        stopped.append(number)
        os.kill(child, number)

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        return os.waitpid(child, 0)[1], bool(stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
