"""The official protocol of ICDAR 2015 (rrc.cvc.uab.es, challenge 4, task 1, script of 2015).

A detection matches a text if their intersection over union is above 0.5; every text takes the first free detection.
A detection of which more than half lies on a "do not care" text does not count. MindOCR's metric lets a text match
twice and comes out 1.2 points higher on the same detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbnet.geometry import areas, intersection_areas, over_union
from dbnet.sample import Detection, Sample
from evaluation.protocols import Counts, Score, total

IOU_ABOVE = 0.5
#: Share of a detection's area that must lie on one ignored text for the detection to be ignored too.
IGNORED_ABOVE = 0.5


def score(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]]) -> tuple[Score, list[Counts]]:
    """The score over all images, and the counts of each; `detections[i]` were found in the image of `samples[i]`.

    Raises ValueError if there are not as many lists of detections as samples.
    """
    counts = [count(sample, found) for sample, found in zip(samples, detections, strict=True)]
    return total(counts), counts


def count(sample: Sample, detections: Sequence[Detection]) -> Counts:
    """Matches texts and detections of one image."""
    truths = [np.trunc(polygon) for polygon in sample.polygons]
    found = [np.trunc(detection.polygon) for detection in detections]
    # Polygons that cross themselves take part like any other, as they do in the official script.
    intersections, found_areas = intersection_areas(truths, found), areas(found)
    ignored = _ignored(intersections[sample.ignore], found_areas)
    candidates = over_union(intersections, areas(truths), found_areas) > IOU_ABOVE
    candidates &= ~sample.ignore[:, np.newaxis] & ~ignored
    free = np.ones(len(found), bool)
    matched = 0
    for row in candidates:
        hits = np.flatnonzero(row & free)
        if hits.size:
            free[hits[0]] = False
            matched += 1
    return Counts(matched, int(np.sum(~sample.ignore)), int(np.sum(~ignored)))


def _ignored(intersections: np.ndarray, found_areas: np.ndarray) -> np.ndarray:
    """(D,) bool: detections that lie on an ignored text, from the (I, D) intersections and (D,) areas."""
    shares = np.divide(intersections, found_areas, out=np.zeros_like(intersections), where=found_areas > 0)
    return np.any(shares > IGNORED_ABOVE, axis=0)
