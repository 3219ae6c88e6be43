"""Boxes out: from a probability map to polygons, as MindOCR, PaddleOCR and MhLiao/DB each do it.

The rules share one course: binarise, trace contours, simplify (to the smallest rectangle or to a polygon), score, grow
back (the network was taught shrunken texts), drop what is small. What differs stands in `RULES`. At a box threshold of
0.6 it decides: one blob scores .725 by MindOCR's rule and .606 by MhLiao's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import cv2
import numpy as np

from dbnet.errors import DbnetError
from dbnet.geometry import mini_box, unclip
from dbnet.sample import Detection
from dbnet.spec import BoxRuleName, BoxType

#: Shortest side of a text in pixels of the map, before and after growing.
MIN_SIDE, MIN_SIDE_GROWN = 3, 5

#: (map (H, W) float32, bitmap (H, W) uint8, contour (N, 2) int32, its simplified outline (P, 2)) -> mean probability.
ScoreFunction = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
#: (polygon, (h, w) of the image within the map, (H, W) of the original image) -> whole pixels of the original.
PlaceFunction = Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """Where the projects differ.

    at_threshold: a pixel equal to the binary threshold is text. epsilon: tolerance of the simplified polygon, a
    fraction of its perimeter. poly_unclip_ratio: default for polygons (1.5 for rectangles in all of them).
    """

    at_threshold: bool
    epsilon: float
    poly_unclip_ratio: float
    score: ScoreFunction
    place: PlaceFunction


def boxes_from_map(
    probability: np.ndarray, rule: BoxRuleName = "mindocr", box_type: BoxType = "quad", *, binary_thresh: float = 0.3,
    box_thresh: float = 0.6, unclip_ratio: float | None = None, max_candidates: int = 1000,
    resized_size: tuple[int, int] | None = None, original_size: tuple[int, int] | None = None,
) -> list[Detection]:
    """The texts in one probability map, (H, W) of floats in 0..1, in the order in which OpenCV traces them.

    box_type: `quad` for rotated rectangles, from the top left clockwise, or `poly`. Thresholds are fractions.
    unclip_ratio: None takes the project's default, 1.5 (MhLiao/DB's polygons 2.0). max_candidates: contours looked at.
    resized_size: (height, width) of the part of the map that shows the image, default all of it; original_size: of the
    image that the boxes are wanted for, default `resized_size`. Polygons are rounded to whole pixels of that image and
    clipped to it as the project does.

    The last digits of the scores, and with them boxes near `box_thresh`, depend on OpenCV's version (`cv2.fillPoly`),
    except MindOCR's. Raises DbnetError for a map or threshold out of range, ValueError for an array of another rank.
    """
    _check_settings(rule, box_type, binary_thresh, box_thresh, unclip_ratio, max_candidates)
    probability = _checked_map(probability)
    chosen = RULES[rule]
    if unclip_ratio is None:
        unclip_ratio = chosen.poly_unclip_ratio if box_type == "poly" else 1.5
    resized = resized_size or (probability.shape[0], probability.shape[1])
    original = original_size or resized
    threshold = np.float32(binary_thresh)
    bitmap = (probability >= threshold if chosen.at_threshold else probability > threshold).astype(np.uint8)
    detections = []
    contours = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    for contour in contours[:max_candidates]:
        outline = _rectangle(contour, MIN_SIDE) if box_type == "quad" else _simplified(contour, chosen.epsilon)
        if outline is None:
            continue
        score = chosen.score(probability, bitmap, contour[:, 0], outline)
        if score < box_thresh:
            continue
        polygon = _grown(outline, unclip_ratio, box_type)
        if polygon is not None:
            detections.append(Detection(chosen.place(polygon, resized, original), score))
    return detections


# The shared course ----------------------------------------------------------------------------------------------------


def _rectangle(points: np.ndarray, min_side: float) -> np.ndarray | None:
    """Corners (4, 2) float32 of the smallest rectangle, or None if it is thinner than `min_side` pixels."""
    corners, side = mini_box(points)
    return corners if side >= min_side else None


def _simplified(contour: np.ndarray, epsilon: float) -> np.ndarray | None:
    """Polygon (P, 2) int32 with at least four corners, or None."""
    points = cv2.approxPolyDP(contour, epsilon * cv2.arcLength(contour, True), True)
    return points[:, 0] if len(points) >= 4 else None


def _grown(outline: np.ndarray, ratio: float, box_type: BoxType) -> np.ndarray | None:
    """`outline` after unclipping: (4, 2) float32 or (P, 2) int32, or None if that is small or falls apart."""
    parts = unclip(outline, ratio)
    if len(parts) != 1:
        return None
    rectangle = _rectangle(parts[0], MIN_SIDE_GROWN)
    return parts[0] if box_type == "poly" and rectangle is not None else rectangle


# Where the projects differ --------------------------------------------------------------------------------------------


def _score_of_bitmap(
    probability: np.ndarray, bitmap: np.ndarray, contour: np.ndarray, outline: np.ndarray
) -> float:
    """MindOCR: mean over the text pixels in the contour's bounding box, so also over those of a neighbour."""
    (left, top), (right, bottom) = contour.min(axis=0), contour.max(axis=0) + 1
    return cv2.mean(probability[top:bottom, left:right], bitmap[top:bottom, left:right])[0]


