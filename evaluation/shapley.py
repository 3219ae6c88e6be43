"""Shares of a total among parts that act together, which add up to it exactly (Shapley 1953)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def shapley(values: Sequence[Fraction | float | int]) -> list[Fraction]:
    """The share of each of n parts in `values[-1] - values[0]`, exact.

    values: 2^n of them; bit i of a place says whether part i is in. A part's share is what it adds to the parts before
    it, averaged over all orders of the parts: parts that do the same get the same, one that never adds anything gets 0.
    Raises ValueError for another number of values.
    """
    exact = [Fraction(value) for value in values]
    count = max(len(exact).bit_length() - 1, 0)
    if len(exact) != 1 << count:
        raise ValueError(f"{len(exact)} values are not those of all sets of parts")
    orders = [Fraction(math.factorial(size) * math.factorial(count - 1 - size), math.factorial(count))
              for size in range(count)]
    return [sum((orders[before.bit_count()] * (exact[before | 1 << part] - exact[before])
                 for before in range(1 << count) if not before & 1 << part), Fraction())
            for part in range(count)]


def apportioned(values: Sequence[Fraction]) -> list[int]:
    """`values` as whole numbers that add up to their sum, rounded: each is less than 1 off (largest remainders)."""
    whole = [math.floor(value) for value in values]
    missing = round(sum(values, Fraction())) - sum(whole)
    order = sorted(range(len(values)), key=lambda i: whole[i] - values[i])
    for i in order[:missing]:
        whole[i] += 1
    return whole
