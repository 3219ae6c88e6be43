"""What the network is trained towards: shrunken texts, and the threshold band around them (arXiv:1911.08947, 3.3, 3.4).

The maps equal those of MindOCR's `ShrinkBinaryMap` and `BorderMap` (mindocr/data/transforms/det_transforms.py), which
follow MhLiao/DB. There every edge of a text looks at all pixels of its bounding box; here an edge looks at those that
it can reach, and the edges of all texts are computed together. An image has few texts: what takes the time is to fill
four maps, and the number of calls.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import cv2
import numpy as np
import pyclipper

#: Pixels of the windows that are computed together: their arrays then stay in a core's own cache.
PIXELS_AT_ONCE = 2**15
#: Pixels that may be computed in vain to have more windows together: they take as long as the calls for another strip.
PIXELS_IN_VAIN = 2**13
#: OpenCV draws polygons up to this coordinate (pixels); a text that reaches further is an error in the labels.
FARTHEST = 2**14
#: Windows that are longer than so many times what changes the map by 1 are computed in float64: thin texts that lie
#: askew, of which float32 would lose the fifth digit.
LONG = 16

#: Corners, x and y in pixels.
_Points = list[list[float]]


class Targets(NamedTuple):
    """Each (H, W) float32. binary_map: 1 inside shrunken texts. mask: 0 where nobody cares. thresh_map: `thresh_max` on
    a text's outline, falling to `thresh_min`. thresh_mask: 1 where the threshold map counts."""

    binary_map: np.ndarray
    mask: np.ndarray
    thresh_map: np.ndarray
    thresh_mask: np.ndarray


def make_targets(
    polygons: Sequence[np.ndarray], ignore: Sequence[bool] | np.ndarray, height: int, width: int,
    shrink_ratio: float = 0.4, min_text_size: float = 8, thresh_min: float = 0.3, thresh_max: float = 0.7, *,
    border_shrink_ratio: float | None = None, mask_type: type = np.float32,
) -> Targets:
    """The four maps of an image of height x width pixels with K texts, each (P, 2), x and y in pixels.

    ignore: K flags; nobody cares about such a text, nor about one whose upright bounds have a side below
    `min_text_size` pixels, that shrinks to nothing, or that is no polygon (points that are no numbers, fewer than three
    of them, no area). Texts shrink, and the band reaches to both sides, by area * (1 - ratio^2) / perimeter.
    border_shrink_ratio: of the band, where it is not `shrink_ratio` (Total-Text and CTW1500 shrink texts by 0.55 and
    keep a band of 0.4). mask_type: of the three maps that are 0 and 1; np.uint8 ones take half the time to make.
    """
    flags = np.asarray(ignore, bool)
    if flags.shape != (len(polygons),):
        raise ValueError(f"{len(polygons)} polygons and {flags.shape} flags")
    binary_map, mask, thresh_map, thresh_mask = maps = _empty_maps(height, width, mask_type)
    for values, start in zip(maps, (0, 1, thresh_min, 0), strict=True):
        values.fill(start)
    ratios = shrink_ratio, shrink_ratio if border_shrink_ratio is None else border_shrink_ratio
    factors = [1 - ratio**2 for ratio in ratios]
    bands = []
    for points, near, cared_for in _looked_at(polygons, flags, min_text_size):
        shrunken = None
        if cared_for:
            corners: _Points = points.tolist()
            area, perimeter = _measures(corners)
            if perimeter:
                offset = _offset_of(corners)
                shrunken = _offset(offset, -factors[0] * area / perimeter)
        if shrunken is None:
            # Corners cut to whole pixels, as the projects do.
            points = points if near else np.clip(points, -FARTHEST, FARTHEST)
            cv2.fillPoly(mask, [points.astype(np.int32)], 0)
            continue
        cv2.fillPoly(binary_map, [shrunken], 1)
        reach = factors[1] * area / perimeter
        grown = _offset(offset, reach)
        if grown is not None:
            cv2.fillPoly(thresh_mask, [grown], 1)
            bands.append(_Band(corners, reach, cv2.boundingRect(grown)))
    bands = [band for band in bands if band.reach > 0]  # none around a figure eight, whose halves cancel out
    if bands:
        _draw_bands(bands, thresh_min, thresh_max, thresh_map)
    return Targets(binary_map, mask, thresh_map, thresh_mask)


