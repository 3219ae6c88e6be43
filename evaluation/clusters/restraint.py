"""What keeps Ray's ways from a user: calls that never end, news amid our output, interrupts half heeded."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from dbnet.signals import handled, heeded


def within(seconds: float, work: Callable[[], object]) -> Caught:
    """Work of Ray's that may never end. Where it does not, its thread is left to itself."""
    caught = Caught()

    def run() -> None:
        with caught:
            work()

    thread = threading.Thread(target=run, daemon=True, name="ray_within")
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and (left := end - time.monotonic()) > 0:
        thread.join(min(left, 0.05))
        for number, handler in heeded().items():
            signal.signal(number, handler)  # Ray puts handlers of its own there, in C
    return caught


class Caught:
    """Keeps whatever is raised within. ended: it came to its end."""

    error: BaseException | None = None
    ended = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 _trace: TracebackType | None) -> bool:
        self.error, self.ended = error, True
        return True


def uninterrupted(close: Callable[[], object]) -> None:
    """A second Ctrl-C must not leave processes behind."""
    with handled(dict.fromkeys(heeded(), signal.SIG_IGN)), contextlib.redirect_stdout(io.StringIO()):
        close()  # what it has kept of its news goes nowhere


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP wait for the end of what is within, and are handled then as before, though Ray puts
    handlers of its own in their place: in Python (the end in the middle) and in C (a stack dump, and the end).

    They are blocked in this thread and those that it starts; threads that were there before may still take one.
    """
    came: list[int] = []
    before = heeded()
    notes: dict[signal.Signals, Any] = dict.fromkeys(before, lambda number, _frame: came.append(number))
    try:
        with handled(notes):
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, before)
            try:
                try:
                    yield
                finally:
                    for number, note in notes.items():
                        signal.signal(number, note)
            except SystemExit:  # Ray's own handler
                came.append(signal.SIGTERM)
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        for each in dict.fromkeys(came):
            handler = before.get(signal.Signals(each))
            if callable(handler):
                handler(each, None)
            elif handler is not None:
                os.kill(os.getpid(), each)


class _Quiet(io.TextIOBase):
    """A stream of text without what Ray's own threads print: their news would be in the middle of our output."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else int(self._stream.write(text))

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(getattr(self._stream, "encoding", "utf-8"))


@contextlib.contextmanager
def told_by_nobody() -> Iterator[None]:
    """Ray logs and prints nothing within: what matters is told by us."""
    log = logging.getLogger("ray")
    level, out, err = log.level, sys.stdout, sys.stderr
    log.setLevel(logging.CRITICAL + 1)
    sys.stdout, sys.stderr = _Quiet(out), _Quiet(err)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        log.setLevel(level)
