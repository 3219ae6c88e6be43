"""What the protocols of the projects share: which detections lie on ignored texts, and which match which text.

The projects compare every text with every detection, one pair after the other. Here only pairs whose bounding boxes
leave room for the overlap that is asked for are looked at. Of two convex quadrilaterals the overlap is computed in
NumPy; where that is not to be had, or so near to the threshold that rounding could decide, in the project's own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from dbnet.sample import Detection, Sample
from evaluation.protocols.outlines import Convert, Outlines, outlines, shared_areas

#: In all these protocols a match has an intersection over union above this.
IOU_ABOVE = 0.5
#: Share of a detection's area that must lie on one ignored text for the detection to be ignored too.
IGNORED_ABOVE = 0.5

#: Pairs of bounding boxes looked at together: bounds the memory of an image with very many of both.
BLOCK = 1 << 20
#: Bounding boxes are compared a little generously, so that rounding cannot lose a pair.
GENEROUS = 1 - 1e-9
#: How near to a threshold rounding could decide.
TIE = 1e-6


@dataclass(frozen=True, eq=False)
class Pairs:
    """Texts and detections of the same image, by text and then by detection: two arrays of indices.

    room: area that their bounding boxes share, which their intersection cannot exceed.
    """

    text: np.ndarray
    found: np.ndarray
    room: np.ndarray

    def where(self, which: np.ndarray) -> Pairs:
        """Those that `which`, bool or indices, chooses."""
        return Pairs(self.text[which], self.found[which], self.room[which])


#: A fraction for each pair, in the project's own way.
Fraction = Callable[[Pairs], np.ndarray]


@dataclass(frozen=True, eq=False)
class Rules:
    """What is a project's own. text_areas, found_areas: what unions are computed from; NaN for a polygon that takes no
    part. wholes: (D,) what a detection's share on an ignored text is a share of. over_union, share: the exact way.
    """

    text_areas: np.ndarray
    found_areas: np.ndarray
    wholes: np.ndarray
    over_union: Fraction
    share: Fraction


def both(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]],
         convert: Convert = np.positive) -> tuple[Outlines, Outlines, np.ndarray]:
    """Outlines of the texts and of the detections, and which texts are to be ignored, (K,) bool.

    Raises ValueError if there are not as many lists of detections as samples.
    """
    if len(samples) != len(detections):
        raise ValueError(f"{len(samples)} samples but detections of {len(detections)}")
    texts = outlines((sample.polygons for sample in samples), convert)
    found = outlines(([detection.polygon for detection in image] for image in detections), convert)
    return texts, found, np.concatenate([np.empty(0, bool), *(sample.ignore for sample in samples)])


def in_float32(points: np.ndarray) -> np.ndarray:
    """A `Convert`: rounded as by projects that keep coordinates in float32."""
    return points.astype(np.float32).astype(np.float64)


def overlapping(texts: Outlines, found: Outlines, ignore: np.ndarray, rules: Rules) -> tuple[Pairs, np.ndarray]:
    """The pairs whose intersection over union is above a half, without ignored texts and detections; and (D,) bool,
    which detections are ignored.
    """
    pairs = touching(texts, found)
    on_ignored = ignore[pairs.text]
    takes_part = ~np.isnan(rules.text_areas)
    lying = pairs.where((on_ignored & takes_part[pairs.text])
                        & (pairs.room > IGNORED_ABOVE * rules.wholes[pairs.found] * GENEROUS))
    shares = ratio(_convex_overlaps(texts, found, lying), rules.wholes[lying.found])
    ignored = np.zeros(len(found.sizes), bool)
    ignored[lying.found[_above(IGNORED_ABOVE, shares, lying, rules.share)]] = True

    pairs = pairs.where(~on_ignored & ~ignored[pairs.found])
    # Above a half means 3 intersections above both areas.
    sums = rules.text_areas[pairs.text] + rules.found_areas[pairs.found]
    roomy = 3 * pairs.room > sums * GENEROUS
    pairs, sums = pairs.where(roomy), sums[roomy]
    shared = _convex_overlaps(texts, found, pairs)
    return pairs.where(_above(IOU_ABOVE, ratio(shared, sums - shared), pairs, rules.over_union)), ignored


def _convex_overlaps(texts: Outlines, found: Outlines, pairs: Pairs) -> np.ndarray:
    """Area that each pair shares, NaN unless both are convex quadrilaterals."""
    convex = texts.convex[pairs.text] & found.convex[pairs.found]
    shared = np.full(len(convex), np.nan)
    shared[convex] = shared_areas(texts.quads[:, :, pairs.text[convex]], found.quads[:, :, pairs.found[convex]])
    return shared


def _above(threshold: float, estimates: np.ndarray, pairs: Pairs, exactly: Fraction) -> np.ndarray:
    """Bool for each pair: its estimate, or its exact fraction where the estimate is NaN or too near, is above."""
    unsure = np.flatnonzero(~(np.abs(estimates - threshold) > TIE))
    estimates[unsure] = exactly(pairs.where(unsure))
    above: np.ndarray = estimates > threshold
    return above


def touching(texts: Outlines, found: Outlines) -> Pairs:
    """The pairs whose bounding boxes share an area."""
    begin = np.searchsorted(found.image, texts.image)
    number = np.searchsorted(found.image, texts.image, "right") - begin
    cuts = np.searchsorted(np.cumsum(number), np.arange(BLOCK, number.sum(), BLOCK), "right")
    blocks = [_touching(texts, found, rows, begin[rows], number[rows])
              for rows in np.split(np.arange(len(number)), cuts)]
    return Pairs(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _touching(texts: Outlines, found: Outlines, rows: np.ndarray, begin: np.ndarray,
              number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`touching` of the texts `rows`, each with the `number` detections from `begin` on."""
    text = np.repeat(rows, number)
    other = np.arange(len(text)) + np.repeat(begin - (np.cumsum(number) - number), number)
    room = np.ones(len(text))
    for axis in (0, 1):  # few pairs are left after the first
        side = (np.minimum(texts.high[text, axis], found.high[other, axis])
                - np.maximum(texts.low[text, axis], found.low[other, axis]))
        kept = np.flatnonzero(side > 0)
        text, other, room = text[kept], other[kept], room[kept] * side[kept]
    return text, other, room


