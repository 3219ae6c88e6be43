"""What two maps of one image show around a box: pixels that are text in one of them only, boxes that were dropped, what
is left of it. Outlines and coordinates are in pixels of the maps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from dbnet.box_contours import text_contours
from dbnet.geometry import areas, intersection_areas
from dbnet.postprocess import RULES, boxes_from_map
from dbnet.sample import Detection
from dbnet.spec import BoxRule
from evaluation.box_pairs import SAME_BOX, overlap

#: A pixel this far from a box's outline, in pixels of the map, can still have joined it to another text.
AROUND = 3
#: Names of the sides, of a box that B has too (or not), and of one that only B has.
A_FIRST, B_FIRST = ("A", "B"), ("B", "A")


@dataclass(frozen=True)
class Pixel:
    """A pixel of the maps that is text in one of them only, and both probabilities."""

    x: int
    y: int
    a: float
    b: float


class MapReader:
    """A map under a rule. All outlines are in pixels of the map."""

    def __init__(self, probability: np.ndarray, rule: BoxRule):
        self.probability, self.rule = probability, rule
        is_text = np.greater_equal if RULES[rule.rule].at_threshold else np.greater
        self.text = is_text(probability, np.float32(rule.binary_thresh))
        # Every filter looks at one text alone: the boxes of a rule are those of threshold 0 whose score reaches it.
        self.all = boxes_from_map(probability, **asdict(replace(rule, box_thresh=0.0)))
        self.kept = [box for box in self.all if box.score >= rule.box_thresh]
        self._low, self._high = (np.array([end(box.polygon, axis=0) for box in self.all]).reshape(-1, 2)
                                 for end in (np.min, np.max))

    @cached_property
    def contours(self) -> list[np.ndarray]:
        """Of all texts, (N, 2) int32."""
        rule = self.rule
        found = text_contours(np.ascontiguousarray(self.probability, np.float32), rule.binary_thresh,
                              RULES[rule.rule].at_threshold, rule.dilation)[1]
        return [contour[:, 0] for contour in found]

    @cached_property
    def _extents(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest x and y of every contour, each (K, 2)."""
        if not self.contours:
            return np.zeros((0, 2)), np.zeros((0, 2))
        points = np.concatenate(self.contours)  # tens of thousands of contours in a map of noise: one call for all
        starts = np.cumsum([0, *map(len, self.contours[:-1])])
        return np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)

    def near(self, outline: np.ndarray) -> list[Detection]:
        """Those of `all` whose bounds meet the outline's."""
        meet = (self._low <= outline.max(axis=0)).all(axis=1) & (self._high >= outline.min(axis=0)).all(axis=1)
        return [self.all[i] for i in np.flatnonzero(meet)]

    def remains(self, outline: np.ndarray) -> tuple[float, float] | None:
        """The sides, in pixels and the shorter one first, of the largest text that lies within the outline; None if
        there is none.
        """
        low, high = outline.min(axis=0), outline.max(axis=0)
        lows, highs = self._extents
        within = np.flatnonzero((lows >= low).all(axis=1) & (highs <= high).all(axis=1))
        inside = [contour for contour in (self.contours[i] for i in within)
                  if cv2.pointPolygonTest(outline.astype(np.float32), contour.mean(axis=0).tolist(), False) >= 0]
        sides = [sorted(cv2.minAreaRect(contour)[1]) for contour in inside]
        largest = max(sides, key=lambda side: (side[0] * side[1], side[1]), default=None)
        return (largest[0], largest[1]) if largest else None


@dataclass(frozen=True)
class Deciding:
    """The pixels around a box that are text in one map only: how many; the nearest, of equals those whose probabilities
    are farther apart; and how far any of their probabilities is from the threshold at most, None if there are none.
    """

    count: int = 0
    nearest: tuple[Pixel, ...] = ()
    from_threshold: float | None = None


def deciding_pixels(here: MapReader, there: MapReader, names: tuple[str, str], outlines: list[np.ndarray],
                    most: int) -> Deciding:
    """Within AROUND of any of the outlines. names: whose maps these are. most: how many pixels to name."""
    points = np.concatenate(outlines)
    size = np.array(here.text.shape[::-1])
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - AROUND, 0, size)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + AROUND + 1, 0, size)
    region = slice(low[1], high[1]), slice(low[0], high[0])
    rows, columns = np.nonzero(here.text[region] != there.text[region])
    if not len(rows):
        return Deciding()
    outside = np.ones(here.text[region].shape, np.uint8)
    for outline in outlines:
        cv2.fillPoly(outside, [np.round(outline - low).astype(np.int32)], 0)
    distances = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[rows, columns]
    near = distances <= AROUND
    if not near.any():
        return Deciding()
    rows, columns, distances = rows[near] + low[1], columns[near] + low[0], distances[near]
    values = [reader.probability[rows, columns].astype(np.float64) for reader in (here, there)]
    a, b = values if names == A_FIRST else values[::-1]
    nearest = np.lexsort((columns, rows, -np.abs(a - b), distances))[:most]
    return Deciding(len(rows), tuple(Pixel(int(columns[i]), int(rows[i]), float(a[i]), float(b[i])) for i in nearest),
                    float(np.abs(np.stack(values) - here.rule.binary_thresh).max()))


def dropped_box(outline: np.ndarray, around: list[Detection], rule: BoxRule) -> Detection | None:
    """The box that the other side would have had here, had its score reached the threshold."""
    low = [box for box in around if box.score < rule.box_thresh]
    if not low:
        return None
    over = overlap([outline], [box.polygon for box in low])[0]
    return low[int(over.argmax())] if over.max() > SAME_BOX else None


def covered_shares(outline: np.ndarray, around: list[Detection]) -> np.ndarray:
    """How much of the outline each of the boxes covers, fractions."""
    shared: np.ndarray = intersection_areas([outline], [box.polygon for box in around])[0] if around else np.zeros(0)
    return shared / max(float(areas([outline])[0]), 1e-9)


def what_became(outline: np.ndarray, around: list[Detection], there: MapReader, name: str) -> str:
    """What there is in the other map instead, to be put before the pixels; empty if that is not clear."""
    kept = [box for box in around if box.score >= there.rule.box_thresh]
    if not kept:
        return ""
    if covered_shares(outline, kept).max() > SAME_BOX:
        return f"part of a larger box in {name}: "
    shared = intersection_areas([box.polygon for box in kept], [outline])[:, 0]
    parts = int((shared > SAME_BOX * areas([box.polygon for box in kept])).sum())
    return f"in {parts} parts in {name}: " if parts > 1 else f"smaller in {name}: " if parts else ""


def seen_pixels(found: Deciding, rule: BoxRule) -> str:
    """In words; empty if there are none."""
    if not found.count:
        return ""
    first = found.nearest[0]
    number = "1 pixel is text in one map only," if found.count == 1 else \
        f"{found.count} pixels are text in one map only, such as"
    return (f"{number} ({first.x}, {first.y}): {both_values(first.a, first.b, rule.binary_thresh)}, binary_thresh "
            f"{rule.binary_thresh:g}")


def both_values(a: float, b: float, threshold: float) -> str:
    """Both values, with as many digits as it takes to see on which side of the threshold they are."""
    for digits in range(4, 10):
        told = f"{a:.{digits}f}", f"{b:.{digits}f}"
        if told[0] != told[1] and (a == threshold or float(told[0]) != threshold) and (
                b == threshold or float(told[1]) != threshold):
            break
    return f"{told[0]} in A, {told[1]} in B"
