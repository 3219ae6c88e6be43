"""A benchmark's row as its parent sees it: a process of its own that answers until it is closed, or dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from evaluation.elsewhere_end import how_it_ended, status_within
from evaluation.elsewhere_wire import Wire, WireError

#: Seconds that a process has for its own end.
PATIENCE = 5.0
#: Bytes of what it printed last that are looked at.
_LAST = 1 << 14
_START = ("import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
          "from evaluation.benching.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))")


class BenchProcess:
    """Runs `evaluation.benching.worker`. name: of the framework, for errors. peak: bytes of memory at most, so far."""

    def __init__(self, name: str):
        self.name, self.peak = name, None
        (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
        self._wire = Wire(our_read, our_write)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, "-c", _START, str(their_read), str(their_write), json.dumps(sys.path)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._output,
                                             stderr=subprocess.STDOUT, pass_fds=(their_read, their_write),
                                             start_new_session=True)  # a terminal's ^C is for the parent alone
        except OSError as error:
            self._wire.close()
            self._output.close()
            raise DbnetError(f"a process for {name} could not be started ({error.strerror}); end other programs, or "
                             f"give --together 1") from error
        finally:
            os.close(their_read)
            os.close(their_write)

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, do: str, **header: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What it answers. Raises DbnetError for what it could not do, and if it is gone, or goes meanwhile."""
        try:
            self._wire.send({"do": do, **header})
            answer, arrays = self._wire.receive()
        except (EOFError, BrokenPipeError, WireError) as error:
            ended = how_it_ended(self.name, Path(sys.executable), status_within(PATIENCE, self._process),
                                 self._last_words(), short(error))
            self.close()
            raise DbnetError(ended) from error
        self.peak = answer["peak"] or self.peak
        if "error" in answer:
            raise DbnetError(str(answer["error"]))
        return answer, arrays

    def close(self, at_once: bool = False) -> None:
        """Ends it. Once is enough. at_once: whatever it does."""
        self._wire.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _last_words(self) -> list[str]:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _LAST))
        lines = self._output.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
