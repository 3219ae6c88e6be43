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
    binary_map, mask, thresh_map, thresh_mask = _maps_without_texts(height, width, mask_type, thresh_min)
    shrinks = 1 - shrink_ratio**2
    grows = shrinks if border_shrink_ratio is None else 1 - border_shrink_ratio**2
    shrunken, grown, texts = [], [], []
    for points, corners, cared_for in _looked_at(polygons, flags, min_text_size):
        paths = None
        if cared_for:
            area, perimeter = _measures(corners)
            if perimeter:
                offset = pyclipper.PyclipperOffset()
                offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
                paths = offset.Execute(-shrinks * area / perimeter)
        if not paths:
            # Corners cut to whole pixels, as the projects do.
            cv2.fillPoly(mask, [points.astype(np.int32)], 0)
            continue
        # Of several parts the projects take the first.
        shrunken.append(paths[0])
        reach = grows * area / perimeter
        paths = offset.Execute(reach)
        if paths:
            grown.append(paths[0])
            texts.append((corners, reach))
    arrays = _arrays(shrunken + grown)
    for path in arrays[:len(shrunken)]:
        cv2.fillPoly(binary_map, [path], 1)
    bands = []
    for path, (corners, reach) in zip(arrays[len(shrunken):], texts, strict=True):
        cv2.fillPoly(thresh_mask, [path], 1)
        if reach > 0:  # none around a figure eight, whose halves cancel out
            bands.append(_Band(corners, reach, cv2.boundingRect(path)))
    if bands:
        _draw_bands(bands, thresh_min, thresh_max, thresh_map)
    return Targets(binary_map, mask, thresh_map, thresh_mask)


def _looked_at(polygons: Sequence[np.ndarray], flags: np.ndarray, least: float
               ) -> Iterator[tuple[np.ndarray, _Points, bool]]:
    """Those whose points are numbers: the points within reach of OpenCV, the corners, and whether it is a text of which
    all of them are, that is large enough and not ignored. Plain numbers, as there are few: of an ignored text, which
    most are, no more is looked at than it takes to draw it."""
    for polygon, flag in zip(polygons, flags.tolist(), strict=True):
        points = np.asarray(polygon)
        corners: _Points = points.tolist()
        if not corners:
            continue
        for x, y in corners:
            if not (-FARTHEST < x < FARTHEST and -FARTHEST < y < FARTHEST):
                if np.isfinite(points).all():
                    yield np.clip(points, -FARTHEST, FARTHEST), corners, False
                break
        else:
            if flag:
                yield points, corners, False
            else:
                xs, ys = zip(*corners, strict=True)
                yield points, corners, max(xs) - min(xs) >= least and max(ys) - min(ys) >= least


def _maps_without_texts(height: int, width: int, mask_type: type, low: float) -> Targets:
    if mask_type is np.float32:
        # One block: from 4 MB on NumPy asks for large pages, and the system spends less on them than on 1,600 others.
        binary_map, thresh_mask, mask, thresh_map = np.empty((4, height, width), np.float32)
    else:
        binary_map, thresh_mask, mask = np.empty((3, height, width), mask_type)
        thresh_map = np.empty((height, width), np.float32)
    for zeros in (binary_map, thresh_mask):
        zeros.view(np.uint8).fill(0)  # bytes: the C library's memset is faster than NumPy's loop over numbers
    mask.fill(1)
    thresh_map.fill(low)
    return Targets(binary_map, mask, thresh_map, thresh_mask)


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


def _arrays(paths: Sequence[_Points]) -> list[np.ndarray]:
    """Each (P, 2) int32."""
    ends = [0, *itertools.accumulate(map(len, paths))]
    points = itertools.chain.from_iterable(paths)
    array = np.fromiter(itertools.chain.from_iterable(points), np.int32, 2 * ends[-1]).reshape(-1, 2)
    return [array[start:end] for start, end in itertools.pairwise(ends)]


