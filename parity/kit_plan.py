"""What is done in the hour on an NPU host, the most valuable first, and how long each step may take.

NumPy is not even needed here: this is a part of the kit (`parity.kit`), which runs where there is MindSpore alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["exact", "default", "fp16"]
Kind = Literal["record", "repeat", "timing"]
#: How the device computes, see `ms_models.compat.set_arithmetic`.
MODES: tuple[Mode, ...] = ("exact", "default", "fp16")
#: The place of the small picture among the images.
TINY = -1
#: How it is called.
SMALL = "the small picture"
#: Runs of one image for its time, after one that does not count.
TIMED_RUNS = 10
#: Seconds that starting, compiling and a small image take at the least, where nothing was measured yet.
FIRST_STEP = {"cpu": 20.0, "ascend": 120.0}
#: How many times longer the record of the small picture takes, for each of its pixels, than an image's. Measured: 14.
RECORD_OVERHEAD = 14.0
#: How much longer than so far the next step may take.
MARGIN = 1.2


@dataclass(frozen=True)
class Step:
    """mode: how the device computes. kind: `record` an image, `repeat` it in another process, or its `timing`. image:
    its place in the kit, or TINY. session: the steps of one session are done by one process, with one compilation.
    """

    mode: Mode
    kind: Kind
    image: int
    session: str

    @property
    def name(self) -> str:
        """Of its files."""
        which = "tiny" if self.image == TINY else f"image-{self.image:05d}"
        return which if self.kind == "record" else f"{self.kind}-{which}"

    def told(self, names: Sequence[str]) -> str:
        """For a reader. names: of the images."""
        kind = "" if self.kind == "record" else f"{self.kind} of "
        return f"{self.mode}: {kind}{self.of(names)}"

    def of(self, names: Sequence[str]) -> str:
        """Its image, for a reader."""
        return SMALL if self.image == TINY else names[self.image]


def steps_of(images: int, kind: str) -> list[Step]:
    """In the order in which they are done. kind: of device; fp16 is a mode of Ascend's alone."""
    every = range(images)
    steps = [Step("exact", "record", TINY, "exact"), Step("default", "record", TINY, "default")]
    steps += [Step("exact", "record", image, "exact images") for image in every]
    steps += [Step("default", "timing", 0, "timing")]
    steps += [Step("default", "record", image, "default images") for image in every]
    if kind == "ascend":
        steps += [Step("fp16", "record", image, "fp16") for image in (TINY, *every)]
    return steps + [Step("exact", "repeat", image, "repeat") for image in (TINY, *every)]


@dataclass
class Pace:
    """How long steps took, and so how long the next ones may. All in seconds.

    first: what the first step may take. starts: from starting a process until it waits for images. compiling: the
    first call of a graph less a second one. small: (pixels, a second call, its record). images: the same of images.
    """

    first: float
    starts: list[float] = field(default_factory=list)
    compiling: list[float] = field(default_factory=list)
    small: list[tuple[int, float, float]] = field(default_factory=list)
    images: list[tuple[int, float, float]] = field(default_factory=list)

    def of(self, step: Step, pixels: int, starting: bool) -> float:
        """starting: the step needs a process of its own, which has to compile."""
        if not self.starts or not self.small:
            return self.first
        before = max(self.starts) + max(self.compiling, default=0.0) if starting else 0.0
        call, record = self._one(pixels, step.image == TINY)
        if step.kind == "timing":
            return MARGIN * (before + (1 + TIMED_RUNS) * call)
        return MARGIN * (before + call + record)

    def _one(self, pixels: int, small: bool) -> tuple[float, float]:
        """A call for so many pixels, and its record: by the slowest of the last images, else by the small picture."""
        if self.images and not small:
            return (max(call / size for size, call, _ in self.images[-8:]) * pixels,
                    max(record / size for size, _, record in self.images[-8:]) * pixels)
        size, call, record = max(self.small)
        # Most of a small record is no work on its pixels. Too little is the lesser evil: a step that does not end in
        # time costs nothing but itself, and one that is left out is not there.
        return call * pixels / size, record * (1 + max(pixels - size, 0) / size / RECORD_OVERHEAD)


def counted(images: Sequence[str]) -> str:
    """How many, the small picture apart: it is none of the user's. images: as `Step.of` calls them."""
    count = sum(name != SMALL for name in images)
    parts = [*([SMALL] if SMALL in images else []), *([f"{count} image{'s'[:count > 1]}"] if count else [])]
    return " and ".join(parts) or "no image"


def told_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
