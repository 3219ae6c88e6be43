"""A trace against a model, or against another trace: the stages of every image, and its boxes.

A model is fed what was fed where the trace was recorded: the input that the trace keeps, or one that is made anew from
the image's file, which is known by its digest. So the two see the same pixels, unless a decoder differs between the
machines; that is the row `pixels`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dbnet.errors import DbnetError
from dbnet.pixel_formats import pixel_causes
from dbnet.pixel_formats import told as told_pixels
from dbnet.preprocess import prepare, read_bytes
from dbnet.sample import Detection
from dbnet.spec import STAGES, BoxRule
from evaluation.compare_maps import Found, ImageComparison, MapComparison, Observer, compare_found
from parity.causes import Cause, least_of
from parity.models import (
    PIXEL_TOLERANCE,
    PIXELS,
    ModelComparison,
    StageRow,
    judge,
    map_tolerance,
    pixel_causes_on,
    wider,
)
from parity.photographs import Photograph
from parity.staged import StagedModel
from parity.tolerances import Tolerances
from parity.trace import ORDER, Trace, TracedImage
from parity.trace_causes import Scene as TraceScene
from parity.trace_causes import causes_of, other_model, unexplained
from parity.trace_record import MissingInputError, boxes_of, input_of, maps_of
from parity.trace_referee import distances
from parity.trace_views import Recorded, View, compare_views
from parity.traced import TracedModel

Progress = Callable[[MapComparison, int], object]
#: sha256 of a file -> its paths.
Sources = Mapping[str, Sequence[str]]
#: Images told of in a note.
_LISTED = 3


@dataclass
class _Part:
    """What one side has of an image: its stages, its boxes (None where they cannot be had), and each stage from the
    maps that the trace has in full for those before it."""

    views: dict[str, View]
    boxes: list[Detection] | None
    alone: dict[str, View] = field(default_factory=dict)


@dataclass
class TraceComparison:
    """stages: the worst row of all images for each stage. maps: image by image. boxless: the images without boxes on
    one side, and without a map to make them of.
    """

    stages: ModelComparison = field(default_factory=lambda: ModelComparison("same", []))
    maps: MapComparison = field(default_factory=MapComparison)
    boxless: list[str] = field(default_factory=list)


def sources_of(files: Sequence[str]) -> dict[str, list[str]]:
    """sha256 of every file that can be read -> its paths: copies of one photograph may have other labels."""
    found: dict[str, list[str]] = {}
    for file in files:
        try:
            found.setdefault(hashlib.sha256(read_bytes(file).data).hexdigest(), []).append(file)
        except DbnetError:  # an image of the trace that this was is told as missing
            continue
    return found


def path_of(image: TracedImage, sources: Sources) -> str | None:
    """The image's file, of several copies the one that is called like it; None if it is not at hand."""
    paths = sources.get(image.sha256 or "", ())
    alike = [path for path in paths if f"/{Path(path).as_posix()}".endswith(f"/{image.name}")]
    return next(iter([*alike, *paths]), None)


