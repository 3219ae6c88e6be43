"""Boxes out: from a probability map to polygons, as MindOCR, PaddleOCR, MhLiao/DB, MMOCR and OpenCV each do it.

The projects share one course: binarise, trace contours, simplify (to the smallest rectangle or to a polygon), score,
grow back (the network was taught shrunken texts), drop what is small. What differs stands in `RULES`. At a box
threshold of 0.6 it decides: one blob scores .725 by MindOCR's rule and .606 by MhLiao's.

Each step is done for all texts of a map before the next one begins, so that NumPy can do what is the same for all.
The projects go text by text and MindOCR scores before it simplifies; every filter looks at one text alone, so the
outcome is the same. OpenCV's rule goes its own way after tracing, see `box_opencv`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from typing import NamedTuple, get_args

import cv2
import numpy as np

from dbnet.box_contours import simplified, text_contours
from dbnet.box_growing import NOTHING, hulls_of_grown
from dbnet.box_opencv import quads_of_opencv
from dbnet.box_rectangles import clockwise, smallest_rectangles
from dbnet.box_scores import Bounds, Outlines, ScoreFunction, means_of_contours, means_of_outlines, means_of_text
from dbnet.errors import DbnetError
from dbnet.geometry import offset, unclip_distances
from dbnet.sample import Detection
from dbnet.spec import (
    MHLIAO_BOXES,
    MINDOCR_BOXES,
    MMOCR_BOXES,
    OPENCV_BOXES,
    PADDLE_BOXES,
    BoxRule,
    BoxRuleName,
    BoxType,
    ScoreMode,
)

#: Shortest side of a text's rectangle in pixels of the map, before and after growing.
MIN_SIDE, MIN_SIDE_GROWN = 3, 5
#: Beyond this ratio Clipper's integers and OpenCV's float32 would overflow.
LARGEST_UNCLIP_RATIO = 1000.0

#: (height, width) in pixels.
Size = tuple[int, int]
#: (points (..., 2), size of the image within the map, size of the original image) -> points there, float32.
PlaceFunction = Callable[[np.ndarray, Size, Size], np.ndarray]
#: (outlines, unclip ratio, box type) -> the grown texts, (M, 4, 2) or M of (P, 2), and which outlines they are of.
GrowFunction = Callable[[Outlines, float, BoxType], tuple[Outlines, Sequence[int]]]


@dataclass(frozen=True)
class Rule:
    """What is traced. at_threshold: a pixel equal to the binary threshold is text. extra_candidates: contours looked at
    beyond the limit.
    """

    at_threshold: bool
    extra_candidates: int


@dataclass(frozen=True)
class ProjectRule(Rule):
    """Where the projects differ after it.

    rectangles: quads are grown from the smallest rectangle of the contour, not from its simplified polygon. epsilon:
    tolerance of that polygon, a fraction of the contour's length. grow: for what is grown from polygons.
    """

    rectangles: bool
    epsilon: float
    score: ScoreFunction
    grow: GrowFunction
    place: PlaceFunction


def boxes_from_map(
    probability: np.ndarray, rule: BoxRuleName = "mindocr", box_type: BoxType = "quad", binary_thresh: float = 0.3,
    box_thresh: float = 0.6, unclip_ratio: float = 1.5, max_candidates: int = 1000, *, score_mode: ScoreMode = "fast",
    dilation: bool = False, resized_size: Size | None = None, original_size: Size | None = None,
) -> list[Detection]:
    """The texts in one probability map, (H, W) of floats in 0..1, in the order in which OpenCV traces them.

    box_type: `quad` for rotated rectangles or `poly`. Thresholds are fractions. unclip_ratio: MhLiao/DB grows polygons
    by 2.0, everything else is 1.5 (`default_boxes`). max_candidates: contours looked at (MMOCR looks at one more;
    OpenCV's default is all of them, `dbnet.spec.ALL_CANDIDATES`).
    score_mode, dilation: PaddleOCR's `det_db_score_mode` (`slow` scores the contour instead of its rectangle; polygons
    are always scored fast) and `use_dilation`; the other projects have no such choice.
    resized_size: (height, width) of the part of the map that shows the image, default all of it; original_size: of the
    image that the boxes are wanted for, default `resized_size`. Rectangles run from the top left clockwise, coordinates
    are rounded to whole pixels of that image and clipped to it, all as the project does. MMOCR does none of the three,
    OpenCV only rounds, and begins at the bottom left; it has no polygons.

    The last digits of the scores, and with them boxes near `box_thresh`, depend on OpenCV's version (`cv2.fillPoly`),
    except MindOCR's. Raises DbnetError for a map, size or threshold out of range, ValueError for an array of another
    rank or type.
    """
    settings = BoxRule(rule, box_type, binary_thresh, box_thresh, unclip_ratio, max_candidates, score_mode, dilation)
    _check_settings(settings)
    return _boxes(settings, _traced(settings, probability), resized_size, original_size)


def boxes_of_any_opencv(probability: np.ndarray, boxes: BoxRule, *, certain: bool, resized_size: Size | None = None,
                        original_size: Size | None = None) -> list[Detection]:
    """What `boxes_from_map` finds with the box rule `opencv`, for any version of OpenCV: they do not agree on which
    side of a rectangle is its width, and with it on which texts are too small (`quads_of_opencv`).

    certain: those that every one finds, else those that one may find. Raises what `boxes_from_map` raises.
    """
    _check_settings(boxes)
    return _boxes(boxes, _traced(boxes, probability), resized_size, original_size, min if certain else max)


def boxes_from_maps(
    probabilities: Sequence[np.ndarray], rule: BoxRuleName = "mindocr", box_type: BoxType = "quad",
    binary_thresh: float = 0.3, box_thresh: float = 0.6, unclip_ratio: float = 1.5, max_candidates: int = 1000, *,
    score_mode: ScoreMode = "fast", dilation: bool = False, resized_sizes: Sequence[Size | None] | None = None,
    original_sizes: Sequence[Size | None] | None = None, workers: int | None = None,
) -> list[list[Detection]]:
    """`boxes_from_map` of each map, with the sizes of each, in the caller's and `workers` more threads (0 for none;
    default: one where there are two cores).

    The same boxes as one map after another. Raises what `boxes_from_map` raises, for the first bad map, and ValueError
    if there are not as many sizes as maps.
    """
    settings = BoxRule(rule, box_type, binary_thresh, box_thresh, unclip_ratio, max_candidates, score_mode, dilation)
    _check_settings(settings)
    sizes = [given if given is not None else [None] * len(probabilities) for given in (resized_sizes, original_sizes)]
    if not all(len(given) == len(probabilities) for given in sizes):
        raise ValueError("there must be as many sizes as maps")
    workers = min(1, (os.cpu_count() or 1) - 1) if workers is None else workers
    if workers < 0:
        raise DbnetError(f"workers must be at least 0, not {workers}")
    trace = partial(_traced, settings)
    # Tracing is a few long calls that leave Python's lock alone. What follows is thousands of short ones: two threads
    # would take the lock from each other at each, and be slower than one.
    with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
        traced = pool.map(trace, probabilities) if pool else map(trace, probabilities)
        return [_boxes(settings, *arguments) for arguments in zip(traced, *sizes, strict=True)]


def default_boxes(rule: BoxRuleName, box_type: BoxType = "quad") -> BoxRule:
    """The published settings of a project: MindOCR's and PaddleOCR's recipes for ICDAR 2015, MhLiao/DB's commands and
    its fixed ratio for polygons, the defaults of MMOCR's `DBPostprocessor` and of OpenCV's `TextDetectionModel_DB`.
    Raises DbnetError for another name, or polygons of OpenCV."""
    _check_choices(rule, box_type, "fast")
    settings = replace(DEFAULTS[rule], box_type=box_type)
    return replace(settings, unclip_ratio=2.0) if (rule, box_type) == ("mhliao", "poly") else settings


# The shared course ----------------------------------------------------------------------------------------------------


class Traced(NamedTuple):
    """A checked map (H, W) float32, its bitmap (H, W) uint8 and the contours (N, 1, 2) int32 to look at."""

    probability: np.ndarray
    bitmap: np.ndarray
    contours: Sequence[np.ndarray]


def _traced(settings: BoxRule, probability: np.ndarray) -> Traced:
    rule, probability = RULES[settings.rule], _as_map(probability)
    bitmap, contours = text_contours(probability, settings.binary_thresh, rule.at_threshold, settings.dilation)
    return Traced(probability, bitmap, contours[:settings.max_candidates + rule.extra_candidates])


def _boxes(settings: BoxRule, traced: Traced, resized_size: Size | None, original_size: Size | None,
           *side: Callable[[float, float], float]) -> list[Detection]:
    rule, (probability, bitmap, contours) = RULES[settings.rule], traced
    resized = _checked_size("resized_size", resized_size) or (probability.shape[0], probability.shape[1])
    original = _checked_size("original_size", original_size) or resized
    if not isinstance(rule, ProjectRule):
        return list(starmap(Detection, quads_of_opencv(probability, contours, settings.box_thresh,
                                                       settings.unclip_ratio, resized, original, *side)))
    from_rectangles = settings.box_type == "quad" and rule.rectangles
    contours, bounds, outlines = _rectangles(contours) if from_rectangles else _polygons(contours, rule.epsilon)
    score_of = means_of_contours if from_rectangles and settings.score_mode == "slow" else rule.score
    scores = score_of(probability, bitmap, contours, bounds, outlines)
    if scores and max(scores) > 1:  # by a last bit, see box_contours
        scores = [min(score, 1.0) for score in scores]
    sure = [i for i, score in enumerate(scores) if score >= settings.box_thresh]
    if not sure:
        return []
    grow = _grown_rectangles if from_rectangles else rule.grow
    grown, kept = grow(_chosen(outlines, sure), settings.unclip_ratio, settings.box_type)
    placed = rule.place(grown, resized, original) if isinstance(grown, np.ndarray) else [
        rule.place(polygon, resized, original) for polygon in grown]
    return list(map(Detection, placed, [scores[sure[i]] for i in kept]))


def _rectangles(contours: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Iterable[Bounds], Outlines]:
    """The contours whose smallest rectangle is large enough, their upright bounds, and these rectangles: (K, 4, 2)
    float32, clockwise."""
    # A contour whose points span less than MIN_SIDE upright has no rectangle of least area with a shorter side of
    # MIN_SIDE either: with sides a <= b, a b <= 2 e for the longer span e, and a^2 + b^2 >= e^2, a >= 3 would ask for
    # e >= 4.5 and for e <= 4.03. Noise is mostly of that kind.
    all_bounds = [cv2.boundingRect(contour) for contour in contours]
    wide = [i for i, (_, _, width, height) in enumerate(all_bounds) if width > MIN_SIDE and height > MIN_SIDE]
    corners, sides = smallest_rectangles([contours[i] for i in wide])
    large = sides >= MIN_SIDE
    kept = [i for i, is_large in zip(wide, large.tolist(), strict=True) if is_large]
    return [contours[i] for i in kept], [all_bounds[i] for i in kept], clockwise(corners[large])


def _polygons(contours: Sequence[np.ndarray], epsilon: float) -> tuple[list[np.ndarray], Iterable[Bounds], Outlines]:
    """The contours whose simplified polygon has at least four corners, their upright bounds, and these polygons."""
    kept, polygons = [], []
    for contour in contours:
        if len(contour) >= 4 and len(polygon := simplified(contour, epsilon)) >= 4:
            kept.append(contour)
            polygons.append(polygon)
    return kept, map(cv2.boundingRect, kept), polygons


def _chosen(outlines: Outlines, indices: Sequence[int]) -> Outlines:
    return outlines[indices] if isinstance(outlines, np.ndarray) else [outlines[i] for i in indices]


def _grown_rectangles(outlines: Outlines, ratio: float, box_type: BoxType) -> tuple[Outlines, Sequence[int]]:
    """Rectangles (K, 4, 2) after unclipping: the smallest rectangles (M, 4, 2) of those that are large enough."""
    hulls = hulls_of_grown(np.asarray(outlines), ratio)
    grown = [i for i, hull in enumerate(hulls) if len(hull)]
    corners, sides = smallest_rectangles([hulls[i] for i in grown])
    kept = np.flatnonzero(sides >= MIN_SIDE_GROWN)
    return clockwise(corners[kept]), [grown[i] for i in kept]


def _grown_polygons(outlines: Outlines, ratio: float, box_type: BoxType) -> tuple[Outlines, Sequence[int]]:
    """Polygons after unclipping, (P, 2) int32, without those that are small or fall apart."""
    parts = _offsets(outlines, ratio)
    whole = [i for i, found in enumerate(parts) if len(found) == 1]
    _, sides = smallest_rectangles([parts[i][0] for i in whole])
    kept = [i for i, side in zip(whole, sides, strict=True) if side >= MIN_SIDE_GROWN]
    return [parts[i][0] for i in kept], kept


def _grown_in_mmocr(outlines: Outlines, ratio: float, box_type: BoxType) -> tuple[Outlines, Sequence[int]]:
    """MMOCR: quads are the smallest rectangle, its corners in OpenCV's order; polygons may be small, but need four
    points. Which parts stay, see `_first_of_alike`."""
    if box_type == "poly":
        polygons = [_first_of_alike(parts) for parts in _offsets(outlines, ratio)]
        kept = [i for i, polygon in enumerate(polygons) if len(polygon) >= 4]
        return [polygons[i] for i in kept], kept
    hulls = hulls_of_grown(outlines, ratio, _first_of_alike)
    grown = [i for i, hull in enumerate(hulls) if len(hull)]
    corners, sides = smallest_rectangles([hulls[i].astype(np.float32) for i in grown])
    large = np.flatnonzero(sides >= MIN_SIDE_GROWN)
    return corners[large], [grown[i] for i in large]


def _first_of_alike(parts: list[np.ndarray]) -> np.ndarray:
    """MMOCR: several parts are dropped only if their numbers of points differ; else the first one stays."""
    return parts[0] if len({len(part) for part in parts}) == 1 else NOTHING


def _offsets(outlines: Outlines, ratio: float) -> list[list[np.ndarray]]:
    """Each outline after unclipping, in its parts."""
    distances = unclip_distances(outlines, ratio).tolist()
    return [offset(outline, distance) for outline, distance in zip(outlines, distances, strict=True)]


# Where the projects differ --------------------------------------------------------------------------------------------


def _place_by_size(points: np.ndarray, resized: Size, original: Size) -> np.ndarray:
    """MhLiao/DB and PaddleOCR: x / w * W, clipped to [0, W]; rectangles in float32, polygons in float64."""
    if points.dtype != np.float32:
        points = points.astype(np.float64)
    old, new = np.array(resized[::-1], points.dtype), np.array(original[::-1], points.dtype)
    return np.clip(np.round(points / old * new), 0, new).astype(np.float32)


def _place_by_scale(points: np.ndarray, resized: Size, original: Size) -> np.ndarray:
    """MindOCR: x / (w / W) with a float32 scale, clipped to [0, W - 1]."""
    scale = np.array(np.divide(resized[::-1], original[::-1]), np.float32)
    limit = np.array(original[::-1], np.float32) - 1
    return np.clip(np.round(points / scale), 0, limit).astype(np.float32)


def _place_unrounded(points: np.ndarray, resized: Size, original: Size) -> np.ndarray:
    """MMOCR: x * (1 / (w / W)), neither rounded nor clipped."""
    return (points.astype(np.float32) * (1 / np.divide(resized[::-1], original[::-1]))).astype(np.float32)


#: MindOCR `det_db_postprocess.py`, MhLiao/DB `seg_detector_representer.py`, PaddleOCR `db_postprocess.py`, MMOCR
#: `db_postprocessor.py` (its DBNet++ and Total-Text configurations set an epsilon of 0.002).
RULES: dict[str, Rule] = {
    "mindocr": ProjectRule(True, 0, True, 0.005, means_of_text, _grown_polygons, _place_by_scale),
    "mhliao": ProjectRule(False, 0, True, 0.002, means_of_outlines, _grown_polygons, _place_by_size),
    "paddle": ProjectRule(False, 0, True, 0.002, means_of_outlines, _grown_polygons, _place_by_size),
    "mmocr": ProjectRule(False, 1, False, 0.01, means_of_outlines, _grown_in_mmocr, _place_unrounded),
    "opencv": Rule(False, 0),
}
DEFAULTS: dict[str, BoxRule] = {
    "mindocr": MINDOCR_BOXES, "mhliao": MHLIAO_BOXES, "paddle": PADDLE_BOXES,
    "mmocr": MMOCR_BOXES, "opencv": OPENCV_BOXES,
}


# Checks ---------------------------------------------------------------------------------------------------------------


def _check_settings(settings: BoxRule) -> None:
    """Raises DbnetError: the values may come from a command line or from a file's record."""
    _check_choices(settings.rule, settings.box_type, settings.score_mode)
    if settings.rule != "paddle" and (settings.score_mode != "fast" or settings.dilation):
        raise DbnetError(f"score_mode {settings.score_mode!r} and dilation={settings.dilation} are choices of the box "
                         f"rule 'paddle'; {settings.rule!r} has no such choice")
    for what, value in (("binary_thresh", settings.binary_thresh), ("box_thresh", settings.box_thresh)):
        if not 0 <= value <= 1:
            raise DbnetError(f"{what} is a fraction between 0 and 1, not {value}")
    if not 0 < settings.unclip_ratio <= LARGEST_UNCLIP_RATIO:
        raise DbnetError(f"unclip_ratio must be a positive number of at most {LARGEST_UNCLIP_RATIO:g}, "
                         f"not {settings.unclip_ratio}")
    if settings.max_candidates < 1:
        raise DbnetError(f"max_candidates must be at least 1, not {settings.max_candidates}")


def _check_choices(rule: str, box_type: str, score_mode: str) -> None:
    for what, name, names in (("box rule", rule, tuple(RULES)), ("box type", box_type, get_args(BoxType)),
                              ("score mode", score_mode, get_args(ScoreMode))):
        if name not in names:
            raise DbnetError(f"unknown {what} {name!r}; choose one of {', '.join(names)}")
    if (rule, box_type) == ("opencv", "poly"):
        raise DbnetError("the box rule 'opencv' gives quads only, as OpenCV's DB API does; choose another rule for "
                         "polygons")


def _checked_size(what: str, size: Size | None) -> Size | None:
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise DbnetError(f"{what} is (height, width) in pixels, not {size}")
    return size


def _as_map(probability: np.ndarray) -> np.ndarray:
    """The map as C-contiguous float32."""
    if probability.ndim != 2 or not probability.size or not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(f"a probability map is (H, W) of floats, not {probability.shape} {probability.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused
        return np.ascontiguousarray(probability, np.float32)
