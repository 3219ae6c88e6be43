"""The official protocol of ICDAR 2015 (rrc.cvc.uab.es, challenge 4, task 1, script of 2015).

A detection matches a text if their intersection over union is above 0.5; every text takes the first free detection.
A detection of which more than half lies on a "do not care" text does not count. Coordinates are cut to integers.

The script clips by GPC (Polygon2, Polygon3), this module in NumPy and by GEOS (shapely). They differ in the last
digits, which decides only where the exact value is a half and corners have no exact number: of such random pairs GPC
puts 20 % above a half, GEOS 19 %, and they disagree on 16 %. Of quads that cross themselves GPC's intersection is now
and then wrong (once in 20,000 random pairs), can change from run to run, and can crash the interpreter; not so here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from dbnet.geometry import regions
from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol
from evaluation.protocols.matching import (
    IGNORED_ABOVE,
    IOU_ABOVE,
    Pairs,
    Rules,
    both,
    one_to_one,
    overlapping,
    ratio,
    tally,
)
from evaluation.protocols.outlines import Convert, Outlines


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]],
          convert: Convert = np.trunc) -> np.ndarray:
    """Counts of each image, (N, 1, 4) as `evaluation.protocols.CountFunction` says. convert: done to coordinates."""
    texts, found, ignore = both(samples, detections, convert)
    pairs, ignored = overlapping(texts, found, ignore, rules(texts, found))
    matched = texts.image[one_to_one(pairs).text]
    return tally(len(samples), matched, texts.image[~ignore], matched, found.image[~ignored])[:, np.newaxis]


def rules(texts: Outlines, found: Outlines) -> Rules:
    """Polygons that cross themselves take part: the halves of a figure eight cancel out in its area, but it shares with
    others what lies inside it by even and odd.
    """
    def shared(pairs: Pairs) -> np.ndarray:
        first, second = regions(texts.shapes(pairs.text)), regions(found.shapes(pairs.found))
        areas: np.ndarray = shapely.area(shapely.intersection(first, second))
        return areas

    def over_union(pairs: Pairs) -> np.ndarray:
        areas = shared(pairs)
        return ratio(areas, texts.areas[pairs.text] + found.areas[pairs.found] - areas)

    def share(pairs: Pairs) -> np.ndarray:
        return ratio(shared(pairs), found.areas[pairs.found])

    return Rules(texts.areas, found.areas, found.areas, over_union, share)


PROTOCOLS = (Protocol("rrc", "ICDAR 2015, official (Robust Reading Competition)",
                      {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE}, count),)
