"""Comparing two arrays so that the comparison can fail, and saying where two models part.

All sums are those of `dbnet.sums`: the same arrays give the same digits on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dbnet.errors import DbnetError
from dbnet.spec import STAGES, TRAINING_STAGES
from dbnet.sums import length, mean, total
from parity.tolerances import Tolerances

#: A reference that spreads less than this share of its largest value proves nothing: everything matches a constant.
LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class Comparison:
    """One stage of two models. Errors are absolute, `max_rel` relative to the reference's largest value.

    mismatched: values beyond `tolerance` (relative to that largest value); size: values compared; worst_index: where
    the largest error is; reference_spread: standard deviation of the reference over its largest value.
    mean_abs: of the error. q999: the error that 99.9 % of the values stay below, share_1e3 and share_5e3: the share of
    values with a greater error than 1e-3 and 5e-3, all three relative to the largest value. cosine: of both maps as
    vectors. basis: what it was made from. `all` the values; `digest`: nothing else, since both maps are the same bit
    for bit; `sample` or `statistics` of a trace: then `max_abs` is the least that the largest error can be, and what is
    not known is NaN.
    """

    stage: str
    max_abs: float
    max_rel: float
    mismatched: int
    size: int
    worst_index: tuple[int, ...]
    reference_spread: float
    tolerance: float
    passed: bool
    mean_abs: float
    q999: float
    share_1e3: float
    share_5e3: float
    cosine: float
    basis: Literal["all", "digest", "sample", "statistics"] = "all"


def compare(stage: str, reference: np.ndarray, candidate: np.ndarray, tolerance: float,
            constant_is_known: bool = False, least: float = 0.0) -> Comparison:
    """Compares in float64. least: what errors are relative to at least, where the largest value is less than that.

    Raises DbnetError for different shapes, NaN or Inf, and for a reference that is constant (unless that is a known,
    listed exception): such a comparison could not fail.
    """
    if reference.shape != candidate.shape:
        raise DbnetError(f"{stage}: shapes differ, {reference.shape} and {candidate.shape}")
    if reference.size == 0:
        raise DbnetError(f"{stage}: is empty, nothing to compare")
    wide, other = reference.astype(np.float64), candidate.astype(np.float64)
    for who, array in (("reference", wide), ("candidate", other)):
        if not np.isfinite(array).all():
            raise DbnetError(f"{stage}: the {who} holds NaN or Inf")
    scale = float(np.abs(wide).max())
    spread = length(wide - mean(wide)) / math.sqrt(wide.size) / scale if scale else 0.0
    if spread < LEAST_SPREAD and not constant_is_known:
        raise DbnetError(f"{stage}: the reference is constant (spread {spread:.1e}); comparing with it proves nothing")
    error = np.abs(wide - other)
    worst = int(error.argmax())
    relative = error / (max(scale, least) or 1.0)
    mismatched = int((relative > tolerance).sum())
    return Comparison(stage, float(error.flat[worst]), float(relative.flat[worst]), mismatched, error.size,
                      tuple(int(i) for i in np.unravel_index(worst, error.shape)), spread, tolerance, mismatched == 0,
                      mean(error), _quantile(relative, 0.999), _share(relative > 1e-3), _share(relative > 5e-3),
                      _cosine(wide, other))


def _quantile(values: np.ndarray, share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    place = min(values.size - 1, int(np.ceil(share * values.size)) - 1)
    return float(np.partition(values, place, axis=None)[place])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two maps as vectors; 1 if both are 0, 0 if one is."""
    lengths = length(a) * length(b)
    if not lengths:
        return float(not a.any() and not b.any())
    return total(a * b) / lengths


def _share(chosen: np.ndarray) -> float:
    """Of True."""
    return int(np.count_nonzero(chosen)) / chosen.size


def compare_stages(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray],
                   tolerances: Tolerances, known_constant: Sequence[str] = ()) -> list[Comparison]:
    """All stages that both have, in the order in which they are computed. Raises DbnetError as `compare` does."""
    order = [*STAGES, *TRAINING_STAGES]
    stages = [name for name in order if name in reference and name in candidate]
    if not stages:
        raise DbnetError("the two models have no stage in common")
    return [compare(name, reference[name], candidate[name], tolerances.of(name), name in known_constant)
            for name in stages]


def first_divergence(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The first stage that fails, in order; everything behind it may only have inherited its error."""
    return next((c for c in comparisons if not c.passed), None)
