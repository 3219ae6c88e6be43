"""Two detectors scored on the same images by the same protocols: by how much their F-scores differ, and whether they
are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation.equivalence import LEVEL, Equivalence, Verdict, check_margin, equivalence, never_apart
from evaluation.paired_bootstrap import Interval, Spread, spreads
from evaluation.protocols import Result, Score
from evaluation.protocols.table import score


@dataclass(frozen=True)
class ProtocolComparison:
    """Two detectors by one protocol. interval_a, interval_b: 95 %, as `Result.interval`. difference: B - A. interval,
    interval_90: of the difference in F, 95 and 90 %. images_apart: how many of the images are counted differently.
    note: what may be said of it where none is. same_f: the equivalence test, if a margin was given.
    """

    title: str
    a: Score
    b: Score
    interval_a: Mapping[str, Interval]
    interval_b: Mapping[str, Interval]
    interval: Interval
    interval_90: Interval
    images_apart: int
    note: str | None
    same_f: Equivalence | None

    @property
    def difference(self) -> Score:
        return Score(self.b.precision - self.a.precision, self.b.recall - self.a.recall, self.b.fscore - self.a.fscore)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        sides = {name: asdict(side) | {"interval": {field: list(ends) for field, ends in interval.items()}}
                 for name, side, interval in (("a", self.a, self.interval_a), ("b", self.b, self.interval_b))}
        return {"title": self.title, **sides, "difference": asdict(self.difference), "interval": list(self.interval),
                "interval_90": list(self.interval_90), "images_apart": self.images_apart, "note": self.note,
                "same_f": asdict(self.same_f) if self.same_f else None}


@dataclass(frozen=True)
class ScoreComparison:
    """Two detectors on the same images, by protocol."""

    images: int
    protocols: Mapping[str, ProtocolComparison]

    def verdict(self, protocol: str | None = None) -> Verdict | None:
        """Of one protocol, or of all together: different if one is, the same if all are. None without a margin."""
        chosen = [self.protocols[protocol]] if protocol is not None else list(self.protocols.values())
        found = {compared.same_f.verdict for compared in chosen if compared.same_f}
        order: tuple[Verdict, ...] = ("different", "not shown", "same")
        return next((verdict for verdict in order if verdict in found), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: images, protocols."""
        return {"images": self.images, "protocols": {name: one.to_dict() for name, one in self.protocols.items()}}


def compare_scores(samples: Sequence[Sample], found_a: Sequence[Sequence[Detection]],
                   found_b: Sequence[Sequence[Detection]], protocols: Iterable[str],
                   same_f: float | None = None) -> ScoreComparison:
    """Scores what A and B found in the image of each sample by each protocol, and compares image by image.

    same_f: margin of the equivalence test, a fraction. Raises DbnetError for an unknown protocol, no images, or a
    margin that is no fraction; ValueError if there are not as many lists of detections as samples.
    """
    check_margin(same_f)
    names = tuple(protocols)
    return compare_results(score(names, samples, found_a), score(names, samples, found_b), same_f)


def compare_results(a: Mapping[str, Result], b: Mapping[str, Result], same_f: float | None = None) -> ScoreComparison:
    """`compare_scores` of counts made already: the same protocols on the same images in the same order.

    Raises DbnetError for no images or a margin that is no fraction, ValueError for counts that do not belong together.
    """
    check_margin(same_f)
    if not a or list(a) != list(b) or any(a[name].counts.shape != b[name].counts.shape for name in a):
        raise ValueError("the counts of two detectors must be of the same protocols and images")
    images = len(next(iter(a.values())).counts)
    if not images:
        raise DbnetError("no images to compare scores on")
    found = spreads([(a[name].counts, b[name].counts) for name in a])
    return ScoreComparison(images, {name: _compared(a[name], b[name], spread, same_f)
                                    for name, spread in zip(a, found, strict=True)})


def _compared(a: Result, b: Result, spread: Spread, margin: float | None) -> ProtocolComparison:
    return ProtocolComparison(
        a.protocol.title, a.score, b.score, a.interval(), b.interval(), spread.interval(LEVEL / 2),
        spread.interval(LEVEL), spread.apart, None if spread.apart else never_apart(spread.images),
        None if margin is None else equivalence(spread, margin))
