"""One process of a kit's run, which MindSpore may crash or hang in: asked in lines of JSON, ended when time is up.

MindSpore takes a device's precision once per process, so that every mode needs one; and what dies with one is told and
loses nothing of the others.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: What it runs. The copies come before whatever lies in the working folder.
PROGRAM = "import sys; sys.path[0] = sys.argv.pop(1); from parity.kit_worker import main; main()"
#: Seconds that a process has to end when it is told to.
PATIENCE = 30.0


class GoneError(Exception):
    """The process has ended or was ended: why, in a phrase."""


class LateError(GoneError):
    """It was ended because the time was up."""


class Session:
    """A worker (`parity.kit_worker`), started in the kit's folder with a job. log: where what it prints goes."""

    def __init__(self, kit: Path, job: dict[str, Any], log: Path):
        self._log = log
        command = [sys.executable, "-B", "-c", PROGRAM, str(kit / "lib"), json.dumps(job)]
        with log.open("ab") as stream:
            # A session of its own: ^C is for the one that keeps the books, which then ends this one.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                                             start_new_session=True)
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._pump, daemon=True).start()

    def ask(self, message: dict[str, Any] | None, until: float) -> dict[str, Any]:
        """Its answer; None only waits for one. until: by `time.monotonic()`.

        Raises LateError if it has not answered by then, GoneError if it has ended; it is gone in both cases.
        """
        try:
            if message is not None:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
            line = self._lines.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            self.end()
            raise LateError("the time was up") from None
        except BrokenPipeError:
            line = None
        if line is None:
            raise GoneError(self._how())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self, kindly: bool = False) -> None:
        """Ends it; `kindly`: lets it close the device first."""
        if kindly and self._process.poll() is None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._process.stdin.close()
                self._process.wait(PATIENCE)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _pump(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _how(self) -> str:
        """In which way it has ended, and where to read more."""
        code = self._process.wait()
        try:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            name = f"signal {-code}"
        return f"its process ended ({name}; what it said is in {self._log})"
