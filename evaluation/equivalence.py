"""Are two F-scores the same? A question that few images cannot answer: that no difference was found is no answer.

The null hypothesis is that the F-scores are a margin or more apart. Two one-sided tests at 5 % (TOST, Schuirmann 1987)
must both reject it, which is to say that the 90 % interval of the difference lies within the margin on both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dbnet.errors import DbnetError
from evaluation.paired_bootstrap import ROUNDING, Spread

#: Each of the two one-sided tests errs this often; their interval holds 1 - 2 LEVEL.
LEVEL = 0.05
#: Fewer images never make two scores the same, whatever they show; and fewer never make them different.
FEWEST, FEWEST_APART = 20, 5
#: Nobody collects so many times as many images.
MOST_TIMES = 100

Verdict = Literal["same", "not shown", "different"]


@dataclass(frozen=True)
class Equivalence:
    """Whether two F-scores are less than `margin` apart. p: the larger of both one-sided p-values. why: one line."""

    margin: float
    verdict: Verdict
    p: float
    why: str


def check_margin(margin: float | None) -> None:
    """Raises DbnetError unless it is above 0 and below 1 (so also for NaN), or None."""
    if margin is not None and not 0 < margin < 1:
        raise DbnetError(f"the margin within which F-scores count as the same is a fraction above 0 and below 1, such "
                         f"as 0.001, not {margin:g}")


def equivalence(spread: Spread, margin: float) -> Equivalence:
    """The test. Different: the whole interval lies beyond the margin. Not shown: neither."""
    low, high = spread.interval(LEVEL)
    p = max(spread.p_value(margin), spread.mirrored().p_value(margin))
    told = f"the 90 % interval of the difference, {low:+.4f} to {high:+.4f}"
    if not spread.texts:
        return Equivalence(margin, "not shown", 1.0, "there is no text to find in these images, so F says nothing")
    if not spread.best:
        return Equivalence(margin, "not shown", 1.0, "neither finds a text right in these images, so F says nothing")
    if spread.images >= FEWEST_APART and (low >= margin - ROUNDING or high <= -margin + ROUNDING):
        return Equivalence(margin, "different", p, f"{told}, lies wholly beyond {margin:g}")
    if spread.images < FEWEST:
        more = max(_more(spread, margin) or 0, FEWEST - spread.images)
        return Equivalence(margin, "not shown", p, f"{spread.images} images are too few, {FEWEST} the fewest that can "
                                                   f"show it: about {more} more like these are needed")
    if -margin + ROUNDING < low and high < margin - ROUNDING:
        why = f"{told}, lies within {margin:g}" if spread.apart else _never_apart(spread)
        return Equivalence(margin, "same", p, why)
    needed = _more(spread, margin)
    missing = ("and the difference itself is about as large: more images alone will hardly show that they are the same"
               if needed is None else f"too few images: about {needed} more like these would show it")
    return Equivalence(margin, "not shown", p, f"{told}, reaches beyond {margin:g}, {missing}")


def never_apart(images: int) -> str:
    """What may be said where no image was counted differently: 3 / N is the 95 % limit of what did not happen in N (the
    rule of three, Hanley and Lippman-Hand 1983).
    """
    share = f"up to {100 * 3 / images:.2g} %" if images > 3 else "all"
    return (f"none of these {images} images is counted differently, so the interval is a point; of further images "
            f"{share} may be (95 %, rule of three)")


def _never_apart(spread: Spread) -> str:
    return (f"on these images only: {never_apart(spread.images)}, which this test cannot rule out; by one text each "
            f"that is up to {3 * spread.one_text:.4f} of F")


def _more(spread: Spread, margin: float) -> int | None:
    """How many more images like these would show it if the difference stays; None if none would, or more than
    `MOST_TIMES` as many. An interval shrinks with the root of their number.
    """
    low, high = spread.interval(LEVEL)
    needed = 0.0
    for width, room in ((high - spread.difference, margin - spread.difference),
                        (spread.difference - low, margin + spread.difference)):
        if room <= ROUNDING:
            return None
        needed = max(needed, spread.images * (width / room) ** 2)
    return max(_rounded(needed - spread.images), 1) if needed <= MOST_TIMES * spread.images else None


def _rounded(number: float) -> int:
    """Upwards, to two digits."""
    unit = 10 ** max(len(str(math.ceil(number))) - 2, 0)
    return math.ceil(number / unit) * unit
