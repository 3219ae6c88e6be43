"""Keeps what a native library prints away from the terminal, where it also raises the same as an exception."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_LOCK = threading.RLock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Nothing that is written to the process's standard error within is seen. One thread at a time.

    OpenCV 4 has no switch for it that Python reaches.
    """
    with _LOCK:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, ValueError, AttributeError):  # closed, or there is none
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
