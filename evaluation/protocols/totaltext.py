"""Total-Text (Ch'ng and Chan 2017; cs-chan/Total-Text-Dataset): DetEval for polygons, and plain overlap.

DetEval (Wolf and Jolion 2006) also gives marks where a text was found in several parts, or several texts as one. It
knows two shares of each text and detection: sigma, how much of the text, and tau, how much of the detection, lies on
the other. Bounds: sigma 0.7 and tau 0.6, which the authors recommend for polygons, or Wolf and Jolion's 0.8 and 0.4.

This follows the authors' Python script (`Deteval.py`), which is what papers quote, also where it is its own:
- both shares are rounded to two decimals before anything is decided (PSENet's copy leaves that out);
- one to one: a text of which exactly one detection has sigma, and exactly one has tau, above the bounds. They need not
  be the same, and nobody asks if the detection was taken. A precision above 1, to which this can lead in an image with
  texts on top of each other, is cut to 1 here;
- split, then merged: what is left, in the order of the files, the bounds included. A text split in n parts gives 0.8 to
  recall and n times 0.8 to precision, merged texts the other way round. Which texts may be merged is asked with the
  bound of *tau* (their Matlab script asks with that of sigma);
- a detection is left out if its intersection with one `#` text, divided by its own area + 1, is above 0.5.
Here an image without a result file has found nothing; the script does not look at such images at all.

Areas are those of the polygons, as in the authors' `polygon_fast.py`. Their older `polygon_wrapper.py` counts pixels
whose centres a polygon covers: the shares of small texts then move in the second decimal, and bounding boxes that share
1 px or less do not overlap. Shares above 1, which a polygon that crosses itself may have, are cut to 1.

`totaltext_iou` is the rule of ICDAR 2015 with an overlap above 0.5, as in Yuliang-Liu/TIoU-metric, MhLiao/DB, MMOCR and
PaddleOCR, and hence in most papers that give an IoU figure for Total-Text. The authors' own `Pascal_VOC.py` is another
rule, and hardly quoted: overlap from 0.5 on, with 1 px added to the union, a text with two such detections counts as
missed, and a detection may serve two texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dbnet.geometry import areas, intersection_areas
from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol, ctw1500
from evaluation.protocols.matching import IGNORED_ABOVE, IOU_ABOVE, ratio
from evaluation.protocols.outlines import NOTHING

#: The mark for a text in parts, or one of several found as one (Wolf and Jolion's f_sc(k)).
SCATTERED = 0.8
_DECIMALS = 2


def count(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]], sigma_bound: float = 0.7,
          tau_bound: float = 0.6) -> np.ndarray:
    """Marks and counts of DetEval for each image, (N, 1, 4) as `evaluation.protocols.CountFunction` says.

    sigma_bound, tau_bound: how much of a text, and of a detection, must lie on the other.
    """
    return np.array([[_count(sample, found, sigma_bound, tau_bound)]
                     for sample, found in zip(samples, detections, strict=True)], np.float64).reshape(-1, 1, 4)


def _count(sample: Sample, detections: Sequence[Detection], sigma_bound: float,
           tau_bound: float) -> tuple[float, int, float, int]:
    texts, found = _polygons(sample.polygons), _polygons([detection.polygon for detection in detections])
    shared, found_areas = intersection_areas(texts, found), areas(found)
    counted = ~np.any(shared[sample.ignore] / (found_areas + 1) > IGNORED_ABOVE, axis=0)
    shared = shared[np.ix_(~sample.ignore, counted)]
    sigma = _rounded(shared, areas(texts)[~sample.ignore, np.newaxis])
    tau = _rounded(shared, found_areas[counted])
    found_marks, right_marks = _marks(sigma, tau, sigma_bound, tau_bound)
    return found_marks, sigma.shape[0], min(right_marks, sigma.shape[1]), sigma.shape[1]


def _polygons(polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [polygon if len(polygon) > 2 else NOTHING for polygon in polygons]


def _rounded(shared: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.round(np.minimum(ratio(shared, np.broadcast_to(whole, shared.shape)), 1), _DECIMALS)
    return shares


def _marks(sigma: np.ndarray, tau: np.ndarray, sigma_bound: float, tau_bound: float) -> tuple[float, float]:
    """Marks for the texts found and for the right detections, from the shares (K, D) of texts and of detections."""
    single = (np.sum(sigma > sigma_bound, axis=1) == 1) & (np.sum(tau > tau_bound, axis=1) == 1)
    texts_free = ~single
    found_free = ~np.any(sigma[single] > sigma_bound, axis=0)
    found = right = float(np.sum(single))
    for text in np.flatnonzero(texts_free & (np.count_nonzero(sigma, axis=1) > 1)):
        parts = np.flatnonzero((tau[text] >= tau_bound) & found_free)
        if np.sum(sigma[text, parts]) >= sigma_bound:
            mark = SCATTERED if len(parts) > 1 else 1.0
            found, right = found + mark, right + mark * len(parts)
            texts_free[text], found_free[parts] = False, False
    for detection in np.flatnonzero(found_free & (np.count_nonzero(tau, axis=0) > 1)):
        parts = np.flatnonzero((sigma[:, detection] >= tau_bound) & texts_free)
        enough = len(parts) != 1 or sigma[parts[0], detection] >= sigma_bound
        if enough and np.sum(tau[parts, detection]) >= tau_bound:
            mark = SCATTERED if len(parts) > 1 else 1.0
            found, right = found + mark * len(parts), right + mark
            texts_free[parts], found_free[detection] = False, False
    return found, right


def _deteval(name: str, sigma_bound: float, tau_bound: float) -> Protocol:
    return Protocol(name, f"Total-Text, DetEval {sigma_bound:g} / {tau_bound:g}",
                    {"sigma >": sigma_bound, "tau >": tau_bound, "split or merged": SCATTERED,
                     "ignored >": IGNORED_ABOVE},
                    partial(count, sigma_bound=sigma_bound, tau_bound=tau_bound))


PROTOCOLS = (
    _deteval("totaltext", 0.7, 0.6),
    _deteval("totaltext_08_04", 0.8, 0.4),
    Protocol("totaltext_iou", "Total-Text, polygons", {"IoU >": IOU_ABOVE, "ignored >": IGNORED_ABOVE}, ctw1500.count),
)
