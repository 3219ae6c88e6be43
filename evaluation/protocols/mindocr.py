"""MindOCR's metric (mindocr/metrics/det_metrics.py, `DetMetric`): the numbers in its tables.

It differs from the official protocol in this: every detection takes the first text that it overlaps, taken or not; a
second detection of the same text is then neither right nor wrong, it is not counted at all, which makes precision
higher. Coordinates keep their fractions (float32), and polygons that are not valid take no part, be they text or
detection: a text that crosses itself is not missed, a detection that does is no false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol
from evaluation.protocols.matching import IGNORED_ABOVE, IOU_ABOVE, both, in_float32, overlapping, shapely_rules, tally


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]]) -> np.ndarray:
    """Counts of each image, (N, 1, 4) as `evaluation.protocols.CountFunction` says."""
    texts, found, ignore = both(samples, detections, in_float32)
    pairs, ignored = overlapping(texts, found, ignore, shapely_rules(texts, found))
    matching, first = np.unique(pairs.found, return_index=True)  # pairs come by text, so this is its first text
    matched = texts.image[np.unique(pairs.text[first])]
    wrong = found.valid & ~ignored
    wrong[matching] = False
    return tally(len(samples), matched, texts.image[texts.valid & ~ignore],
                 matched, np.concatenate([matched, found.image[wrong]]))[:, np.newaxis]


PROTOCOLS = (Protocol("mindocr", "MindOCR's DetMetric (a text may be found twice, invalid polygons are dropped)",
                      {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE}, count),)