def one_to_one(pairs: Pairs) -> Pairs:
    """Every text takes the first detection that no earlier text has taken."""
    texts, found = set(), set()
    taken = []
    for i, (text, other) in enumerate(zip(pairs.text.tolist(), pairs.found.tolist(), strict=True)):
        if text not in texts and other not in found:
            texts.add(text)
            found.add(other)
            taken.append(i)
    return pairs.where(np.array(taken, np.intp))


def shapely_rules(texts: Outlines, found: Outlines) -> Rules:
    """Of the projects that drop polygons which are not valid and hand the others to shapely.

    The union is shapely's, not the sum less the intersection, and the detection comes first: where the exact fraction
    is a half, rounding decides, and both change it.
    """
    def over_union(pairs: Pairs) -> np.ndarray:
        first, second = found.shapes(pairs.found), texts.shapes(pairs.text)
        return ratio(shapely.area(shapely.intersection(first, second)), shapely.area(shapely.union(first, second)))

    def share(pairs: Pairs) -> np.ndarray:
        shapes = found.shapes(pairs.found)
        return ratio(shapely.area(shapely.intersection(texts.shapes(pairs.text), shapes)), shapely.area(shapes))

    text_areas, found_areas = (np.where(which.valid, which.areas, np.nan) for which in (texts, found))
    return Rules(text_areas, found_areas, found_areas, over_union, share)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def tally(images: int, *columns: np.ndarray) -> np.ndarray:
    """(images, 4) float64, `COLUMNS`, from the image indices of what is to be counted in each column."""
    return np.stack([np.bincount(column, minlength=images) for column in columns], axis=-1).astype(np.float64)
