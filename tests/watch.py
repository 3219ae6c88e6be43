"""Ends a process in which a test hangs, also in native code that holds Python's lock, and tells where it was.

As pytest's `faulthandler_timeout`, but the thread that watches is renewed now and then, not for each of the 11,000
tests: it blocks all signals, so that a process that crashed in it would end without a word.
"""

from __future__ import annotations

import faulthandler
import os
import time

import pytest

#: Seconds after which a test hangs, and its process is ended; the longest default test takes 60.
LIMIT = float(os.environ.get("TEST_SECONDS", 400))
#: Seconds after which the next test has a new thread; a test has up to so many more than its limit.
RENEWED = LIMIT / 6


class Watch:
    """A plugin. To be made while standard error is not captured."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)
        self._renewed: float | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        now = time.monotonic()
        if self._renewed is None or now - self._renewed > RENEWED:
            faulthandler.dump_traceback_later(LIMIT + RENEWED, exit=True, file=self._stderr)
            self._renewed = now

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self) -> None:
        """Here pytest's own plugin ends the watch, for a debugger."""
        self._renewed = None

    def pytest_enter_pdb(self) -> None:
        self._renewed = None