# The threshold map ----------------------------------------------------------------------------------------------------
#
# MhLiao/DB and MindOCR measure how far a pixel is from an edge: from its line where the pixel sees the edge under an
# obtuse angle (it lies in the circle around the edge), else from its nearer end. No line is farther than a point on it,
# so it is the same to ask each edge for its line or its first corner, and to leave the other corner to the other edge.


#: What an edge can change: height and width in pixels, first column and row; and what `_values` computes from, with x
#: and y counted from there: the factor of y and the rest in what is negative in the circle around the edge; what is
#: without x and y along the line and across it; less the factor of y along the line, that of y across it; and that of
#: x in the circle.
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
        left, far = x - reach, end_x - side_x
        left = int(left if left < far else far)
        right, far = x + reach, end_x + side_x
        right = int(right if right > far else far) + 1
        top, far = y - reach, end_y - side_y
        top = int(top if top < far else far)
        bottom, far = y + reach, end_y + side_y
        bottom = int(bottom if bottom > far else far) + 1
        end_x, end_y = x, y
        left, top = left if left > x0 else x0, top if top > y0 else y0
        width = (right if right < stop_x else stop_x) - left
        height = (bottom if bottom < stop_y else stop_y) - top
        if width <= 0 or height <= 0:
            continue
        x, y, unit_x, unit_y = left - x, top - y, unit_x * scale, unit_y * scale
        windows.append((height, width, left, top, (
            2 * y - along_y, x * (x - along_x) + y * (y - along_y),
            x * unit_x + y * unit_y, y * unit_x - x * unit_y, -unit_y, unit_x, 2 * x - along_x)))


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
def _whole(count: int) -> np.ndarray:
    """0, 1 and so on, (count,) float64."""
    return np.arange(count, dtype=np.float64)


@functools.lru_cache(maxsize=16)
def _rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """y * y, y and 1 of each row, (count, 3) float64; and 1 and -y, 1 and y, (2, count, 2) float32."""
    y, one = _whole(count), np.ones(count)
    signed = np.stack([np.stack([one, -y], axis=1), np.stack([one, y], axis=1)])
    return np.stack([y * y, y, one], axis=1), signed.astype(np.float32)


def _values(windows: Sequence[_Window], scale: float, high: float) -> np.ndarray:
    """What windows of alike heights raise the map to, side by side: (greatest height, sum of widths) float32.

    scale: what the steepest of them changes the map by in one pixel.
    """
    height, widths = windows[0][0], [window[1] for window in windows]
    terms: list[float] = []
    count = 0
    for _, width, _, _, its_terms in windows:
        terms.append(count)
        terms += its_terms
        count += width
    columns = np.repeat(np.fromiter(terms, np.float64, len(terms)).reshape(len(windows), -1).T, widths, axis=1)
    x = _whole(1 << count.bit_length())[:count] - columns[0]
    columns[0] = 1
    columns[7] += x
    columns[2:5] += columns[7:4:-1] * x
    longest = max(height, *widths)
    kind: type[np.floating] = np.float32 if longest * scale < LONG else np.float64
    # Along the line from the corner, and across it; what is without y, and the factors of y.
    factors = columns[3:7].astype(kind).reshape(2, 2, -1).transpose(1, 0, 2)
    rows, signed = _rows(1 << height.bit_length())
    values = np.empty((height, count), kind)
    step = max(1, PIXELS_AT_ONCE // count)
    for top in range(0, height, step):
        part, beyond = slice(top, min(top + step, height)), values[top:top + step]
        # Whole numbers of pixels stay whole in float64: a pixel on the circle is not in it.
        np.greater_equal(rows[part] @ columns[:3], 0, out=beyond)
        along, across = signed[:, part].astype(kind, copy=False) @ factors
        beyond *= along
        cv2.magnitude(across, beyond, beyond)
    return np.subtract(high, values, out=values).astype(np.float32, copy=False)
