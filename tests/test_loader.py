"""Batches from other processes: the same as without them, and nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dbnet import loader as module
from dbnet.errors import DbnetError
from dbnet.loader import Loader
from dbnet.training_set import Example, TrainingSet, batches_of
from tests.test_training_set import ROOT, SMALL, TARGETS, broken, write_samples

SHARED_MEMORY = Path("/dev/shm")
SCRIPT = """
import os, signal, sys, time
sys.path[:0] = [{root!r}]
from pathlib import Path
from dbnet.loader import Loader
from dbnet.training_set import TrainingSet
from tests.test_training_set import SMALL, TARGETS, write_samples

def main():
    training_set = TrainingSet(write_samples(Path({folder!r})), SMALL, TARGETS, 5)
    with Loader(training_set, 2, 2) as loader:
        places = [[i % 6, (i + 1) % 6] for i in range(200)]
        {body}

{call}
"""


@pytest.fixture
def training_set(tmp_path) -> TrainingSet:
    return TrainingSet(write_samples(tmp_path, 7), SMALL, TARGETS, 5)


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch) -> Iterator[None]:
    made: list[str] = []

    def reserved(length: int) -> object:
        slot = reserve(length)
        made.extend([slot.name] if slot else [])
        return slot

    reserve = module._reserved
    monkeypatch.setattr(module, "_reserved", reserved)
    yield
    assert not multiprocessing.active_children()
    assert not [name for name in made if (SHARED_MEMORY / name).exists()]


class Slow(TrainingSet):
    """Its second example takes a while."""

    def draw(self, epoch: int, index: int) -> Example:
        if index == 1:
            time.sleep(0.25)
        return super().draw(epoch, index)


def copied(batches: Iterator[Example]) -> list[list[object]]:
    return [[part.copy() if isinstance(part, np.ndarray) else part for part in batch] for batch in batches]


def assert_same(one: list[list[object]], other: list[list[object]]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_batches_for_any_number_of_processes(training_set, workers: int) -> None:
    with Loader(training_set, 2, 0) as alone, Loader(training_set, 2, workers) as loader:
        for epoch in (0, 1):
            places = [*batches_of(training_set.order(epoch), 2)] * 3  # more than are made ahead
            assert_same(copied(loader.batches(epoch, places)), copied(alone.batches(epoch, places)))
        assert list(loader.batches(0, [])) == []


def test_a_batch_is_there_until_the_one_after_the_next_is_asked_for(training_set) -> None:
    with Loader(training_set, 2, 2) as loader:
        kept, copy = None, None
        for batch in loader.batches(0, [*batches_of(training_set.order(0), 2)] * 3):
            if kept is not None:
                time.sleep(0.1)
                np.testing.assert_array_equal(kept, copy)
            kept, copy = batch.image, batch.image.copy()


def test_a_smaller_last_batch(training_set) -> None:
    with Loader(training_set, 3, 1) as loader:
        batches = [(batch.names, batch.image[:len(batch.names)].copy())
                   for batch in loader.batches(0, [[0, 1, 2], [3]])]
    assert [names for names, _ in batches] == [("0.png", "1.png", "2.png"), ("3.png",)]
    np.testing.assert_array_equal(batches[1][1][0], training_set.draw(0, 3).image)


def test_another_epoch_after_one_that_was_left(training_set) -> None:
    """What was being made for it must not land in the next one's batches."""
    slow = Slow(training_set.samples, SMALL, TARGETS, 5)
    with Loader(slow, 2, 2) as loader:
        for _ in range(2):
            for batch in loader.batches(0, [[0, 0], [1, 0], [0, 0]]):
                assert batch.names
                break
            first, second = (batch for batch in loader.batches(1, [[3, 4], [5, 6]]))
            time.sleep(0.4)
            for batch, names in ((first, (3, 4)), (second, (5, 6))):
                for row, index in enumerate(names):
                    np.testing.assert_array_equal(batch.image[row], training_set.draw(1, index).image)


def test_who_leaves_with_a_batch_in_hand(training_set) -> None:
    with pytest.raises(KeyError), Loader(training_set, 2, 2) as loader:  # noqa: PT012 - the batch lives in this frame
        for batch in loader.batches(0, [[i % 7, 0] for i in range(20)]):
            raise KeyError(batch.names)
    assert batch.image.shape == (2, 64, 96, 3) and batch.image.any()


@pytest.mark.parametrize("batches", [0, 1])
def test_a_process_that_dies(training_set, batches: int) -> None:
    with Loader(training_set, 2, 2) as loader:
        found = loader.batches(0, [[i % 7, 0] for i in range(400)])
        next(found)
        for process in list(loader._pool._processes.values())[batches:]:
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(DbnetError, match="died"):
            list(found)
        with pytest.raises(DbnetError, match="died"):
            list(loader.batches(1, [[0, 1]]))


