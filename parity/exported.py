"""A file that was exported for a runtime, compared by its network: with the images that this takes, behind any front.

Such a file may take other pixels than its network, made the network's own by operators in front of it, and come with a
resize rule that its runtime or its fixed size asks for. Neither is a difference between two models. Nor is what is only
guessed: an .onnx of somebody else does not say which pixels it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converters.delivery_note import DeliveryNote
from converters.dialects import DIALECTS
from converters.onnx_front import front
from dbnet.pixel_formats import AnySpec
from dbnet.spec import PixelFormat
from evaluation.runners import Runner
from parity.lab import OnnxLab
from parity.staged import StagedModel


class _WithOtherPixels:
    """A runner that takes other pixels than its file: `feed` makes those of them. notes: in place of its own."""

    def __init__(self, inner: Any, spec: AnySpec, feed: Callable[[np.ndarray], np.ndarray] = lambda images: images,
                 notes: Sequence[str] | None = None):
        self._inner, self.spec, self._feed = inner, spec, feed
        self.notes = list(getattr(inner, "notes", ()) if notes is None else notes)

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
    runner: Any = _WithOtherPixels(side.runner, replace(side.runner.spec, pixels=taken), feed)
    return replace(side, runner=runner, lab=lab)


def with_pixels_of_the_other(reference: StagedModel, candidate: StagedModel) -> tuple[StagedModel, StagedModel]:
    """Both; of an .onnx of somebody else that says nothing of its pixels and boxes, those of the other model are taken:
    what is guessed is no difference. As they are where both say it, or neither."""
    if _assumes(reference) == _assumes(candidate):
        return reference, candidate
    if _assumes(candidate):
        return reference, _as_the_other(candidate, reference)
    return _as_the_other(reference, candidate), candidate


def _assumes(side: StagedModel) -> bool:
    return side.model is not None and side.model.assumed


def _as_the_other(side: StagedModel, other: StagedModel) -> StagedModel:
    """Colours, means and boxes stay where the file is known to be another project's."""
    assert side.model is not None
    spec, theirs = side.runner.spec, by_its_network(other)
    foreign, pixels, boxes = side.model.foreign, theirs.pixels, theirs.runner.spec.boxes
    recognised = foreign is not None and foreign.told is not None and not foreign.named_here and \
        DIALECTS[side.model.dialect].foreign
    if recognised:
        pixels, boxes = replace(spec.pixels, resize=pixels.resize, size=pixels.size), spec.boxes
    if side.size != (None, None):
        pixels = replace(pixels, resize=spec.pixels.resize, size=spec.pixels.size)
    changed = replace(spec, pixels=pixels, boxes=boxes)
    if changed == spec:
        return side
    what = "how images come to their size" if recognised else "pixels and boxes"
    line = f"{what}: nothing in the file tells; {other.path.name}'s are taken, --pixels says otherwise"
    told = [*(note for note in side.notes if recognised or not note.startswith("pixels and boxes:")), line]

    def changed_runner(inner: Runner) -> Any:
        return _WithOtherPixels(inner, changed, notes=told)
    again = side.again
    return replace(side, runner=changed_runner(side.runner), notes=told,
                   again=None if again is None else lambda: changed_runner(again()))


def as_exported(reference: StagedModel, candidate: StagedModel) -> tuple[PixelFormat, PixelFormat, list[str]]:
    """The pixels of both, less what an export has changed of how images come to their size; and that, for people."""
    right, wrong = reference.pixels, candidate.pixels
    for side, other in ((candidate, reference), (reference, candidate)):
        mine, theirs = side.pixels, other.pixels
        resized = replace(theirs, colour=mine.colour, mean=mine.mean, std=mine.std)
        note = _note_of(side)
        one_size = _assumes(side) and side.size != (None, None)
        if (note is None and not one_size) or mine == resized:
            continue
        why = "takes one size only," if note is None else f"was exported for {note.target} and takes"
        line = (f"{side.path.name}: {why} images resized by {_resized(mine)}, not by {_resized(theirs)}; the "
                f"stages are compared on one input for both, --images compares what each finds in images resized its "
                f"own way")
        return right, replace(right, colour=wrong.colour, mean=wrong.mean, std=wrong.std), [line]
    return right, wrong, []


def _resized(pixels: PixelFormat) -> str:
    stored = ", as stored" if pixels.ignore_orientation else ""
    return f"{pixels.resize} {pixels.size[0]}x{pixels.size[1]}{stored}"


def _note_of(side: StagedModel) -> DeliveryNote | None:
    note = getattr(side.runner, "note", None)
    return note if isinstance(note, DeliveryNote) else None
