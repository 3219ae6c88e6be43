"""One process of a kit's run, which MindSpore may crash or hang in: asked in lines of JSON, ended when time is up.

MindSpore takes a device's precision once per process, so that every mode needs one; and what dies with one is told and
loses nothing of the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from dbnet.errors import short

#: What it runs. The copies come before whatever lies in the working folder.
PROGRAM = "import sys; sys.path[0] = sys.argv.pop(1); from parity.kit_worker import main; main()"
#: Seconds that a process has to end when it is told to.
PATIENCE, LEAST_PATIENCE = 30.0, 1.0
#: Seconds after which it is looked whether the process still lives, and which its last answer has to arrive.
SLICE, ARRIVING = 1.0, 0.5
#: Bytes at the end of what it printed, to quote its last line from.
TAIL = 4096


class GoneError(Exception):
    """The process has ended or was ended: why, in a phrase."""


class LateError(GoneError):
    """It was ended because the time was up."""


class Session:
    """A worker (`parity.kit_worker`), started in the kit's folder with a job. log: where what it prints goes; None: it
    is kept for its last line only. Raises GoneError if it cannot be started.
    """

    def __init__(self, kit: Path, job: dict[str, Any], log: Path | None):
        self._log, self._ended = log, False
        command = [sys.executable, "-B", "-c", PROGRAM, str(kit / "lib"), json.dumps(job)]
        try:
            self._printed: IO[bytes] = tempfile.TemporaryFile() if log is None else log.open("a+b")  # noqa: SIM115
            self._from = self._printed.seek(0, os.SEEK_END)
            # A session of its own: ^C is for the one that keeps the books, which then ends this one, and whatever this
            # one has started.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=self._printed, start_new_session=True)
        except OSError as error:
            raise GoneError(f"its process could not be started ({error.strerror})") from error
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
            line = self._answer(until)
        except queue.Empty:
            self.end()
            raise LateError("the time was up") from None
        except BrokenPipeError:
            line = None
        if line is None or not line.endswith(b"\n"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SLICE)
            self.end()
            raise GoneError(self._how())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _answer(self, until: float) -> bytes | None:
        """None if it has ended. A child of it, a compiler's, can hold the pipe open for long after. Raises queue.Empty
        when the time is up."""
        while True:
            left = max(until - time.monotonic(), 0.0)
            try:
                return self._lines.get(timeout=min(left, SLICE))
            except queue.Empty:
                if left <= SLICE:
                    raise
            if self._process.poll() is not None:
                try:
                    return self._lines.get(timeout=ARRIVING)
                except queue.Empty:
                    return None

    def end(self, kindly: bool = False, patience: float = PATIENCE) -> None:
        """Ends it and its children; `kindly`: lets it close the device first, for `patience` seconds."""
        if self._ended:
            return
        self._ended = True
        try:
            if kindly and self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                    self._process.stdin.close()
                    self._process.wait(patience)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _pump(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _how(self) -> str:
        """In which way it has ended, what it said last, and where to read more."""
        code = self._process.wait()
        size = os.fstat(self._printed.fileno()).st_size
        tail = os.pread(self._printed.fileno(), TAIL, max(size - TAIL, self._from)).decode(errors="replace").split("\n")
        last = next((f", {short(line.strip())}" for line in reversed(tail) if line.strip()), "")
        try:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            name = f"signal {-code}"
        return f"its process ended ({name}{last}{f'; all that it said is in {self._log}' if self._log else ''})"
