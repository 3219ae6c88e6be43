"""--compare: what is slower or worse than it was, and whether that is more than noise.

Times: for each row the medians of its rounds, new against old, by `bounds`. A row is slower if the low end of that
factor is above 1 + MARGIN. Load that lasts for a whole run slows every round of it, which no interval over rounds can
show. So on a machine with more load than cores a row must also be slower in units of what it took to read its images in
the same rounds: the same work in both runs, which no model and no runtime is part of. Where there is no such measure (a
training step) and the load is higher than it was, a slow-down is none.
Scores: a lower F-score on the same images counts if the paired interval of the difference lies below zero.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError, short
from evaluation.bench_report.bounds import LEAST_ROUNDS, Bounds, bounds
from evaluation.bench_report.merge import Merged, check_data
from evaluation.bench_report.pairing import Found, machine_key, paired
from evaluation.bench_report.scoring import counts_of
from evaluation.bench_report.software import software
from evaluation.bench_report.table import named
from evaluation.paired_bootstrap import spreads

#: A slow-down below this is nothing that anybody would look into.
MARGIN = 0.05
#: By how much the load may be higher than in the old run, or than there are cores.
BUSIER = 0.5
SLOWER, FASTER, WORSE, BETTER = "slower", "faster", "worse", "better"
NOT_SHOWN, NOT_JUDGED, FAILS = "no difference shown", "not judged", "fails now"
#: What is timed -> its words.
TIMED = {"whole": "from file to boxes", "network": "network", "train_step": "training step"}


@dataclass(frozen=True)
class Change:
    """One figure of one row, then and now. place: index of the new source, and of its row. old, new: milliseconds of a
    batch, medians over the rounds' medians; or F-scores. factor: of times, new over old. held: the same of the times in
    units of reading the images, None where that was not looked at. interval: of the difference of F-scores. verdict:
    one of those above. why: where it is not plain. excused: slower by the rounds alone, and put down to load.
    """

    place: tuple[int, int]
    machine: str
    model: str
    runner: str
    setting: str
    what: str
    old: float | None
    new: float | None
    factor: Bounds | None = None
    held: Bounds | None = None
    interval: tuple[float, float] | None = None
    verdict: str = NOT_JUDGED
    why: str = ""
    excused: bool = False

    @property
    def is_regression(self) -> bool:
        return self.verdict in (SLOWER, WORSE, FAILS)


@dataclass(frozen=True)
class Compared:
    """changes: of the rows that both have. gone, added: rows of one only, in words. software: what changed below them.
    """

    old: tuple[str, ...]
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]
    software: tuple[str, ...]
    margin: float

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if change.is_regression]

    @property
    def excused(self) -> list[Change]:
        return [change for change in self.changes if change.excused]


def compare(new: Merged, old: Merged, margin: float = MARGIN, mixed: bool = False) -> Compared:
    """mixed: they may be of different data. Raises DbnetError if no row was measured in both on the same machine, or no
    figure can be judged.
    """
    if not mixed:
        check_data([(source.name, source.bundle) for source in (*old.sources, *new.sources)])
    pairs = paired(new, old)
    names = tuple(source.name for source in old.sources)
    if not pairs.both:
        raise DbnetError(f"--compare: nothing was measured both in {', '.join(names)} and in "
                         f"{', '.join(source.name for source in new.sources)}; {_nearest(new, old)}")
    changes = tuple(change for pair in pairs.both for change in _changes(*pair, margin))
    if all(change.verdict == NOT_JUDGED for change in changes):
        why = next((change.why for change in changes), "no times in them")
        raise DbnetError(f"--compare: no figure of {', '.join(names)} can be judged: {why}")
    return Compared(names, changes, tuple(row.words for row in pairs.gone), tuple(row.words for row in pairs.added),
                    tuple(_software(pairs.both)), margin)


def _nearest(new: Merged, old: Merged) -> str:
    """What to do about two runs that have no row in common."""
    keys = [{str(machine_key(source.bundle.machine)) for source in merged.sources} for merged in (new, old)]
    if not keys[0] & keys[1]:
        return (f"the machines are others ({', '.join(source.machine for source in old.sources)} and "
                f"{', '.join(source.machine for source in new.sources)}), whose times say nothing of a regression")
    return "measure the same models in the same runners with the same --shape, --batch and --threads"


def _changes(then: Found, now: Found, margin: float) -> list[Change]:
    if now.row.error and not then.row.error:
        return [_change(then, now, "runs at all", None, None, verdict=FAILS, why=now.row.error)]
    timed = [_timed(then, now, part, margin) for part in TIMED
             if getattr(then.row.seconds, part) and getattr(now.row.seconds, part)]
    return timed + [_scored(then, now, name) for name in then.row.scores if name in now.row.scores]


def _change(then: Found, now: Found, what: str, old: float | None, new: float | None, **told: Any) -> Change:
    return Change(now.place, now.source.machine, " ".join(filter(None, named(now.model))), now.row.runner, now.setting,
                  what, old, new, **told)


def _timed(then: Found, now: Found, part: str, margin: float) -> Change:
    old, new = (_medians(getattr(found.row.seconds, part)) for found in (then, now))
    raw = bounds(new, old)
    told: dict[str, Any] = {"factor": raw}
    if raw is None:
        told |= {"verdict": NOT_JUDGED, "why": f"{len(old)} and {len(new)} rounds, at least {LEAST_ROUNDS} of each are "
                                               f"needed: dbnet bench --rounds"}
    else:
        told |= _judged(then, now, part, raw, margin)
    return _change(then, now, TIMED[part], 1000 * statistics.median(old), 1000 * statistics.median(new), **told)


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(calls) for calls in rounds if calls]


def _judged(then: Found, now: Found, part: str, raw: Bounds, margin: float) -> dict[str, Any]:
    """Verdict and reason."""
    cores, before, load = now.source.bundle.machine["cores"], _load(then), _load(now)
    if raw.high < 1 / (1 + margin):
        if before > max(load, cores) + BUSIER:
            return {"verdict": NOT_SHOWN, "why": f"faster, but the machine was busier then: load {before:.1f}, now "
                                                 f"{load:.1f}"}
        return {"verdict": FASTER}
    if raw.low <= 1 + margin:
        return {"verdict": NOT_SHOWN}
    if load <= cores + BUSIER:
        return {"verdict": SLOWER}
    held, busier = _held(then, now, part), load > before + BUSIER
    if not busier if held is None else held.low > 1 + margin:
        return {"verdict": SLOWER, "held": held}
    why = f"slower, but the machine was busier: load {load:.1f}, then {before:.1f}; measure again"
    if held is not None and not busier:
        why = f"the machine was loaded ({load:.1f}): {held.factor:.2f} times as slow in units of reading the images"
    return {"verdict": NOT_SHOWN, "held": held, "why": why, "excused": True}


def _load(found: Found) -> float:
    """Of everything on the machine, while the row ran: what there was before with the row's own threads, or the load
    average at the end.
    """
    busy = found.source.bundle.settings["busy"]
    own = found.row.threads or int(found.source.bundle.machine["cores"])
    return max([*busy[1:], *(load + own for load in busy[:1])], default=0.0)


def _held(then: Found, now: Found, part: str) -> Bounds | None:
    """The bounds of the times in units of reading the images in the same rounds; None where there are no such."""
    series = []
    for found in (now, then):
        times, reading = _medians(getattr(found.row.seconds, part)), _medians(found.row.seconds.pixels)
        if part == "train_step" or len(times) != len(reading) or min(reading, default=0.0) <= 0:
            return None
        series.append([one / unit for one, unit in zip(times, reading, strict=True)])
    return bounds(*series)


def _scored(then: Found, now: Found, name: str) -> Change:
    old, new = then.row.scores[name], now.row.scores[name]
    data = [found.source.bundle.data for found in (then, now)]
    told: dict[str, Any] = {"verdict": NOT_SHOWN}
    if any(data[0][field] != data[1][field] for field in ("names_sha256", "images_sha256", "labels_sha256")):
        told = {"verdict": NOT_JUDGED, "why": "other images or labels"}
    elif old.counts != new.counts:
        [spread] = spreads([(counts_of(name, old), counts_of(name, new))])
        low, high = spread.interval(0.95)
        told = {"interval": (low, high), "why": f"{spread.apart} of {spread.images} images are counted otherwise",
                "verdict": WORSE if high < 0 else BETTER if low > 0 else NOT_SHOWN}
    if then.model.weights_sha256 != now.model.weights_sha256:
        told["why"] = "; ".join(filter(None, ("other weights", told.get("why"))))
    return _change(then, now, f"f-score ({name})", old.fscore, new.fscore, **told)


def _software(pairs: Sequence[tuple[Found, Found]]) -> list[str]:
    """What changed below the rows, each thing once."""
    told: dict[str, None] = {}
    for pair in pairs:
        then, now = (software(found.source.bundle, found.row) for found in pair)
        told |= {short(f"{pair[1].source.machine}: {name} {value} is {now[name]} now"): None
                 for name, value in then.items() if name in now and value != now[name]}
    return list(told)
