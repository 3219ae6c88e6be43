"""Faults of labels and images, what is done about each, and the mending of one image's labels.

A detector trains on the inside of outlines, so an outline is kept wherever it can be said what it encloses. Where it
cannot be said, the text still stands there: to leave it out would teach that it is background. Its hull then becomes
"do not care". Only what encloses nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely

from dbnet.datasets.labelfile import DO_NOT_CARE
from dbnet.geometry import regions
from dbnet.sample import Sample

Effect = Literal["noted", "repaired", "left out"]

#: Kind -> what became of it, and what it means. What is left out has no place in the result; nothing is without entry.
KINDS: dict[str, tuple[Effect, str]] = {
    "reversed": ("repaired", "outline ran anticlockwise; turned round, its first point kept"),
    "reordered": ("repaired", "outline crossed itself; its points in another order do not"),
    "untangled": ("repaired", "outline crossed itself in a corner; the outline of what it covers"),
    "ignored": ("repaired", "outline crosses itself beyond repair, or the border cuts it apart; its hull, marked ###"),
    "clipped": ("repaired", "outline reached beyond the image; cut at its border"),
    "dropped": ("repaired", "outline encloses nothing in the image; the text was dropped"),
    "difficult": ("repaired", "label that is marked difficult (PPOCRLabel); its transcription became ###"),
    "marked text": ("repaired", "readable text that would mean do not care; a blank was added"),
    "converted": ("repaired", "image written again as PNG in --out-images"),
    "EXIF": ("noted", "image is turned by its EXIF orientation: readers disagree, look at it"),
    "pixels": ("noted", "not 8 bits of three colours; read as BGR with 8 bits"),
    "frames": ("noted", "image of several frames; the first counts"),
    "size": ("noted", "image with a side below 10 or above 10,000 pixels"),
    "suffix": ("noted", "image in another format than its name says; readers go by its bytes"),
    "encoding": ("noted", "text with bytes that are no UTF-8, read as U+FFFD; outlines are not affected"),
    "no text": ("noted", "image without a label in it"),
    "by order": ("noted", "label files have numbers for names, taken as the order of the images"),
    "named": ("noted", "labels named after another split than their images"),
    "unreadable label": ("left out", "label that cannot be read"),
    "missing image": ("left out", "label whose image is missing"),
    "no label": ("left out", "image without a label file, or without a line in it"),
    "damaged image": ("left out", "image that cannot be read, or is cut off"),
    "not for OpenCV": ("left out", "image that OpenCV does not read (gif); --out-images converts it"),
    "file name": ("left out", "image whose name no label file can hold"),
}
#: Of a polygon, in square pixels; less is no text, and dividing by it is asking for trouble.
LEAST_AREA = 0.5
TINY = f"less than {LEAST_AREA:g} square pixels"
#: A crossing that leaves so large a share of the covered area in one piece is a slip in a corner. So is a border.
SLIP = 0.9
#: Decimals of a coordinate: what a rotated rectangle needs, and no more than is alike on every machine.
DECIMALS = 2


@dataclass(frozen=True)
class Repair:
    """One thing found. image: its name. index: which of its texts as they were read, from 0; None for the image."""

    image: str
    index: int | None
    kind: str
    detail: str

    @property
    def effect(self) -> Effect:
        """Whether something was changed, left out, or only noted."""
        return KINDS[self.kind][0]


@dataclass(frozen=True, eq=False)
class Mended:
    """polygon: (P, 2) float64, simple, clockwise on the screen, inside the image; None if the text is dropped.

    ignore: it is beyond repair and must not be learnt from. steps: (kind, detail) of what was done.
    """

    polygon: np.ndarray | None
    ignore: bool
    steps: list[tuple[str, str]]


def mend_labels(name: str, sample: Sample, size: tuple[int, int] | None) -> tuple[Sample, list[int], list[Repair]]:
    """The labels as they can be trained on, which of the texts those are, and what was done.

    size: height and width of the image in pixels; None where it is not known, and nothing is clipped then.
    """
    polygons, texts, ignore, kept, repairs = [], [], [], [], []
    for index, (polygon, text) in enumerate(zip(sample.polygons, sample.texts, strict=True)):
        mended = mend(polygon, size)
        said, steps = mend_text(text, bool(sample.ignore[index]) or mended.ignore)
        repairs += [Repair(name, index, kind, detail) for kind, detail in (*mended.steps, *steps)]
        if mended.polygon is not None:
            polygons.append(mended.polygon)
            texts.append(said)
            ignore.append(said == DO_NOT_CARE[0])
            kept.append(index)
    return Sample(sample.image, polygons, np.array(ignore, bool), texts), kept, repairs


def mend_text(text: str, ignore: bool) -> tuple[str, list[tuple[str, str]]]:
    """The transcription as a label file says it, `###` for what is ignored, and what was done to it."""
    if ignore:
        return DO_NOT_CARE[0], []
    if text in DO_NOT_CARE:
        return f"{text} ", [("marked text", f"{text!r} became {text + ' '!r}")]
    clean = text.encode("utf-8", "replace").decode() if any("\ud800" <= c <= "\udfff" for c in text) else text
    return clean, [("encoding", f"{clean[:40]!r}")] if "\ufffd" in clean or clean != text else []


def mend(polygon: np.ndarray, size: tuple[int, int] | None = None) -> Mended:
    """A polygon (P, 2) in pixels that `shapely` calls valid, clockwise, inside an image of `size` (height, width)."""
    points = np.round(np.asarray(polygon, np.float64), DECIMALS) + 0.0  # no -0.0
    steps: list[tuple[str, str]] = []
    ignore = False
    if fault := _nothing_in(points):
        return Mended(None, False, [("dropped", fault)])
    if not shapely.Polygon(points).is_valid:
        kind, points = _untangled(points)
        steps.append((kind, f"{len(polygon)} points {_told(polygon)}"))
        ignore = kind == "ignored"
    elif signed_area(points) < 0:
        points = _turned_round(points)
        steps.append(("reversed", f"{len(points)} points"))
    if size is not None and _is_beyond(points, size):
        inside, is_whole = _clipped(points, size)
        if inside is None:
            return Mended(None, False, [("dropped", f"outside of {size[1]} x {size[0]} pixels: {_told(points)}")])
        beyond = f"{_overhang(points, size):g} pixels beyond {size[1]} x {size[0]}"
        steps.append(("clipped", beyond) if is_whole else ("ignored", f"in several parts, {beyond}: {_told(points)}"))
        points, ignore = inside, ignore or not is_whole
    points = points[(points != np.roll(points, -1, axis=0)).any(1)]  # a point that is said twice in a row
    if abs(signed_area(points)) < LEAST_AREA:
        return Mended(None, False, [("dropped", f"{TINY}: {_told(points)}")])
    return Mended(points, ignore, steps)


def signed_area(points: np.ndarray) -> float:
    """Area in square pixels, above 0 for points that run clockwise on the screen (y grows downwards)."""
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _nothing_in(points: np.ndarray) -> str | None:
    """Why there is nothing inside the points, in whatever order they come."""
    if not np.isfinite(points).all():
        return "a coordinate that is no number"
    distinct = len(np.unique(points, axis=0))
    if distinct < 3:
        return f"{distinct} different point{'s' * (distinct > 1)}: {_told(points)}"
    if abs(signed_area(points)) < LEAST_AREA and shapely.MultiPoint(points).convex_hull.area < LEAST_AREA:
        return f"{TINY}: {_told(points)}"
    return None


def _untangled(points: np.ndarray) -> tuple[str, np.ndarray]:
    """Kind of the repair, and a valid outline, for points whose outline crosses or touches itself."""
    candidates: list[tuple[str, np.ndarray]] = []
    if len(points) == 4:
        # The only order of four corners without a crossing, unless one lies inside the other three.
        offsets = points - points.mean(0)
        around = np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]), kind="stable")
        candidates.append(("reordered", np.roll(points[around], -int(np.flatnonzero(around == 0)[0]), axis=0)))
    part, share = _largest(regions(np.array([shapely.Polygon(points)], dtype=object)))
    if part is not None and share >= SLIP:
        candidates.append(("untangled", _from_ring(part, points[0])))
    if len(points) % 2 == 0:  # both edges of a curved text written from the left to the right
        half = len(points) // 2
        candidates.append(("reordered", np.concatenate([points[:half], points[half:][::-1]])))
    for kind, candidate in candidates:
        if _is_sound(candidate):
            return kind, _clockwise(candidate)
    return "ignored", _hull(points)


def _clipped(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray | None, bool]:
    """What a valid polygon covers inside the image, and whether that is nearly all in one piece: else its hull.

    None where there is nothing worth the name.
    """
    height, width = size
    covered = shapely.intersection(shapely.Polygon(points), shapely.box(0, 0, width, height))
    part, share = _largest(covered)
    if part is None or part.area < LEAST_AREA:
        return None, True
    if share < SLIP:  # one part alone would be readable without the others
        return _hull(np.round(shapely.get_coordinates(covered), DECIMALS) + 0.0), False
    inside = _from_ring(part, np.clip(points[0], 0, (width, height)))
    return _clockwise(inside) if _is_sound(inside) else _hull(inside), True  # rounding can make a sliver cross itself


def _largest(geometry: Any) -> tuple[Any, float]:
    """The polygon of the largest area in a geometry, or an array of them, and its share of all their area."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    areas = shapely.area(parts)
    if not areas.sum():
        return None, 0.0
    return parts[areas.argmax()], float(areas.max() / areas.sum())


