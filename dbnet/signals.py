"""Keeps ^C Python's own while a native library works that takes it for itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Within, a library may do with SIGINT what it likes; afterwards it is handled as before.

    MindSpore (2.10, measured) installs a handler of its own for SIGINT whenever it compiles a graph, and leaves it
    there: a ^C then sends this process SIGTERM, which ends it without a word, whatever is half written. So a SIGTERM
    that comes within, where nobody handles that, is taken for the ^C that it was. In other threads than the main one,
    which cannot set handlers, nothing is done.

    Python handles a signal between two of its own steps: one that comes while a graph compiles or runs takes effect
    when the native code returns. Only SIGKILL (kill -9) ends that at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt, end = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    taken = end is signal.SIG_DFL and callable(interrupt)

    def as_interrupt(_number: int, frame: FrameType | None) -> None:
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)

    if taken:
        signal.signal(signal.SIGTERM, as_interrupt)
    try:
        yield
    finally:
        if interrupt is not None:  # None: installed by no Python code, so not known
            signal.signal(signal.SIGINT, interrupt)
        if taken:
            signal.signal(signal.SIGTERM, end)
