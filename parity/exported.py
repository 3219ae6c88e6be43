"""A file that was exported for a runtime, compared by its network: with the images that this takes, behind any front.

Such a file may take other pixels than its network, made the network's own by operators in front of it, and come with a
resize rule that its runtime or its fixed size asks for. Neither is a difference between two models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from converters.delivery_note import DeliveryNote
from converters.onnx_front import front
from dbnet.pixel_formats import AnySpec
from dbnet.spec import PixelFormat
from parity.lab import OnnxLab
from parity.staged import StagedModel


class _ByItsNetwork:
    """A runner that takes what the network takes."""

    def __init__(self, inner: Any, spec: AnySpec, feed: Callable[[np.ndarray], np.ndarray]):
        self._inner, self.spec, self._feed = inner, spec, feed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps: dict[str, np.ndarray] = self._inner.run(self._feed(images))
        return maps


def by_its_network(side: StagedModel) -> StagedModel:
    """The same model, which takes images normalised for its network; as it is where it takes these anyhow."""
    note = _note_of(side)
    own: PixelFormat | None = getattr(side.runner, "recorded", None)
    if note is None or own is None or not note.has_front(own):
        return side
    given = side.pixels
    taken = replace(given, colour=own.colour, mean=own.mean, std=own.std)

    def feed(images: np.ndarray) -> np.ndarray:
        """From the network's pixels to those that the file takes, of which its front makes them again."""
        for operator, values in front(taken, given):
            images = images[:, values] if operator == "Gather" else images * values if operator == "Mul" else \
                images + values
        return np.ascontiguousarray(images, np.float32)

    lab = side.lab
    if isinstance(lab, OnnxLab):
        lab = copy.copy(lab)
        lab.feed = feed
    runner: Any = _ByItsNetwork(side.runner, replace(side.runner.spec, pixels=taken), feed)
    return replace(side, runner=runner, lab=lab)


def as_exported(reference: StagedModel, candidate: StagedModel) -> tuple[PixelFormat, PixelFormat, list[str]]:
    """The pixels of both, less what an export has changed of how images come to their size; and that, for people."""
    right, wrong = reference.pixels, candidate.pixels
    for side, other in ((candidate, reference), (reference, candidate)):
        mine, theirs = side.pixels, other.pixels
        resized = replace(theirs, colour=mine.colour, mean=mine.mean, std=mine.std)
        note = _note_of(side)
        if note is None or mine == resized:
            continue
        line = (f"{side.path.name}: was exported for {note.target} and takes images resized by {_resized(mine)}, not "
                f"by {_resized(theirs)}; the stages are compared on one input for both, --images compares what each "
                f"finds in images resized its own way")
        return right, replace(right, colour=wrong.colour, mean=wrong.mean, std=wrong.std), [line]
    return right, wrong, []


def _resized(pixels: PixelFormat) -> str:
    stored = ", as stored" if pixels.ignore_orientation else ""
    return f"{pixels.resize} {pixels.size[0]}x{pixels.size[1]}{stored}"


def _note_of(side: StagedModel) -> DeliveryNote | None:
    note = getattr(side.runner, "note", None)
    return note if isinstance(note, DeliveryNote) else None
