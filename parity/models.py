"""Any two model files: where they part, whose error it is, and why. The engine of `dbnet compare`.

The stages are compared on one input, that of the reference: chained from the image, and isolated, each from the
reference's maps, which tells a stage's own error from what it inherits. The pixel formats are compared before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.pixel_formats import pixel_causes
from dbnet.preprocess import prepare
from dbnet.spec import STAGES, TRAINING_STAGES, PixelFormat
from parity.causes import Cause, Scene, Side, find_causes, first_layer, least_of, relative_error
from parity.compare import LEAST_SPREAD, Comparison, compare
from parity.exported import as_exported, by_its_network, with_pixels_of_the_other
from parity.folded import folded_layers
from parity.lab import ByWeights, Maps, OnnxLab, of_weights, onnx_of_weights
from parity.photographs import Photograph, Picture
from parity.staged import StagedModel
from parity.tolerances import Tolerances, tolerances_of

PIXELS = "pixels"
#: Of pixels normalised in float32, relative to the largest.
PIXEL_TOLERANCE = 1e-5
#: The photograph's part that the stages are compared on, height and width at most, in pixels.
INPUT = (320, 480)
#: The same where every suspect is run.
SMALL = (128, 192)


@dataclass(frozen=True)
class StageRow:
    """comparison: chained from the image. isolated: from the reference's maps; None where they cannot be given.
    to_float64: of the reference and of the candidate, relative to the largest value; None where there is no referee.
    why: what kept the stage from being compared, in place of a comparison. image: on which of several it is worst.
    """

    stage: str
    comparison: Comparison | None
    isolated: Comparison | None = None
    to_float64: tuple[float | None, float | None] = (None, None)
    why: str = ""
    image: str = ""

    @property
    def passed(self) -> bool:
        return self.comparison is not None and self.comparison.passed

    @property
    def proves_nothing(self) -> bool:
        """Whether a map of zeros would pass."""
        return self.comparison is not None and self.comparison.tolerance >= 1


@dataclass
class ModelComparison:
    """verdict: `same` (no value differs), `within tolerance` or `different`. first: the first stage that differs, with
    the layer in it. causes: why, as far as known. own: the stages with an error of their own. notes: what could not be
    compared. shown: the first stage that differs, or else the worst, with both maps, for pictures.
    """

    verdict: str
    rows: list[StageRow]
    first: str | None = None
    layer: str | None = None
    causes: list[Cause] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: tuple[str, np.ndarray, np.ndarray] | None = None

    @property
    def cause(self) -> str | None:
        """The name of the first cause; `unknown` where models differ and none was found."""
        if self.first is None:
            return None
        return self.causes[0].cause if self.causes else "unknown"

    @property
    def network(self) -> tuple[str, str] | None:
        """The first stage of the network that differs where the pixels do already, and the cause of that."""
        stage = next((row.stage for row in self.rows if not row.passed and row.stage != PIXELS), None)
        if self.first != PIXELS or stage is None:
            return None
        return stage, next((cause.cause for cause in self.causes if cause.stage not in ("", PIXELS)), "unknown")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `dbnet compare --json` documents them."""
        causes = [{name: _finite(value) for name, value in vars(cause).items()} for cause in self.causes]
        return {"verdict": self.verdict, "first_divergence": self.first, "layer": self.layer, "cause": self.cause,
                "causes": causes, "own_errors": self.own,
                "stages": [_plain(row) for row in self.rows], "notes": self.notes}


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(row: StageRow) -> dict[str, Any]:
    told: dict[str, Any] = {"stage": row.stage} | ({"image": row.image} if row.image else {})
    if row.comparison is None:
        return told | {"passed": False, "why": row.why}
    told |= {name: _finite(value) for name, value in vars(row.comparison).items() if name != "worst_index"}
    isolated = row.isolated
    return told | {"worst_index": list(row.comparison.worst_index),
                   "isolated_max_abs": isolated.max_abs if isolated else None,
                   "isolated_max_rel": isolated.max_rel if isolated else None,
                   "isolated_passed": isolated.passed if isolated else None,
                   "float64_reference": _finite(row.to_float64[0]), "float64_candidate": _finite(row.to_float64[1])}


