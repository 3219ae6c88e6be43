"""Scenes of a plan drawn into image files, by one process or several; what comes out does not depend on how many.

Each scene depends on the plan's seed and on its own number only.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import cv2

from dbnet.datasets.prepared import line_of
from dbnet.datasets.preparing import cores
from dbnet.datasets.repair import mend_labels
from dbnet.datasets.synth import draw_scene
from dbnet.datasets.synth_fonts import Face
from dbnet.datasets.synth_photographs import Found, Photographs
from dbnet.errors import DbnetError
from dbnet.sample import Sample

QUALITY = 92
#: Scenes that a process draws before it reports.
AT_ONCE = 4


@dataclass(frozen=True)
class Plan:
    """What to draw. size: height and width in pixels. faces: all fonts to choose from. photographs: None for drawn
    backgrounds only."""

    count: int
    seed: int
    size: tuple[int, int]
    faces: tuple[Face, ...]
    photographs: Found | None = None


@dataclass(frozen=True)
class Row:
    """One scene. line: of the label file. sha256: of the image file. fonts: path of each and words drawn with it."""

    line: str
    texts: int
    readable: int
    sha256: str
    fonts: dict[str, int]


def image_name(number: int) -> str:
    """Of the scene of that number, from 0."""
    return f"scene_{number + 1}.jpg"


class Painter:
    """Draws scenes of a plan into a folder."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder = plan, folder
        self.photographs = Photographs(plan.photographs.files if plan.photographs else ())

    def draw(self, number: int) -> Row:
        """Draws and writes one scene. Raises DbnetError if a background cannot be read, OSError if not written."""
        scene = draw_scene((self.plan.seed, number), self.plan.faces, *self.plan.size, self.photographs)
        name = image_name(number)
        content = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        (self.folder / name).write_bytes(content)
        # Rounded, and marked ### where a word is not asked for.
        sample, _, _ = mend_labels(name, Sample(Path(name), scene.polygons, scene.ignore, scene.texts), self.plan.size)
        return Row(line_of(name, sample), len(sample.texts), int((~sample.ignore).sum()),
                   hashlib.sha256(content).hexdigest(), dict(Counter(face.path for face in scene.fonts)))


#: Of a worker process, set when it starts.
_painters: list[Painter] = []


def drawn(painter: Painter, workers: int | None, progress: Callable[[int, int], None] | None) -> list[Row]:
    """All scenes in order."""
    count = painter.plan.count
    wanted = min(workers or cores(), -(-count // AT_ONCE))
    rows = []
    with _pool(painter, wanted) as draw, contextlib.closing(draw(range(count))) as drawn:
        for row in drawn:
            rows.append(row)
            if progress is not None:
                progress(len(rows), count)
    return rows


@contextlib.contextmanager
def _pool(painter: Painter, workers: int) -> Iterator[Callable[[Sequence[int]], Any]]:
    """Yields what draws scenes in order: here, in one thread, or in processes of their own."""
    if workers < 2:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield lambda numbers: (painter.draw(number) for number in numbers)
        finally:
            cv2.setNumThreads(threads)
        return
    # Not forked: OpenCV's and the progress bar's threads would be missing in the children.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (painter,))
    try:
        yield lambda numbers: _in_order(pool, numbers)
    except BrokenProcessPool as error:
        raise DbnetError("a process that drew scenes was ended by the system, which mostly means that the memory is "
                         "full; use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, numbers: Sequence[int]) -> Iterator[Row]:
    yield from pool.map(_draw, numbers, chunksize=AT_ONCE)


def _start(painter: Painter) -> None:
    """In a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's matter
    cv2.setNumThreads(1)
    _painters.append(painter)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it could not tell us to end
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _draw(number: int) -> Row:
    return _painters[0].draw(number)
