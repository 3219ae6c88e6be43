"""Many images through one network: while it computes, other threads decode the next images and draw the last boxes.

Results come in the samples' order and are bit for bit those of one image after the other. Only a bounded number of
images is ever in memory.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import decode_image, prepare, read_bytes
from dbnet.sample import Detection, Sample
from dbnet.spec import BoxRule, PixelFormat
from evaluation.detect import probability_map
from evaluation.runners import Runner, cores

T = TypeVar("T")
R = TypeVar("R")

#: Threads beside the network's unless told otherwise, at most: more than this many images wait for no network.
MAX_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Found:
    """What one image gave. checksum: CRC-32 of its file. detections: one list for each box rule."""

    sample: Sample
    checksum: int
    detections: list[list[Detection]]


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image between two stages. array: the network's input, after it the probability map."""

    sample: Sample
    checksum: int
    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    array: np.ndarray


def run(runner: Runner, samples: Sequence[Sample], pixels: PixelFormat, rules: Sequence[BoxRule],
        finish: Callable[[Found], R], workers: int | None = None) -> Generator[R, None, None]:
    """Detects in every sample's image and yields `finish` of what was found, in the samples' order.

    `finish` runs in the worker threads. The network runs in the calling thread, which torch and MindSpore are used to;
    a runner whose `at_once` is above 1 may be called from several threads, and then each worker takes an image all the
    way. workers: threads; default `at_once`, or else one per core, at most `MAX_WORKERS`. At most 2 * workers + 1
    images are in memory.

    Raises DbnetError, naming the image, for the first that cannot be read or whose output is unusable; the results
    before it are yielded first. When the generator is closed, no thread is left behind.
    """
    at_once = calls_at_once(runner)
    workers = check_workers(workers) or (at_once if at_once > 1 else min(cores(), MAX_WORKERS))

    def first(sample: Sample) -> _Frame:
        data = read_bytes(sample.image)
        image = decode_image(data, sample.image)
        with _naming(sample):
            ready = prepare(image, pixels)
        return _Frame(sample, zlib.crc32(data.tobytes()), ready.original_size, ready.resized_size, ready.tensor)

    def middle(frame: _Frame) -> _Frame:
        with _naming(frame.sample):
            return replace(frame, array=probability_map(runner, frame.array))

    def last(frame: _Frame) -> R:
        with _naming(frame.sample):
            found = [boxes_from_map(frame.array, **asdict(rule), resized_size=frame.resized_size,
                                    original_size=frame.original_size) for rule in rules]
            return finish(Found(frame.sample, frame.checksum, found))

    with ThreadPoolExecutor(workers, thread_name_prefix="dbnet") as pool:
        if at_once > 1:
            yield from ordered_map(pool, lambda sample: last(middle(first(sample))), samples, 2 * workers)
        else:
            prepared = ordered_map(pool, first, samples, workers)
            yield from ordered_map(pool, last, map(middle, prepared), workers)


def ordered_map(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`map` in the pool's threads, in order, with at most `ahead` items taken from `items` and not yet yielded.

    `items` itself is advanced in the calling thread. If it raises DbnetError, the results of the items before are
    yielded first. What was not begun when the generator ends is never begun.
    """
    source, pending = iter(items), deque[Future[R]]()
    failure: DbnetError | None = None
    try:
        while True:
            while failure is None and len(pending) < ahead:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except DbnetError as error:
                    failure = error
                    break
                pending.append(pool.submit(function, item))
                del item  # else it would live as long as the next one takes to come
            if not pending:
                break
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
    if failure is not None:
        raise failure


def calls_at_once(runner: Runner) -> int:
    """How many calls of the runner's `run` may be under way at once; 1 where it does not say."""
    return int(getattr(runner, "at_once", 1))


def check_workers(workers: int | None) -> int | None:
    """Raises DbnetError for less than one."""
    if workers is not None and workers < 1:
        raise DbnetError(f"workers must be at least 1, not {workers}")
    return workers


@contextlib.contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Puts the image's path before the message of a DbnetError."""
    try:
        yield
    except DbnetError as error:
        raise DbnetError(f"{sample.image}: {error}") from error
