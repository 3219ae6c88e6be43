"""--compare: which row of an older run is the same row as one of now.

Rows are paired in passes, the surest first: the same weights from the same file in the same runner (with its
interpreter); then the same weights; then the same file, whose weights are others now; then the same network in the same
framework. A pass by less than the weights pairs nothing where several different rows could be meant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbnet.errors import short
from evaluation.bench_report.merge import Merged, Source
from evaluation.benching.bundle import Model, Row, digest_of


@dataclass(frozen=True)
class Found:
    """A row with all that belongs to it. place: index of the source, and of its row."""

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


@dataclass(frozen=True)
class Paired:
    """both: (then, now), in the order of now. gone, added: rows of one only."""

    both: list[tuple[Found, Found]]
    gone: list[Found]
    added: list[Found]


def paired(new: Merged, old: Merged) -> Paired:
    """Software is no part of what makes two rows the same: an upgrade is what one wants to see."""
    now, then = _rows(new), _rows(old)
    both: list[tuple[Found, Found]] = []
    for key, sure in _PASSES:
        found = _matched(then, now, key, sure)
        both += found
        taken = {id(row) for pair in found for row in pair}
        now, then = ([row for row in rows if id(row) not in taken] for rows in (now, then))
    return Paired(sorted(both, key=lambda pair: pair[1].place), then, now)


def machine_key(machine: Mapping[str, Any]) -> list[Any]:
    """Equal for the same machine: the same label and hardware, whatever runs on it."""
    cards = [[card.get("name"), card.get("count")] for card in machine["accelerators"]]
    return [machine["label"], machine["cpu"], machine["cores"], cards]


def _rows(merged: Merged) -> list[Found]:
    return [Found((number, index), source, source.bundle.model(row), row)
            for number, source in enumerate(merged.sources) for index, row in enumerate(source.bundle.rows)]


def _same(found: Found) -> list[Any]:
    """What the same row has in common in every pass."""
    model, row = found.model, found.row
    return [machine_key(found.source.bundle.machine), model.spec, model.semantics, model.pixels, model.boxes,
            model.format, row.runner.partition("@")[0], row.device, row.precision, row.shape, row.batch, row.threads,
            row.cards, row.jit_level]



#: What else has to be the same, and whether that leaves no doubt; one pass after the other.
_PASSES: tuple[tuple[Callable[[Found], list[Any]], bool], ...] = (
    (lambda found: [found.model.weights_sha256, found.model.file, found.row.runner], True),
    (lambda found: [found.model.weights_sha256, found.row.runner], True),
    (lambda found: [found.model.weights_sha256], False),
    (lambda found: [found.model.file, found.row.runner], False),
    (lambda found: [], False))


def _matched(then: Sequence[Found], now: Sequence[Found], key: Callable[[Found], list[Any]],
             sure: bool) -> list[tuple[Found, Found]]:
    """Of one pass; rows with the same key go together in their order."""
    groups: dict[str, tuple[list[Found], list[Found]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((then, now)):
        for row in rows:
            groups[digest_of([_same(row), key(row)])][side].append(row)
    found: list[tuple[Found, Found]] = []
    for older, newer in groups.values():
        count = min(len(older), len(newer))
        if sure or not (_differ(older) or _differ(newer)):
            found += zip(older[:count], newer[:count], strict=True)
    return found


def _differ(rows: Sequence[Found]) -> bool:
    """Whether these are several models or runners, of which any could be meant."""
    return len({(row.model.weights_sha256, row.model.file, row.row.runner) for row in rows}) > 1
