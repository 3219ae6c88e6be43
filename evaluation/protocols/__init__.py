"""How detections are scored: one module for each protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """matched pairs, and texts and detections that count (those nobody cares about are left out)."""

    matched: int
    truths: int
    detections: int


@dataclass(frozen=True)
class Score:
    """Fractions; fscore is the harmonic mean of the other two (the competitions' hmean)."""

    precision: float
    recall: float
    fscore: float


def total(counts: Iterable[Counts]) -> Score:
    """Precision, recall and F-score over all images together; 0 where nothing was found or nothing is there."""
    counts = list(counts)
    matched = sum(c.matched for c in counts)
    precision = _fraction(matched, sum(c.detections for c in counts))
    recall = _fraction(matched, sum(c.truths for c in counts))
    return Score(precision, recall, _fraction(2 * precision * recall, precision + recall))


def _fraction(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
