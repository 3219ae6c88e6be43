"""The difference of two F-scores on the same images, and how far it may be from what further images would show.

A bootstrap over images, paired: both detectors are scored on the same drawn images, so that hard and easy images cancel
out. Which interval, docs/evaluation.md has the simulation: where few images differ, plain percentiles call scores the
same that are the margin apart in 8 to 14 % of all cases instead of 5, as no draw can hold what no image showed. BCa
intervals (Efron 1987), with the draws that equal the estimate counted half, keep to 5 % from about three images on that
differ, and with the factor that turns a normal interval into Student's (Hesterberg 2015) from 20 images on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from evaluation.protocols import scores

#: Draws of the bootstrap: one less than a round number, so that the ends are draws themselves (Davison, Hinkley 1997).
DRAWS = 9999
#: Numbers drawn at once: bounds the memory.
BLOCK = 1 << 21
#: Differences this near to the margin have reached it: sums in another order differ by less.
ROUNDING = 1e-12
NORMAL = NormalDist()

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Spread:
    """What may be known of a difference in F. apart: how many of the images are counted differently. draws: of the
    bootstrap, in ascending order. bias, acceleration: BCa's z0 and a. one_text: by how much F moves if one text more is
    found, or less. texts: how many count. best: the higher of both F-scores.
    """

    images: int
    apart: int
    difference: float
    draws: np.ndarray
    bias: float
    acceleration: float
    one_text: float
    texts: float
    best: float

    @staticmethod
    def of(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> Spread:
        """From the counts of both sides, (N, V, 4), and the draws that these gave."""
        apart = int((a != b).any(axis=(1, 2)).sum())
        sums_a, sums_b = a.sum(axis=0), b.sum(axis=0)
        both = float(_best_f(sums_a)), float(_best_f(sums_b))
        difference = both[1] - both[0]
        best = sums_a[int(np.argmax(scores(sums_a)[:, 2]))]
        below = np.mean([np.mean(draws < difference - ROUNDING), np.mean(draws <= difference + ROUNDING)])
        least = 1 / (len(draws) + 1)
        bias = NORMAL.inv_cdf(float(np.clip(below, least, 1 - least)))
        return Spread(len(a), apart, difference, np.sort(draws), bias, _acceleration(a, b),
                      2 / max(float(best[1] + best[3]), 1.0), float(best[1]), max(both))

    def mirrored(self) -> Spread:
        """With A and B exchanged."""
        return replace(self, difference=-self.difference, draws=-self.draws[::-1], bias=-self.bias,
                       acceleration=-self.acceleration)

    def interval(self, level: float) -> Interval:
        """Ends that are each passed in a fraction `level` of all data sets."""
        return self._low_end(level), -self.mirrored()._low_end(level)

    def p_value(self, margin: float) -> float:
        """Of the hypothesis that the difference is at most -margin: the level at which the low end reaches that."""
        beyond = int(np.searchsorted(self.draws, -margin + ROUNDING, "right"))
        w = NORMAL.inv_cdf(min(beyond + 1, len(self.draws)) / (len(self.draws) + 1)) - self.bias
        return student_tail(_cdf(w / max(1 + self.acceleration * w, ROUNDING) - self.bias), self.images)

    def _low_end(self, level: float) -> float:
        z = self.bias + NORMAL.inv_cdf(normal_tail(level, self.images))
        beyond = _cdf(self.bias + z / max(1 - self.acceleration * z, ROUNDING))
        return float(self.draws[max(int(beyond * (len(self.draws) + 1)) - 1, 0)])


def spreads(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Spread]:
    """For each protocol, (A's counts, B's counts) of (N, V, 4), N at least 1: its spread, all on the same drawn images.

    A protocol that picks its best variant picks again in every draw, for each side.
    """
    images = len(pairs[0][0])
    tables = [np.hstack([side.reshape(images, -1) for side in pair])[_order(*pair)] for pair in pairs]
    draws = np.empty((len(pairs), DRAWS))
    rng, rows = np.random.default_rng(0), max(BLOCK // images, 1)
    for start in range(0, DRAWS, rows):
        block = slice(start, min(start + rows, DRAWS))
        number = block.stop - start
        places = rng.integers(0, images, (number, images)) + images * np.arange(number)[:, np.newaxis]
        weights = np.bincount(places.ravel(), minlength=number * images).reshape(number, images).astype(np.float64)
        for differences, table in zip(draws, tables, strict=True):
            a, b = np.moveaxis((weights @ table).reshape(number, 2, -1, 4), 1, 0)
            differences[block] = _best_f(b) - _best_f(a)
    return [Spread.of(*pair, differences) for pair, differences in zip(pairs, draws, strict=True)]


def _order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The images in an order that depends on their counts alone, and is the same when A and B change places."""
    columns = [values.reshape(len(a), -1).T for values in (a + b, np.abs(a - b))]
    return np.lexsort(np.concatenate(columns))


def _acceleration(a: np.ndarray, b: np.ndarray) -> float:
    """BCa's a: how skew what the images contribute is, from the differences without each of them (jackknife)."""
    without = _best_f(b.sum(axis=0) - b) - _best_f(a.sum(axis=0) - a)
    shares = without.mean() - without
    spread = float((shares ** 2).sum()) ** 1.5
    return float((shares ** 3).sum()) / (6 * spread) if spread else 0.0


def _best_f(sums: np.ndarray) -> np.ndarray:
    """(..., V, 4) -> (...): the F-score of the best variant."""
    best: np.ndarray = scores(sums)[..., 2].max(axis=-1)
    return best


def _cdf(z: float) -> float:
    """The normal distribution's, with all digits in its lower tail, where NormalDist's has none."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_tail(level: float, images: int) -> float:
    """The share of draws that lies beyond the end of an interval, so that few images pass it in `level` of all cases:
    Hesterberg's Phi(sqrt(N / (N - 1)) t), t being Student's quantile by Wallace's approximation, which can be inverted.
    """
    freedom = max(images - 1, 1)
    z = NORMAL.inv_cdf(level) * (8 * freedom + 3) / (8 * freedom + 1)
    t = -math.sqrt(freedom * math.expm1(z * z / freedom))
    return max(_cdf(math.sqrt((freedom + 1) / freedom) * t), 1e-300)


def student_tail(share: float, images: int) -> float:
    """The inverse of `normal_tail`; shares above a half stay what they are."""
    if share >= 0.5:
        return min(share, 1.0)
    freedom = max(images - 1, 1)
    t = NORMAL.inv_cdf(max(share, 1e-300)) / math.sqrt((freedom + 1) / freedom)
    z = -math.sqrt(freedom * math.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return _cdf(z)
