"""One row of a benchmark in a process of its own, so that its import, its memory and its crash are its own.

Nothing of a framework is imported before its import is timed; so this file imports next to nothing itself.
"""

from __future__ import annotations

import importlib
import os
import select
import threading
import time
from types import ModuleType
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import module_of, require
from evaluation.elsewhere_wire import Wire

Answer = tuple[dict[str, Any], dict[str, np.ndarray]]


def main(read: int, write: int) -> None:
    """Serves until the other end of the pipes is closed."""
    threading.Thread(target=_end_with, args=(read,), daemon=True).start()
    wire = Wire(read, write)
    work = None
    try:
        while True:
            header, _ = wire.receive()
            do = header.pop("do")
            try:
                if do == "begin":
                    answer: Answer = _begin(**header), {}
                    work = importlib.import_module("evaluation.benching.work").Work(header["framework"])
                else:
                    answer = getattr(work, f"do_{do}")(**header)
            except DbnetError as error:
                answer = {"error": str(error)}, {}
            except MemoryError:
                answer = {"error": "there is not enough memory; take a smaller --shape or --batch"}, {}
            wire.send({**answer[0], "peak": peak_memory("self")}, answer[1])
    except EOFError:  # nobody is there any more
        os._exit(0)


def _end_with(descriptor: int) -> None:
    """Ends this process with the one that asks, in the middle of a computation too."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()  # until nobody can write any more
    os._exit(0)


def _begin(framework: str, cores: list[int] | None, elsewhere: bool) -> dict[str, Any]:
    """cores: that this process may use, all of them if None. elsewhere: another environment imports the framework."""
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if elsewhere:
        return {"import": None}
    begin = time.perf_counter()
    _imported(framework)
    return {"import": time.perf_counter() - begin}


def _imported(framework: str) -> ModuleType:
    """Raises DbnetError, naming the extra, where it is not installed."""
    return importlib.import_module(module_of(framework)) if framework == "opencv" else require(framework)


def peak_memory(process: int | str) -> int | None:
    """Bytes that a process had in memory at most; None where the system does not tell."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as stream:
            found = next((line for line in stream if line.startswith("VmHWM:")), None)
    except OSError:
        return None
    return None if found is None else int(found.split()[1]) * 1024
