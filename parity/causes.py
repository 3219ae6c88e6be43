"""Why two models part: every suspect is tried on the stage where they do, and what is left of the error is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from dbnet.errors import DbnetError
from dbnet.spec import TRAINING_STAGES
from parity.folded import in_like_terms
from parity.graph_suspects import GraphFault, graph_faults
from parity.lab import Lab, Network, OnnxLab, of_weights
from parity.suspects import Fault, Faults, faults, guesses
from parity.tolerances import least_of

#: A suspect that leaves more than this share of the error explains nothing.
LEAST_GAIN = 0.5
#: Which of several faults, by their places.
Chosen = frozenset[int]


@dataclass(frozen=True)
class Cause:
    """cause: of `suspects.CAUSES`. what: in words. before, residual: largest error of the stage over its largest value,
    before and after mending the candidate of it (and of the causes told before); infinite where the two have other
    shapes, or one is no number. explained: the residual is within the stage's tolerance. stage: whose error it is.
    """

    cause: str
    what: str
    before: float
    residual: float
    explained: bool
    stage: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """network: what its file says. lab: as it runs, which may be something else."""

    network: Network
    lab: Lab


@dataclass(frozen=True, eq=False)
class Scene:
    """The stage where two models part, and the reference's stages of `images` (N, 3, H, W), from which it is computed:
    what it inherits from earlier ones is left out."""

    stage: str
    images: np.ndarray
    maps: Mapping[str, np.ndarray]
    tolerance: float

    def alone(self, lab: Lab) -> np.ndarray:
        return stage_alone(lab, self.stage, self.images, self.maps)

    def of(self, network: Network) -> np.ndarray:
        return self.alone(of_weights(network))

    def error(self, right: np.ndarray, own: np.ndarray) -> float:
        return relative_error(right, own, least_of(self.stage))


def find_causes(scene: Scene, candidate: Side, reference: Side) -> list[Cause]:
    """The causes of the difference, each measured on top of those before; empty if none is known.

    First what the candidate's own graph does otherwise than its file says, then the reference's, then what the files
    say. Raises DbnetError as the runners do.
    """
    right, own = scene.maps[scene.stage], scene.alone(candidate.lab)
    said, meant = scene.of(candidate.network), scene.of(reference.network)
    causes: list[Cause] = []
    if scene.error(said, own) > scene.tolerance:
        causes += _in_the_graph(scene, candidate, said, own, lambda mended: scene.error(right, mended))
        own = said if causes else own
    if scene.error(meant, right) > scene.tolerance:
        told = _in_the_graph(scene, reference, meant, right, lambda mended: scene.error(mended, own))
        causes += [replace(cause, what=f"of the reference: {cause.what}") for cause in told]
        right = meant if told else right
    if (error := scene.error(right, said)) > scene.tolerance:
        causes += _in_the_files(scene, candidate.network, reference.network, right, error)
        if causes and own is not said and (error := scene.error(said, own)) > scene.tolerance:
            causes.append(Cause("unknown", "it computes something else than its file says", error, error, False))
        return causes
    if causes:
        return causes
    error = scene.error(right, own)
    return [Cause("unknown", "the same weights and semantics are within the tolerance where they are computed anew: "
                             "look at the runtime, its precision and its version", error, error, False)]


def _in_the_graph(scene: Scene, side: Side, said: np.ndarray, own: np.ndarray,
                  far: Callable[[np.ndarray], float]) -> list[Cause]:
    """Why a graph's stage is `own`, and not `said` as its record and weights want it. far: from the other side."""
    if not isinstance(side.lab, OnnxLab):
        return []
    found, tolerance = graph_faults(side.lab, side.network), scene.tolerance

    @cache
    def mended(chosen: Chosen) -> np.ndarray | None:
        try:
            return scene.alone(found.mended([found.known[i] for i in chosen])) if chosen else own
        except DbnetError:  # a graph that does not work without the others
            return None

    def error(chosen: Chosen, to: Callable[[np.ndarray], float]) -> float:
        return math.inf if (stage := mended(chosen)) is None else to(stage)
    needed = needed_of(len(found.known), partial(error, to=lambda stage: scene.error(said, stage)), tolerance)
    return told_of(found.known, needed, partial(error, to=far), tolerance)


def _in_the_files(scene: Scene, candidate: Network, reference: Network, right: np.ndarray, error: float) -> list[Cause]:
    """What records and tensors say otherwise; if that is not all, what they do not say."""
    most: list[Cause] = []
    start = candidate
    for mine, theirs in in_like_terms(candidate, reference):
        causes, mended = _said_otherwise(scene, faults(mine, theirs), right, error)
        if causes and causes[-1].explained:
            return causes
        if causes and not most:
            most, start = causes, mended
    return [*most, *_guessed(scene, start, right, most[-1].residual if most else error)]


