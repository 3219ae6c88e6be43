"""The command in this process: what one of its own would print and end with, without a second to start it each time.

test_cli.py and others run it as users do, in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

from dbnet.__main__ import main
from parity.data import ROOT


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What `dbnet` with these arguments ends with and prints."""
    out, told, code = io.StringIO(), io.StringIO(), 0
    argv = list(map(str, arguments))
    with mock.patch.object(sys, "argv", ["dbnet", *argv]), contextlib.redirect_stdout(out), \
            contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), told.getvalue())


def dbnet(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same from the repository's root, which must end with that code."""
    with contextlib.chdir(ROOT):
        done = command(*arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done
