"""Texts and detections for the tests of the protocols, and each project's rules once more: pair by pair, by shapely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import shapely
from hypothesis import strategies as st

from dbnet.sample import Detection, Sample


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)


WORD = box(0, 0, 100, 20)
EIGHT = WORD[[0, 2, 1, 3]]


def sample(truths: Sequence[np.ndarray], ignored: Sequence[np.ndarray] = (), name: str = "img_1.jpg") -> Sample:
    polygons = [np.float64(p) for p in (*truths, *ignored)]
    return Sample(Path(name), polygons, np.arange(len(polygons)) >= len(truths), [""] * len(polygons))


def found(*polygons: np.ndarray, score: float = 0.95) -> list[Detection]:
    return [Detection(np.asarray(polygon, np.float32), score) for polygon in polygons]


#: Small integers: many of them touch, share sides, or overlap by exactly a half.
boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2).map(lambda b: box(*b))
polygons = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6).map(
    lambda points: np.array(points, np.float32))


def scenes(shapes: st.SearchStrategy) -> st.SearchStrategy:
    """A sample with some ignored texts, and detections."""
    scored = st.builds(lambda polygon, tenths: Detection(polygon, tenths / 10), shapes, st.integers(0, 10))
    return st.tuples(st.builds(sample, st.lists(shapes, max_size=5), st.lists(shapes, max_size=3)),
                     st.lists(scored, max_size=6))


def random_scene(rng: np.random.Generator) -> tuple[Sample, list[Detection]]:
    """Quads of every kind, and detections near them."""
    truths = [random_polygon(rng) for _ in range(rng.integers(0, 7))]
    near = [polygon + rng.integers(-2, 3, polygon.shape) for polygon in truths]
    near += [polygon + rng.normal(0, 0.5, polygon.shape) for polygon in truths]
    others = [random_polygon(rng) for _ in range(3)]
    chosen = [(near + others)[i] for i in rng.permutation(len(near) + 3)[:8]]
    one = Sample(Path("img_1.jpg"), truths, rng.random(len(truths)) < 0.3, [""] * len(truths))
    return one, [Detection(np.float32(polygon), float(rng.integers(0, 11) / 10)) for polygon in chosen]


def random_polygon(rng: np.random.Generator) -> np.ndarray:
    """A box, a rotated rectangle, any four points of a coarse grid, or a polygon of 2 to 8 points."""
    kind, size = rng.integers(4), rng.choice([6, 12, 60])
    if kind == 0:
        polygon = box(*rng.integers(0, size, 2), *rng.integers(1, size, 2))
    elif kind == 1:
        angle, (width, height) = rng.uniform(0, np.pi), rng.uniform(2, size, 2)
        axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        polygon = (box(0, 0, width, height) - [width / 2, height / 2]) @ axes + rng.uniform(0, size, 2)
    else:
        polygon = rng.integers(0, size, (4 if kind == 2 else rng.integers(2, 9), 2))
    return np.float64(np.float32(polygon[::-1] if rng.random() < 0.3 else polygon))


# Pair by pair ---------------------------------------------------------------------------------------------------------

def shape(polygon: np.ndarray) -> shapely.Polygon:
    """Two points, or a line there and back, are nothing."""
    try:
        return shapely.Polygon(polygon)
    except ValueError:
        return shapely.Polygon()


def even_odd(polygon: np.ndarray) -> shapely.Geometry:
    """What lies inside a polygon, which may cross itself."""
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shape(polygon))))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def shoelace(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def fraction(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def plain_rrc(one: Sample, detections: list[Detection]) -> tuple[int, int, int, int]:
    texts = [np.trunc(polygon) for polygon in one.polygons]
    boxes_found = [np.trunc(np.float64(detection.polygon)) for detection in detections]

    def shared(text: np.ndarray, other: np.ndarray) -> float:
        return even_odd(text).intersection(even_odd(other)).area

    ignored = [any(fraction(shared(text, other), shoelace(other)) > 0.5
                   for text, skip in zip(texts, one.ignore, strict=True) if skip) for other in boxes_found]
    care = [text for text, skip in zip(texts, one.ignore, strict=True) if not skip]
    matched = greedy(len(care), [not skip for skip in ignored], lambda i, j: fraction(
        area := shared(care[i], boxes_found[j]), shoelace(care[i]) + shoelace(boxes_found[j]) - area))
    return matched, len(care), matched, ignored.count(False)


def greedy(texts: int, free: list[bool], over_union: Callable[[int, int], float]) -> int:
    matched = 0
    for i in range(texts):
        for j in range(len(free)):
            if free[j] and over_union(i, j) > 0.5:
                free[j] = False
                matched += 1
                break
    return matched


def valid_only(one: Sample, detections: list[Detection],
               numbers: type) -> tuple[list[shapely.Polygon], list[shapely.Polygon]]:
    """Texts, and detections that are not ignored, as MindOCR's and MhLiao's code keeps them."""
    texts = [(shape(numbers(polygon)), skip) for polygon, skip in zip(one.polygons, one.ignore, strict=True)]
    texts = [(text, skip) for text, skip in texts if text.is_valid and not text.is_empty]
    others = [shape(detection.polygon) for detection in detections]
    others = [other for other in others if other.is_valid and not other.is_empty]
    others = [other for other in others if not any(
        text.intersection(other).area / other.area > 0.5 for text, skip in texts if skip)]
    return [text for text, skip in texts if not skip], others


def plain_mhliao(one: Sample, detections: list[Detection]) -> tuple[int, int, int, int]:
    texts, others = valid_only(one, detections, np.float64)
    matched = greedy(len(texts), [True] * len(others), lambda i, j: (
        others[j].intersection(texts[i]).area / others[j].union(texts[i]).area))
    return matched, len(texts), matched, len(others)


def plain_mindocr(one: Sample, detections: list[Detection]) -> tuple[int, int, int, int]:
    texts, others = valid_only(one, detections, np.float32)
    right, wrong = set(), 0
    for other in others:
        hits = [i for i, text in enumerate(texts) if other.intersection(text).area / other.union(text).area > 0.5]
        right.update(hits[:1])
        wrong += not hits
    return len(right), len(texts), len(right), len(right) + wrong


def plain_mmocr(one: Sample, detections: list[Detection], threshold: float) -> tuple[int, int, int, int]:
    def repaired(polygon: shapely.Polygon) -> shapely.Polygon:
        mended = polygon if polygon.is_valid else polygon.buffer(0)
        return mended if mended.geom_type == "Polygon" else mended.convex_hull

    texts = [(repaired(shape(np.float32(polygon))), skip)
             for polygon, skip in zip(one.polygons, one.ignore, strict=True)]
    others = []
    for detection in detections:
        raw = shape(detection.polygon)
        ignored = any(text.intersection(repaired(raw)).area / (raw.area + 1e-5) > 0.5 for text, skip in texts if skip)
        if np.float32(detection.score) >= np.float32(threshold) and not ignored:
            others.append(repaired(raw))
    care = [text for text, skip in texts if not skip]
    matched = greedy(len(care), [True] * len(others), lambda i, j: fraction(
        care[i].intersection(others[j]).area, care[i].union(others[j]).area))
    return matched, len(care), matched, len(others)