def compare_traced(a: StagedModel, b: StagedModel, rules: tuple[BoxRule, BoxRule], sources: Sources,
                   limit: int | None = None, progress: Progress | None = None, observe: Observer | None = None,
                   ) -> TraceComparison:
    """Compares two sides of which one is a `TracedModel`, or both.

    rules: how boxes come from the probability of each. sources: the images at hand, see `sources_of`. limit: the first
    images only. Raises DbnetError if not one image can be compared; why others cannot is told in `maps.failed`.
    """
    reference = a if isinstance(a, TracedModel) else b
    assert isinstance(reference, TracedModel)
    images = list(enumerate(reference.recorded.images))[:limit]
    result, wide, tolerance = TraceComparison(), wider(a, b).on_whole_images(), map_tolerance(a, b)
    result.stages.notes += notes_of(a, b)
    worst: dict[str, StageRow] = {}
    far: dict[str, tuple[float | None, ...]] = {}
    missing = False
    for index, image in images:
        try:
            path = path_of(image, sources)
            parts = [_part(side, rule, reference, index, path) for side, rule in zip((a, b), rules, strict=True)]
            rows = _rows(image, parts[0], parts[1], wide)
            if not result.maps.images:
                far = _to_float64(result, reference, (a, b), parts, image)
            _keep_worst(worst, rows)
            compared, *found = _image(image, rows, parts, rules, tolerance)
            result.maps.images.append(compared)
            if any(part.boxes is None for part in parts):
                result.boxless.append(image.name)
            if observe:
                observe(compared, None if path is None else Path(path), *found)
        except DbnetError as error:
            missing |= isinstance(error, MissingInputError)
            result.maps.failed.append(str(error))
        if progress:
            progress(result.maps, len(images))
    if not result.maps.images:
        rest = len(result.maps.failed) - 1
        how = "; give --images with the files that were recorded, or record with --level full" if missing else ""
        raise DbnetError(f"{result.maps.failed[0]}{f' (and {rest} images more)' if rest else ''}{how}")
    result.stages.notes += _left_out(result, a, b, sources)
    _conclude(result, {stage: replace(row, to_float64=far.get(stage, (None, None)))  # type: ignore[arg-type]
                       for stage, row in worst.items()}, a, b)
    _explain(result, reference, a, b, sources)
    return result


# One image ------------------------------------------------------------------------------------------------------------


def _part(side: StagedModel, rule: BoxRule, reference: TracedModel, index: int, path: str | None) -> _Part:
    """What a side has of image `index` of the reference's trace. Raises DbnetError if that is nothing."""
    image, trace = reference.recorded.images[index], reference.recorded
    if isinstance(side, TracedModel):
        return _recorded(side, rule, index if side is reference else _same_image(side, image))
    tensor = input_of(image, trace.full(index, PIXELS), path, reference.pixels)
    wanted = [stage for stage in trace.stages if stage in (PIXELS, "probability", *side.stages)]
    maps = maps_of(side, tensor, wanted)
    views: dict[str, View] = {stage: View(map_) for stage, map_ in maps.items()}
    if side.pixels != reference.pixels:
        del views[PIXELS]  # its own pixels are others, which are told of where its file is at hand
        if path is not None:
            views[PIXELS] = View(prepare(Photograph.read(path).seen_by(side.pixels), side.pixels).tensor)
    return _Part(views, boxes_of(maps["probability"], rule, image) if "probability" in maps else None,
                 _alone(side, trace, index, tensor))


def _alone(side: StagedModel, trace: Trace, index: int, tensor: np.ndarray) -> dict[str, View]:
    given = {stage: array for stage in STAGES if (array := trace.full(index, stage)) is not None}
    return {stage: View(map_) for stage, map_ in (side.parts(tensor, given) or {}).items()}


def _to_float64(result: TraceComparison, reference: TracedModel, sides: tuple[StagedModel, StagedModel],
                parts: Sequence[_Part], image: TracedImage) -> dict[str, tuple[float | None, ...]]:
    """Of the first image: of each stage how far A and B are from float64."""
    live = next((side for side in sides if not isinstance(side, TracedModel)), None)
    fed = parts[0 if sides[0] is reference else 1].views.get(PIXELS)
    if live is None or fed is None or fed.full is None:
        return {}
    far = distances(reference, live, np.array(fed.full, np.float32), *(part.views for part in parts))
    if far:
        result.stages.notes.append(f"the distances to float64 are those of {image.name}")
    return far


def _same_image(side: TracedModel, image: TracedImage) -> int:
    """Where the other trace has it: by the file's digest, and by name where one of them was no file."""
    for at, other in enumerate(side.recorded.images):
        if image.sha256 == other.sha256 if image.sha256 and other.sha256 else image.name == other.name:
            return at
    named = any(other.name == image.name for other in side.recorded.images)
    raise DbnetError(f"{image.name}: {'is another file' if named else 'is no image'} in {side.path}")