def _from_ring(part: Any, first: np.ndarray) -> np.ndarray:
    """The outer ring of a polygon, rounded, from the point nearest to `first`."""
    ring = np.round(shapely.get_coordinates(part.exterior)[:-1], DECIMALS) + 0.0
    return np.roll(ring, -int(np.linalg.norm(ring - first, axis=1).argmin()), axis=0)


def _is_sound(points: np.ndarray) -> bool:
    shape = shapely.Polygon(points)
    return bool(shape.is_valid and shape.area >= LEAST_AREA)


def _hull(points: np.ndarray) -> np.ndarray:
    hull = shapely.MultiPoint(points).convex_hull
    # A hull without an area is no polygon; its points then are as good, and dropped for their area.
    return _clockwise(_from_ring(hull, points[0])) if hull.geom_type == "Polygon" else points


def _clockwise(points: np.ndarray) -> np.ndarray:
    return _turned_round(points) if signed_area(points) < 0 else points


def _turned_round(points: np.ndarray) -> np.ndarray:
    """The other way round, from the same first point."""
    return np.concatenate([points[:1], points[:0:-1]])


def _is_beyond(points: np.ndarray, size: tuple[int, int]) -> bool:
    return _overhang(points, size) > 0


def _overhang(points: np.ndarray, size: tuple[int, int]) -> float:
    """By how many pixels the points reach beyond the image, at most."""
    return float(max(0.0, (points - (size[1], size[0])).max(), -points.min()))


def fits(polygons: Sequence[np.ndarray], size: tuple[int, int], slack: float = 2) -> bool:
    """Whether all of them lie in an image of that height and width, give or take `slack` pixels."""
    return all(_overhang(polygon, size) <= slack for polygon in polygons)


def _told(points: np.ndarray) -> str:
    shown = " ".join(f"{x:g},{y:g}" for x, y in np.asarray(points, np.float64)[:6])
    return f"{shown} ..." if len(points) > 6 else shown


def counted(repairs: Iterable[Repair]) -> dict[str, int]:
    """How many of each kind, in the order of `KINDS`; kinds that did not occur are not in it."""
    counts = dict.fromkeys(KINDS, 0)
    for repair in repairs:
        counts[repair.kind] += 1
    return {kind: count for kind, count in counts.items() if count}
