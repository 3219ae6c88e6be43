"""Growing many convex polygons at once with round corners: Clipper's offset points without calling Clipper.

The projects grow every outline with pyclipper and take the smallest rectangle of the result. That needs only the
outermost points, which Clipper 6.4.2 computes by a short formula (`ClipperOffset::OffsetPoint`, `DoRound`) before it
cleans the outline. They are computed here for all polygons together; whatever the formula does not cover, or leaves in
doubt by a rounding, goes through pyclipper itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from dbnet.geometry import offset, unclip_distances

#: Clipper's and pyclipper's arc tolerance, pixels between an arc and its chords.
ARC_TOLERANCE = 0.25
#: A coordinate or a number of steps this near to a half is rounded by Clipper itself: areas, sines and arc cosines of
#: NumPy may differ from shapely's and the C library's in the last bits, 1e-10 of a coordinate.
DOUBT = 1e-7
#: Fewer texts than this take longer in NumPy than in pyclipper.
FEW = 24
#: Steps of one corner's arc (distances to about 120 pixels): all arrays are as long as the longest arc.
MOST_STEPS = 12

#: What to keep of the parts that pyclipper returns: points (P, 2) int32, P = 0 for nothing.
PickFunction = Callable[[list[np.ndarray]], np.ndarray]
NOTHING = np.empty((0, 2), np.int32)


def only_part(parts: list[np.ndarray]) -> np.ndarray:
    """The part, if there is just one."""
    return parts[0] if len(parts) == 1 else NOTHING


def hulls_of_grown(
    outlines: np.ndarray | Sequence[np.ndarray], ratio: float, pick: PickFunction = only_part
) -> list[np.ndarray]:
    """K polygons, (K, V, 2) or K of (V, 2), after unclipping, as far as the smallest rectangle around them needs it.

    Returns K arrays (P, 2) int32. They have the convex hull of pyclipper's outline and come in its order: clockwise on
    the screen, the last point the right one of the topmost. cv2.minAreaRect, which breaks ties by the order of the
    points, therefore returns the same bits for both.
    """
    if isinstance(outlines, np.ndarray):
        return _hulls(outlines, ratio, pick)
    hulls = [NOTHING] * len(outlines)
    corners = np.array([len(outline) for outline in outlines])
    for count in np.unique(corners):
        alike = np.flatnonzero(corners == count).tolist()
        polygons = np.concatenate([outlines[i] for i in alike]).reshape(-1, count, 2)
        for i, hull in zip(alike, _hulls(polygons, ratio, pick), strict=True):
            hulls[i] = hull
    return hulls


def _hulls(polygons: np.ndarray, ratio: float, pick: PickFunction) -> list[np.ndarray]:
    """`hulls_of_grown` for polygons with the same number of corners, (K, V, 2)."""
    if len(polygons) < FEW:
        return [pick(offset(*grown)) for grown in zip(polygons, unclip_distances(polygons, ratio), strict=True)]
    x, y, covered = _offset_points(polygons, ratio)
    points = (y << 32) - x
    # Clipper closes an outline at the top and begins it there. The arcs are filled up with repetitions.
    order = _rolled(np.argmin(points, axis=1) + 1, points.shape[1])
    kept = (points != np.roll(points, 1, axis=1)).ravel()[order]
    order = order[kept]
    flat = np.stack([x.ravel()[order], y.ravel()[order]], axis=1).astype(np.int32)
    ends = np.cumsum(kept.sum(axis=1)).tolist()
    hulls = [flat[start:end] for start, end in pairwise([0, *ends])]
    left = np.flatnonzero(~covered)
    for i, distance in zip(left, unclip_distances(polygons[left], ratio), strict=True):
        hulls[i] = pick(offset(polygons[i], distance))
    return hulls


def _offset_points(polygons: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipper's offset points of each polygon (K, V, 2): x and y, (K, P) int64, and (K,) whether they hold.

    P is the same for all: an arc with fewer points repeats its last one.
    """
    with np.errstate(all="ignore"):  # what divides by zero or overflows is not covered
        x, y = np.moveaxis(polygons.astype(np.float64), 2, 0)
        areas, perimeters = _areas_and_perimeters(x, y)
        turned = (areas < 0)[:, np.newaxis]  # Clipper turns them round
        x, y = (np.trunc(np.where(turned, values[:, ::-1], values)) for values in (x, y))  # as pyclipper does
        distances = np.abs(areas) * ratio / perimeters
        normal_x, normal_y, sines, angles = _corners(x, y)
        tolerance = np.minimum(ARC_TOLERANCE, distances * ARC_TOLERANCE)
        circle = np.minimum(np.pi / np.arccos(1 - tolerance / distances), distances * np.pi)  # steps of a full circle
        turns = (circle / (2 * np.pi))[:, np.newaxis] * np.abs(angles)
        steps = np.maximum(np.floor(turns + 0.5), 1)
        # Corners that turn the other way or hardly turn are joined otherwise; what turns twice round is not convex.
        corners = (sines * distances[:, np.newaxis] > 1 + DOUBT) & (steps <= MOST_STEPS) & ~_doubtful(turns)
        covered = corners.all(axis=1) & (angles.sum(axis=1) < 3 * np.pi)
    if not covered.all():
        for values, harmless in ((normal_x, 0), (normal_y, 0), (steps, 1), (circle, 1), (distances, 0)):
            values[~covered] = harmless
    arc_x, arc_y = _arcs(normal_x, normal_y, 2 * np.pi / circle, steps)
    places = [(values[..., np.newaxis] + arc * distances[:, np.newaxis, np.newaxis]).reshape(len(polygons), -1)
              for values, arc in ((x, arc_x), (y, arc_y))]
    covered &= ~np.any(_doubtful(places[0]) | _doubtful(places[1]), axis=1)
    x, y = ((values + np.copysign(0.5, values)).astype(np.int64) for values in places)  # halves away from 0, as Clipper
    return x, y, covered


