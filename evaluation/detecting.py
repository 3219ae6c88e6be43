"""Detection for people: every image of a folder through one network, and all that is wanted of the results written.

Results are written as they come, an image's files all together and in the calling thread; drawing and encoding are
done in the pipeline's threads. After an interruption what is there is whole, and says how far it goes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.sample import Sample
from dbnet.spec import BoxRule, PixelFormat
from evaluation import pictures, pipeline
from evaluation.detecting_files import Outcome, Writer
from evaluation.detecting_inputs import Inputs
from evaluation.detecting_output import reason
from evaluation.evaluate import versions
from evaluation.runners import Runner


@dataclass(frozen=True)
class Looks:
    """What is shown of a result. pictures: one of each image with its boxes; overlay: with the map as a tint; crops:
    one of each text. suffix: .jpg or .png.
    """

    pictures: bool = True
    overlay: bool = True
    crops: bool = False
    suffix: str = ".jpg"


@dataclass(eq=False)
class Summary:
    """images: how many were detected in, of `asked`. boxes: in all of them. failed: what was wrong, one line for each
    image, beginning with its path. seconds: from the first image to the last. stopped: why before the end, or None.
    """

    asked: int
    images: int = 0
    boxes: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None


def settings_of(runner: Runner, model: Path, pixels: PixelFormat, boxes: BoxRule) -> dict[str, Any]:
    """What the detections are made with, for the report: JSON values."""
    turned = "as it is stored (its EXIF orientation is left alone)" if pixels.ignore_orientation else \
        "as it is shown (turned as its EXIF orientation says)"
    notes = list(getattr(runner, "notes", ()))
    return {"settings": {"runner": runner.name, "device": runner.device, "file": str(model),
                         "model": getattr(runner, "digest", None), "spec": runner.spec.name,
                         "semantics": runner.spec.semantics(), "pixels": asdict(pixels), "boxes": asdict(boxes),
                         **({"notes": notes} if notes else {})},
            "versions": versions() | {"runner": runner.environment()},
            "coordinates": f"pixels of the image {turned}, x to the right and y down from its top left corner"}


def detect_images(runner: Runner, inputs: Inputs, pixels: PixelFormat, boxes: BoxRule, looks: Looks, writer: Writer, *,
                  workers: int | None = None, progress: Callable[[Summary], object] | None = None) -> Summary:
    """Detects in every image and gives `writer` the results, in the order of `inputs`; `writer` is closed at the end.

    An image that cannot be read, or whose output is unusable, is told in the summary, and the run goes on. A
    KeyboardInterrupt or a full disk stops it: the summary says so, and what was found until then is whole. workers:
    see `pipeline.run`. progress: called after every image. Raises OSError if a file cannot even be brought to its
    end; it is removed then.
    """
    summary = Summary(len(inputs.files) + len(inputs.refused))
    summary.failed += [f"{path}: {problem}" for path, problem in inputs.refused]
    begin = time.perf_counter()
    samples = (Sample(Path(path), [], np.zeros(0, bool), []) for path in inputs.files)
    outcomes = pipeline.run(runner, samples, pixels, [boxes], _finisher(looks), workers, decode=pictures.decode,
                            view=looks.pictures or looks.crops, failed=lambda _, error: Outcome(error=str(error)))
    try:
        with closing(outcomes):
            for index, outcome in enumerate(outcomes):
                with _interrupts_wait():
                    _take(summary, writer, index, inputs.files[index], outcome)
                if progress:
                    progress(summary)
    except KeyboardInterrupt:
        summary.stopped = "interrupted"
    except BrokenPipeError:  # the reader of our JSON left
        writer.abandon()
        raise
    except OSError as error:
        summary.stopped = reason(error)
    except BaseException as error:
        summary.stopped = type(error).__name__
        writer.close(summary.failed, summary.asked, summary.stopped)
        raise
    summary.seconds = time.perf_counter() - begin
    with _interrupts_wait():
        writer.close(summary.failed, summary.asked, summary.stopped)
    return summary


def _finisher(looks: Looks) -> Callable[[pipeline.Found], Outcome]:
    def finish(found: pipeline.Found) -> Outcome:
        detections, view = found.detections[0], found.view
        outcome = Outcome(detections, found.size, found.checksum)
        if view and looks.crops:  # before anything is drawn on the image
            outcome.crops = pictures.crops(view, detections, looks.suffix)
        if view and looks.pictures:
            outcome.picture = pictures.picture(view, detections, looks.overlay, looks.suffix)
        return outcome

    return finish


def _take(summary: Summary, writer: Writer, index: int, file: str, outcome: Outcome) -> None:
    if outcome.error is not None:
        summary.failed.append(outcome.error)
        return
    writer.image(index, file, outcome)
    summary.images += 1
    summary.boxes += len(outcome.detections)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """A ^C that comes within takes effect at the end: no file is then half there, and no image in half of the files."""
    if threading.current_thread() is not threading.main_thread() or \
            signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
