"""How detections are scored: one module for each project or data set, all rows of `evaluation.protocols.table`.

A protocol counts, image by image, what was found and what was there; a score is a ratio of sums of these counts. That
is all that the rest needs: the total, the table per image and the bootstrap are the same for every protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
#: Numbers drawn at once: bounds the memory.
_BLOCK = 1 << 20
#: Multiples of its inverse are added up without rounding, to 8e9 texts.
_COARSE = 2.0**20


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
        return int(np.argmax(scores(self.sums)[:, 2]))

    @cached_property
    def sums(self) -> np.ndarray:
        """(V, 4), exact."""
        high, low = exact_sums(self.counts)
        return high + low

    @property
    def score(self) -> Score:
        """Over all images together (micro average)."""
        precision, recall, fscore = scores(self.sums)[self.best]
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
        return intervals([self], level, seed)[0]


def intervals(results: Sequence[Result], level: float = 0.95, seed: int = 0) -> list[dict[str, tuple[float, float]]]:
    """`Result.interval` of several protocols over the same images, drawn once for all."""
    if not results:
        return []
    tables = [(result.counts.shape[1], *_whole_and_rest(result.counts)) for result in results]
    images = len(results[0].counts)
    drawn = np.empty((len(results), RESAMPLES, 3))
    for block, weights in _draws(images, seed):
        for (variants, high, low), draws in zip(tables, drawn, strict=True):
            sums = weights @ high.reshape(images, -1)
            if low is not None:
                sums += weights @ low.reshape(images, -1)
            values = scores(sums.reshape(len(sums), variants, len(COLUMNS)))
            best = np.argmax(values[..., 2], axis=1)
            draws[block] = values[np.arange(len(values)), best]
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return [{name: (float(low), float(high)) for name, (low, high) in zip(("precision", "recall", "fscore"),
                                                                          ends[:, i].T, strict=True)}
            for i in range(len(results))]


def _draws(images: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Which draws, and how often each image is in each of them, (draws, images) float64."""
    rng, rows = np.random.default_rng(seed), max(_BLOCK // images, 1)
    for start in range(0, RESAMPLES, rows):
        block = slice(start, min(start + rows, RESAMPLES))
        number = block.stop - start
        places = rng.integers(0, images, (number, images)) + images * np.arange(number)[:, np.newaxis]
        weights = np.bincount(places.ravel(), minlength=number * images).reshape(number, images)
        yield block, weights.astype(np.float64)


def exact_sums(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of (N, V, 4) over images in two parts, (V, 4) each and each exact, so that their sum is rounded once.

    So no order of the images, no BLAS and no partition into shards can change a last digit. Counts are whole numbers,
    or DetEval's marks of 0.8, which are multiples of 2 ** -53; up to 2 ** 21 images.
    """
    high, low = _whole_and_rest(counts)
    return high.sum(axis=0), np.zeros(counts.shape[1:]) if low is None else low.sum(axis=0)


def _whole_and_rest(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts as multiples of 2 ** -20, and what these leave; None for nothing."""
    high = np.round(counts * _COARSE) / _COARSE
    low = counts - high
    return (high, low) if low.any() else (counts, None)


def scores(sums: np.ndarray) -> np.ndarray:
    """Precision, recall and F-score (..., 3) from sums of `COLUMNS` (..., 4); 0 where nothing was found or is there."""
    found, texts, right, detections = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    recall, precision = _ratio(found, texts), _ratio(right, detections)
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