def _score_of_outline(
    probability: np.ndarray, bitmap: np.ndarray, contour: np.ndarray, outline: np.ndarray
) -> float:
    """MhLiao/DB and PaddleOCR ("fast"): mean inside the outline, background between the text's pixels included."""
    height, width = probability.shape
    left, top = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(outline.max(axis=0)).astype(int), 0, (width - 1, height - 1)) + 1
    mask = np.zeros((bottom - top, right - left), np.uint8)
    corners = outline - np.array((left, top), outline.dtype)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    return cv2.mean(probability[top:bottom, left:right], mask)[0]


def _place_by_size(polygon: np.ndarray, resized: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """MhLiao/DB and PaddleOCR: x / w * W, clipped to [0, W]; rectangles in float32, polygons in float64."""
    if polygon.dtype != np.float32:
        polygon = polygon.astype(np.float64)
    old, new = np.array(resized[::-1], polygon.dtype), np.array(original[::-1], polygon.dtype)
    return np.clip(np.round(polygon / old * new), 0, new).astype(np.float32)


def _place_by_scale(polygon: np.ndarray, resized: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """MindOCR: x / (w / W) with a float32 scale, clipped to [0, W - 1]."""
    scale = np.array(np.divide(resized[::-1], original[::-1]), np.float32)
    limit = np.array(original[::-1], np.float32) - 1
    return np.clip(np.round(polygon / scale), 0, limit).astype(np.float32)


#: MindOCR `det_db_postprocess.py`, PaddleOCR `db_postprocess.py`, MhLiao/DB `seg_detector_representer.py`.
RULES: dict[str, Rule] = {
    "mindocr": Rule(True, 0.005, 1.5, _score_of_bitmap, _place_by_scale),
    "paddle": Rule(False, 0.002, 1.5, _score_of_outline, _place_by_size),
    "mhliao": Rule(False, 0.002, 2.0, _score_of_outline, _place_by_size),
}


# Checks ---------------------------------------------------------------------------------------------------------------


def _check_settings(
    rule: str, box_type: str, binary_thresh: float, box_thresh: float, unclip_ratio: float | None, max_candidates: int
) -> None:
    """Raises DbnetError: the values may come from a command line or from a file's record."""
    for what, name, names in (("box rule", rule, tuple(RULES)), ("box type", box_type, get_args(BoxType))):
        if name not in names:
            raise DbnetError(f"unknown {what} {name!r}; choose one of {', '.join(names)}")
    for what, value in (("binary_thresh", binary_thresh), ("box_thresh", box_thresh)):
        if not 0 <= value <= 1:
            raise DbnetError(f"{what} is a fraction between 0 and 1, not {value}")
    if unclip_ratio is not None and not (unclip_ratio > 0 and math.isfinite(unclip_ratio)):
        raise DbnetError(f"unclip_ratio must be a positive number, not {unclip_ratio}")
    if max_candidates < 1:
        raise DbnetError(f"max_candidates must be at least 1, not {max_candidates}")


def _checked_map(probability: np.ndarray) -> np.ndarray:
    """The map as C-contiguous float32."""
    if probability.ndim != 2 or not probability.size or not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(f"a probability map is (H, W) of floats, not {probability.shape} {probability.dtype}")
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= 1):  # also where one of them is NaN
        raise DbnetError(f"the probability map holds values from {low:g} to {high:g}, not between 0 and 1: "
                         f"the network's output is broken, or not a probability")
    return np.ascontiguousarray(probability, np.float32)