def _said_otherwise(scene: Scene, found: Faults, right: np.ndarray, error: float) -> tuple[list[Cause], Network]:
    """The known faults that explain the error, and the candidate without them."""
    def mended(chosen: Chosen) -> Network:
        return found.mended([found.known[i] for i in chosen])

    @cache
    def residual(chosen: Chosen) -> float:
        return scene.error(right, scene.of(mended(chosen))) if chosen else error
    needed = needed_of(len(found.known), residual, scene.tolerance)
    return told_of(found.known, needed, residual, scene.tolerance), mended(needed)


def _guessed(scene: Scene, start: Network, right: np.ndarray, error: float) -> list[Cause]:
    """A record may be wrong: other values of one field after the other, if they leave nothing unexplained."""
    causes: list[Cause] = []
    while error > scene.tolerance:
        tried = [(guess, replace(start, spec=replace(start.spec, **{guess.field: guess.value})))
                 for guess in guesses(start)]
        residuals = [scene.error(right, scene.of(mended)) for _, mended in tried]
        residual = min(residuals, default=math.inf)
        if not residual <= LEAST_GAIN * error or not tried:
            return []
        best, start = tried[residuals.index(residual)]
        causes.append(Cause(best.cause, best.what, error, residual, residual <= scene.tolerance))
        error = residual
    return causes


def needed_of(count: int, residual: Callable[[Chosen], float], tolerance: float) -> Chosen:
    """Those of so many faults that explain the difference: with them mended nothing is left, and each is needed. If
    more is left whatever is mended, those that halve it, one after the other.

    All together first: of several faults, one alone may leave as much as there was."""
    needed = frozenset(range(count))
    if needed and residual(needed) <= tolerance:
        for i in range(count):
            if len(needed) > 1 and residual(needed - {i}) <= tolerance:
                needed -= {i}
        return needed
    chosen: Chosen = frozenset()
    while rest := sorted(needed - chosen):
        best = min((chosen | {i} for i in rest), key=residual)
        if not residual(best) <= LEAST_GAIN * residual(chosen):
            break
        chosen = best
    return chosen


def told_of(known: Sequence[Fault | GraphFault], needed: Chosen, residual: Callable[[Chosen], float],
          tolerance: float) -> list[Cause]:
    """The causes, each time the one first that leaves the least."""
    causes: list[Cause] = []
    chosen: Chosen = frozenset()
    while rest := sorted(needed - chosen):
        best = min(rest, key=lambda i: residual(chosen | {i}))
        before, left = residual(chosen), residual(chosen | {best})
        causes.append(Cause(known[best].cause, known[best].what, before, left, left <= tolerance))
        chosen |= {best}
    return causes


def relative_error(right: np.ndarray, own: np.ndarray, least: float = 0.0) -> float:
    """Largest error over the largest value of `right`, or `least` if that is more; infinite for another shape, NaN or
    Inf."""
    if own.shape != right.shape or not np.isfinite(own).all():
        return math.inf
    wide = right.astype(np.float64)
    return float(np.abs(wide - own).max() / (max(float(np.abs(wide).max()), least) or 1.0))


def stage_alone(lab: Lab, stage: str, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """A stage of a model from the reference's maps; the training stages chained."""
    if stage in TRAINING_STAGES:
        return lab.run(images)[stage]
    return lab.parts(images, maps)[stage]


def first_layer(stage: str, candidate: OnnxLab, reference: OnnxLab, images: np.ndarray,
                maps: Mapping[str, np.ndarray], tolerance: float, folded: Mapping[str, str]) -> str | None:
    """The first layer inside a stage whose output differs beyond `tolerance`, by its module's name; None if none does,
    or the two graphs have other layers. folded: as `folded_layers` tells of the two networks."""
    ours, theirs = (lab.layers(stage, images, maps) for lab in (reference, candidate))
    ours, theirs = _behind_norms(ours, theirs, folded), _behind_norms(theirs, ours, folded)
    for name, right in ours.items():
        if name not in theirs:
            return None
        if relative_error(right, theirs[name]) > tolerance:
            return name
    return None


def _behind_norms(maps: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray],
                  folded: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Without the outputs of convolutions that differ in that a norm is folded; for a norm that an exporter has left
    out, since it does nothing, the convolution's."""
    found = {}
    for name, array in maps.items():
        norm = folded.get(name)
        if norm is None:
            found[name] = array
        elif norm not in maps and norm in others:
            found[norm] = array
    return found
