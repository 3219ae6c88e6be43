"""Whole-process times and peak memory, interleaved so that a noisy machine favours no one."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Timing:
    """Wall seconds and peak resident MiB of every counted run of one command."""

    name: str
    seconds: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.mebibytes)


def run_once(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one process. Exits with its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors.decode(errors='replace')}")
    return seconds, usage.ru_maxrss / 1024


def interleave(commands: dict[str, Sequence[str]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Runs A, B, C, A, B, C, ...; the first `warmup` rounds are not counted."""
    timings = {name: Timing(name) for name in commands}
    for round_number in range(warmup + rounds):
        for name, command in commands.items():
            seconds, mebibytes = run_once(command)
            if round_number >= warmup:
                timings[name].seconds.append(seconds)
                timings[name].mebibytes.append(mebibytes)
    return timings
