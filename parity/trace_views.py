"""A stage of one image, recorded or computed just now, and the comparison of two of them with what both have.

Equal digests are equality, bit for bit. Else values are compared where both sides have them all, samples where both
have those, and otherwise statistics, which show how large the largest error is at least: a value of a statistic cannot
move further than the values that it was made from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from dbnet.errors import DbnetError
from parity.compare import Comparison, compare
from parity.trace import Trace
from parity.trace_statistics import (
    FIELDS,
    GROUP_PART,
    SAMPLE,
    SKETCH,
    SKETCH_PART,
    TILE_PART,
    sample_of,
    sample_places,
    sha256_of,
    statistics_of,
)

#: Of a root mean square that a sketch estimates, what is left for sure: three standard deviations less.
_SURE = 1 - 3 * math.sqrt(2 / SKETCH) / 2


class View:
    """A map (N, C, H, W) float32 that is at hand; what is derived from it is derived when it is asked for."""

    def __init__(self, array: np.ndarray):
        self.full: np.ndarray | None = np.asarray(array, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.full is not None
        return self.full.shape

    @cached_property
    def sha256(self) -> str:
        assert self.full is not None
        return bytes(sha256_of(self.full)).hex()

    @cached_property
    def statistics(self) -> np.ndarray:
        assert self.full is not None
        return statistics_of(self.full)

    @cached_property
    def sample(self) -> np.ndarray | None:
        assert self.full is not None
        return sample_of(self.full)


class Recorded(View):
    """A map of a trace, of which not all need be there."""

    def __init__(self, trace: Trace, image: int, stage: str):
        self._trace, self._at = trace, (image, stage)
        self.full = trace.full(image, stage)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._trace.shape(*self._at)

    @cached_property
    def sha256(self) -> str:
        return self._trace.sha256(*self._at)

    @cached_property
    def statistics(self) -> np.ndarray:
        return self._trace.statistics(*self._at)

    @cached_property
    def sample(self) -> np.ndarray | None:
        return self._trace.sample(*self._at)


@dataclass(frozen=True)
class _Known:
    """Of the reference: its largest value, what errors are relative to, and its spread."""

    scale: float
    spread: float


def compare_views(stage: str, reference: View, candidate: View, tolerance: float, least: float = 0.0) -> Comparison:
    """Like `parity.compare.compare`, from what both sides have. Raises DbnetError for other shapes, NaN or Inf."""
    if reference.shape != candidate.shape:
        raise DbnetError(f"{stage}: shapes differ, {reference.shape} and {candidate.shape}")
    for who, view in (("reference", reference), ("candidate", candidate)):
        if view.statistics[FIELDS.index("not_finite")]:
            raise DbnetError(f"{stage}: the {who} holds NaN or Inf")
    known = _known(reference.statistics, least)
    if reference.sha256 == candidate.sha256:
        return Comparison(stage, 0.0, 0.0, 0, math.prod(reference.shape), (0,) * 4, known.spread, tolerance, True, 0.0,
                          0.0, 0.0, 0.0, 1.0, "digest")
    if reference.full is not None and candidate.full is not None:
        return compare(stage, reference.full, candidate.full, tolerance, constant_is_known=True, least=least)
    bound = least_error(reference.statistics, candidate.statistics)
    if reference.sample is None or candidate.sample is None:
        return _bounded(stage, bound, known, tolerance, "statistics")
    found = _sampled(stage, reference, candidate, known, tolerance, least)
    if bound <= found.max_abs:
        return found
    return replace(found, max_abs=bound, max_rel=bound / known.scale, passed=bound / known.scale <= tolerance)


def least_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    """What two rows of statistics (WIDTH,) show of the largest error: it is at least that."""
    # The least, the largest and the mean of the same values cannot be further apart than the values.
    together = [FIELDS.index(name) for name in ("min", "max", "mean")]
    plain = [np.abs(reference[part] - candidate[part]).max() for part in (together, TILE_PART, GROUP_PART)]
    size = reference[FIELDS.index("size")]
    apart = reference[SKETCH_PART] - candidate[SKETCH_PART]
    rms = math.sqrt(float(sum(apart * apart))) / math.sqrt(size)  # Python's sum adds in order, everywhere
    return max(*map(float, plain), _SURE * rms)


def _known(statistics: np.ndarray, least: float) -> _Known:
    low, high, std = (float(statistics[FIELDS.index(name)]) for name in ("min", "max", "std"))
    largest = max(abs(low), abs(high))
    return _Known(max(largest, least) or 1.0, std / largest if largest else 0.0)


def _bounded(stage: str, bound: float, known: _Known, tolerance: float,
             basis: Literal["sample", "statistics"]) -> Comparison:
    relative = bound / known.scale
    unknown = math.nan
    return Comparison(stage, bound, relative, int(relative > tolerance), 0, (), known.spread, tolerance,
                      relative <= tolerance, unknown, unknown, unknown, unknown, unknown, basis)


def _sampled(stage: str, reference: View, candidate: View, known: _Known, tolerance: float, least: float,
             ) -> Comparison:
    """Of the values in both samples; all that is relative is relative to the whole map's largest value."""
    size = math.prod(reference.shape)
    places = sample_places(size, SAMPLE)
    assert reference.sample is not None and candidate.sample is not None
    ours, theirs = (np.asarray(view.sample)[:len(places)].reshape(1, 1, 1, -1) for view in (reference, candidate))
    found = compare(stage, ours, theirs, tolerance, constant_is_known=True, least=max(known.scale, least))
    # `compare` takes the sample's own largest value where that is larger than `least`: it never is.
    worst = np.unravel_index(int(places[found.worst_index[-1]]), reference.shape)
    return replace(found, reference_spread=known.spread, worst_index=tuple(int(i) for i in worst), basis="sample")
