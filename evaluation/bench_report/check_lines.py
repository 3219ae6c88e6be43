"""Whether the lines that a merged report (.json) publishes follow from the bundles within it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evaluation.bench_report.check import Finding, shown_value
from evaluation.bench_report.columns import record
from evaluation.bench_report.joined import Named
from evaluation.bench_report.merge import merge
from evaluation.bench_report.table import lines_of

#: What a line lacks.
_NOTHING = object()


def check_lines(lines: Sequence[Any], bundles: Sequence[Named]) -> list[Finding]:
    """lines: as the report has them, of one protocol or each bundle's own. bundles: within it, by the names there.

    Raises DbnetError for bundles that cannot be merged.
    """
    merged = merge(bundles, mixed=True)
    names = {name for _, bundle in bundles for row in bundle.rows for name in row.scores}
    tried = [_findings(lines, [_plain(line) for line in lines_of(merged, protocol)])
             for protocol in (None, *sorted(names))]
    return min(tried, key=len)


def _plain(line: Any) -> dict[str, Any]:
    """As it comes back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(record(line)))
    return found


def _findings(lines: Sequence[Any], wanted: list[dict[str, Any]]) -> list[Finding]:
    """Lines may be in any order, and those of the seed may be left out."""
    odd = []
    for number, line in enumerate(lines, start=1):
        if line in wanted:
            wanted.remove(line)
        else:
            odd.append((number, line))
    found = []
    for number, line in odd:
        words = f"line {number} of the report"
        near = max(wanted, key=lambda other: _alike(line, other), default=None)
        if near is None or not isinstance(line, dict):
            found.append(Finding(words, "line", "there", "no such line"))
            continue
        wanted.remove(near)
        found += [Finding(words, key, _shown(line.get(key, _NOTHING)), _shown(near.get(key, _NOTHING)))
                  for key in dict.fromkeys((*near, *line)) if line.get(key, _NOTHING) != near.get(key, _NOTHING)]
    return found + [Finding("lines of the report", f"{line['machine']}, {line['runner']}, {line['task']}", "no line",
                            "a line") for line in wanted if line["source"] != "seed"]


def _alike(line: Any, other: dict[str, Any]) -> int:
    """In how many figures; who it is before all."""
    if not isinstance(line, dict):
        return 0
    return sum((1000 if key in ("source", "file", "machine", "runner", "task", "shape", "batch", "model") else 1)
               for key in other if line.get(key, _NOTHING) == other[key])


def _shown(value: object) -> str:
    return "nothing" if value is _NOTHING else shown_value(value)
