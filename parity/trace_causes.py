"""Why a model computes something else than its trace: what the trace says of itself is tried on the model that is here.

A trace has no weights, so what can be tried is what decides the numbers beside them: the semantics of the network, the
precision, the pixels. Every try is run on the recorded input, chained to the stage that differs, and measured against
what was recorded, so it works at every level of a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed
from parity.causes import LEAST_GAIN, Cause, Chosen, least_of, needed_of, told_of
from parity.lab import Network, of_weights
from parity.staged import StagedModel
from parity.suspects import Faults, faults, guesses
from parity.trace_views import View, compare_views
from parity.traced import TracedModel

#: What of an environment can move a number, in the order in which it is told.
_TELLING = ("framework", "version", "device", "device_name", "driver", "cuda", "cann", "precision", "precision_mode",
            "tf32", "hf32", "jit_level", "threads", "onednn_max_isa", "providers")


@dataclass(frozen=True, eq=False)
class Scene:
    """The stage where a model and a trace part: the recorded input (1, 3, H, W) and the recorded map."""

    stage: str
    tensor: np.ndarray
    recorded: View
    tolerance: float
    error: float

    def left(self, array: np.ndarray) -> float:
        """What remains of the error with this map in the model's place; infinite where they cannot be compared."""
        try:
            return compare_views(self.stage, self.recorded, View(array), self.tolerance, least_of(self.stage)).max_rel
        except DbnetError:
            return math.inf

    def left_of(self, network: Network) -> float:
        return self.left(of_weights(network).run(self.tensor)[self.stage])


def causes_of(scene: Scene, live: StagedModel, traced: TracedModel) -> list[Cause]:
    """What explains the difference, measured; what may and cannot be measured here; or that nothing is known."""
    found = _precision(scene, live, traced)
    if found and found[-1].explained:
        return found
    if live.network is not None and installed("torch") | installed("onnxruntime"):
        found += _semantics(scene, live.network, traced)
    if found:
        return found
    ours, theirs = (getattr(side.runner, "weights_digest", None) for side in (live, traced))
    if ours and theirs and ours != theirs:
        what = ("the weights are not those that were recorded, and a trace has none: compare the two weight files "
                "with each other")
    else:
        what = f"look at what runs it: {runtime_differences(traced, live) or 'both say that they run alike'}"
    return [Cause("unknown", what, scene.error, scene.error, False)]


def runtime_differences(a: StagedModel, b: StagedModel) -> str:
    """In what two environments differ, one phrase; empty if in nothing that could move a number."""
    ours, theirs = (side.runner.environment() for side in (a, b))
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in _TELLING
                     if key in ours and key in theirs and ours[key] != theirs[key])


def _precision(scene: Scene, live: StagedModel, traced: TracedModel) -> list[Cause]:
    """Half precision, or one of the short formats that a card takes for convolutions."""
    here, there = (dict(side.runner.environment()) for side in (live, traced))
    if (ours := here.get("precision")) == (theirs := there.get("precision")):
        short = next((name for name in ("hf32", "tf32") if bool(here.get(name)) != bool(there.get(name))), None)
        if short is None:
            return []
        where = "where it was recorded" if there.get(short) else "here"
        what = f"{short.upper()}, which keeps three decimal digits, was on {where}; it cannot be tried on this machine"
        return [Cause("precision", what, scene.error, scene.error, False)]
    what = f"{theirs} was recorded, and {ours} is computed here"
    left = scene.error
    if live.network is not None and installed("torch") and theirs in ("fp16", "bf16", "float32"):
        from torch_reference.runner import TorchRunner
        left = scene.left(TorchRunner(live.network.spec, live.network.weights, "cpu", (scene.stage,),
                                      precision=theirs).run(scene.tensor)[scene.stage])
    return [Cause("precision", what, scene.error, left, left <= scene.tolerance)]


def _semantics(scene: Scene, own: Network, traced: TracedModel) -> list[Cause]:
    """What the trace's record says otherwise; where it says nothing else, what one of the records may say wrongly."""
    spec = traced.runner.spec
    known: Faults | None = None
    if hasattr(spec, "relevant_semantics"):
        known = faults(own, Network(replace(own.spec, **spec.semantics()), own.weights))  # type: ignore[union-attr]
    if known and known.known:
        return _tried(scene, known)
    best: tuple[float, Cause] | None = None
    for guess in guesses(own):
        left = scene.left_of(Network(replace(own.spec, **{guess.field: guess.value}), own.weights))
        cause = Cause(guess.cause, guess.what, scene.error, left, left <= scene.tolerance)
        if left <= LEAST_GAIN * scene.error and (best is None or left < best[0]):
            best = left, cause
    return [best[1]] if best and best[1].explained else []


def _tried(scene: Scene, known: Faults) -> list[Cause]:
    @cache
    def left(chosen: Chosen) -> float:
        return scene.left_of(known.mended([known.known[i] for i in chosen])) if chosen else scene.error

    try_: Callable[[Chosen], float] = left
    return told_of(known.known, needed_of(len(known.known), try_, scene.tolerance), try_, scene.tolerance)
