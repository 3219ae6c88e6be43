"""Batches of examples, made ahead by other processes in shared memory, in the same order for any number of them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dbnet.errors import DbnetError
from dbnet.heap import keep_freed
from dbnet.training_set import Example, TrainingSet, stacked

log = logging.getLogger("dbnet")

#: Batches that are made ahead.
AHEAD = 4
#: Of `Example`, the widest first, so that each begins at a multiple of its own size.
_FIELDS = {"thresh_map": (np.float32, ()), "image": (np.uint8, (3,)), "binary_map": (np.uint8, ()),
           "mask": (np.uint8, ()), "thresh_mask": (np.uint8, ())}
_SIGNALS = {signal.SIGINT, signal.SIGTERM}

#: The names of an example's image, and what was wrong with the images in whose place it stands.
_Made = tuple[tuple[str, ...], tuple[str, ...]]


class Loader:
    """Makes the batches of a training set. workers: processes; 0 makes them where they are asked for.

    Close it, or use it in a `with` statement. The processes import the program's main module: one that makes a loader
    when it is imported (a script without `if __name__ == "__main__":`) cannot have any. They do not heed SIGINT and
    SIGTERM, which are for the program, so that it can end in its own time; they end with it, even if it is killed.

    Raises DbnetError if there is too little shared memory for two batches.
    """

    def __init__(self, training_set: TrainingSet, batch_size: int, workers: int):
        self._set, self._size = training_set, batch_size
        self._slots: list[_Memory] = []
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            self._slots = _shared(_length(training_set, batch_size), AHEAD + 1)
            context = multiprocessing.get_context("spawn")  # a forked process would inherit the framework's threads
            self._pool = ProcessPoolExecutor(workers, context, _begin, (training_set, batch_size,
                                                                        [slot.name for slot in self._slots]))

    def batches(self, epoch: int, places: Iterable[np.ndarray]) -> Iterator[Example]:
        """One batch for each entry of `places` (N,), N at most the batch size: a smaller one leaves the last rows of
        the arrays as they are, and has N names. The arrays are overwritten when the batch after the next is asked for.

        Raises DbnetError for images that cannot be read, and if a process dies.
        """
        if self._pool is None:
            for indices in places:
                yield stacked([self._set.draw(epoch, int(index)) for index in indices])
            return
        free, source = deque(range(len(self._slots))), iter(places)
        pending = deque[tuple[int, list[Future[_Made]]]]()
        try:
            while True:
                for indices in itertools.islice(source, len(self._slots) - 1 - len(pending)):
                    slot = free.popleft()
                    pending.append((slot, self._submit(slot, epoch, indices)))
                if not pending:
                    return
                slot, futures = pending[0]
                made = [future.result() for future in futures]
                pending.popleft()
                for problem in (problem for _, problems in made for problem in problems):
                    self._set.tell(problem)
                names = tuple(name for names, _ in made for name in names)
                yield _view(self._slots[slot], self._set, self._size, names)
                free.append(slot)
        except BrokenProcessPool as error:
            raise DbnetError("a process that prepares images died, probably for lack of memory; use fewer workers or a "
                             "smaller batch") from error
        finally:
            left = [future for _, futures in pending for future in futures]
            wait([future for future in left if not future.cancel()])  # they would write into the next epoch's batches

    def _submit(self, slot: int, epoch: int, indices: np.ndarray) -> list[Future[_Made]]:
        """Starts processes too, as long as there are not enough; none may be ended before it heeds no signal."""
        assert self._pool is not None
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return [self._pool.submit(_fill, slot, row, epoch, int(index)) for row, index in enumerate(indices)]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def close(self) -> None:
        """Ends the processes and gives the shared memory back."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        _give_back(self._slots)
        self._slots = []

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# Shared memory --------------------------------------------------------------------------------------------------------


class _Memory(SharedMemory):
    """Says nothing if it is still looked into when the program ends."""

    def __del__(self) -> None:
        with contextlib.suppress(BufferError, OSError):
            self.close()


