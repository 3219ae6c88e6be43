"""One report: the lines of its table, what they were made of, and what changed since an older one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import short
from evaluation.bench_report.changes import TIMED, Change, Compared
from evaluation.bench_report.columns import cell, number
from evaluation.bench_report.merge import Merged
from evaluation.bench_report.table import TRAINING, Line
from evaluation.comparison_report.words import one_line

#: Characters of a command, or of all versions of a row.
LONGEST = 1000
#: What a reader has to know before one figure is held against another.
READING = (
    "training: ms/step of one training step, img/s of all cards; inference: the median of one batch and img/s, from "
    "file to boxes.",
    "Rows of Ascend 910 and 910* are the seed's own, as its page prints them; recall, precision and f-score there are "
    "by MindOCR's metric, which gives another number for the same boxes than a data set's official protocol (rrc).",
)


@dataclass(frozen=True)
class Report:
    """lines: in the order in which they are shown. compared: with an older report, if that was asked for."""

    lines: Sequence[Line]
    merged: Merged
    compared: Compared | None = None

    @property
    def errors(self) -> list[str]:
        """The rows that came to nothing, or not to their end."""
        return [short(one_line(f"{line.machine}: {line.file} in {line.runner}: {line.error}"), LONGEST)
                for line in self.lines if line.error]

    def change_of(self, line: Line) -> Change | None:
        """What became of the time that a line shows."""
        wanted = (line.source, line.row), TIMED["train_step" if line.task == TRAINING else "whole"]
        changes = self.compared.changes if self.compared else ()
        return next((change for change in changes if (change.place, change.what) == wanted), None)

    @property
    def notes(self) -> list[str]:
        """Of the merge, of lines, and how to read the table; each once."""
        told = [f"{who(line)}: {line.note}" for line in self.lines if line.note]
        reading = READING if any(line.is_seed for line in self.lines) else READING[:1]
        return list(dict.fromkeys(short(one_line(note), LONGEST) for note in [*self.merged.notes, *told, *reading]))

    @property
    def machines(self) -> list[list[tuple[str, str]]]:
        """Each bundle's machine and conditions as pairs of name and text."""
        return [_machine(source.machine, source.name, source.bundle) for source in self.merged.sources]


def who(line: Line) -> str:
    """A line in a few words."""
    place = f"{line.machine}, {line.data}, {line.cards} card{'s' * (line.cards != 1)}" if line.is_seed else \
        f"{line.machine}, {line.runner}"
    return f"{' '.join(filter(None, (line.model, line.backbone)))} ({place})"


def _machine(name: str, file: str, bundle: Any) -> list[tuple[str, str]]:
    machine, settings, made = bundle.machine, bundle.settings, bundle.made
    pairs = [("machine", name), ("file", file), ("processor", f"{machine['cpu']}, {machine['cores']} cores"),
             ("memory", f"{machine['memory_bytes'] / 1e9:.1f} GB"), ("system", machine["system"])]
    pairs += [("accelerator", _told(card)) for card in machine["accelerators"]]
    pairs += [("threads", "the runners' own" if settings["threads"] is None else str(settings["threads"])),
              ("rounds", f"{settings['rounds']}, after {settings['warmup']} to warm up; {settings['order']}"),
              ("load", ", then ".join(f"{load:.2f}" for load in settings["busy"])),
              ("measured", f"{made['started']}, dbnet-parity {made['dbnet-parity']}"), ("command", made["command"])]
    versions: dict[str, str] = {}
    for row in bundle.rows:
        versions.setdefault(row.runner, _told(row.environment))
    pairs += [(runner, told) for runner, told in versions.items() if told]
    return [(cell(key), short(one_line(value), LONGEST)) for key, value in pairs]


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if isinstance(value, (str, int, float)))


def change_cells(change: Change) -> list[str]:
    """One change as texts: who, what, then, now, factor with its ends, the same in units of reading, verdict and why.
    """
    scored = change.what.startswith("f-score")
    then, now = (("" if value is None else f"{100 * value:.2f}%" if scored else f"{number(value)} ms")
                 for value in (change.old, change.new))
    factor = "" if change.factor is None else f"{change.factor.factor:.3f}"
    ends = "" if change.factor is None else (
        f"{change.factor.low:.3f} … {change.factor.high:.3f} ({100 * change.factor.confidence:.3g} %)")
    if change.interval is not None:
        ends = f"{100 * change.interval[0]:+.2f} … {100 * change.interval[1]:+.2f} points (95 %)"
    held = "" if change.held is None else f"{change.held.factor:.3f} ({change.held.low:.3f} … {change.held.high:.3f})"
    told = f"{change.verdict}: {change.why}" if change.why else change.verdict
    return [cell(text) for text in (change.machine, change.model, f"{change.runner}, {change.setting}", change.what,
                                    then, now, factor, ends, held, told)]


#: The titles of `change_cells`; those from the fifth to the ninth hold numbers.
CHANGE_TITLES = ("machine", "model", "runner", "what", "then", "now", "factor", "noise bounds", "to reading",
                 "verdict")


def summary(compared: Compared) -> str:
    """One sentence."""
    worse = compared.regressions
    found = f"{len(worse)} regression{'s' * (len(worse) != 1)}" if worse else "no regression"
    excused = len(compared.excused)
    load = f"; {excused} slow-down{'s' * (excused != 1)} put down to a loaded machine, measure again" if excused else ""
    return (f"{found} in {len(compared.changes)} figures against {', '.join(map(cell, compared.old))}; a time counts "
            f"if it is slower by more than {100 * compared.margin:g} % at the low end of its noise bounds{load}")
