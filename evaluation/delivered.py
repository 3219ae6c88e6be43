"""A file that was exported for a runtime, as it is: its own pixels, and a probability where it gives logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from converters.delivery_note import DeliveryNote
from converters.onnx_graph import INPUT
from dbnet.spec import PixelFormat
from evaluation.graph_files import OtherGraphError, as_given
from evaluation.onnx_maps import sigmoid

#: What a runner may have beside the methods of `evaluation.runners.Runner`.
_PASSED = ("name", "device", "title", "shape", "threads", "at_once", "ort", "provider")


def pixels_for(runner: Any, wanted: PixelFormat) -> PixelFormat:
    """`wanted` for a runner: of a file that makes its network's pixels of others, only how images come to their size.
    """
    note, own = getattr(runner, "note", None), getattr(runner, "recorded", None)
    if note is None or own is None or not note.has_front(own):
        return wanted
    fixed: PixelFormat = note.pixels
    return replace(wanted, colour=fixed.colour, mean=fixed.mean, std=fixed.std)


class DeliveredRunner:
    """A runner of such a file, see `evaluation.runners.Runner`; it gives the probability, and the logits of a file that
    gives these. note: what the file says of itself. spec: set by who opens it, with the file's pixels. recorded: set so
    too, the pixels of the record that it carries.
    """

    recorded: PixelFormat | None = None

    def __init__(self, inner: Any, note: DeliveryNote, stages: tuple[str, ...]):
        self._inner, self.note, self.stages = inner, note, stages
        self.spec, self.digest, self.weights_digest = inner.spec, inner.digest, None
        self.notes = [*inner.notes, *(["gives logits: a sigmoid is applied"] if note.logits else [])]

    @classmethod
    def opened(cls, note: DeliveryNote, stages: tuple[str, ...] | None,
               open_: Callable[[tuple[str, ...]], Any], where: str) -> DeliveredRunner:
        """open_: a runner of the file for the stages that it has itself. Raises OtherGraphError for other ones."""
        can = ("logits", "probability") if note.logits else ("probability",)
        stages = stages or ("probability",)
        if missing := [stage for stage in stages if stage not in can]:
            raise OtherGraphError(f"{where}: was exported for {note.target} and gives {' and '.join(can)} alone, no "
                                  f"{missing[0]}", foreign=False)
        return cls(open_(("logits",) if note.logits else ("probability",)), note, stages)

    def __getattr__(self, name: str) -> Any:
        if name in _PASSED:
            return getattr(self._inner, name)
        raise AttributeError(name)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images in the pixels of `spec`. Raises DbnetError as the runner does."""
        maps: dict[str, np.ndarray] = self._inner.run(images)
        if self.note.logits:
            maps = {**maps, "probability": sigmoid(maps["logits"])}
        return {stage: maps[stage] for stage in self.stages}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the graph gets and gives, before any sigmoid of ours, as `OnnxRuntimeRunner` has it."""
        exchanged = getattr(self._inner, "exchanged", None)
        if exchanged is None:  # that of another environment, of which the note says enough
            maps = self._inner.run(images)
            return {INPUT: images}, as_given(maps, maps if self.note.rank == 2 else ())
        given: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = exchanged(images)
        return given

    def environment(self) -> dict[str, Any]:
        """As the runner's; the precision is the file's."""
        told: dict[str, Any] = self._inner.environment()
        own = {"precision": "fp16"} if self.note.precision == "fp16" else {}
        return {**told, **own, "delivery": self.note.target, "sigmoid": self.note.logits}
