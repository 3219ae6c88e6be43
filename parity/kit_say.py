"""Telling what is done. Who no longer listens must not end the work."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence


def prepare() -> None:
    """Whatever the terminal's encoding, a name that it lacks is told as an escape."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def say(line: str) -> None:
    """On standard output, at once."""
    _put(line, 1)


def say_error(line: str) -> None:
    """On standard error, with the program's name."""
    _put(f"run.py: {line}", 2)


def told_options(options: Sequence[str]) -> str:
    """What a kit was made with, to type once more after a command."""
    return "".join(f" {shlex.quote(option)}" for option in options)


def _put(line: str, handle: int) -> None:
    try:
        print(line, file=sys.stdout if handle == 1 else sys.stderr, flush=True)
    except OSError:  # `| head` has gone, or the terminal
        os.dup2(os.open(os.devnull, os.O_WRONLY), handle)
