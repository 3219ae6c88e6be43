"""How detections are scored: one module for each project or data set, all rows of `evaluation.protocols.table`.

A protocol counts, image by image, what was found and what was there; a score is a ratio of sums of these counts. That
is all that the rest needs: the total, the table per image and the bootstrap are the same for every protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dbnet.sample import Detection, Sample

#: What one image adds to a score, in the order of a protocol's array. Recall = found texts / texts, precision = right
#: detections / detections; texts and detections that nobody cares about are left out. The numerators are equal where
#: matches are one to one, and fractions where a protocol gives part marks (DetEval).
COLUMNS = ("found_texts", "texts", "right_detections", "detections")

#: (samples, detections of each) -> (N, V, 4) float64: images, variants, `COLUMNS`. Images are counted one by one, so
#: that counts of parts of a data set can be concatenated.
CountFunction = Callable[[Sequence[Sample], Sequence[Sequence[Detection]]], np.ndarray]

#: How many times a bootstrap draws; the interval's ends then move by a few 1e-4 with the seed.
RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """Fractions; fscore is the harmonic mean of the other two (the competitions' hmean)."""

    precision: float
    recall: float
    fscore: float


@dataclass(frozen=True)
class Protocol:
    """One way to count. title: whose and what, one line. thresholds: what it decides by, for people to read.

    variants: of a protocol that reports the best of several runs, what tells them apart (MMOCR's score thresholds).
    """

    name: str
    title: str
    thresholds: Mapping[str, float | str]
    count: CountFunction
    variants: tuple[str, ...] = field(default=("",))


@dataclass(frozen=True, eq=False)
class Result:
    """A protocol's counts over a data set, (N, V, 4) as `CountFunction` returns them."""

    protocol: Protocol
    counts: np.ndarray

    @property
    def best(self) -> int:
        """Index of the variant with the highest F-score, the first of equals; 0 where there is only one."""
        return int(np.argmax(scores(self.counts.sum(axis=0))[:, 2]))

    @property
    def score(self) -> Score:
        """Over all images together (micro average)."""
        precision, recall, fscore = scores(self.counts.sum(axis=0))[self.best]
        return Score(float(precision), float(recall), float(fscore))

    @property
    def per_image(self) -> np.ndarray:
        """(N, 4) of the best variant, `COLUMNS`."""
        images: np.ndarray = self.counts[:, self.best]
        return images

    def interval(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap over images, for each field of `Score`: (low, high).

        A protocol that picks its best variant picks again in every draw.
        """
        rng = np.random.default_rng(seed)
        images, variants, _ = self.counts.shape
        drawn = np.empty((RESAMPLES, 3))
        for i in range(RESAMPLES):
            weights = np.bincount(rng.integers(0, images, images), minlength=images)
            values = scores(np.tensordot(weights, self.counts, 1))
            drawn[i] = values[0 if variants == 1 else np.argmax(values[:, 2])]
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {name: (float(low), float(high)) for name, (low, high) in
                zip(("precision", "recall", "fscore"), ends.T, strict=True)}


def scores(sums: np.ndarray) -> np.ndarray:
    """Precision, recall and F-score (..., 3) from sums of `COLUMNS` (..., 4); 0 where nothing was found or is there."""
    found, texts, right, detections = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    recall, precision = _ratio(found, texts), _ratio(right, detections)
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
