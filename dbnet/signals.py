"""How a program is ended from outside: ^C, kill, a terminal that closes; and a library that takes ^C for itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

#: What a user, a batch system and a terminal that closes end a program with.
ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


def heeded() -> dict[signal.Signals, Any]:
    """Those of `ENDING` that end this program, and their handlers; none in other threads than the main one, which
    cannot set any.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in ENDING}
    return {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """These handlers within; those from before afterwards. Only in the main thread, unless there are none."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_as_by_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt within, where nobody handles them: nothing unfinished then stays."""
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled({number: interrupt for number, handler in heeded().items() if handler is signal.SIG_DFL}):
        yield


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

    raised: list[BaseException] = []

    def as_interrupt(_number: int, frame: FrameType | None) -> None:
        try:
            interrupt(signal.SIGINT, frame)  # type: ignore[misc,operator]
        except BaseException as error:
            raised.append(error)
            raise

    if callable(interrupt):
        signal.signal(signal.SIGINT, as_interrupt)
    if taken:
        signal.signal(signal.SIGTERM, as_interrupt)
    try:
        yield
    finally:
        if interrupt is not None:  # None: installed by no Python code, so not known
            signal.signal(signal.SIGINT, interrupt)
        if taken:
            signal.signal(signal.SIGTERM, end)
    if raised:  # in the library's own Python, which has kept it to itself
        raise raised[0]
