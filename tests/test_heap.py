"""The heap of a process that makes the same arrays over and over."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from dbnet import heap
from parity.data import ROOT

#: Arrays of 2 MiB, 512 pages each: NumPy asks for huge ones from 4 MiB on.
FAULTS = """
import resource, sys
import numpy as np
from dbnet.heap import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def work():
    arrays = [np.full(2 << 20, 1, np.uint8) for _ in range(4)]
    return sum(int(array[0]) for array in arrays)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives back, and can be told not to")
def test_what_is_freed_is_used_again():
    assert faults("kept") < 1000 < faults("given back")


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_nothing_happens_elsewhere(error, monkeypatch):
    def cdll(_name):
        raise error
    monkeypatch.setattr(ctypes, "CDLL", cdll)
    heap.keep_freed()