def compare_models(reference: StagedModel, candidate: StagedModel, pictures: Sequence[Picture], *,
                   referee: bool = True) -> ModelComparison:
    """Compares two opened models.

    pictures: photographs or (H, W, 3) uint8 BGR; the pixel formats are compared on all, the stages on the first, as the
    reference sees it. referee: measure both
    sides' distance to float64 too, where torch is installed. Raises DbnetError if nothing can be compared.
    """
    photographs = [Photograph.of(picture) for picture in pictures]
    reference, candidate = with_pixels_of_the_other(reference, candidate)
    result = ModelComparison("same", [], notes=[*reference.notes, *candidate.notes,
                                                *(one.note for one in photographs if one.note)])
    reference, candidate = by_its_network(reference), by_its_network(candidate)
    _compare_pixels(reference, candidate, photographs, result)
    picture = photographs[0].seen_by(reference.pixels)
    fixed = _only_size(reference, candidate)
    images = network_input(picture, reference.pixels, fixed=fixed)
    wide = wider(reference, candidate)
    reference, candidate = (_with_stages(side, images, wide, result) for side in (reference, candidate))
    ours, theirs = reference.run(images), candidate.run(images)
    alike = all(ours[stage].shape == theirs[stage].shape for stage in ours if stage in theirs)
    parts = candidate.parts(images, ours) if alike else None
    exact = _exact(reference, images) if referee else {}
    order = [*STAGES, *TRAINING_STAGES]
    common = [stage for stage in order if stage in ours and stage in theirs]
    result.rows += [_row(stage, ours, theirs, parts, wide, exact) for stage in common]
    for who, maps, other in (("the reference", ours, theirs), ("the candidate", theirs, ours)):
        if alone := [stage for stage in order if stage in maps and stage not in other]:
            result.notes.append(f"only {who} gives {', '.join(alone)}: not compared")
    judge(result)
    result.shown = _shown(result, ours, theirs)
    first = next((row.stage for row in result.rows if not row.passed and row.stage != PIXELS), None)
    if first is not None:  # the pixels may differ too: the network's faults are told after theirs
        try:
            _explain(result, first, reference, candidate, picture, images, wide)
        except DbnetError as error:
            result.notes.append(f"looking for a cause failed: {error}")
        _tell_network(result, first)
    return result


def _tell_network(result: ModelComparison, stage: str) -> None:
    """That the causes in the pixels are not all, where the network's are not known."""
    if not result.causes or any(cause.stage == stage for cause in result.causes):
        return
    row = next(row for row in result.rows if row.stage == stage)
    error = row.comparison.max_rel if row.comparison else math.inf
    what = f"on the same pixels {stage} differs too, and no known difference explains it"
    result.causes.append(Cause("unknown", what, error, error, False, stage))


def _with_stages(side: StagedModel, images: np.ndarray, wide: Tolerances, result: ModelComparison) -> StagedModel:
    """A model whose graph does not name its stages, with the stages of the weights that were read from it, if these
    give the graph's own probability."""
    if set(STAGES) <= set(side.stages):
        return side
    why = ""
    if side.network is not None:
        lab = of_weights(side.network)
        own, again = (each.run(images)["probability"] for each in (side.runner, lab))
        far = relative_error(own, again, least_of("probability"))
        if far <= wide.probability:
            result.notes.append(f"{side.path.name}: its graph does not name its stages; they are computed from the "
                                f"weights that were read from it, which give its own probability but for {far:.0e}")
            return replace(side, lab=ByWeights(lab, side.runner), stages=STAGES)
        why = f", and the weights that were read from it give another probability (by {far:.0e})"
    result.notes.append(f"{side.path.name}: its graph does not name its stages{why}, so only those that it names are "
                        f"compared")
    return side


def _only_size(*sides: StagedModel) -> tuple[int, int] | None:
    """The size that one of the models takes alone, (height, width). Raises DbnetError if they take none in common."""
    known: list[int | None] = [None, None]
    for side in sides:
        for axis, length in enumerate(side.size):
            if length is not None and known[axis] not in (None, length):
                raise DbnetError(f"{sides[0].path} and {side.path} take images of different sizes only, so there is no "
                                 f"input for both; export one of them without --data-shape")
            known[axis] = length or known[axis]
    if known == [None, None]:
        return None
    return known[0] or INPUT[0], known[1] or INPUT[1]


