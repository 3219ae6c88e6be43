"""The stages of a comparison as rows of a chart on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.comparison_report.words import (
    error,
    fixed,
    one_line,
    parts,
    percent,
    plain,
    real,
    sequence,
    tolerance,
)

#: No scale reaches beyond these powers of ten.
LOWEST, HIGHEST = -12, 4


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from 10^low to 10^high."""

    low: int
    high: int

    def place(self, value: float | None) -> float | None:
        """Where a value lies, in percent of the axis; 0 for 0, None for no value."""
        if value is None:
            return None
        if value <= 0:
            return 0.0
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places in percent, with what is written there."""
        step = 1 if self.high - self.low <= 5 else 2
        powers = range(self.low, self.high + 1, step)
        return [(round(100 * (power - self.low) / (self.high - self.low), 2), "1" if power == 0 else f"1e{power}")
                for power in powers]

    @property
    def decades(self) -> int:
        return self.high - self.low


def scale_of(values: Iterable[float | None]) -> Scale:
    """An axis on which all values have a place, a bit to the right of its beginning."""
    known = [math.log10(value) for value in values if value is not None and value > 0]
    if not known:
        return Scale(-8, 0)
    low = max(LOWEST, math.floor(min(known) - 0.3))
    high = min(HIGHEST, max(math.ceil(max(known)), low + 2))
    return Scale(min(low, high - 2), high)


@dataclass(frozen=True)
class StageView:
    """state: ok, inherited, own (an error of its own), differs (whose is not known) or apart (cannot be compared).
    bars: places in percent: chained, isolated, tolerance, and A's and B's distance to float64. cells: all numbers.
    """

    stage: str
    state: str
    said: str
    chained: str
    isolated: str
    bars: Mapping[str, float | None]
    cells: tuple[str, ...]
    why: str = ""
    first: bool = False


#: Of `cells`, what stands above them, and what it is.
COLUMNS = (("max abs", "largest absolute error"), ("max rel", "largest error over the reference's largest value"),
           ("tolerance", "of max rel"), ("mean abs", "mean absolute error"),
           ("99.9 %", "the relative error that 99.9 % of the values stay below"),
           ("> 1e-3", "share of values with a greater relative error"),
           ("> 5e-3", "share of values with a greater relative error"),
           ("beyond", "values beyond the tolerance"), ("cosine", "of both maps as vectors"),
           ("its own", "max rel where the stage gets the reference's maps"),
           ("A to float64", "distance to the same network in float64, relative"),
           ("B to float64", "distance to the same network in float64, relative"),
           ("spread", "standard deviation of the reference over its largest value; near 0 the stage proves nothing"),
           ("worst at", "index of the largest error"))
_SAID = {"ok": "ok", "inherited": "inherited", "own": "own error", "differs": "differs", "apart": "not comparable"}


def stage_views(data: Mapping[str, Any]) -> tuple[list[StageView], Scale]:
    """The rows, and the axis of their bars."""
    rows = parts(data, "stages")
    names = ("max_rel", "isolated_max_rel", "tolerance", "float64_reference", "float64_candidate")
    scale = scale_of(real(row.get(name)) for row in rows for name in names)
    return [_view(row, scale, data) for row in rows], scale


def state_of(row: Mapping[str, Any], own: Iterable[Any] = ()) -> str:
    """As `StageView.state`. own: the stages with an error of their own, as far as the comparison names them."""
    if row.get("passed"):
        return "ok"
    if real(row.get("max_rel")) is None:
        return "apart"
    if row.get("isolated_passed") is None:
        return "own" if row.get("stage") in own else "differs"
    return "inherited" if row["isolated_passed"] else "own"


def _view(row: Mapping[str, Any], scale: Scale, data: Mapping[str, Any]) -> StageView:
    stage, state = row.get("stage"), state_of(row, sequence(data, "own_errors"))
    bars = {"chained": "max_rel", "isolated": "isolated_max_rel", "tolerance": "tolerance",
            "float64_a": "float64_reference", "float64_b": "float64_candidate"}
    return StageView(one_line(stage if stage is not None else "?"), state, _SAID[state], error(row.get("max_rel")),
                     error(row.get("isolated_max_rel")),
                     {name: scale.place(real(row.get(field))) for name, field in bars.items()}, cells(row),
                     one_line(row.get("why") or ""), stage is not None and stage == data.get("first_divergence"))


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The numbers of one stage, as `COLUMNS` names them."""
    size, worst = real(row.get("size")), sequence(row, "worst_index")
    beyond = plain(row.get("mismatched")) + (f" of {plain(size)}" if size else "")
    return (error(row.get("max_abs")), error(row.get("max_rel")), tolerance(row.get("tolerance")),
            error(row.get("mean_abs")), error(row.get("q999")), percent(row.get("share_1e3")),
            percent(row.get("share_5e3")), beyond, fixed(row.get("cosine"), 7), error(row.get("isolated_max_rel")),
            error(row.get("float64_reference")), error(row.get("float64_candidate")),
            fixed(row.get("reference_spread"), 3), ", ".join(plain(index) for index in worst))