def _shared(length: int, count: int) -> list[_Memory]:
    """`count` blocks, or as many as there is room for. Raises DbnetError if these are fewer than two."""
    slots: list[_Memory] = []
    while len(slots) < count and (slot := _reserved(length)) is not None:
        slots.append(slot)
    if len(slots) < min(count, 2):
        _give_back(slots)
        raise DbnetError(f"the shared memory (/dev/shm) has no room for two batches of {math.ceil(length / 2**20)} MB; "
                         f"use a smaller batch or no processes (--workers 0), or start the container with more of it "
                         f"(docker run --shm-size)")
    return slots


def _reserved(length: int) -> _Memory | None:
    """A block whose pages there are: who touches one that there is not is killed without a word."""
    try:
        slot = _Memory(create=True, size=length)
    except OSError:
        return None
    try:
        with (contextlib.suppress(FileNotFoundError, AttributeError),  # not every system has them
              Path("/dev/shm", slot.name.lstrip("/")).open("r+b") as file):
            os.posix_fallocate(file.fileno(), 0, length)
    except OSError:
        _give_back([slot])
        return None
    return slot


def _give_back(slots: list[_Memory]) -> None:
    for slot in slots:
        with contextlib.suppress(BufferError):  # somebody still looks into it; it goes with its last array
            slot.close()
        slot.unlink()


def _length(training_set: TrainingSet, count: int) -> int:
    """Bytes of a batch."""
    return sum(math.prod(_shape(training_set, count, rest)) * np.dtype(kind).itemsize
               for kind, rest in _FIELDS.values())


def _shape(training_set: TrainingSet, count: int, rest: tuple[int, ...]) -> tuple[int, ...]:
    return (count, *training_set.augmentation.crop_size, *rest)


def _view(memory: _Memory, training_set: TrainingSet, count: int, names: tuple[str, ...]) -> Example:
    """A batch's arrays in a slot."""
    # Not np.ndarray(buffer=...): the memory would not know that it is looked into, and would be gone when it is closed.
    assert memory.buf is not None
    values = np.frombuffer(memory.buf, np.uint8)
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for field, (kind, rest) in _FIELDS.items():
        shape = _shape(training_set, count, rest)
        stop = start + math.prod(shape) * np.dtype(kind).itemsize
        arrays[field], start = values[start:stop].view(kind).reshape(shape), stop
    return Example(names=names, **arrays)


# In the other processes -----------------------------------------------------------------------------------------------


class _Worker(NamedTuple):
    """memories: to be kept, for the batches lie in them."""

    training_set: TrainingSet
    memories: list[_Memory]
    batches: list[Example]


_worker: _Worker | None = None


def _begin(training_set: TrainingSet, batch_size: int, slots: list[str]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for end in (_end_with_the_program, _end_by_the_program):
        threading.Thread(target=end, daemon=True).start()
    log.addHandler(logging.NullHandler())  # what is to be told goes back with the example
    cv2.setNumThreads(1)
    keep_freed()
    memories = [_Memory(name=name) for name in slots]
    _worker = _Worker(training_set, memories, [_view(memory, training_set, batch_size, ()) for memory in memories])


def _end_with_the_program() -> None:
    """A program that is killed ends no processes."""
    program = multiprocessing.parent_process()
    assert program is not None
    multiprocessing.connection.wait([program.sentinel])
    os._exit(1)


def _end_by_the_program() -> None:
    """SIGTERM is blocked in all threads: a shell, a container or a batch system sends it to everybody. From the program
    it comes if another process has died."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        log.debug("a signal for the program")
    os._exit(1)


def _fill(slot: int, row: int, epoch: int, index: int) -> _Made:
    assert _worker is not None
    known = len(_worker.training_set.unreadable)
    example = _worker.training_set.draw(epoch, index)
    for target, values in zip(_worker.batches[slot][:-1], example[:-1], strict=True):
        target[row] = values
    return example.names, tuple(_worker.training_set.unreadable)[known:]
