"""Why two models part: every suspect is tried on the stage where they do, and what is left of the error is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dbnet.errors import DbnetError
from dbnet.spec import TRAINING_STAGES, PixelFormat
from parity.graph_suspects import mended_labs
from parity.lab import Lab, Network, OnnxLab, of_weights
from parity.suspects import Suspect, by_semantics, by_weights

#: Faults that may come together; more are told as far as they were found.
MOST_FAULTS = 4
#: A suspect that leaves more than this share of the error explains nothing.
LEAST_GAIN = 0.5


@dataclass(frozen=True)
class Cause:
    """cause: of `suspects.CAUSES`. what: in words. before, residual: largest error of the stage over its largest value,
    before and after mending the candidate of it (and of the causes told before); infinite where the two have other
    shapes, or one is no number. explained: the residual is within the stage's tolerance.
    """

    cause: str
    what: str
    before: float
    residual: float
    explained: bool


def find_causes(stage: str, candidate: Network, reference: Network, images: np.ndarray,
                maps: Mapping[str, np.ndarray], lab: Lab, tolerance: float) -> list[Cause]:
    """The causes of the difference at `stage`, each measured on top of those before; empty if none is known.

    maps: the reference's stages of `images` (N, 3, H, W), from which the stage is computed: what it inherits from
    earlier stages is left out. lab: the candidate as it runs, which may not be what its file says. Raises DbnetError as
    the runners do.
    """
    if _residual(stage, candidate, images, maps) > tolerance:
        return _search(stage, candidate, reference, images, maps, tolerance)
    # What the file says of itself is right, but its graph or its runtime computes something else: what does?
    own = stage_alone(lab, stage, images, maps)
    error = relative_error(maps[stage], own)
    if isinstance(lab, OnnxLab) and (causes := _in_the_graph(stage, lab, images, maps, error, tolerance)):
        return causes
    return [Cause("unknown", "the same weights and semantics are within the tolerance where they are computed anew: "
                             "look at the runtime, its precision and its version", error, error, False)]


def _in_the_graph(stage: str, lab: OnnxLab, images: np.ndarray, maps: Mapping[str, np.ndarray], error: float,
                  tolerance: float) -> list[Cause]:
    causes = []
    for cause, what, mended in mended_labs(lab):
        residual = relative_error(maps[stage], stage_alone(mended, stage, images, maps))
        if residual <= error * LEAST_GAIN:
            causes.append(Cause(cause, what, error, residual, residual <= tolerance))
    return sorted(causes, key=lambda cause: cause.residual)


def _search(stage: str, start: Network, reference: Network, images: np.ndarray, maps: Mapping[str, np.ndarray],
            tolerance: float) -> list[Cause]:
    """Mends `start` until its stage is the reference's: of all suspects each time the one that leaves the least."""
    causes: list[Cause] = []
    error = _residual(stage, start, images, maps)
    while error > tolerance and len(causes) < MOST_FAULTS:
        best: tuple[float, Suspect] | None = None
        for suspect in _suspects(start, reference):
            residual = _residual(stage, suspect.mended, images, maps)
            if best is None or residual < best[0]:
                best = residual, suspect
            if residual <= tolerance:
                break
        if best is None or not best[0] <= error * LEAST_GAIN:
            break
        residual, suspect = best
        causes.append(Cause(suspect.cause, suspect.what, error, residual, residual <= tolerance))
        start, error = suspect.mended, residual
    return causes


def _suspects(start: Network, reference: Network) -> Iterator[Suspect]:
    """Tensors first: a rounded or swapped one must not pass for another epsilon."""
    yield from by_weights(start, reference.weights)
    yield from by_semantics(start, reference.spec)


def _residual(stage: str, network: Network, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> float:
    """The error of a network's stage; infinite for a network that cannot be."""
    try:
        own = stage_alone(of_weights(network), stage, images, maps)
    except DbnetError:
        return math.inf
    return relative_error(maps[stage], own)


def relative_error(right: np.ndarray, own: np.ndarray) -> float:
    """Largest error over the largest value of `right`; infinite for another shape, NaN or Inf."""
    if own.shape != right.shape or not np.isfinite(own).all():
        return math.inf
    wide = right.astype(np.float64)
    return float(np.abs(wide - own).max() / (np.abs(wide).max() or 1.0))


def stage_alone(lab: Lab, stage: str, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """A stage of a model from the reference's maps; the training stages chained."""
    if stage in TRAINING_STAGES:
        return lab.run(images)[stage]
    return lab.parts(images, maps)[stage]


def first_layer(stage: str, candidate: OnnxLab, reference: OnnxLab, images: np.ndarray,
                maps: Mapping[str, np.ndarray], tolerance: float) -> str | None:
    """The first layer inside a stage whose output differs beyond `tolerance`, by its module's name; None if none does,
    or the two graphs have other layers."""
    ours, theirs = (lab.layers(stage, images, maps) for lab in (reference, candidate))
    for name, right in ours.items():
        if name not in theirs:
            return None
        if relative_error(right, theirs[name]) > tolerance:
            return name
    return None


def pixel_causes(candidate: PixelFormat, reference: PixelFormat) -> list[tuple[str, str, PixelFormat]]:
    """(cause, in words, the candidate's pixels mended of it), for all in which two pixel formats differ."""
    found = []
    for cause, names in (("resize_rule", ("resize", "size", "ignore_orientation")), ("color_order", ("colour",)),
                         ("normalization", ("mean", "std"))):
        right = {name: getattr(reference, name) for name in names}
        wrong = [f"{name} is {getattr(candidate, name)}, not {value}" for name, value in right.items()
                 if getattr(candidate, name) != value]
        if wrong:
            candidate = replace(candidate, **right)
            found.append((cause, "; ".join(wrong), candidate))
    return found
