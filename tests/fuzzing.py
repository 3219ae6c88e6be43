"""Spoilt files over every reader: `make fuzz MINUTES=10`, or `python -m tests.fuzzing --files 100000 --seed 1`.

The same seed and number of files are the same files. What must hold for each is said in SECURITY.md; `fuzz_guard`
watches it, in a process of its own that is started again when it dies. Exit code 1 for a finding, which is kept as a
file, with the command that reads it again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.fuzz_reader import MIB, Reader
from tests.fuzz_worker import ENVIRONMENT, case, table

ROOT = Path(__file__).resolve().parents[1]
#: Files of one order, for each share of the reader.
BATCH = 25
#: Seconds of a clock without a new file, after which the worker waits for something that does not come.
STUCK = 90
#: Findings of one reader that are told.
TOLD = 10


@dataclass
class Tally:
    """What came of one reader's files. findings: (number of the case, what)."""

    files: int = 0
    refused: int = 0
    read: int = 0
    seconds: float = 0.0
    peak: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)

    def add(self, answer: Mapping[str, Any]) -> None:
        """One order's."""
        self.files += answer["files"]
        self.refused += answer["refused"]
        self.read += answer["read"]
        self.seconds, self.peak = max(self.seconds, answer["seconds"]), max(self.peak, answer["peak"])
        self.findings += [(number, what) for number, what in answer["findings"]]


class Worker:
    """The process that reads."""

    def __init__(self, module: str, names: Iterable[str], folder: Path):
        self._module, self._names = module, json.dumps(list(names))
        self._progress, self._log = folder / "progress", folder / "log"
        self._progress.write_bytes(b"")
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz_worker", self._module, str(self._progress), self._names], cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)})
        self._process = process
        if self._answer() is None:
            raise click.ClickException(f"the worker does not start: {self._log.read_text(errors='replace')[-3000:]}")
        return process

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; of a worker that died, what it died of, and how far it came."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer is not None:
            return answer
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        number = int(self._progress.read_bytes() or order["first"])
        why = "no new file for a long time" if code is None else f"the process ended with {code}"
        last = " ".join(self._log.read_text(errors="replace")[-300:].split())
        self._process = self._started()
        return {"files": number - order["first"] + 1, "refused": 0, "read": 0, "seconds": 0.0, "peak": 0,
                "findings": [[number, f"{why}: {last}"]]}

    def _answer(self) -> dict[str, Any] | None:
        """A line of the worker's; None if it has ended, or makes no progress."""
        assert self._process.stdout is not None
        before = b""
        while not select.select([self._process.stdout], [], [], STUCK)[0]:
            now = self._progress.read_bytes()
            if now == before:
                return None
            before = now
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def orders(readers: Mapping[str, Reader], seed: int, files: int | None) -> Iterator[dict[str, Any]]:
    """In turns, each reader by its share; without end, or until there were so many files."""
    shares = sum(reader.share for reader in readers.values())
    wanted = {name: None if files is None else math.ceil(files * reader.share / shares)
              for name, reader in readers.items()}
    done = dict.fromkeys(readers, 0)
    while files is None or any(done[name] < (wanted[name] or 0) for name in readers):
        for name, reader in readers.items():
            left = wanted[name]
            batch = int(BATCH * reader.share)
            count = batch if left is None else min(batch, left - done[name])
            if count > 0:
                yield {"reader": name, "seed": seed, "first": done[name], "count": count}
            done[name] += count


def fuzz(module: str, readers: Mapping[str, Reader], seed: int, minutes: float | None,
         files: int | None) -> dict[str, Tally]:
    """Runs until the time is over, the files are read, or somebody interrupts it."""
    tallies = {name: Tally() for name in readers}
    end = None if minutes is None else time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(module, readers, Path(folder))
        with contextlib.closing(worker), contextlib.suppress(KeyboardInterrupt):
            for order in orders(readers, seed, files):
                if end is not None and time.monotonic() > end:
                    break
                first, last = order["first"], order["first"] + order["count"]
                while first < last:  # after a death it goes on behind the file that was the last one
                    answer = worker.run({**order, "first": first, "count": last - first})
                    tallies[order["reader"]].add(answer)
                    first += answer["files"]
    return tallies


