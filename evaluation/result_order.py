"""What result files do not say themselves: which coordinate is x, and which image a mere number means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dbnet.sample import Detection, Sample
from evaluation.results import Results, by_sample

#: Data sets whose own script (Total-Text's Deteval.py) or whose detectors (PSENet and PAN for CTW1500) have y first.
EITHER = ("totaltext", "ctw1500")
#: A detection fits a label if the intersection over union of their upright boxes is above this.
FITS_ABOVE = 0.5
#: The other order must fit this many times as often, and so large a share of all detections.
TIMES, SHARE = 2, 0.1

#: DRRG's and TextBPN's results of MSRA-TD500: numbers in place of names, in the order of the names.
RANKED = re.compile(r"img_(\d{1,3})")
TD500_IMAGES = 200
#: An image's name that ends in its number.
ENDS_IN_NUMBER = re.compile(r"\D+0*(\d{1,18})")


def told_names(results: Results, samples: Sequence[Sample]) -> Results:
    """`results` under the images' names, and a note of it, where their files only have numbers: those of the images (7
    for img_7), or, of TD500's 200 test images, their ranks by name (img_7 for the seventh).
    """
    stems = sorted(sample.image.stem for sample in samples)
    if results.format == "td500":
        names = _by_rank(stems)
    elif results.format in ("icdar2015", "mlt2017", "totaltext"):
        names = _by_number(stems)
    else:
        return results
    if not results.detections or not names.keys() >= results.detections.keys():
        return results
    told = {names[stem]: found for stem, found in results.detections.items()}
    first = next(iter(results.detections))
    note = f"files have numbers for names: {first} was taken for {names[first]}"
    return replace(results, detections=told, notes=[*results.notes, note])


def _by_number(stems: Sequence[str]) -> dict[str, str]:
    """number -> image, empty unless every image has a number of its own."""
    matches = [ENDS_IN_NUMBER.fullmatch(stem) for stem in stems]
    names = {match[1]: stem for match, stem in zip(matches, stems, strict=True) if match}
    return names if len(names) == len(stems) else {}


def _by_rank(stems: Sequence[str]) -> dict[str, str]:
    """img_N -> the N-th image, empty unless these are TD500's under their own names."""
    if len(stems) != TD500_IMAGES or any(map(RANKED.fullmatch, stems)):
        return {}
    return {f"img_{rank}": stem for rank, stem in enumerate(stems, start=1)}


def told_order(results: Results, samples: Sequence[Sample]) -> Results:
    """`results` with x first: as they are, or swapped, and a note of it, where that fits the labels far better.

    Only results in the form of `EITHER` are looked at; all others have one order by their definition. Results of images
    without a label are kept as they are, in the same order as the rest. Pure: `results` is not changed.
    """
    if results.format not in EITHER or not results.detections:
        return results
    straight = swapped = total = 0
    for sample, found in zip(samples, by_sample(results, samples, partial=True), strict=True):
        if not found:
            continue
        total += len(found)
        labels, boxes = _boxes(sample.polygons), _boxes([detection.polygon for detection in found])
        straight += _fitting(boxes, labels)
        swapped += _fitting(boxes[:, [1, 0, 3, 2]], labels)
    if not (swapped > TIMES * straight and swapped >= SHARE * total):
        return results
    note = (f"coordinates were read as y,x: so {swapped} of {total} boxes fit a label, as x,y {straight}")
    detections = {stem: [Detection(np.ascontiguousarray(detection.polygon[:, ::-1]), detection.score)
                         for detection in found] for stem, found in results.detections.items()}
    return replace(results, detections=detections, notes=[*results.notes, note])


def _boxes(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """Upright boxes (K, 4) float64: x and y of the least corner, x and y of the greatest."""
    return np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float64).reshape(-1, 4)


def _fitting(boxes: np.ndarray, labels: np.ndarray) -> int:
    """How many of the boxes (D, 4) fit one of the labels (L, 4)."""
    if not len(labels):
        return 0
    least = np.maximum(boxes[:, np.newaxis, :2], labels[:, :2])
    greatest = np.minimum(boxes[:, np.newaxis, 2:], labels[:, 2:])
    shared = np.prod(np.clip(greatest - least, 0, None), axis=2)
    unions = _areas(boxes)[:, np.newaxis] + _areas(labels) - shared
    fits = np.divide(shared, unions, out=np.zeros_like(shared), where=unions > 0) > FITS_ABOVE
    return int(np.count_nonzero(fits.any(axis=1)))


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return areas
