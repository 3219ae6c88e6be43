"""`dbnet report check`: whether a bundle's figures follow from what it keeps, to the last digit.

Three steps, each of which a changed bundle can fail: the detections are those of their digests; F-scores and intervals
follow from the counts of every image; and the counts follow from the detections and the labels, which are no part of a
bundle (drawn scenes are drawn again).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.sample import Detection, Sample
from evaluation.bench_report.check_parity import parity_told
from evaluation.bench_report.scoring import counts_of, protocol_of, scores_of
from evaluation.benching.bundle import Bundle, Scores, detections_digest
from evaluation.protocols import COLUMNS
from evaluation.store import detection_of

#: Corners of an outline, and pixels that it can be away: what a damaged file may claim.
MOST_POINTS, FARTHEST = 10_000, 1e7


@dataclass(frozen=True)
class Finding:
    """A figure that does not come out again. row: in words. kept: what the bundle says; found: what it should."""

    row: str
    figure: str
    kept: str
    found: str

    def __str__(self) -> str:
        return f"{self.row}: {self.figure}: {self.kept} in the bundle, {self.found} from what it keeps"


@dataclass
class Checked:
    """rows: of each in words, by which protocol, and its F-score as it came out. rescored: how many from labels."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    rescored: int = 0
    findings: list[Finding] = field(default_factory=list)

    def compare(self, row: str, figure: str, kept: object, found: object) -> bool:
        """Notes a difference."""
        if kept != found:
            self.findings.append(Finding(row, figure, shown_value(kept), shown_value(found)))
        return kept == found


def check_bundle(bundle: Bundle, samples: Sequence[Sample] | None) -> Checked:
    """samples: the labels of its images, in the order of their names; None leaves the last step out.

    Raises DbnetError for what cannot be checked: an unknown protocol, outlines that are none.
    """
    checked = Checked()
    found = {key: [_detections(key, image) for image in images] for key, images in bundle.detections.items()}
    for number, row in enumerate(bundle.rows):
        words = told_row(bundle, number)
        own = None if row.detections is None else found[row.detections]
        if row.detections is not None:
            checked.compare(words, "sha256 of the detections", row.detections,
                            detections_digest(bundle.detections[row.detections]))
        for name, scores in row.scores.items():
            _check_scores(checked, words, name, scores)
            if samples is not None and own is not None:
                _rescore(checked, words, name, scores, samples, own)
        if row.scores and own is None:
            checked.findings.append(Finding(words, "detections", "scores without any", "none"))
        for figure, kept, wanted in parity_told(bundle, number, found):
            checked.compare(words, figure, kept, wanted)
    return checked


def told_row(bundle: Bundle, number: int) -> str:
    """Which row, in words."""
    row = bundle.rows[number]
    size = "each its own size" if row.shape is None else "x".join(map(str, row.shape))
    return short(f"row {number + 1}, {bundle.model(row).file} in {row.runner} ({row.device}, {size}, batch "
                 f"{row.batch})", 160)


def shown_value(value: object) -> str:
    """Of numbers all digits."""
    return short(value, 80) if isinstance(value, str) else short(repr(value), 120)


def _detections(key: str, image: dict[str, Any]) -> list[Detection]:
    try:
        found = [detection_of(each) for each in image["detections"]]
        if not all(_is_outline(each.polygon) for each in found):
            raise ValueError("an outline that is none")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DbnetError(f"detections {key[:12]}: {short(image['name'], 80)}: one is damaged ({short(error, 80)}); "
                         f"measure again") from error
    return found


def _is_outline(polygon: np.ndarray) -> bool:
    return 3 <= len(polygon) <= MOST_POINTS and bool((np.abs(polygon) <= FARTHEST).all())


def _check_scores(checked: Checked, words: str, name: str, scores: Scores) -> None:
    """From the kept counts."""
    again = scores_of(name, counts_of(name, scores))
    for each in fields(Scores):
        if each.name != "counts":
            checked.compare(words, f"{each.name} by {name}", getattr(scores, each.name), getattr(again, each.name))
    checked.rows.append((words, name, again.fscore))


def _rescore(checked: Checked, words: str, name: str, scores: Scores, samples: Sequence[Sample],
             found: Sequence[Sequence[Detection]]) -> None:
    """From labels and detections."""
    counts = protocol_of(name).count(samples, found)
    kept = counts_of(name, scores)
    checked.rescored += 1
    if np.array_equal(counts, kept):
        return
    image, variant, column = np.argwhere(counts != kept)[0]
    checked.compare(words, f"f-score by {name}", scores.fscore, scores_of(name, counts).fscore)
    others = int((counts != kept).any(axis=(1, 2)).sum()) - 1
    where = short(samples[image].name, 80) + (f" and in {others} other images" if others else "")
    checked.findings.append(Finding(words, f"{COLUMNS[column].replace('_', ' ')} by {name} in {where}",
                                    f"{kept[image, variant, column]:g}", f"{counts[image, variant, column]:g}"))