def _looked_at(polygons: Sequence[np.ndarray], flags: np.ndarray, least: float
               ) -> Iterator[tuple[np.ndarray, bool, bool]]:
    """Those whose points are numbers: the points, whether all are within reach of OpenCV, and whether it is a text that
    is large enough and not ignored. All texts at once: most are ignored, and calls are what they cost."""
    found = [(points, flag) for polygon, flag in zip(polygons, flags.tolist(), strict=True)
             if len(points := np.asarray(polygon))]
    if not found:
        return
    starts = [0, *itertools.accumulate(len(points) for points, _ in found[:-1])]
    corners = np.concatenate([points for points, _ in found], dtype=np.float64)
    low, high = np.minimum.reduceat(corners, starts), np.maximum.reduceat(corners, starts)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = np.isfinite(np.add.reduceat(corners, starts).sum(axis=1))
        large = (high - low >= least).all(axis=1)
    near = (low > -FARTHEST).all(axis=1) & (high < FARTHEST).all(axis=1)
    for (points, flag), is_number, is_near, is_large in zip(found, numbers.tolist(), near.tolist(), large.tolist(),
                                                            strict=True):
        if is_number:
            yield points, is_near, is_near and is_large and not flag


def _empty_maps(height: int, width: int, mask_type: type) -> Sequence[np.ndarray]:
    if mask_type is np.float32:
        # One block: from 4 MB on NumPy asks for large pages, and the system spends less on them than on 1,600 others.
        return list(np.empty((4, height, width), np.float32))
    return [np.empty((height, width), kind) for kind in (mask_type, mask_type, np.float32, mask_type)]


def _measures(corners: _Points) -> tuple[float, float]:
    """Area in square pixels and perimeter in pixels; to the last bit those of GEOS (shapely), from which the projects
    have them: a last bit can move a truncated corner by a whole pixel."""
    doubled, perimeter, origin = 0.0, 0.0, corners[0][0]
    (_, y0), (x1, y1) = corners[-1], corners[0]
    for x2, y2 in corners[1:] + corners[:1]:
        doubled += (x1 - origin) * (y0 - y2)
        perimeter += math.sqrt((x2 - x1) * (x2 - x1) + (y2 - y1) * (y2 - y1))
        y0, x1, y1 = y1, x2, y2
    return abs(doubled / 2), perimeter


def _offset_of(corners: _Points) -> pyclipper.PyclipperOffset:
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset


def _offset(offset: pyclipper.PyclipperOffset, distance: float) -> np.ndarray | None:
    """The first part of what `dbnet.geometry.offset` returns, (P, 2) int32; None if nothing is left."""
    parts = offset.Execute(distance)
    if not parts:
        return None
    return np.fromiter(itertools.chain.from_iterable(parts[0]), np.int32, 2 * len(parts[0])).reshape(-1, 2)


# The threshold map ----------------------------------------------------------------------------------------------------
#
# MhLiao/DB and MindOCR measure how far a pixel is from an edge: from its line where the pixel sees the edge under an
# obtuse angle (it lies in the circle around the edge), else from its nearer end. No line is farther than a point on it,
# so it is the same to ask each edge for its line or its first corner, and to leave the other corner to the other edge.


#: What an edge can change: height and width in pixels, first column and row; and what `_values` computes from, with x
#: and y counted from there: the factors of y * y, y and 1 in what is negative in the circle around the edge, the parts
#: without x and y across the line and along it, the factors of y in these two, and those of x in all three.
_Window = tuple[int, int, int, int, tuple[float, ...]]
_HEIGHT = itemgetter(0)


class _Band(NamedTuple):
    """corners: of a text. reach: of its band to both sides, pixels. bounds: x, y, width and height of the grown text,
    whose corners Clipper has rounded; the projects compute no pixel beyond them."""

    corners: _Points
    reach: float
    bounds: Sequence[int]


def _draw_bands(bands: Sequence[_Band], low: float, high: float, thresh_map: np.ndarray) -> None:
    """Raises a map of `low` to `high` on the outlines and by less around them."""
    windows: list[_Window] = []
    for band in bands:
        _add_windows(windows, band, high - low, thresh_map.shape)
    windows.sort(reverse=True, key=_HEIGHT)
    steepest = (high - low) / min(band.reach for band in bands)
    for strip in _strips(windows):
        values, column = _values(strip, steepest, high), 0
        for height, width, x, y, _ in strip:
            region = thresh_map[y:y + height, x:x + width]
            cv2.max(region, values[:height, column:column + width], region)
            column += width