def report(tallies: Mapping[str, Tally]) -> str:
    """The table."""
    every = list(tallies.values())
    total = Tally(sum(t.files for t in every), sum(t.refused for t in every), sum(t.read for t in every),
                  max(t.seconds for t in every), max(t.peak for t in every), [f for t in every for f in t.findings])
    rows = [("reader", "files", "refused", "read", "findings", "worst s", "worst MiB")]
    rows += [(name, f"{t.files:,}", f"{t.refused:,}", f"{t.read:,}", f"{len(t.findings)}", f"{t.seconds:.2f}",
              f"{t.peak / MIB:.0f}") for name, t in {**tallies, "all": total}.items()]
    return "\n".join(f"{row[0]:<14}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


def keep(readers: Mapping[str, Reader], name: str, seed: int, number: int) -> Path:
    """Writes a case's file below the folder for temporary files."""
    file, data, _ = case(readers[name], name, seed, number)
    folder = Path(tempfile.gettempdir()) / "dbnet-fuzz" / f"{name.replace(' ', '-')}-{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(data)
    return folder / file


@click.command()
@click.option("--minutes", type=float, help="How long. Without it and --files: one minute.")
@click.option("--files", type=click.IntRange(1), help="How many files, whatever time it takes.")
@click.option("--seed", type=int, help="Which files; without it, the time.")
@click.option("--reader", "names", multiple=True, help="Only this one; may be given again.")
@click.option("--case", "number", type=int, help="Only this case of --reader and --seed.")
@click.option("--quick", is_flag=True, help="Without the readers whose sound files take long to make.")
@click.option("--table", "module", default="tests.fuzz_readers", show_default=True, help="Where READERS are.")
def main(minutes: float | None, files: int | None, seed: int | None, names: tuple[str, ...], number: int | None,
         quick: bool, module: str) -> None:
    """Read spoilt files until one of them does what no file may do. Exit code 1 if one does."""
    readers = table(module)
    if set(names) - set(readers):
        raise click.BadParameter(f"choose from {', '.join(readers)}", param_hint="--reader")
    chosen = {name: reader for name, reader in readers.items() if (not names or name in names)
              and not (quick and reader.slow)}
    seed = int(time.time()) if seed is None else seed
    if number is not None:
        if len(names) != 1:
            raise click.UsageError("--case is one of a --reader")
        again(module, chosen, names[0], seed, number)
        return
    click.echo(f"seed {seed}")
    minutes = 1.0 if minutes is None and files is None else minutes
    tallies = fuzz(module, chosen, seed, minutes, files)
    click.echo(report(tallies))
    for name, tally in tallies.items():
        for found, what in tally.findings[:TOLD]:
            where = "" if module == "tests.fuzz_readers" else f" --table {module}"
            click.echo(f"\n{name}: {what}\n  file: {keep(chosen, name, seed, found)}\n  again: {sys.executable} -m "
                       f"tests.fuzzing --reader {name!r} --seed {seed} --case {found}{where}")
    sys.exit(any(tally.findings for tally in tallies.values()))


def again(module: str, readers: Mapping[str, Reader], name: str, seed: int, number: int) -> None:
    """Reads one case, and says what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(module, readers, Path(folder))
        answer = worker.run({"reader": name, "seed": seed, "first": number, "count": 1})
        worker.close()
    click.echo(f"{keep(readers, name, seed, number)}: {answer['seconds']:.2f} s, {answer['peak'] / MIB:.1f} MiB, "
               f"{next((what for what in ('refused', 'read') if answer[what]), 'a finding')}")
    for _, what in answer["findings"]:
        click.echo(what)
    sys.exit(bool(answer["findings"]))


if __name__ == "__main__":
    main()
