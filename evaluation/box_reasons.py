"""Why a box of one model is not the same in another: the pixels that decided, the score, the size, or the box rule.

Under one rule a box depends on its map through the bitmap alone, and whether it is kept also on its score: if no pixel
in its surroundings is text in one map only, its corners are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from dbnet.sample import Detection
from dbnet.spec import BoxRule
from evaluation.box_evidence import (
    A_FIRST,
    B_FIRST,
    MapReader,
    Pixel,
    both_values,
    covered_shares,
    deciding_pixels,
    dropped_box,
    seen_pixels,
    what_became,
)
from evaluation.box_pairs import Pairs

#: Differences told of one image, or of all: the worst. Pixels told of one of them: the nearest.
MOST, MOST_PIXELS = 100, 5

Kind = Literal["moved", "lost", "invented"]
Decider = Literal["pixels", "score", "size", "max_candidates", "rule"]
Rank = tuple[bool, float]


@dataclass(frozen=True, eq=False)
class OneSide:
    """One model on an image: its map (H, W) float32, of which the image covers `covered` (height, width) at the top
    left; the rule that its boxes come from; and these, in pixels of the image, as `boxes_from_map` orders them.
    """

    probability: np.ndarray
    covered: tuple[int, int]
    rule: BoxRule
    boxes: list[Detection]


@dataclass(frozen=True, eq=False)
class BoxDifference:
    """A box that is not the same in both. a, b: its outlines (P, 2) in pixels of the image, None where there is none.
    score_a, score_b: fractions, also of a box that was dropped for its score. shift: as `Pairs`. decided_by: None if
    nothing was found. why: one line. pixels: those that decided, the nearest first. from_threshold: how far the values
    that decided are from their threshold at most.
    """

    kind: Kind
    a: np.ndarray | None
    b: np.ndarray | None
    score_a: float | None
    score_b: float | None
    shift: float | None
    decided_by: Decider | None
    why: str
    pixels: tuple[Pixel, ...] = ()
    from_threshold: float | None = None

    @property
    def rank(self) -> Rank:
        """The higher, the worse: a box more or less by its score, before one that moved by its shift."""
        return self.shift is None, self.shift if self.shift is not None else max(self.score_a or 0, self.score_b or 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        outlines = {side: None if polygon is None else polygon.tolist() for side, polygon in (
            ("a", self.a), ("b", self.b))}
        return {"kind": self.kind, **outlines, "score_a": self.score_a, "score_b": self.score_b, "shift": self.shift,
                "decided_by": self.decided_by, "why": self.why, "pixels": [asdict(pixel) for pixel in self.pixels]}


def differences(a: OneSide, b: OneSide, pairs: Pairs, most: int | None = MOST, above: Rank | None = None,
                ) -> list[BoxDifference]:
    """Every box that moved, was lost or invented, with its reason; the `most` worst, the worst first. above: those of
    higher rank alone, for a reason costs time and is not looked for where nobody will read it.

    Maps of two sizes, or that show the image at two sizes, have no pixels in common: then there is no reason.
    """
    bare = [one for one in _bare(a, b, pairs) if above is None or one[0].rank > above]
    bare = sorted(bare, key=lambda difference: difference[0].rank, reverse=True)[:most]
    if not bare:
        return []
    apart = _places_apart(a, b)
    if apart:
        return [replace(difference, why=apart) for difference, *_ in bare]
    readers = MapReader(a.probability, a.rule), MapReader(b.probability, b.rule)
    under_a, under_b = readers, readers
    if a.rule != b.rule:
        under_a = readers[0], MapReader(b.probability, a.rule)
        under_b = MapReader(a.probability, b.rule), readers[1]
    found = []
    for difference, i, j in bare:
        outlines = [reader.kept[at].polygon for reader, at in zip(readers, (i, j), strict=True) if at is not None]
        views, names = (under_b[::-1], B_FIRST) if i is None else (under_a, A_FIRST)
        found.append(_explained(difference, views[0], views[1], names, outlines,
                                _told(a.rule, b.rule) if a.rule != b.rule else ""))
    return found


def _bare(a: OneSide, b: OneSide, pairs: Pairs) -> Iterator[tuple[BoxDifference, int | None, int | None]]:
    """The differences without reasons, and which boxes of A and B they are."""
    for i, j, shift in pairs.moved:
        yield BoxDifference("moved", a.boxes[i].polygon, b.boxes[j].polygon, a.boxes[i].score, b.boxes[j].score, shift,
                            None, ""), i, j
    for i in pairs.lost:
        yield BoxDifference("lost", a.boxes[i].polygon, None, a.boxes[i].score, None, None, None, ""), i, None
    for j in pairs.invented:
        yield BoxDifference("invented", None, b.boxes[j].polygon, None, b.boxes[j].score, None, None, ""), None, j


def _places_apart(a: OneSide, b: OneSide) -> str:
    for what, sizes in (("the maps have two sizes", (a.probability.shape, b.probability.shape)),
                        ("the image has two sizes in the maps", (a.covered, b.covered))):
        if sizes[0] != sizes[1]:
            told = " and ".join(f"{height} x {width}" for height, width in sizes)
            return f"{what}, {told}, so that no pixel of one is a pixel of the other"
    return ""


def _explained(difference: BoxDifference, here: MapReader, there: MapReader, names: tuple[str, str],
               outlines: list[np.ndarray], rules: str) -> BoxDifference:
    """With the reason. here: the side that has the box, `names[0]`. rules: how the two rules differ, if they do."""
    outline, rule = outlines[0], here.rule
    if rules and any(np.array_equal(outline, box.polygon) for box in there.kept):
        return replace(difference, decided_by="rule", why=f"under the box rule of {names[0]} the map of {names[1]} "
                                                          f"gives the same box: {rules}")
    pixels = deciding_pixels(here, there, names, outlines, MOST_PIXELS)
    difference = replace(difference, pixels=pixels.nearest, from_threshold=pixels.from_threshold)
    around = there.near(outline)
    seen = seen_pixels(pixels, rule)
    dropped = None if difference.kind == "moved" else dropped_box(outline, around, rule)
    if dropped is not None:
        return _by_score(difference, dropped.score, names, rule, seen)
    if not pixels.count:
        if len(there.contours) > rule.max_candidates:
            return replace(difference, decided_by="max_candidates", why=(
                f"{names[1]} has {len(there.contours)} texts, of which max_candidates, {rule.max_candidates}, are "
                f"looked at"))
        return replace(difference, why="no pixel around it is text in one map only, and no score decides")
    if difference.kind == "moved":
        return replace(difference, decided_by="pixels", why=seen)
    remains = None if any(covered_shares(outline, around)) else there.remains(outline)
    if remains is not None:
        return replace(difference, decided_by="size", why=(
            f"too small for a box in {names[1]}, {remains[0]:.1f} x {remains[1]:.1f} pixels between the outermost: "
            f"{seen}"))
    return replace(difference, decided_by="pixels", why=what_became(outline, around, there, names[1]) + seen)


def _by_score(difference: BoxDifference, dropped: float, names: tuple[str, str], rule: BoxRule,
              seen: str) -> BoxDifference:
    own = difference.score_a if names == A_FIRST else difference.score_b
    assert own is not None
    scores = dict(zip(names, (own, dropped), strict=True))
    distance = max(abs(value - rule.box_thresh) for value in scores.values())
    if difference.from_threshold is not None:  # a pixel that changes sides changes the score
        distance = min(distance, difference.from_threshold)
    why = (f"score {both_values(scores['A'], scores['B'], rule.box_thresh)}, box_thresh {rule.box_thresh:g}"
           + (f"; {seen}" if seen else ""))
    return replace(difference, decided_by="score", why=why, score_a=scores["A"], score_b=scores["B"],
                   from_threshold=distance)


def _told(a: BoxRule, b: BoxRule) -> str:
    """What two rules differ in."""
    ours, theirs = asdict(a), asdict(b)
    return ", ".join(f"{name} {ours[name]} in A, {theirs[name]} in B" for name in ours if ours[name] != theirs[name])
