"""MSRA-TD500 (Yao et al., CVPR 2012): text lines as rotated rectangles, matched by overlap and direction.

A detection matches a text if both point the same way to within an eighth of pi and, *turned about their own centres
until they lie along the axes*, have an intersection over union above 0.5. Turning makes it bearable that a long line
found two degrees askew overlaps badly where it lies. This is the paper's protocol, and what `script.py` in the TD500
folders of GXYM/DRRG, TextBPN++ and their relatives does; their result files hold turned rectangles and angles
(`xmin,ymin,xmax,ymax,angle`). As there, each text takes the first free detection in the order of the files, and
`difficult` texts are nobody's care: neither they nor detections of which more than half lies on one (turned) count.

`td500_in_place` leaves the rectangles where they lie, which is how the protocol is often described.

Others that report on TD500 ask for no direction and turn nothing: MhLiao/DB, MMOCR and MindOCR score the four corners
by their rules for ICDAR 2015 (`mhliao`, `mmocr`, `mindocr` here). PSENet, PAN and FAST have a script of their own that
is not offered: overlap from 0.5 on, a detection may serve any number of texts, difficult texts count if they are found,
and precision can pass 1.

A label turns an upright or lying rectangle by less than an eighth of a circle, so upright text has a height above its
width and no angle near a right one. Detections come as polygons with corners in any order. So the rectangle is that of
the smallest area around the polygon, its width the side nearest to the horizontal, and directions are compared modulo
a quarter of a circle, the sides that are nearly parallel belonging together: a square, or one at 45 degrees, then has
no second reading. Two lines that really stand across each other do not overlap enough when turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from dbnet.geometry import intersection_areas
from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol
from evaluation.protocols.matching import IGNORED_ABOVE, IOU_ABOVE, Pairs, one_to_one, ratio

#: Radians by which the directions of a match may differ.
ANGLE_BELOW = np.pi / 8
_QUARTER = np.pi / 2


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]], turned: bool = True) -> np.ndarray:
    """Counts of each image, (N, 1, 4) as `evaluation.protocols.CountFunction` says.

    turned: compare the rectangles turned to the axes, as the paper does, or where they lie.
    """
    return np.array([[_count(sample, found, turned)] for sample, found in zip(samples, detections, strict=True)],
                    np.float64).reshape(-1, 1, 4)


def _count(sample: Sample, detections: Sequence[Detection], turned: bool) -> tuple[int, int, int, int]:
    texts = rectangles(sample.polygons)
    found = rectangles([detection.polygon for detection in detections])
    angle, swapped = _between(texts, found)
    shared = _shared_turned(texts, found, swapped) if turned else intersection_areas(_corners(texts), _corners(found))
    text_areas, found_areas = texts[:, 2:3] * texts[:, 3:4], found[:, 2] * found[:, 3]
    lies = ratio(shared, np.broadcast_to(found_areas, shared.shape)) > IGNORED_ABOVE
    ignored = np.any(lies[sample.ignore], axis=0)
    matching = (ratio(shared, text_areas + found_areas - shared) > IOU_ABOVE) & (angle < ANGLE_BELOW)
    matching &= ~sample.ignore[:, np.newaxis] & ~ignored
    text, other = np.nonzero(matching)
    matched = len(one_to_one(Pairs(text, other, shared[matching])).text)
    return matched, int(np.sum(~sample.ignore)), matched, int(np.sum(~ignored))


def rectangles(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """The smallest rectangle around each of K polygons (P, 2), by area: (K, 5) float64, x and y of its centre, width
    and height in pixels, and its turn in radians, y being down, from -pi / 4 to pi / 4 inclusive.
    """
    return np.array([_rectangle(np.asarray(polygon, np.float32)) for polygon in polygons], np.float64).reshape(-1, 5)


def _rectangle(points: np.ndarray) -> tuple[float, float, float, float, float]:
    # Not cv2.minAreaRect: float32, and its last digits move with OpenCV's version. One side lies along the hull.
    hull = cv2.convexHull(points).reshape(-1, 2).astype(np.float64) if len(points) else np.zeros((1, 2))
    sides = np.roll(hull, -1, axis=0) - hull
    lengths = np.hypot(*sides.T)
    x, y = (sides[lengths > 0] / lengths[lengths > 0, np.newaxis]).T if lengths.any() else np.array([[1.0], [0.0]])
    along, across = hull @ np.stack([x, y]), hull @ np.stack([-y, x])
    best = np.argmin(np.ptp(along, axis=0) * np.ptp(across, axis=0))
    x, y, along, across = x[best], y[best], along[:, best], across[:, best]
    centre = (along.min() + along.max()) / 2, (across.min() + across.max()) / 2
    size = np.ptp(along), np.ptp(across)
    angle = np.arctan2(y, x)
    quarters = np.round(angle / _QUARTER)
    width, height = size[::-1] if quarters % 2 else size
    return (x * centre[0] - y * centre[1], y * centre[0] + x * centre[1], width, height, angle - quarters * _QUARTER)


def _between(texts: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles between rectangles (K, 5) and (D, 5), (K, D) in radians up to pi / 4, and bool where the width of one
    belongs to the height of the other.
    """
    turn = found[:, 4] - texts[:, 4:]
    quarters = np.round(turn / _QUARTER)
    return np.abs(turn - quarters * _QUARTER), quarters != 0


def _shared_turned(texts: np.ndarray, found: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Areas (K, D) that rectangles share once all are turned about their centres, the texts to no angle."""
    shared = np.ones(swapped.shape)
    for axis, size in (0, 2), (1, 3):
        at, half = texts[:, axis, np.newaxis], texts[:, size, np.newaxis] / 2
        other_at, other_half = found[:, axis], np.where(swapped, found[:, 5 - size], found[:, size]) / 2
        side = np.minimum(at + half, other_at + other_half) - np.maximum(at - half, other_at - other_half)
        shared *= np.maximum(side, 0)
    return shared


def _corners(boxes: np.ndarray) -> list[np.ndarray]:
    """The four corners of each rectangle of `rectangles`: K arrays (4, 2)."""
    x, y, width, height, angle = boxes.T[:, :, np.newaxis]
    along, across = width * np.array([-0.5, 0.5, 0.5, -0.5]), height * np.array([-0.5, -0.5, 0.5, 0.5])
    cos, sin = np.cos(angle), np.sin(angle)
    return list(np.stack([x + cos * along - sin * across, y + sin * along + cos * across], axis=-1))


def _protocol(name: str, how: str, turned: bool) -> Protocol:
    return Protocol(name, f"MSRA-TD500, rectangles {how}",
                    {"IoU >": IOU_ABOVE, "angle <": "pi / 8", "ignored >": IGNORED_ABOVE},
                    partial(count, turned=turned))


PROTOCOLS = (_protocol("td500", "turned to the axes", turned=True),
             _protocol("td500_in_place", "where they lie", turned=False))
