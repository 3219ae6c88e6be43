"""Many images through one network: while it computes, other threads decode the next images and draw the last boxes.

Results come in the samples' order and are bit for bit those of one image after the other. Only a bounded number of
images is ever in memory, and of very large ones fewer at a time.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from dbnet.errors import DbnetError
from dbnet.image_header import pixels_of
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


#: Pixels of the images that are decoded and resized at once, in all threads: 0.8 GB of 8-bit colours. A larger image
#: goes alone, and so does one whose header does not say how large it is.
DECODED_AT_ONCE = 2**28
#: Pixels of the inputs that are in the network at once, where it takes several: eight of DBNet++'s 1152 x 2048.
NETWORK_AT_ONCE = 5 * 2**22
#: An image of more pixels is decoded again to be shown, rather than kept while the network works.
KEPT_PIXELS = 2**25


@dataclass(frozen=True, eq=False)
class View:
    """What a picture of the result needs. image: (H, W, 3) uint8 in BGR, the receiver's own to draw on. probability:
    (h, w) float32, the part of the map that shows the image.
    """

    image: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """What one image gave. checksum: CRC-32 of its file. size: (height, width) in pixels of the decoded image.
    detections: one list for each box rule. view: if it was asked for.
    """

    sample: Sample
    checksum: int
    size: tuple[int, int]
    detections: list[list[Detection]]
    view: View | None = None


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image between two stages. array: the network's input, after it the probability map. image: if it is kept."""

    sample: Sample
    checksum: int
    original_size: tuple[int, int]
    resized_size: tuple[int, int]
    array: np.ndarray
    image: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Failed:
    """What takes the place of an image's frame after a failure. value: what is yielded for it."""

    value: Any


def run(runner: Runner, samples: Iterable[Sample], pixels: PixelFormat, rules: Sequence[BoxRule],
        finish: Callable[[Found], R], workers: int | None = None, *, view: bool = False,
        decode: Callable[[np.ndarray, Path, bool], np.ndarray] = decode_image,
        read: Callable[[Path], np.ndarray] | None = None,
        failed: Callable[[Sample, DbnetError], R] | None = None) -> Generator[R, None, None]:
    """Detects in every sample's image and yields `finish` of what was found, in the samples' order.

    `finish` runs in the worker threads. The network runs in the calling thread, which torch and MindSpore are used to;
    a runner whose `at_once` is above 1 may be called from several threads, and then each worker takes an image all the
    way. workers: threads; default `at_once`, or else one per core, at most `MAX_WORKERS`. At most 2 * workers + 1
    images are in memory. view: `finish` is given a `View`. decode: as `decode_image`, for more kinds of files.
    read: in place of `read_bytes`, for files that lie elsewhere.
    failed: what to yield for an image that cannot be read or whose output is unusable, instead of raising.

    Raises DbnetError, naming the image, for the first such image; the results before it are yielded first. When the
    generator is closed, no thread is left behind.
    """
    at_once = calls_at_once(runner)
    workers = check_workers(workers) or (at_once if at_once > 1 else min(cores(), MAX_WORKERS))
    read = read or read_bytes
    decoding, computing = _Budget(DECODED_AT_ONCE), _Budget(NETWORK_AT_ONCE)

    def first(sample: Sample) -> _Frame:
        data = read(sample.image)
        with decoding.take(pixels_of(data)):
            image = decode(data, sample.image, pixels.ignore_orientation)
            ready = prepare(image, pixels)
        kept = image if view and np.prod(image.shape[:2]) <= KEPT_PIXELS else None
        return _Frame(sample, zlib.crc32(data.tobytes()), ready.original_size, ready.resized_size, ready.tensor, kept)

    def middle(frame: _Frame) -> _Frame:
        with computing.take(frame.array.shape[2] * frame.array.shape[3] if at_once > 1 else 0):
            return replace(frame, array=probability_map(runner, frame.array))

    def last(frame: _Frame) -> R:
        found = [boxes_from_map(frame.array, **asdict(rule), resized_size=frame.resized_size,
                                original_size=frame.original_size) for rule in rules]
        result = Found(frame.sample, frame.checksum, frame.original_size, found)
        if not view:
            return finish(result)
        height, width = frame.resized_size
        with decoding.take(0 if frame.image is not None else frame.original_size[0] * frame.original_size[1]):
            image = frame.image
            if image is None:
                image = decode(read(frame.sample.image), frame.sample.image, pixels.ignore_orientation)
            return finish(replace(result, view=View(image, frame.array[:height, :width])))

    steps = [_step(stage, failed) for stage in (first, middle, last)]
    with _one_thread_in_opencv(), ThreadPoolExecutor(workers, thread_name_prefix="dbnet") as pool:
        if at_once > 1:
            results = ordered_map(pool, lambda sample: steps[2](steps[1](steps[0](sample))), samples, 2 * workers)
        else:
            prepared = ordered_map(pool, steps[0], samples, workers)
            results = ordered_map(pool, steps[2], map(steps[1], prepared), workers)
        for result in results:
            yield result.value if isinstance(result, _Failed) else result


@contextlib.contextmanager
def _one_thread_in_opencv() -> Iterator[None]:
    """The cores are busy: OpenCV's own threads would only wait for them, and do so by spinning (5 % of all images)."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _step(stage: Callable[[Any], Any], failed: Callable[[Sample, DbnetError], Any] | None) -> Callable[[Any], Any]:
    """A stage whose errors name the image, and that lets an image pass which failed before. Errors are raised, or with
    `failed` turned into a `_Failed`.
    """
    def step(item: Any) -> Any:
        if isinstance(item, _Failed):
            return item
        sample = item if isinstance(item, Sample) else item.sample
        try:
            with naming(sample.image):
                return stage(item)
        except DbnetError as error:
            if failed is None:
                raise
            return _Failed(failed(sample, error))

    return step


class _Budget:
    """Threads that take more than is left wait until others give it back; who wants more than all of it waits for all.
    """

    def __init__(self, total: int):
        self._total = self._left = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int | None) -> Iterator[None]:
        """amount: None means that it is not known, and takes all."""
        amount = self._total if amount is None else min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


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
def naming(image: Path) -> Iterator[None]:
    """Puts the image's path before the message of a DbnetError, and makes one where memory is short."""
    try:
        yield
    except DbnetError as error:
        if str(error).startswith(" ".join(f"{image}: ".split())):
            raise
        raise DbnetError(f"{image}: {error}") from error
    except MemoryError as error:
        raise DbnetError(f"{image}: there is not enough memory for it; make the image smaller") from error
    except cv2.error as error:
        raise DbnetError(f"{image}: OpenCV cannot work on it ({error.err}); make the image smaller") from error
