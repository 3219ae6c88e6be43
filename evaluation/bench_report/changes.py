"""--compare: what is slower or worse than it was, and whether that is more than noise.

Times: for each row the medians of its rounds, new against old, by `bounds`. A row is slower if the low end of that
factor is above 1 + MARGIN. Load that lasts for a whole run slows every round of it, which no interval over rounds can
show. So on a machine with more load than cores a slow-down is none if there was more load than then; and if there was
as much, a row must also be slower in units of what it took to read its images in the same rounds: the same work in both
runs, which no model and no runtime is part of.
Scores: a lower F-score on the same images counts if the paired interval of the difference lies below zero.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import DbnetError, short
from evaluation.bench_report.bounds import LEAST_ROUNDS, Bounds, bounds
from evaluation.bench_report.merge import Merged, Source, check_data
from evaluation.bench_report.scoring import counts_of
from evaluation.bench_report.software import software
from evaluation.bench_report.table import named
from evaluation.benching.bundle import Model, Row, digest_of
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
    one of those above. why: where it is not plain.
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


@dataclass(frozen=True)
class _Found:
    """A row with all that belongs to it."""

    place: tuple[int, int]
    source: Source
    model: Model
    row: Row

    @property
    def words(self) -> str:
        return short(f"{self.source.machine}: {self.model.file} in {self.row.runner} ({self.setting})")

    @property
    def setting(self) -> str:
        row = self.row
        size = "each its own size" if row.shape is None else "x".join(map(str, row.shape))
        threads = "its own threads" if row.threads is None else f"{row.threads} thread{'s' * (row.threads != 1)}"
        return f"{row.device}, {row.precision}, {size}, batch {row.batch}, {threads}"


def compare(new: Merged, old: Merged, margin: float = MARGIN, mixed: bool = False) -> Compared:
    """mixed: they may be of different data. Raises DbnetError if no row was measured in both on the same machine, or no
    figure can be judged.
    """
    if not mixed:
        check_data([(source.name, source.bundle) for source in (*old.sources, *new.sources)])
    now, then = _rows(new), _rows(old)
    both = [(then[key], now[key]) for key in now if key in then]
    names = tuple(source.name for source in old.sources)
    if not both:
        raise DbnetError(f"--compare: nothing was measured both in {', '.join(names)} and in "
                         f"{', '.join(source.name for source in new.sources)}; {_nearest(new, old)}")
    changes = tuple(change for pair in both for change in _changes(*pair, margin))
    if all(change.verdict == NOT_JUDGED for change in changes):
        why = next((change.why for change in changes), "no times in them")
        raise DbnetError(f"--compare: no figure of {', '.join(names)} can be judged: {why}")
    return Compared(names, changes, tuple(then[key].words for key in then if key not in now),
                    tuple(now[key].words for key in now if key not in then), tuple(_software(both)), margin)


def _rows(merged: Merged) -> dict[str, _Found]:
    """Under what makes them the same row. Software is no part of that: an upgrade is what one wants to see."""
    seen: Counter[str] = Counter()
    found = {}
    for number, source in enumerate(merged.sources):
        for index, row in enumerate(source.bundle.rows):
            model = source.bundle.model(row)
            key = digest_of([machine_key(source.bundle.machine), model.spec, model.semantics, model.pixels, model.boxes,
                             model.format, row.runner.partition("@")[0], row.device, row.precision, row.shape,
                             row.batch, row.threads, row.cards, row.jit_level])
            seen[key] += 1
            found[f"{key} {seen[key]}"] = _Found((number, index), source, model, row)
    return found


def machine_key(machine: Mapping[str, Any]) -> list[Any]:
    """Equal for the same machine: the same label and hardware, whatever runs on it."""
    cards = [[card.get("name"), card.get("count")] for card in machine["accelerators"]]
    return [machine["label"], machine["cpu"], machine["cores"], cards]


def _nearest(new: Merged, old: Merged) -> str:
    """What to do about two runs that have no row in common."""
    keys = [{str(machine_key(source.bundle.machine)) for source in merged.sources} for merged in (new, old)]
    if not keys[0] & keys[1]:
        return (f"the machines are others ({', '.join(source.machine for source in old.sources)} and "
                f"{', '.join(source.machine for source in new.sources)}), whose times say nothing of a regression")
    return "measure the same models in the same runners with the same --shape, --batch and --threads"


def _changes(then: _Found, now: _Found, margin: float) -> list[Change]:
    if now.row.error and not then.row.error:
        return [_change(then, now, "runs at all", None, None, verdict=FAILS, why=now.row.error)]
    timed = [_timed(then, now, part, margin) for part in TIMED
             if getattr(then.row.seconds, part) and getattr(now.row.seconds, part)]
    return timed + [_scored(then, now, name) for name in then.row.scores if name in now.row.scores]


def _change(then: _Found, now: _Found, what: str, old: float | None, new: float | None, **told: Any) -> Change:
    return Change(now.place, now.source.machine, " ".join(filter(None, named(now.model))), now.row.runner, now.setting,
                  what, old, new, **told)


def _timed(then: _Found, now: _Found, part: str, margin: float) -> Change:
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


def _judged(then: _Found, now: _Found, part: str, raw: Bounds, margin: float) -> dict[str, Any]:
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
    if load > before + BUSIER:
        return {"verdict": NOT_SHOWN, "why": f"slower, but the machine was busier: load {load:.1f}, then {before:.1f}; "
                                             f"measure again"}
    held = _held(then, now, part)
    if held is not None and held.low <= 1 + margin:
        return {"verdict": NOT_SHOWN, "held": held, "why": f"the machine was loaded ({load:.1f}): {held.factor:.2f} "
                                                           f"times as slow in units of reading the images"}
    return {"verdict": SLOWER, "held": held}


def _load(found: _Found) -> float:
    """Of everything on the machine, while the row ran: what there was before with the row's own threads, or the load
    average at the end.
    """
    busy = found.source.bundle.settings["busy"]
    own = found.row.threads or int(found.source.bundle.machine["cores"])
    return max([*busy[1:], *(load + own for load in busy[:1])], default=0.0)


def _held(then: _Found, now: _Found, part: str) -> Bounds | None:
    """The bounds of the times in units of reading the images in the same rounds; None where there are no such."""
    series = []
    for found in (now, then):
        times, reading = _medians(getattr(found.row.seconds, part)), _medians(found.row.seconds.pixels)
        if part == "train_step" or len(times) != len(reading) or min(reading, default=0.0) <= 0:
            return None
        series.append([one / unit for one, unit in zip(times, reading, strict=True)])
    return bounds(*series)


def _scored(then: _Found, now: _Found, name: str) -> Change:
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


def _software(pairs: Sequence[tuple[_Found, _Found]]) -> list[str]:
    """What changed below the rows, each thing once."""
    told: dict[str, None] = {}
    for pair in pairs:
        then, now = (software(found.source.bundle, found.row) for found in pair)
        told |= {short(f"{pair[1].source.machine}: {name} {value} is {now[name]} now"): None
                 for name, value in then.items() if name in now and value != now[name]}
    return list(told)
