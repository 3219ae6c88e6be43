"""Which boxes of two models on one image are the same, which moved, and which one of them has alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from dbnet.geometry import areas, intersection_areas
from dbnet.sample import Detection

#: Boxes with this intersection over union are one box that moved.
SAME_BOX = 0.5


@dataclass(frozen=True)
class Pairs:
    """Indices into the boxes of A and of B. moved: with the shift, in pixels of the image (Hausdorff distance of the
    outlines); lost: of A only; invented: of B only.
    """

    identical: list[tuple[int, int]]
    moved: list[tuple[int, int, float]]
    lost: list[int]
    invented: list[int]


def pair_boxes(a: Sequence[Detection], b: Sequence[Detection]) -> Pairs:
    """First those with the same corners, each once, then those that overlap by IoU > SAME_BOX, the most first."""
    free: dict[tuple[int, bytes], list[int]] = {}
    for j in reversed(range(len(b))):
        free.setdefault(_key(b[j].polygon), []).append(j)
    identical = [(i, twins.pop()) for i, box in enumerate(a) if (twins := free.get(_key(box.polygon)))]
    rest_a, rest_b = ([i for i in range(len(boxes)) if i not in taken] for boxes, taken in (
        (a, {i for i, _ in identical}), (b, {j for _, j in identical})))
    moved = [(rest_a[i], rest_b[j]) for i, j in _overlapping([a[i].polygon for i in rest_a],
                                                             [b[j].polygon for j in rest_b])]
    return Pairs(identical, [(i, j, _shift(a[i].polygon, b[j].polygon)) for i, j in moved],
                 [i for i in rest_a if i not in {i for i, _ in moved}],
                 [j for j in rest_b if j not in {j for _, j in moved}])


def overlap(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Intersections over union, (A, B); 0 where both have no area."""
    shared = intersection_areas(a, b)
    union = areas(a)[:, np.newaxis] + areas(b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _key(polygon: np.ndarray) -> tuple[int, bytes]:
    return len(polygon), (polygon.astype(np.float64) + 0.0).tobytes()  # -0 is 0


def _shift(a: np.ndarray, b: np.ndarray) -> float:
    return float(shapely.hausdorff_distance(shapely.LinearRing(a), shapely.LinearRing(b)))


def _overlapping(a: list[np.ndarray], b: list[np.ndarray]) -> list[tuple[int, int]]:
    """Each box in one pair at most."""
    iou = overlap(a, b)
    rows, columns = np.nonzero(iou > SAME_BOX)
    order = np.argsort(-iou[rows, columns], kind="stable")
    left_a, left_b, pairs = set(range(len(a))), set(range(len(b))), []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i in left_a and j in left_b:
            left_a.remove(i)
            left_b.remove(j)
            pairs.append((i, j))
    return pairs
