"""The numbers of a page's plots, as places in per cent of their width; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.bench_report.changes import Change, Compared
from evaluation.bench_report.columns import cell, number
from evaluation.bench_report.table import INFERENCE, Line

#: Bars of a plot at most; the table has all.
MOST = 60
#: Height of a bar with its gap, in units of the drawing, whose width is WIDTH of which LEFT is for names.
STEP, WIDTH, LEFT = 26, 1000, 380


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """top: of the bar. parts: (from, to, kind) along the axis. dots: single rounds. text: at its end. seed: the seed's.
    """

    name: str
    top: float
    parts: tuple[tuple[float, float, str], ...]
    dots: tuple[float, ...]
    text: str
    seed: bool = False
    bad: bool = False

    @property
    def end(self) -> float:
        """Where the text begins."""
        return max([*(part[1] for part in self.parts), *self.dots])


@dataclass(frozen=True)
class Plot:
    """title, lead: what it shows. ticks: of the axis. one: where nothing changed, None where there is no such place."""

    key: str
    title: str
    lead: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...] = ()
    one: float | None = None
    left_out: int = 0

    @property
    def height(self) -> float:
        return STEP * len(self.bars) + 34


def plots(lines: Sequence[Line], compared: Compared | None) -> list[Plot]:
    """Those that have something to show."""
    found = [_changes(compared), _rates(lines, INFERENCE), _rates(lines, "training"), _parts(lines), _scores(lines)]
    return [plot for plot in found if plot is not None and plot.bars]


def _place(value: float, top: float) -> float:
    """On an axis from 0 to `top`, in units of the drawing."""
    return LEFT + (WIDTH - LEFT - 90) * min(max(value / top, 0.0), 1.0)


def _ticks(top: float, unit: str = "") -> tuple[Tick, ...]:
    step = 10.0 ** math.floor(math.log10(top))
    step = next(step * part for part in (0.2, 0.5, 1, 2, 5) if top / (step * part) <= 6)
    count = int(top / step + 1e-9)
    return tuple(Tick(_place(i * step, top), f"{i * step:g}{unit}") for i in range(count + 1))


def _name(line: Line) -> str:
    who = [line.model, line.backbone, line.machine, "" if line.is_seed else line.runner]
    size = "" if line.shape is None else "x".join(map(str, line.shape))
    how = f"{line.cards} card{'s' * (line.cards != 1)}, batch {line.batch}" if line.is_seed else \
        ", ".join(filter(None, [size, f"batch {line.batch}" * (line.batch != 1)]))
    return cell(" · ".join(filter(None, [*who, how])))


def _rates(lines: Sequence[Line], task: str) -> Plot | None:
    shown = [line for line in lines if line.task == task and line.img_s and 0 < line.img_s < math.inf]
    if not shown:
        return None
    top = max(max([float(line.img_s or 0), *_rounds(line)[:MOST]]) for line in shown)
    bars = []
    for i, line in enumerate(shown[:MOST]):
        bars.append(Bar(_name(line), STEP * i, ((LEFT, _place(float(line.img_s or 0), top), "rate"),),
                        tuple(_place(rate, top) for rate in _rounds(line)[:MOST]), number(line.img_s), line.is_seed))
    lead = "Images a second from file to boxes; a dot is one round." if task == INFERENCE else \
        "Images a second in training, of all cards."
    return Plot(task, task.capitalize(), lead, tuple(bars), _ticks(top), left_out=len(shown) - len(bars))


def _rounds(line: Line) -> tuple[float, ...]:
    """Images a second of every round."""
    told = line.figures
    rounds = () if told is None or line.task != INFERENCE else told.rounds or told.network_rounds
    return tuple(rate for rate in rounds if math.isfinite(rate))


def _parts(lines: Sequence[Line]) -> Plot | None:
    """Where a batch's time goes, medians side by side."""
    kinds = ("pixels", "network", "boxes")
    shown = [line for line in lines if line.figures is not None and line.task == INFERENCE
             and any(getattr(line.figures, kind) for kind in kinds)]
    sums, bars = [], []
    for line in shown:
        sums.append([1000 * (part.p50 if (part := getattr(line.figures, kind)) else 0.0) for kind in kinds])
    if not sums or not (top := max(map(sum, sums))) > 0:
        return None
    for i, (line, values) in enumerate(zip(shown[:MOST], sums[:MOST], strict=True)):
        ends = [_place(sum(values[:k]), top) for k in range(4)]
        bars.append(Bar(_name(line), STEP * i, tuple((ends[k], ends[k + 1], kinds[k]) for k in range(3)), (),
                        f"{number(sum(values))} ms"))
    return Plot("parts", "Where the time goes", "Medians of one batch, in milliseconds.", tuple(bars), _ticks(top),
                tuple((kind, kind) for kind in kinds), left_out=len(shown) - len(bars))


def _scores(lines: Sequence[Line]) -> Plot | None:
    shown = [line for line in lines if line.fscore is not None and 0 <= line.fscore <= 1]
    if not shown:
        return None
    bars = []
    for i, line in enumerate(shown[:MOST]):
        ends = () if line.interval is None else ((*(_place(end, 1) for end in line.interval), "interval"),)
        score = float(line.fscore or 0)
        bars.append(Bar(f"{_name(line)} · {cell(line.data)}", STEP * i, ((LEFT, _place(score, 1), "rate"), *ends), (),
                        f"{100 * score:.2f}% {cell(line.protocol)}", line.is_seed))
    return Plot("scores", "F-score", "With its 95 % interval where it was measured here. Scores by different protocols "
                "or on different data are not comparable.", tuple(bars), _ticks(1.0), left_out=len(shown) - len(bars))


def _changes(compared: Compared | None) -> Plot | None:
    """Factors of times on a logarithmic axis, with their noise bounds."""
    shown = [change for change in compared.changes if change.factor is not None] if compared else []
    if not shown:
        return None
    far = max(max(abs(math.log(change.factor.low)), abs(math.log(change.factor.high)))  # type: ignore[union-attr]
              for change in shown)
    far = min(max(far, math.log(1.5)), math.log(1e3))
    bars = tuple(_change(i, change, far) for i, change in enumerate(shown[:MOST]))
    steps = [factor for factor in (1e-2, 0.1, 0.25, 0.5, 0.8, 1, 1.25, 2, 4, 10, 100) if abs(math.log(factor)) <= far]
    ticks = tuple(Tick(_log_place(factor, far), f"{factor:g}") for factor in steps)
    return Plot("changes", "Now against then", "Time now over time then: right of 1 is slower. The bar is the noise "
                "bounds of the rounds, the dot their estimate.", bars, ticks, one=_log_place(1.0, far),
                left_out=len(shown) - len(bars))


def _log_place(factor: float, far: float) -> float:
    return _place((math.log(factor) + far) / (2 * far), 1.0)


def _change(i: int, change: Change, far: float) -> Bar:
    factor = change.factor
    assert factor is not None
    low, at, high = (_log_place(value, far) for value in (factor.low, factor.factor, factor.high))
    return Bar(cell(f"{change.model} · {change.machine} · {change.runner} · {change.what}"), STEP * i,
               ((low, high, "worse" if change.is_regression else "interval"),), (at,),
               f"{factor.factor:.2f}{f' {change.verdict}' * change.is_regression}", bad=change.is_regression)