def _recorded(side: TracedModel, rule: BoxRule, at: int) -> _Part:
    trace = side.recorded
    views: dict[str, View] = {stage: Recorded(trace, at, stage) for stage in trace.stages}
    boxes = trace.boxes(at)
    probability = trace.full(at, "probability")
    if probability is None and boxes is not None and rule != side.rule:
        raise DbnetError(f"{side.path}: does not keep the probability map of {trace.images[at].name}, so its boxes are "
                         f"those of its own box rule; leave out the options about boxes, or record with --level full")
    if probability is not None and (boxes is None or rule != side.rule):
        boxes = boxes_of(np.asarray(probability), rule, trace.images[at])
    return _Part(views, boxes)


def _rows(image: TracedImage, a: _Part, b: _Part, wide: Tolerances) -> list[StageRow]:
    return [_row(stage, a, b, wide, image.name) for stage in ORDER if stage in a.views and stage in b.views]


def _row(stage: str, a: _Part, b: _Part, wide: Tolerances, image: str) -> StageRow:
    tolerance, least = PIXEL_TOLERANCE if stage == PIXELS else wide.of(stage), least_of(stage)
    try:
        chained = compare_views(stage, a.views[stage], b.views[stage], tolerance, least)
    except DbnetError as error:
        return StageRow(stage, None, why=str(error).removeprefix(f"{stage}: "), image=image)
    alone = None
    if stage in b.alone or stage in a.alone:  # of the one that is here, from what the other has recorded
        with contextlib.suppress(DbnetError):  # what was recorded before it is no number
            alone = compare_views(stage, a.alone.get(stage, a.views[stage]), b.alone.get(stage, b.views[stage]),
                                  tolerance, least)
    return StageRow(stage, chained, alone, image=image)


def _image(image: TracedImage, rows: Sequence[StageRow], parts: Sequence[_Part], rules: tuple[BoxRule, BoxRule],
           tolerance: float) -> tuple[ImageComparison, Found, Found]:
    """Its probability and boxes, as `compare_maps` gives them."""
    a, b = (_found(part, image) for part in parts)
    if any(part.boxes is None for part in parts):
        a, b = replace(a, boxes=[]), replace(b, boxes=[])  # nothing can be said of them
    compared = replace(compare_found(image.name, a, b, rules), tolerance=tolerance)
    row = next((row for row in rows if row.stage == "probability"), None)
    if row is not None and row.comparison is not None:
        mean = row.comparison.mean_abs
        compared = replace(compared, max_abs=row.comparison.max_abs, mean_abs=None if math.isnan(mean) else mean,
                           at_least=row.comparison.basis in ("sample", "statistics"))
    elif row is not None and "NaN" in row.why:
        compared = replace(compared, max_abs=None, mean_abs=None, not_finite=True)
    return compared, a, b


def _found(part: _Part, image: TracedImage) -> Found:
    view = part.views.get("probability")
    map_ = None if view is None or view.full is None else np.asarray(view.full)[0, 0]
    return Found(map_, part.boxes or [], image.covered)


# All images -----------------------------------------------------------------------------------------------------------


def _badness(row: StageRow) -> float:
    return math.inf if row.comparison is None else row.comparison.max_rel / row.comparison.tolerance


def _keep_worst(worst: dict[str, StageRow], rows: Sequence[StageRow]) -> None:
    """Of each stage the image where it is worst, and apart from that the worst error of its own."""
    for row in rows:
        before = worst.get(row.stage, row)
        alone = max((each.isolated for each in (before, row) if each.isolated is not None),
                    key=lambda isolated: isolated.max_rel, default=None)
        worst[row.stage] = replace(row if _badness(row) > _badness(before) else before, isolated=alone)