def _areas_and_perimeters(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of polygons (K, V): areas in square pixels, positive for those that run clockwise on the screen, and lengths."""
    x, y = x - x[:, :1], y - y[:, :1]  # relative to the first corner: no digits are lost far from the origin
    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    return (x * next_y - y * next_x).sum(axis=1) / 2, np.hypot(next_x - x, next_y - y).sum(axis=1)


def _rolled(first: np.ndarray, length: int) -> np.ndarray:
    """Indices (K, length) into K rows laid end to end, each row read from its own `first` (K,) on and around."""
    order = first[:, np.newaxis] + np.arange(length)
    order[order >= length] -= length
    return order + length * np.arange(len(first))[:, np.newaxis]


def _corners(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each corner (K, V): the outward unit normal of the edge that leaves it, x and y, the sine and the angle of
    its turn."""
    edge_x, edge_y = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    scale = 1 / np.sqrt(edge_x * edge_x + edge_y * edge_y)
    normal_x, normal_y = edge_y * scale, -edge_x * scale
    before_x, before_y = np.roll(normal_x, 1, axis=1), np.roll(normal_y, 1, axis=1)
    sines = before_x * normal_y - normal_x * before_y
    cosines = before_x * normal_x + normal_y * before_y
    return normal_x, normal_y, sines, np.arctan2(np.minimum(sines, 1), cosines)


def _arcs(
    normal_x: np.ndarray, normal_y: np.ndarray, rotation: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, x and y (K, V, S + 1), from the normal (K, V) of the edge before each corner to that of the next.

    rotation: (K,) radians of a step; steps: (K, V), at most S. The rotation is repeated, as Clipper does, and the last
    vector is the normal itself, repeated from there on.
    """
    sin, cos = np.sin(rotation)[:, np.newaxis], np.cos(rotation)[:, np.newaxis]
    x, y = np.roll(normal_x, 1, axis=1), np.roll(normal_y, 1, axis=1)
    arc_x = np.empty((*steps.shape, int(steps.max()) + 1))
    arc_y = np.empty_like(arc_x)
    for i in range(arc_x.shape[2]):
        inside = i < steps
        arc_x[..., i], arc_y[..., i] = np.where(inside, x, normal_x), np.where(inside, y, normal_y)
        x, y = x * cos - sin * y, x * sin + y * cos
    return arc_x, arc_y


def _doubtful(values: np.ndarray) -> np.ndarray:
    """Where rounding to an integer hangs on the last bits."""
    return np.abs(values - np.floor(values) - 0.5) < DOUBT
