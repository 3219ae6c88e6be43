"""The metric of the authors' own code (MhLiao/DB, structure/measurers/quad_measurer.py, which calls
concern/icdar2015_eval/detection/iou.py): the official rules on shapely polygons.

It differs from the official protocol in this: coordinates keep their fractions, and polygons that are not valid take no
part, be they text or detection. Quads and polygons are treated alike. `iou.py` was read in copies (EuphoriaYan/DB and
Megvii-CSG/MegReader, where it comes from, which agree). Left out: quads below its box threshold, which the box rule has
dropped already, and the 1e-8 that it adds to precision + recall, which lowers F by less than 1e-8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol
from evaluation.protocols.matching import (
    IGNORED_ABOVE,
    IOU_ABOVE,
    both,
    one_to_one,
    overlapping,
    shapely_rules,
    tally,
)


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]]) -> np.ndarray:
    """Counts of each image, (N, 1, 4) as `evaluation.protocols.CountFunction` says."""
    texts, found, ignore = both(samples, detections)
    pairs, ignored = overlapping(texts, found, ignore, shapely_rules(texts, found))
    matched = texts.image[one_to_one(pairs).text]
    return tally(len(samples), matched, texts.image[texts.valid & ~ignore],
                 matched, found.image[found.valid & ~ignored])[:, np.newaxis]


PROTOCOLS = (Protocol("mhliao", "MhLiao/DB's QuadMeasurer (the official rules, invalid polygons are dropped)",
                      {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE}, count),)
