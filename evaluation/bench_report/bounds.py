"""By what factor one series of rounds is slower than another, and how far that factor may be off.

The estimate is Hodges and Lehmann's: the median of all ratios of one round of the new run to one of the old. Its ends
are those ratios in order that the Mann-Whitney test leaves (Moses's interval): exact for any distribution of the noise,
as long as rounds are exchangeable, and no single disturbed round moves them far.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: What each end may be passed by chance in, where there are rounds enough for it (5 and 5): 99 % for both ends.
TAIL = 0.005
#: With fewer rounds on either side nothing is said: 3 and 3 already leave 5 % beyond an end.
LEAST_ROUNDS = 3
#: More rounds than that are thinned evenly: the exact distribution and all ratios would take long.
MOST_ROUNDS = 60
#: Of a time, and of the logarithm of a factor: a damaged file may claim anything.
LEAST, FARTHEST = 1e-300, 600.0


@dataclass(frozen=True)
class Bounds:
    """factor: new over old, above 1 is slower. low, high: its ends. tail: the chance to lie beyond one of them."""

    factor: float
    low: float
    high: float
    tail: float

    @property
    def confidence(self) -> float:
        """Of both ends together."""
        return 1 - 2 * self.tail


def bounds(new: Sequence[float], old: Sequence[float]) -> Bounds | None:
    """Of two series of positive numbers, one for each round; None for less than `LEAST_ROUNDS` of either."""
    if min(len(new), len(old)) < LEAST_ROUNDS:
        return None
    new_logs, old_logs = (np.log(np.maximum(_thinned(series), LEAST)) for series in (new, old))
    differences = np.sort((new_logs[:, None] - old_logs[None]).ravel())
    dropped, tail = _dropped(len(new_logs), len(old_logs))
    ends = np.array([np.median(differences), differences[dropped], differences[-1 - dropped]])
    factor, low, high = np.exp(np.clip(ends, -FARTHEST, FARTHEST))
    return Bounds(float(factor), float(low), float(high), tail)


def _thinned(series: Sequence[float]) -> np.ndarray:
    values = np.asarray(series, np.float64)
    if len(values) <= MOST_ROUNDS:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_ROUNDS).round().astype(int)]


@functools.cache
def _dropped(new: int, old: int) -> tuple[int, float]:
    """How many of the ordered differences are left out at each end, and the chance that remains beyond."""
    below = np.cumsum(_arrangements(new, old)) / _arrangements(new, old).sum()  # P(U <= k)
    dropped = max(int(np.searchsorted(below, TAIL, "right")) - 1, 0)
    return dropped, float(below[dropped])


@functools.cache
def _arrangements(new: int, old: int) -> np.ndarray:
    """In how many orders of both series together Mann and Whitney's U is 0, 1, ... new * old (Gaussian binomial)."""
    ways = np.zeros(new * old + 1)
    ways[0] = 1.0
    for i in range(1, new + 1):
        grown = ways.copy()
        grown[old + i:] -= ways[:len(ways) - old - i]  # times (1 - q^(old + i))
        for k in range(i, len(grown)):  # over (1 - q^i)
            grown[k] += grown[k - i]
        ways = grown
    return ways
