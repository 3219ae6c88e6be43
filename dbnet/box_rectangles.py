"""Smallest rotated rectangles of many point sets at once: cv2.minAreaRect for each, the corners of all in NumPy.

cv2.boxPoints and the sorting of four corners cost as much per text as finding the rectangle does. Both are a few
float32 operations, which NumPy repeats to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import itemgetter

import cv2
import numpy as np

#: Fewer rectangles than this take longer in NumPy than one by one.
FEW = 12


def smallest_rectangles(point_sets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest rotated rectangle around each of K point sets, int32 or float32.

    Returns the corners (K, 4, 2) float32 in OpenCV's own order, and the shorter sides (K,) float32 in pixels.
    """
    if len(point_sets) < FEW:
        found = [cv2.minAreaRect(points) for points in point_sets]
        corners = np.array([cv2.boxPoints(rectangle) for rectangle in found], np.float32).reshape(-1, 4, 2)
        return corners, np.array([min(sides) for _, sides, _ in found], np.float32)
    numbers = [number for (x, y), (width, height), angle in map(cv2.minAreaRect, point_sets)
               for number in (x, y, width, height, angle)]
    rectangles = np.array(numbers, np.float32).reshape(-1, 5)
    return box_points(rectangles), np.minimum(rectangles[:, 2], rectangles[:, 3])


def clockwise(corners: np.ndarray) -> np.ndarray:
    """Corners (K, 4, 2) of rectangles, ordered from the top left clockwise.

    Which corner is the top left of a rectangle that stands on its tip, MhLiao/DB, MindOCR and PaddleOCR decide in the
    same way (their `get_mini_boxes`): of the two leftmost corners the upper one.
    """
    if len(corners) < FEW:
        ordered = [_clockwise(*sorted(box, key=_x)) for box in corners.tolist()]
        return np.array(ordered, np.float32).reshape(-1, 4, 2)
    rows = 4 * np.arange(len(corners))[:, np.newaxis]
    by_x = np.argsort(corners[..., 0], axis=1, kind="stable") + rows
    y = corners[..., 1].ravel()[by_x]
    left_falls, right_falls = y[:, 1] > y[:, 0], y[:, 3] > y[:, 2]
    top_left, top_right = np.where(left_falls, 0, 1), np.where(right_falls, 2, 3)
    order = np.stack([top_left, top_right, 5 - top_right, 1 - top_left], axis=1) + rows
    return corners.reshape(-1, 2)[by_x.ravel()[order]]


_x = itemgetter(0)


def _clockwise(first: list[float], second: list[float], third: list[float], last: list[float]) -> list[list[float]]:
    """`clockwise` of four corners (x, y) from left to right."""
    top_left, bottom_left = (first, second) if second[1] > first[1] else (second, first)
    top_right, bottom_right = (third, last) if last[1] > third[1] else (last, third)
    return [top_left, top_right, bottom_right, bottom_left]


def box_points(rectangles: np.ndarray) -> np.ndarray:
    """cv2.boxPoints of K rectangles (K, 5) float32, rows of centre x, y, width, height, angle: (K, 4, 2) float32."""
    mirrors = _opencv_mirrors()
    if mirrors is None:
        return np.array([_points_of_one(rectangle) for rectangle in rectangles], np.float32).reshape(-1, 4, 2)
    return _box_points(rectangles, mirrors)


def _box_points(rectangles: np.ndarray, mirrors: bool) -> np.ndarray:
    """OpenCV's formula, in its order of operations. mirrors: the last two corners are 2 * centre - the first two."""
    x, y, width, height, degrees = rectangles.T
    angle = degrees.astype(np.float64) * np.pi / 180
    half = np.float32(0.5)
    sin, cos = np.sin(angle).astype(np.float32) * half, np.cos(angle).astype(np.float32) * half
    along_x, along_y, across_x, across_y = cos * width, sin * width, sin * height, cos * height
    corners = np.empty((len(rectangles), 4, 2), np.float32)
    corners[:, 0, 0], corners[:, 0, 1] = x - across_x - along_x, y + across_y - along_y
    corners[:, 1, 0], corners[:, 1, 1] = x + across_x - along_x, y - across_y - along_y
    if mirrors:
        corners[:, 2:] = 2 * rectangles[:, np.newaxis, :2] - corners[:, :2]
    else:
        corners[:, 2, 0], corners[:, 2, 1] = x + across_x + along_x, y - across_y + along_y
        corners[:, 3, 0], corners[:, 3, 1] = x - across_x + along_x, y + across_y + along_y
    return corners


@cache
def _opencv_mirrors() -> bool | None:
    """Which formula this build of OpenCV follows: 4.11 mirrors the first two corners, 4.14 computes all four alike.

    None where neither gives its bits (a compiler that contracts a * b + c): cv2.boxPoints is then called per rectangle.
    """
    rng = np.random.default_rng(0)
    probe = (rng.random((200, 5)) * (2000, 2000, 300, 300, 90)).astype(np.float32)
    expected = np.array([_points_of_one(rectangle) for rectangle in probe])
    for mirrors in (True, False):
        if np.array_equal(_box_points(probe, mirrors), expected):
            return mirrors
    return None


def _points_of_one(rectangle: np.ndarray) -> np.ndarray:
    x, y, width, height, angle = rectangle.tolist()
    return cv2.boxPoints(((x, y), (width, height), angle))
