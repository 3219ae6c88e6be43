"""Interpreters to try: real ones with something before them, and frameworks that are none."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from evaluation.elsewhere import Worker

THIS = Path(sys.executable)


def wrapped(folder: Path, before: str = "", **modules: str) -> Path:
    """A program that runs some shell, and then this Python with modules of this source before all others."""
    folder.mkdir(exist_ok=True)
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{before}\nexport PYTHONPATH='{folder}'\nexec '{THIS}' \"$@\"\n")
    program.chmod(0o755)
    return program


def kill(worker: Worker, number: int = signal.SIGSEGV) -> None:
    """Has a worker die, and waits until it is dead."""
    os.kill(worker.pid, number)
    worker._process.wait(10)


def is_gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends in that time; one that only waits to be reaped has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.05)
    return False