def _add_windows(windows: list[_Window], band: _Band, range_: float, shape: tuple[int, ...]) -> None:
    """Adds the pixels of a map of `shape` that each edge can change.

    Plain numbers: a call of NumPy takes as long as all of this for one edge, and texts have few.
    """
    corners, reach, (x0, y0, across, down) = band
    stop_x, stop_y = min(x0 + across, shape[1]), min(y0 + down, shape[0])
    x0, y0, scale = max(x0, 0), max(y0, 0), range_ / reach
    end_x, end_y = corners[-1]
    for x, y in corners:
        along_x, along_y = end_x - x, end_y - y
        length = math.sqrt(along_x * along_x + along_y * along_y)
        unit_x, unit_y = (along_x / length, along_y / length) if length else (1.0, 0.0)
        side_x, side_y = abs(unit_y) * reach, abs(unit_x) * reach
        left, right = int(min(x - reach, end_x - side_x)), int(max(x + reach, end_x + side_x)) + 1
        top, bottom = int(min(y - reach, end_y - side_y)), int(max(y + reach, end_y + side_y)) + 1
        end_x, end_y = x, y
        left, top = left if left > x0 else x0, top if top > y0 else y0
        width = (right if right < stop_x else stop_x) - left
        height = (bottom if bottom < stop_y else stop_y) - top
        if width <= 0 or height <= 0:
            continue
        x, y = left - x, top - y
        unit_x, unit_y = unit_x * scale, unit_y * scale
        windows.append((height, width, left, top, (
            1.0, 2 * y - along_y, x * (x - along_x) + y * (y - along_y),
            x * unit_y - y * unit_x, x * unit_x + y * unit_y, -unit_x, unit_y,
            2 * x - along_x, unit_y, unit_x)))


def _strips(windows: Sequence[_Window]) -> Iterator[Sequence[_Window]]:
    """Groups of windows, the highest first, that have alike heights and fill a core's own cache."""
    start, pixels, vain, highest = 0, 0, 0, 0
    for i, (height, width, _, _, _) in enumerate(windows):
        pixels += highest * width
        vain += (highest - height) * width
        if not i or pixels > PIXELS_AT_ONCE or vain > PIXELS_IN_VAIN:
            if i:
                yield windows[start:i]
            start, pixels, vain, highest = i, height * width, 0, height
    if windows:
        yield windows[start:]


@functools.lru_cache(maxsize=16)
def _rows(count: int) -> np.ndarray:
    """y * y, 1 and y of each row, (count, 3) float64."""
    y = np.arange(count, dtype=np.float64)
    return np.stack([y * y, y, np.ones(count)], axis=1)


def _values(windows: Sequence[_Window], scale: float, high: float) -> np.ndarray:
    """What windows of alike heights raise the map to, side by side: (greatest height, sum of widths) float32.

    scale: what the steepest of them changes the map by in one pixel.
    """
    height, widths = windows[0][0], [window[1] for window in windows]
    longest = max(height, *widths)
    rows = _rows(1 << longest.bit_length())
    terms = np.fromiter(itertools.chain.from_iterable([window[4] for window in windows]), np.float64)
    columns = np.repeat(terms.reshape(len(windows), -1).T, widths, axis=1)
    x = np.concatenate([rows[:width, 1] for width in widths])
    columns[7] += x
    columns[7:] *= x
    columns[2:5] += columns[7:]
    kind: type[np.floating] = np.float32 if longest * scale < LONG else np.float64
    # Across the line, and along it from the corner; the constant terms, and the factors of y.
    factors = columns[3:7].astype(kind).reshape(2, 2, -1).transpose(1, 0, 2)
    values = np.empty((height, len(x)), np.float32)
    step = max(1, PIXELS_AT_ONCE // len(x))
    for top in range(0, height, step):
        part = rows[top:min(top + step, height)]
        beyond = np.empty((len(part), len(x)), kind)
        # Whole numbers of pixels stay whole in float64: a pixel on the circle is not in it.
        np.greater_equal(part @ columns[:3], 0, out=beyond)
        planes = part[:, :0:-1].astype(kind) @ factors
        planes *= planes
        beyond *= planes[1]
        beyond += planes[0]
        np.sqrt(beyond, out=beyond)
        np.subtract(high, beyond, out=values[top:top + step], casting="same_kind")
    return values