def _left_out(result: TraceComparison, a: StagedModel, b: StagedModel, sources: Sources) -> list[str]:
    """What was given and not compared, one note each."""
    notes, recorded = [], [side.recorded.images for side in (a, b) if isinstance(side, TracedModel)]
    known = {image.sha256 for image in recorded[0]}
    if strange := [path for sha256, paths in sources.items() if sha256 not in known for path in paths]:
        notes.append(f"{len(strange)} of --images are not in the trace, and not compared: {_some(strange)}")
    if len(recorded) == 2:
        ours = {(image.sha256 or image.name) for image in recorded[0]}
        if others := [image.name for image in recorded[1] if (image.sha256 or image.name) not in ours]:
            notes.append(f"{len(others)} images of B are not in A, and not compared: {_some(others)}")
    if result.boxless:
        notes.append(f"of {len(result.boxless)} images a trace keeps neither boxes nor the map, so their boxes are not "
                     f"compared: {_some(result.boxless)}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_LISTED], *(["..."] if len(names) > _LISTED else [])])


def _conclude(result: TraceComparison, worst: Mapping[str, StageRow], a: StagedModel, b: StagedModel) -> None:
    """The rows, the verdict, and what a reader should know of them."""
    stages = result.stages
    stages.rows = [worst[stage] for stage in ORDER if stage in worst]
    if a.pixels != b.pixels and PIXELS not in worst:
        stages.rows.insert(0, StageRow(PIXELS, None, why=f"{told_pixels(a.pixels)} against {told_pixels(b.pixels)}"))
    judge(stages)
    given = [{*side.recorded.stages} if isinstance(side, TracedModel) else {PIXELS, *side.stages} for side in (a, b)]
    for who, here, there in (("A", *given), ("B", *given[::-1])):
        if alone := [stage for stage in ORDER if stage in here and stage not in there]:
            stages.notes.append(f"only {who} gives {', '.join(alone)}: not compared")
    if (partly := {row.comparison.basis for row in stages.rows if row.comparison}) & {"sample", "statistics"}:
        kept = "samples" if "sample" in partly else "statistics"
        stages.notes.append(f"the trace keeps {kept}, not every value: the largest error is at least what is shown; "
                            f"record with --level full to know it")
    first = next((row for row in stages.rows if not row.passed), None)
    if first is not None and len(result.maps.images) > 1 and first.image:
        stages.notes.append(f"{first.stage} differs most on {first.image}")


def _explain(result: TraceComparison, reference: TracedModel, a: StagedModel, b: StagedModel,
             sources: Sources) -> None:
    """The causes of the first divergence: of the pixels, where these differ, and of the network."""
    stages = result.stages
    if a.pixels != b.pixels:
        stages.causes += _pixel_causes(stages, reference, a, b, sources)
    row = next((row for row in stages.rows if not row.passed and row.stage != PIXELS), None)
    if row is None:
        return
    live = next((side for side in (b, a) if not isinstance(side, TracedModel)), None)
    if row.comparison is None or live is None:
        error = math.inf if row.comparison is None else row.comparison.max_rel
        what = row.why or other_model(a, b) or unexplained(a, b)
        stages.causes.append(Cause("unknown", what, error, error, False, row.stage))
        return
    index = next(i for i, image in enumerate(reference.recorded.images) if image.name == row.image)
    image, trace = reference.recorded.images[index], reference.recorded
    tensor = input_of(image, trace.full(index, PIXELS), path_of(image, sources), reference.pixels)
    scene = TraceScene(row.stage, tensor, Recorded(trace, index, row.stage), row.comparison.tolerance,
                       row.comparison.max_rel)
    try:
        stages.causes += [replace(cause, stage=row.stage) for cause in causes_of(scene, live, reference)]
    except DbnetError as error:
        stages.notes.append(f"looking for a cause failed: {error}")


def _pixel_causes(stages: ModelComparison, reference: TracedModel, a: StagedModel, b: StagedModel,
                  sources: Sources) -> list[Cause]:
    """Measured where an image is at hand."""
    if next(iter(stages.rows)).passed:
        return []
    for image in reference.recorded.images:
        if (path := path_of(image, sources)) is not None:
            return pixel_causes_on(a.pixels, b.pixels, Photograph.read(path))
    return [Cause(name, what, math.inf, math.inf, False, PIXELS) for name, what, _ in pixel_causes(b.pixels, a.pixels)]


def notes_of(a: StagedModel, b: StagedModel) -> list[str]:
    """What is known of two sides before anything is compared."""
    notes = [*a.notes, *b.notes]
    ours, theirs = (getattr(side.runner, "weights_digest", None) for side in (a, b))
    if ours and theirs:
        notes.append("the weights are the same, bit for bit" if ours == theirs else
                     f"the weights are not the same (sha256 {ours[:12]}... and {theirs[:12]}...)")
    return notes
