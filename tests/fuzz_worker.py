"""The process in which spoilt files are read: it takes orders on its standard input and reports on its standard output.

An order is a line of JSON, {"reader", "seed", "first", "count"}; the answer to it is one, too. Which case is being read
stands in a file, for the driver to look at if this process is no more.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from dbnet.errors import DbnetError
from tests.fuzz_guard import Guard, Limits, Outcome
from tests.fuzz_reader import MIB, Reader

#: Seconds for each MiB of a file, above those for any: whole networks, and texts of megabytes.
SECONDS_PER_MIB = 1.0
#: Of the codecs that a byte order mark or a zip calls for: imported before anything is watched.
CODECS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp437", "latin-1")
#: Memory that is freed goes back at once, or the peak of one file would hide the next one's.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1",
               "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def table(name: str) -> dict[str, Reader]:
    """The readers in a module."""
    found: dict[str, Reader] = importlib.import_module(name).READERS
    return found


def case(reader: Reader, name: str, seed: int, number: int) -> tuple[str, bytes, Random]:
    """Name and bytes of a case, and the chance that goes on into the call."""
    chance = Random(f"{seed} {name} {number}")
    return *reader.case(chance), chance


def warm_up(readers: Mapping[str, Reader], folder: Path) -> None:
    """Reads every sound file, so that all modules are there and all tables are filled."""
    for codec in CODECS:
        b"".decode(codec)
    for reader in (reader for reader in readers.values() if reader.warm):
        for seed in reader.seeds():
            path = folder / reader.names[0]
            path.write_bytes(seed)
            for number in range(2 if len(seed) > MIB else 8):
                _unguarded(reader, path, number)
            path.unlink()


def _unguarded(reader: Reader, path: Path, number: int) -> None:
    try:
        reader.call(path, Random(number))
    except DbnetError:
        return


def read(guard: Guard, reader: Reader, path: Path, chance: Random) -> Outcome:
    """One reading."""
    size = reader.counted(path.stat().st_size)
    limits = Limits(size, reader.times, reader.floor, reader.seconds + SECONDS_PER_MIB * size / MIB, reader.writes)
    return guard.run(path, lambda: reader.call(path, chance), limits)


def run(guard: Guard, readers: Mapping[str, Reader], order: Mapping[str, Any], folder: Path,
        progress: int) -> dict[str, Any]:
    """Carries out an order."""
    name, seed = order["reader"], order["seed"]
    reader = readers[name]
    answer: dict[str, Any] = {"files": 0, "refused": 0, "read": 0, "seconds": 0.0, "peak": 0, "findings": []}
    for number in range(order["first"], order["first"] + order["count"]):
        os.pwrite(progress, b"%-12d" % number, 0)
        file, data, chance = case(reader, name, seed, number)
        path = folder / file
        path.write_bytes(data)
        outcome = read(guard, reader, path, chance)
        path.unlink()
        answer["files"] += 1
        answer["refused"] += outcome.finding is None and outcome.said is not None
        answer["read"] += outcome.finding is None and outcome.said is None
        answer["seconds"] = max(answer["seconds"], outcome.seconds)
        answer["peak"] = max(answer["peak"], outcome.peak)
        if outcome.finding is not None:
            answer["findings"].append([number, outcome.finding])
    return answer


def main(module: str, progress_file: str, names: str) -> None:
    """Until standard input ends. names: of the readers that are wanted, as JSON."""
    os.nice(10)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    readers = {name: reader for name, reader in table(module).items() if name in json.loads(names)}
    progress = os.open(progress_file, os.O_WRONLY)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder = Path(name)
        warm_up(readers, folder)
        guard = Guard()
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            print(json.dumps(run(guard, readers, json.loads(line), folder, progress)), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
