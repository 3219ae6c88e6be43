"""How sure a detector is of each text: the mean probability of a region, which every project defines otherwise.

Every function takes the map (H, W) float32, its bitmap (H, W) uint8, the K contours (N, 1, 2) int32, their upright
bounds and their outlines: rectangles (K, 4, 2) float32 or K polygons (P, 2) int32; it returns K fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

#: Left, top, width, height in whole pixels of the map.
Bounds = Sequence[int]
Outlines = np.ndarray | Sequence[np.ndarray]
ScoreFunction = Callable[[np.ndarray, np.ndarray, Sequence[np.ndarray], Iterable[Bounds], Outlines], list[float]]


def means_of_text(
    probability: np.ndarray, bitmap: np.ndarray, contours: Sequence[np.ndarray], bounds: Iterable[Bounds],
    outlines: Outlines,
) -> list[float]:
    """MindOCR: mean over the text pixels within each contour's bounds, so also over those of a neighbour."""
    means = []
    for x, y, width, height in bounds:
        region = slice(y, y + height), slice(x, x + width)
        means.append(cv2.mean(probability[region], bitmap[region])[0])
    return means


def means_of_outlines(
    probability: np.ndarray, bitmap: np.ndarray, contours: Sequence[np.ndarray], bounds: Iterable[Bounds],
    outlines: Outlines,
) -> list[float]:
    """MhLiao/DB, MMOCR and PaddleOCR ("fast"): mean inside each outline, background between the text's pixels included.
    """
    if not isinstance(outlines, np.ndarray):
        return _means_inside(probability, outlines, map(cv2.boundingRect, outlines))
    # A rectangle may reach beyond the map; what lies there does not count.
    last = np.array(probability.shape[::-1]) - 1
    first = np.clip(np.floor(outlines.min(axis=1)).astype(np.int64), 0, last)
    sizes = np.clip(np.ceil(outlines.max(axis=1)).astype(np.int64), 0, last) - first + 1
    # The projects move an outline to its first pixel and then cut its corners to integers. Moving a corner by less
    # than its own size is exact in float32, and where it is to the left of the map, it is moved by nothing.
    return _means_inside(probability, outlines.astype(np.int32), np.hstack([first, sizes]).tolist())


def means_of_contours(
    probability: np.ndarray, bitmap: np.ndarray, contours: Sequence[np.ndarray], bounds: Iterable[Bounds],
    outlines: Outlines,
) -> list[float]:
    """PaddleOCR ("slow"): mean inside each contour."""
    return _means_inside(probability, contours, bounds)


def _means_inside(
    probability: np.ndarray, polygons: Iterable[np.ndarray], bounds: Iterable[Bounds]
) -> list[float]:
    means = []
    for polygon, (x, y, width, height) in zip(polygons, bounds, strict=True):
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [polygon], 1, cv2.LINE_8, 0, (-x, -y))
        means.append(cv2.mean(probability[y:y + height, x:x + width], mask)[0])
    return means
