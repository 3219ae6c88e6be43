"""Sums that are the same to the last bit on any machine and with any NumPy.

NumPy's own add in an order that depends on its version and on the processor. These are trees of elementwise additions
in float64, which IEEE 754 settles.
"""

from __future__ import annotations

import numpy as np


def tree_sum(array: np.ndarray, axis: int) -> np.ndarray:
    """The sum along an axis, float64, in an order that depends on the length alone."""
    rows = np.moveaxis(array, axis, 0)
    if len(rows) == 0:
        return np.zeros(rows.shape[1:])
    while len(rows) > 1:
        half, odd = divmod(len(rows), 2)
        added = np.add(rows[:half], rows[half:2 * half], dtype=np.float64)
        if odd:
            added[0] += rows[-1]
        rows = added
    return np.array(rows[0], np.float64)


def total(array: np.ndarray) -> float:
    """The sum of all values."""
    return float(tree_sum(array.reshape(-1), 0))


def mean(array: np.ndarray) -> float:
    """Of all values."""
    return total(array) / array.size


def length(array: np.ndarray) -> float:
    """The Euclidean norm of all values."""
    wide = array.astype(np.float64)
    return float(np.sqrt(total(wide * wide)))
