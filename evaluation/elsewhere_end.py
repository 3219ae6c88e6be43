"""How the process of another environment ended, or why it did not begin: one line for whoever asked for it."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dbnet.errors import short

#: What the worker's first lines print before they give up (`evaluation.elsewhere`).
_OLD, _LACKS = "dbnet: old ", "dbnet: lacks "
#: Module -> the distribution that has it, where its name is another.
_PACKAGES = {"cv2": "opencv-python-headless"}


def status_within(seconds: float, process: subprocess.Popen[bytes]) -> int | None:
    """The exit status as subprocess has it; None if the process lives on, or does not come to its end."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def package_of(module: str) -> str:
    """What pip calls it."""
    return _PACKAGES.get(module, module)


def why_it_did_not_start(python: Path, framework: str, status: int | None, words: Sequence[str], why: str) -> str:
    """status: as subprocess has it, None for a process that lives. words: the lines that it printed last."""
    last = _last(words)
    if last.startswith(_OLD):
        return (f"{python}: is Python {last.removeprefix(_OLD)}, and 3.10 or newer is needed; make the environment "
                f"with a newer one")
    if last.startswith(_LACKS):
        missing = last.removeprefix(_LACKS)
        if missing == "mindspore_lite":
            return f"{python}: has no {missing}, whose wheel comes with MindSpore Lite (mindspore.cn/lite, Downloads)"
        return f"{python}: has no {missing}; install it there: {python} -m pip install {package_of(missing)}"
    if status is None:
        return f"{python}: is no Python, or a program in between keeps it from answering ({why})"
    if status < 0:
        return f"{framework} of {python} {_signalled(status)} while it was imported{_said(last)}"
    return (f"{python}: did not start as a Python with {framework} (exit code {status}{_said(last)}); name the "
            f"environment's bin/python")


def how_it_ended(framework: str, python: Path, status: int | None, words: Sequence[str], why: str) -> str:
    """In the middle of its work."""
    who, last = f"{framework} of {python}", _last(words)
    if status is None:
        return f"{who} does not answer any more ({why or 'it is coming to its end'}{_said(last)})"
    if status < 0:
        return f"{who} {_signalled(status)}{_said(last)}"
    return f"{who} ended in the middle of its work (exit code {status}{_said(last)})"


def _last(words: Sequence[str]) -> str:
    """The line that names an exception, below which some frameworks print where they were; else the last one."""
    named = (line for line in reversed(words) if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line))
    return next(named, words[-1] if words else "")


def _signalled(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), by somebody or for lack of memory: try smaller images"
    try:
        number = signal.Signals(-status)
    except ValueError:  # a real-time one
        return f"was ended by signal {-status}"
    stopped = number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return f"{'was ended by somebody' if stopped else 'crashed'} ({number.name})"


def _said(last: str) -> str:
    return f"; it said: {short(last, 160)}" if last else ""
