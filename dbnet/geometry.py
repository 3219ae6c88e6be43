"""Polygons: area, growing and shrinking, overlap. A polygon is (P, 2), x and y in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyclipper
import shapely


def area(polygon: np.ndarray) -> float:
    """Area in square pixels by the shoelace formula; a figure eight, whose halves cancel out, has less than it covers.
    """
    x, y = np.asarray(polygon, np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def areas(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """`area` of each: (K,) float64."""
    return np.array([area(polygon) for polygon in polygons], np.float64)


def offset(polygon: np.ndarray, distance: float) -> list[np.ndarray]:
    """`polygon` grown by `distance` pixels with round corners, or shrunk where it is negative.

    Returns the parts, each (P, 2) int32: several where shrinking cuts the polygon, none where nothing is left or the
    distance is NaN. Coordinates are cut to integers before and after, as pyclipper does in all the projects.
    """
    if math.isnan(distance):
        return []
    clipper = pyclipper.PyclipperOffset()
    # A list of Python's numbers: pyclipper reads an array ten times more slowly.
    clipper.AddPath(np.asarray(polygon).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(part, np.int32) for part in clipper.Execute(distance)]


def unclip_distances(polygons: np.ndarray | Sequence[np.ndarray], ratio: float) -> np.ndarray:
    """area * ratio / perimeter of each of K polygons, (K, P, 2) or K of (P, 2), P >= 3: (K,) float64, pixels.

    By so much a detected text is grown with `offset` (Liao et al. 2019, section 3.4). NaN for a polygon whose points
    are all the same.
    """
    # shapely's own area and perimeter: a last bit of difference can move a truncated corner by a whole pixel.
    if isinstance(polygons, np.ndarray):
        shapes = shapely.polygons(polygons.astype(np.float64))
    elif len(polygons):
        rings = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
        shapes = shapely.polygons(shapely.linearrings(np.concatenate(polygons).astype(np.float64), indices=rings))
    else:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        return shapely.area(shapes) * ratio / shapely.length(shapes)


def intersection_areas(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Areas shared by each pair of the A polygons `first` and the B polygons `second`: (A, B) float64, square pixels.

    A polygon that crosses itself covers what lies inside it by the even-odd rule.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    a, b = (regions(np.array([shapely.Polygon(polygon) for polygon in polygons], dtype=object))
            for polygons in (first, second))
    rows, columns = shapely.STRtree(a).query(b)[::-1]  # only pairs whose bounding boxes touch
    shared = np.zeros((len(a), len(b)))
    shared[rows, columns] = shapely.area(shapely.intersection(a[rows], b[columns]))
    return shared


def regions(shapes: np.ndarray) -> np.ndarray:
    """Valid geometries in place of those shapely polygons that cross themselves; `shapes` is changed and returned."""
    for i in np.flatnonzero(~shapely.is_valid(shapes)):
        # A repaired polygon may come with loose lines and points, which shapely will not intersect.
        parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shapes[i])))
        shapes[i] = shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
    return shapes
