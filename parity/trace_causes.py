"""Why a model computes something else than its trace: what the trace says of itself is tried on the model that is here.

A trace has no weights, so what can be tried is what decides the numbers beside them: the semantics of the network, the
precision, the pixels. Every try is run on the recorded input, chained to the stage that differs, and measured against
what was recorded, so it works at every level of a trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

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
            "tf32", "hf32", "jit_level", "threads", "onednn_max_isa", "sigmoid", "providers")


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
    if not (found and found[-1].explained) and live.network is not None and (
            installed("torch") or installed("onnxruntime")):
        found += _semantics(scene, live.network, traced)
    found = [cause for cause in found if cause.residual <= LEAST_GAIN * cause.before]
    if found and found[-1].explained:
        return found
    left = found[-1].residual if found else scene.error
    if (what := other_model(live, traced)) is not None:
        return [*found, Cause("unknown", what, left, left, False)]
    return found or [Cause("unknown", unexplained(traced, live), left, left, False)]


def other_model(a: StagedModel, b: StagedModel) -> str | None:
    """That two sides are of other weights, or of other files whose weights nobody knows; None if they are not."""
    for name, what in (("weights_digest", "the weights are not those that were recorded, and a trace has none: compare "
                                          "the two weight files with each other"),
                       ("digest", "the model is not the file that was recorded")):
        ours, theirs = (getattr(side.runner, name, None) for side in (a, b))
        if ours and theirs:
            return what if ours != theirs else None
    return None


def unexplained(a: StagedModel, b: StagedModel) -> str:
    """What is left to look at."""
    return f"look at what runs it: {runtime_differences(a, b) or 'both say that they run alike'}"


def runtime_differences(a: StagedModel, b: StagedModel) -> str:
    """In what two environments differ, one phrase; empty if in nothing that could move a number."""
    ours, theirs = (side.runner.environment() for side in (a, b))
    return ", ".join(f"{key} {ours.get(key)} and {theirs.get(key)}" for key in _TELLING
                     if key in ours and key in theirs and ours[key] != theirs[key])


def _precision(scene: Scene, live: StagedModel, traced: TracedModel) -> list[Cause]:
    """Half precision. That HF32 or TF32 was on explains nothing: what these do is within the tolerance."""
    ours, theirs = (_precision_of(side.runner.environment()) for side in (live, traced))
    if ours == theirs:
        return []
    what = f"{theirs} was recorded, and {ours} is computed here"
    left = scene.error
    if live.network is not None and installed("torch") and theirs in ("fp16", "bf16", "float32"):
        from torch_reference.runner import TorchRunner
        half = TorchRunner(live.network.spec, live.network.weights, "cpu", (scene.stage,),
                           precision=theirs)  # type: ignore[arg-type]
        left = scene.left(half.run(scene.tensor)[scene.stage])
    return [Cause("precision", what, scene.error, left, left <= scene.tolerance)]


def _precision_of(environment: Mapping[str, Any]) -> str:
    told = str(environment.get("precision") or "float32")
    return "float32" if told == "the file's own" else told


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