def test_the_processes_heed_no_signal_of_the_program(training_set, request) -> None:
    """Ctrl-C reaches them too; the program wants to save what it has learnt, and to end by itself."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ours))
    with Loader(training_set, 2, 2) as loader:
        found = loader.batches(0, [[i % 7, 0] for i in range(30)])
        next(found)
        for name in ("INT", "TERM"):
            subprocess.run(["kill", f"-{name}", *map(str, loader._pool._processes)], check=True)
        time.sleep(0.2)
        assert len(list(found)) == 29
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_broken_images_are_told_once_by_the_program(training_set, tmp_path, caplog, capfd) -> None:
    training_set.samples = broken(training_set.samples, tmp_path, [1, 2])
    with Loader(training_set, 2, 2) as loader:
        for epoch in (0, 1):
            names = [name for batch in loader.batches(epoch, [[0, 1], [2, 3], [1, 2]]) for name in batch.names]
            assert names == ["0.png", "3.png", "3.png", "3.png", "3.png", "3.png"]
    assert sorted(record.getMessage().split(":")[0] for record in caplog.records) == [
        str(tmp_path / "broken.png"), str(tmp_path / "missing.png")]
    assert capfd.readouterr().err == ""


def test_only_broken_images(training_set, tmp_path) -> None:
    training_set.samples = broken(training_set.samples, tmp_path, list(range(7)))
    with Loader(training_set, 2, 2) as loader, pytest.raises(DbnetError, match="data check"):
        list(loader.batches(0, [[0, 1]]))


@pytest.mark.parametrize("room", [2, 3])
def test_little_shared_memory(training_set, monkeypatch, room: int) -> None:
    _allow(monkeypatch, room)
    with Loader(training_set, 2, 1) as loader, Loader(training_set, 2, 0) as alone:
        assert len(loader._slots) == room
        places = [[i % 7, i % 3] for i in range(9)]
        assert_same(copied(loader.batches(0, places)), copied(alone.batches(0, places)))


@pytest.mark.parametrize("room", [0, 1])
def test_too_little_shared_memory(training_set, monkeypatch, room: int) -> None:
    _allow(monkeypatch, room)
    with pytest.raises(DbnetError, match="--workers 0"):
        Loader(training_set, 2, 1)


def _allow(monkeypatch, room: int) -> None:
    """No more than so many blocks."""
    left = [room]

    def reserve(*_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", reserve)


# In a program of its own ----------------------------------------------------------------------------------------------


def start(folder: Path, body: str, call: str = 'if __name__ == "__main__":\n    main()') -> subprocess.Popen[str]:
    """A program that has a loader with two processes, and runs `body` with it."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(folder), body=body, call=call))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("body", [
    "print(len([batch.names for batch in loader.batches(0, places[:6])]))",
    "global batch; batch = next(loader.batches(0, places)); print(6)",
    "loader.close(); print(6)",
], ids=["to the end", "a batch outlives it", "unused"])
def test_nothing_is_told_at_the_end(tmp_path, body: str) -> None:
    """No warning of the resource tracker's, no exception in a destructor."""
    with start(tmp_path, body) as program:
        out, error = program.communicate(timeout=60)
    assert (program.returncode, out, error) == (0, "6\n", "")


def test_the_processes_end_with_a_program_that_is_killed(tmp_path) -> None:
    body = ("batches = loader.batches(0, places); next(batches)\n        "
            "print(*loader._pool._processes, flush=True); time.sleep(60)")
    with start(tmp_path, body) as program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        program.kill()
        program.communicate(timeout=60)
    assert len(pids) == 2
    _wait_for(lambda: not any(alive(pid) for pid in pids))
    assert program.returncode == -signal.SIGKILL


def test_a_ctrl_c_while_the_processes_start(tmp_path) -> None:
    body = ("signal.signal(signal.SIGINT, lambda *_: print('told', flush=True))\n        "
            "batches = loader.batches(0, places); print(*loader._pool._processes, flush=True)\n        "
            "first = next(batches); print(*first.names, flush=True)")
    told = 0
    with start(tmp_path, body) as program:
        program.stdout.readline()
        for _ in range(20):
            time.sleep(0.02)
            for pid in children(program.pid):
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
                told += 1
        out, error = program.communicate(timeout=60)
    assert told
    assert (program.returncode, out, error) == (0, "0.png 1.png\n", "")


def test_a_script_that_makes_it_when_it_is_imported(tmp_path) -> None:
    with start(tmp_path, "print(len(list(loader.batches(0, places))))", "main()") as program:
        out, error = program.communicate(timeout=60)
    assert program.returncode and out == "" and "dbnet.errors.DbnetError: a process that prepares images died" in error


def children(pid: int) -> list[int]:
    """Without the one that keeps account of the shared memory."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _status(path)[1:2] == [str(pid)]
            and b"resource_tracker" not in (path / "cmdline").read_bytes()]


def alive(pid: int) -> bool:
    return _status(Path(f"/proc/{pid}"))[:1] not in ([], ["Z"])


def _status(path: Path) -> list[str]:
    """State, parent, ... of a process."""
    with contextlib.suppress(OSError):
        return (path / "stat").read_text().rsplit(")", 1)[1].split()
    return []


def _wait_for(happens, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.05)