def network_input(picture: np.ndarray, pixels: PixelFormat, largest: tuple[int, int] = INPUT,
                  fixed: tuple[int, int] | None = None) -> np.ndarray:
    """The middle of a picture, not resized, at most so large (height, width) and its sides multiples of 32 px, as the
    network takes it: (1, 3, H, W) float32. fixed: the whole picture stretched to this size instead."""
    if fixed is not None:
        return prepare(picture, replace(pixels, resize="stretch", size=fixed)).tensor
    sides = [max(32, min(most, side) // 32 * 32) for most, side in zip(largest, picture.shape[:2], strict=True)]
    rows = [(side - kept) // 2 for side, kept in zip(picture.shape[:2], sides, strict=True)]
    part = picture[max(rows[0], 0):, max(rows[1], 0):][:sides[0], :sides[1]]
    part = np.pad(part, [(0, sides[0] - part.shape[0]), (0, sides[1] - part.shape[1]), (0, 0)], mode="edge")
    return prepare(part, replace(pixels, resize="grid")).tensor


def _compare_pixels(reference: StagedModel, candidate: StagedModel, photographs: Sequence[Photograph],
                    result: ModelComparison) -> None:
    """The row `pixels`: the worst of all pictures that both can take; only where the formats differ."""
    right, wrong, told = as_exported(reference, candidate)
    result.notes += told
    if right == wrong:
        return
    found, refused = [], []
    for photograph in photographs:
        try:
            found.append((*_pixel_row(right, wrong, photograph), photograph))
        except DbnetError as error:  # of an absurd shape, which says nothing of other pictures
            refused.append((math.inf, StageRow(PIXELS, None, why=str(error)), photograph))
    _, row, photograph = max(found or refused, key=lambda each: each[0])
    result.rows.append(row)
    if not row.passed:
        result.causes = pixel_causes_on(right, wrong, photograph)
    elif right.ignore_orientation != wrong.ignore_orientation and all(one.is_upright for one in photographs):
        result.notes.append("the pixel formats differ in ignore_orientation, which changes images with an EXIF "
                            "orientation only: the one compared here has none")


def _pixel_row(right: PixelFormat, wrong: PixelFormat, photograph: Photograph) -> tuple[float, StageRow]:
    """With the largest error, as `_pixel_error` tells it. Raises DbnetError as `prepare` does."""
    a, b = (prepare(photograph.seen_by(pixels), pixels).tensor for pixels in (right, wrong))
    if a.shape != b.shape:
        sizes = " against ".join(f"{tensor.shape[2]} x {tensor.shape[3]} px" for tensor in (a, b))
        return math.inf, StageRow(PIXELS, None, why=sizes)
    comparison = compare(PIXELS, a, b, PIXEL_TOLERANCE)
    return comparison.max_rel, StageRow(PIXELS, comparison)


def pixel_causes_on(right: PixelFormat, wrong: PixelFormat, photograph: Photograph) -> list[Cause]:
    """The parts in which two pixel formats differ, each with what it makes of a picture."""
    causes, before = [], _pixel_error(right, wrong, photograph)
    for name, what, mended in pixel_causes(wrong, right):
        residual = _pixel_error(right, mended, photograph)
        causes.append(Cause(name, what, before, residual, residual <= PIXEL_TOLERANCE, PIXELS))
        before = residual
    return causes


def _pixel_error(right: PixelFormat, other: PixelFormat, photograph: Photograph) -> float:
    """Infinite where the two have other shapes, or one of them cannot take the picture."""
    if right == other:
        return 0.0
    try:
        a, b = (prepare(photograph.seen_by(pixels), pixels).tensor for pixels in (right, other))
    except DbnetError:
        return math.inf
    return relative_error(a, b)


def wider(*sides: StagedModel) -> Tolerances:
    """The tolerances of the side that is allowed more."""
    return max((tolerances_of(side.runner.environment()) for side in sides), key=lambda row: row.features)


def map_tolerance(*sides: StagedModel) -> float:
    """Of the probabilities of whole images, absolute."""
    return wider(*sides).on_whole_images().probability


def _exact(reference: StagedModel, images: np.ndarray) -> Maps:
    """The reference's network in float64."""
    network = reference.network
    if not installed("torch") or network is None or reference.model is None or reference.model.unread is not None:
        return {}
    return of_weights(network, "float64").run(images)


def _row(stage: str, ours: Maps, theirs: Maps, parts: Maps | None, wide: Tolerances, exact: Maps) -> StageRow:
    tolerance, least = wide.of(stage), least_of(stage)
    try:
        comparison = compare(stage, ours[stage], theirs[stage], tolerance, constant_is_known=True, least=least)
        isolated = None
        if parts is not None and stage in parts:
            isolated = compare(stage, ours[stage], parts[stage], tolerance, constant_is_known=True, least=least)
    except DbnetError as error:
        return StageRow(stage, None, why=str(error).removeprefix(f"{stage}: "))
    far = (None, None) if stage not in exact else (
        relative_error(exact[stage], ours[stage], least), relative_error(exact[stage], theirs[stage], least))
    return StageRow(stage, comparison, isolated, far)


def judge(result: ModelComparison) -> None:
    """Sets verdict, first divergence and own errors by the rows, and tells of what proves nothing."""
    failed = [row.stage for row in result.rows if not row.passed]
    result.first = failed[0] if failed else None
    result.own = [row.stage for row in result.rows if row.isolated is not None and not row.isolated.passed]
    if failed:
        result.verdict = "different"
    elif any(row.comparison is not None and row.comparison.max_abs for row in result.rows):
        result.verdict = "within tolerance"
    constant = [row.stage for row in result.rows
                if row.comparison is not None and row.comparison.reference_spread < LEAST_SPREAD]
    result.notes += [f"{stage}: the reference is constant, which proves nothing" for stage in constant]
    result.notes += [f"{row.stage}: its tolerance is its largest value, which proves nothing; look at the boxes"
                     for row in result.rows if row.passed and row.proves_nothing]


def _shown(result: ModelComparison, ours: Maps, theirs: Maps) -> tuple[str, np.ndarray, np.ndarray] | None:
    rows = [row for row in result.rows if row.comparison is not None and row.stage in ours]
    if not rows:
        return None
    worst = max(rows, key=lambda row: row.comparison.max_rel / row.comparison.tolerance if row.comparison else 0.0)
    stage = next((row.stage for row in rows if not row.passed), worst.stage)
    return stage, ours[stage], theirs[stage]


def _explain(result: ModelComparison, stage: str, reference: StagedModel, candidate: StagedModel, picture: np.ndarray,
             large: np.ndarray, wide: Tolerances) -> None:
    """Causes and layer of a divergence at `stage`, on a small input unless it cannot be seen there."""
    apart = next((row for row in result.rows if row.comparison is None and row.stage != PIXELS), None)
    if apart is not None and not _is_numberless(apart):
        result.notes.append(f"no cause was looked for: {apart.stage} cannot be compared ({apart.why})")
        return
    known, suspect = reference.network, candidate.network
    common = set(reference.stages) & set(candidate.stages)
    if not candidate.lab or not reference.lab or not known or not suspect or not set(STAGES) <= common:
        result.notes.append("no cause was looked for: one of the models does not give its stages")
        return
    small = large if _only_size(reference, candidate) else network_input(picture, reference.pixels, SMALL)
    for images in (small, large):
        maps = reference.run(images)
        scene = Scene(stage, images, maps, wide.of(stage))
        if scene.error(maps[stage], scene.alone(candidate.lab)) > scene.tolerance:
            break
    causes = find_causes(scene, Side(suspect, candidate.lab), Side(known, reference.lab))
    result.causes += [replace(cause, stage=stage) for cause in causes]
    if stage == result.first and stage not in TRAINING_STAGES:
        result.layer = first_layer(stage, _graph(candidate), _graph(reference), images, maps, wide.of(stage),
                                   folded_layers(suspect, known))


def _is_numberless(row: StageRow) -> bool:
    """Whether a stage was not compared since the candidate computes NaN or Inf there, which a cause may well have."""
    return "candidate holds NaN" in row.why


def _graph(side: StagedModel) -> OnnxLab:
    """The file's own, or the one that is written for its weights."""
    if isinstance(side.lab, OnnxLab):
        return side.lab
    assert side.network is not None
    return onnx_of_weights(side.network)

