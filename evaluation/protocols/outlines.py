"""Polygons of many images in flat arrays, and the overlaps of convex quadrilaterals, all at once in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

#: From coordinates to coordinates, float64, all at once: what a project makes of the numbers.
Convert = Callable[[np.ndarray], np.ndarray]

#: Two points, or a line there and back, enclose nothing; shapely refuses them, but takes this.
NOTHING = np.zeros((4, 2))
#: A corner counts as convex if its cross product is above this share of the sum of all four.
CONVEX = 1e-6


@dataclass(frozen=True, eq=False)
class Outlines:
    """K polygons of many images in flat arrays, ordered by image.

    points: (M, 2) float64, pixels. sizes: (K,) points of each. image: (K,) index of its image. low, high: (K, 2)
    corners of the bounding boxes.
    """

    points: np.ndarray
    sizes: np.ndarray
    image: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @cached_property
    def areas(self) -> np.ndarray:
        """(K,) square pixels by the shoelace formula; the halves of a figure eight cancel out."""
        ends = np.cumsum(self.sizes)
        following = np.arange(1, len(self.points) + 1)
        following[ends - 1] = ends - self.sizes
        points = self.points - np.repeat(self.low, self.sizes, axis=0)  # small numbers round less
        (x, y), (next_x, next_y) = points.T, points[following].T
        return np.abs(np.add.reduceat(x * next_y - next_x * y, ends - self.sizes)) / 2

    @cached_property
    def quads(self) -> np.ndarray:
        """(4, 2, K): corners of strictly convex quadrilaterals, all turning the same way; NaN for other polygons."""
        corners = np.full((4, 2, len(self.sizes)), np.nan)
        four = self.sizes == 4
        corners[:, :, four] = self.points[np.repeat(four, self.sizes)].reshape(-1, 4, 2).transpose(1, 2, 0)
        sides = np.roll(corners, -1, axis=0) - corners
        turns = _cross(sides, np.roll(sides, -1, axis=0))
        backwards = turns.sum(axis=0) < 0
        corners[:, :, backwards] = corners[::-1, :, backwards]
        turns[:, backwards] *= -1
        # Four turns to the same side make one round, so nothing crosses.
        corners[:, :, ~(turns.min(axis=0) > CONVEX * turns.sum(axis=0))] = np.nan
        return corners

    @cached_property
    def convex(self) -> np.ndarray:
        """(K,) bool: strictly convex quadrilaterals."""
        return ~np.isnan(self.quads[0, 0])

    @cached_property
    def valid(self) -> np.ndarray:
        """(K,) bool: valid for shapely, i.e. they enclose something and neither cross nor touch themselves."""
        valid = self.convex.copy()
        valid[~valid] = shapely.is_valid(self.shapes(~valid))
        return valid

    def shapes(self, chosen: np.ndarray) -> np.ndarray:
        """Shapely polygons, valid or not, of the outlines `chosen`: (K,) bool or indices."""
        sizes = self.sizes[chosen]
        ends = np.cumsum(sizes)
        # Of each chosen outline, one after the other, the points from its first on.
        first = (np.cumsum(self.sizes) - self.sizes)[chosen]
        points = self.points[np.arange(sizes.sum()) + np.repeat(first - (ends - sizes), sizes)]
        polygons: np.ndarray = shapely.polygons(
            shapely.linearrings(points, indices=np.repeat(np.arange(len(sizes)), sizes)))
        return polygons


def outlines(images: Iterable[Sequence[np.ndarray]], convert: Convert) -> Outlines:
    """The polygons of each image, each (P, 2), after `convert`."""
    polygons: list[np.ndarray] = []
    counts = []
    for image in images:
        polygons.extend(image)
        counts.append(len(image))
    polygons = [polygon if _encloses(polygon) else NOTHING for polygon in polygons]
    sizes = np.fromiter(map(len, polygons), np.intp, len(polygons))
    points = convert(np.concatenate([np.empty((0, 2)), *polygons]).astype(np.float64))
    starts = np.cumsum(sizes) - sizes
    return Outlines(points, sizes, np.repeat(np.arange(len(counts)), counts),
                    np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts))


def _encloses(polygon: np.ndarray) -> bool:
    return len(polygon) > 3 or (len(polygon) == 3 and bool(np.any(polygon[0] != polygon[2])))


def shared_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) areas that each of N pairs of convex quadrilaterals shares, both (4, 2, N) as `Outlines.quads` gives them.

    NaN where it is not to be had in this way, right to about 1e-12 of the quadrilaterals' size elsewhere. The first is
    cut along each side of the second (Sutherland and Hodgman 1974). It is kept as directed sides in no order, which
    makes a cut the same few operations for all pairs: a side becomes its part within, and where the outline leaves and
    comes back one side joins the gap.
    """
    middle = (first.min(axis=0) + first.max(axis=0)) / 2  # as in `areas`
    first, second = first - middle, second - middle
    begin, end = first, np.roll(first, -1, axis=0)
    broken = np.zeros(first.shape[-1], bool)
    for corner, following in zip(second, np.roll(second, -1, axis=0), strict=True):
        begin_depth, end_depth = (_cross(following - corner, points - corner) for points in (begin, end))
        leaving, coming = (begin_depth >= 0) & (end_depth < 0), (begin_depth < 0) & (end_depth >= 0)
        crossing = leaving | coming
        at = np.divide(begin_depth, begin_depth - end_depth, out=np.zeros_like(begin_depth), where=crossing)
        cut = begin + at[:, np.newaxis] * (end - begin)
        left, back = (np.where(mask[:, np.newaxis], cut, 0).sum(axis=0) for mask in (leaving, coming))
        # A side that is gone becomes a point, which no later cut can tear apart.
        begin, end = np.where(coming[:, np.newaxis], cut, begin), np.where(leaving[:, np.newaxis], cut, end)
        end = np.where(((begin_depth < 0) & (end_depth < 0))[:, np.newaxis], begin, end)
        begin, end = np.concatenate([begin, left[np.newaxis]]), np.concatenate([end, back[np.newaxis]])
        # Sides that nearly lie on the line can cross it more than once, by rounding.
        broken |= leaving.sum(axis=0) > 1
    areas = _cross(begin, end).sum(axis=0) / 2
    areas[broken] = np.nan
    return areas


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cross products of vectors (..., 2, N): (..., N)."""
    product: np.ndarray = first[..., 0, :] * second[..., 1, :] - first[..., 1, :] * second[..., 0, :]
    return product
