"""MMOCR's metric (mmocr/evaluation/metrics/hmean_iou_metric.py of 1.0.1, `HmeanIOUMetric`, strategy "vanilla").

It scores the detections whose own score reaches 0.3, 0.4, ... 0.9 and reports the best of these seven F-scores: a
choice made on the test set. Otherwise the official rules, except that coordinates are float32, that polygons which are
not valid are repaired (`buffer(0)`, and the convex hull if that leaves several parts), and that 1e-5 is added to the
area of a detection before asking how much of it is ignored. One difference is left: for a data set without a single
text MMOCR calls recall 1, this suite 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol
from evaluation.protocols.matching import (
    IGNORED_ABOVE,
    IOU_ABOVE,
    Pairs,
    Rules,
    both,
    in_float32,
    one_to_one,
    overlapping,
    ratio,
    tally,
)
from evaluation.protocols.outlines import Outlines

#: Added to a detection's area, square pixels, so that there is something to divide by.
SOMETHING = 1e-5
#: `numpy.arange(0.3, 0.9, 0.1)`, whose rounding lets the end in. In float32, as NumPy 1 compared them with the scores;
#: NumPy 2, and so MMOCR under it, takes float64 and drops detections of exactly 0.7 or 0.9.
SCORE_THRESHOLDS = np.arange(0.3, 0.9, 0.1).astype(np.float32)


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]]) -> np.ndarray:
    """Counts of each image at each of `SCORE_THRESHOLDS`, (N, 7, 4) as `evaluation.protocols.CountFunction` says."""
    texts, found, ignore = both(samples, detections, in_float32)
    certainty = np.array([detection.score for image in detections for detection in image], np.float32)
    pairs, ignored = overlapping(texts, found, ignore, rules(texts, found))
    variants = []
    for threshold in SCORE_THRESHOLDS:
        certain = certainty >= threshold
        matched = texts.image[one_to_one(pairs.where(certain[pairs.found])).text]
        variants.append(tally(len(samples), matched, texts.image[~ignore], matched, found.image[certain & ~ignored]))
    return np.stack(variants, axis=1)


def rules(texts: Outlines, found: Outlines) -> Rules:
    """Polygons that are not valid are repaired, but the area of which a share is ignored is the one before."""
    def over_union(pairs: Pairs) -> np.ndarray:
        first, second = repaired(texts.shapes(pairs.text)), repaired(found.shapes(pairs.found))
        return ratio(shapely.area(shapely.intersection(first, second)), shapely.area(shapely.union(first, second)))

    def share(pairs: Pairs) -> np.ndarray:
        shapes = found.shapes(pairs.found)
        wholes = shapely.area(shapes) + SOMETHING
        return ratio(shapely.area(shapely.intersection(repaired(texts.shapes(pairs.text)), repaired(shapes))), wholes)

    return Rules(_repaired_areas(texts), _repaired_areas(found), found.areas + SOMETHING, over_union, share)


def repaired(shapes: np.ndarray) -> np.ndarray:
    """Valid polygons, perhaps empty, in place of those that are not."""
    shapes = shapes.copy()
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.buffer(shapes[broken], 0)
    parted = shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON
    shapes[parted] = shapely.convex_hull(shapes[parted])
    return shapes


def _repaired_areas(polygons: Outlines) -> np.ndarray:
    areas = polygons.areas.copy()
    areas[~polygons.valid] = shapely.area(repaired(polygons.shapes(~polygons.valid)))
    return areas


PROTOCOLS = (Protocol("mmocr", "MMOCR's HmeanIOUMetric, best of a scan over score thresholds on the test set",
                      {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE, "score >=": "best of 0.3, 0.4, ... 0.9"}, count,
                      tuple(f"score >= {threshold:.1f}" for threshold in SCORE_THRESHOLDS)),)
