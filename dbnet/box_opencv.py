"""The boxes of OpenCV's own `cv2.dnn.TextDetectionModel_DB` (modules/dnn/src/model.cpp, 4.5.1 to 5.0), of any map.

What sets it apart: a contour is scored as it is (`PaddleOCR`'s slow way), then scaled to the image and cut to whole
pixels, and only there made a rectangle; the rectangle's corners are rounded before its sides are pushed out, and no
corner is rounded off, so a box is larger than Clipper's by what lies in its corners. Nothing is clipped to the image.

The quads are OpenCV's, corner by corner. It computes in float32 what is float32 here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

#: Shortest side of a contour's rectangle in pixels of the map; OpenCV mixes up the scales of the two axes there, for it
#: takes `minAreaRect`'s width and height for those of an upright rectangle.
MIN_SIDE = 3
#: Rectangles are turned so that their text runs from left to right: none is steeper than so many degrees.
STEEPEST = 60
#: Two sides that meet at a smaller angle than this cosine has (45 degrees) are joined halfway, not where they cross.
NEARLY_ALONG = 0.7


def quads_of_opencv(
    probability: np.ndarray, contours: Sequence[np.ndarray], box_thresh: float, unclip_ratio: float,
    resized: tuple[int, int], original: tuple[int, int], side: Callable[[float, float], float] = lambda named, _: named,
) -> Iterator[tuple[np.ndarray, float]]:
    """The grown rectangles (4, 2) float32 of contours (N, 1, 2) int32 in a map (H, W) float32, each with its score.

    The corners are whole pixels of the original image, some outside of it: bottom left, top left, top right, bottom
    right of a text that is no steeper than 60 degrees. resized: (height, width) of the part of the map that shows the
    image. OpenCV knows maps only that show all of an image: where there is padding, that is the padded one, and its
    quads are brought back to the original afterwards, so no longer whole pixels.

    side: of the shortest side as OpenCV computes it and as it would with width and height exchanged, that which counts.
    OpenCV 5 names the two the other way round than 4.
    """
    shape = probability.shape[0], probability.shape[1]
    if resized != shape:
        back = scale_back(resized, original)
        yield from ((quad * back, score) for quad, score in
                    quads_of_opencv(probability, contours, box_thresh, unclip_ratio, shape, shape, side))
        return
    scale_y, scale_x = np.array(original, np.float32) / np.array(resized, np.float32)
    threshold = np.float32(box_thresh)
    for contour in contours:
        score = np.float32(_mean_inside(probability, contour))
        if score < threshold:
            continue
        # The product in float32, then cut.
        scaled = (contour.astype(np.float32) * np.array([scale_x, scale_y])).astype(np.int32)
        rectangle = cv2.minAreaRect(scaled)
        width, height = np.array(rectangle[1], np.float32)
        if side(min(height / scale_x, width / scale_y), min(width / scale_x, height / scale_y)) < MIN_SIDE:
            continue
        quad = _pushed_out(cv2.boxPoints(_lying(rectangle)), unclip_ratio)
        if quad is not None:
            yield quad, min(float(score), 1.0)  # a map may be a last bit above 1


def scale_back(resized: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """(2,) float32, by which x and y in a padded image become those in its original."""
    return np.array([original[1] / resized[1], original[0] / resized[0]], np.float32)


def _mean_inside(probability: np.ndarray, contour: np.ndarray) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    rows, columns = probability.shape
    # One row and one column more than the contour has, where there are any.
    mask = np.zeros((min(y + height, rows - 1) - y + 1, min(x + width, columns - 1) - x + 1), np.uint8)
    cv2.fillPoly(mask, [contour - np.array([x, y], np.int32)], 1)
    return float(cv2.mean(probability[y:y + mask.shape[0], x:x + mask.shape[1]], mask)[0])


def _lying(rectangle: Any) -> Any:
    """cv2.minAreaRect's rectangle with width and height exchanged if it stands."""
    centre, (width, height), angle = rectangle
    if width < height or abs(angle) >= STEEPEST:
        width, height = height, width
        angle += -90 if angle > 0 else 90 if angle < 0 else 0
    return centre, (width, height), angle


def _pushed_out(corners: np.ndarray, ratio: float) -> np.ndarray | None:
    """A rectangle (4, 2) float32 with its sides moved out by area * ratio / perimeter, in whole pixels.

    None where neighbours fall on the same pixel, for which OpenCV gives nothing or corners at INT_MIN.
    """
    length = cv2.arcLength(corners, True)
    if length == 0:
        return None
    distance = cv2.contourArea(corners) * ratio / length
    pixels = np.rint(corners).astype(np.int32)
    before = np.roll(pixels, 1, axis=0)
    along = pixels - before
    with np.errstate(all="ignore"):
        moved = (distance / np.sqrt((along.astype(np.float64) ** 2).sum(axis=1))).astype(np.float32)
        out = np.stack([along[:, 1] * moved, -along[:, 0] * moved], axis=1, dtype=np.float32)
        starts, ends = pixels.astype(np.float32) + out, before.astype(np.float32) + out
        meeting = [_meeting(starts[i], ends[i], starts[(i + 1) % 4], ends[(i + 1) % 4]) for i in range(4)]
        quad: np.ndarray = np.rint(np.array(meeting, np.float32))
    return quad if np.isfinite(quad).all() else None


def _meeting(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Where the lines from `a` to `b` and from `c` to `d`, points (2,) float32, cross: (2,) float32."""
    first, second = b - a, d - c
    product = float(first[0] * second[0] + first[1] * second[1])
    lengths = math.hypot(*first.tolist()) * math.hypot(*second.tolist())
    if lengths and abs(product / lengths) > NEARLY_ALONG:
        return ((b + c).astype(np.float64) * 0.5).astype(np.float32)
    y, turned = (d - c)[1].astype(np.float64), (b - a)[1].astype(np.float64)
    ax, bx, cx, dx = (float(point[0]) for point in (a, b, c, d))
    denominator = ax * y - bx * y + dx * turned - cx * turned
    numerator = ax * y + cx * float(a[1] - d[1]) + dx * float(c[1] - a[1])
    share = np.float64(numerator) / np.float64(denominator)
    return (a.astype(np.float64) + share * (b - a).astype(np.float64)).astype(np.float32)
