"""What keeps Ray's ways from a user: calls that never end, news amid our output, interrupts half heeded."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any


def within(seconds: float, work: Callable[[], object]) -> Caught:
    """Work of Ray's that may never end. Where it does not, its thread is left to itself."""
    caught = Caught()

    def run() -> None:
        with caught:
            work()

    thread = threading.Thread(target=run, daemon=True, name="ray_within")
    thread.start()
    thread.join(seconds)
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
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what it has kept of its news
            close()
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


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
