"""The report as Markdown (GitHub's)."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.bench_report.columns import MAIN, TIMES, Column, measured, used
from evaluation.bench_report.report import CHANGE_TITLES, Report, change_cells, summary
from evaluation.bench_report.table import Line
from evaluation.comparison_report.marked import code, table, text

#: First in the file, unseen, so that nothing but a report of ours is ever replaced by one.
MARK = "<!-- dbnet report -->"


def markdown(report: Report) -> str:
    """The regressions first, if an older report was compared; then the table."""
    blocks = [MARK, *_changes(report), "## Benchmarks", *_table(MAIN, report.lines)]
    times = _table(TIMES, measured(report.lines))
    blocks += ["### Where the time goes", *times] if times else []
    blocks += _listed("Rows that failed", report.errors) + _listed("Notes", report.notes)
    if report.machines:
        blocks.append("### Machines")
        blocks += [_pairs(pairs) for pairs in report.machines]
    return "\n\n".join(blocks) + "\n"


def _table(columns: Sequence[Column], lines: Sequence[Line]) -> list[str]:
    kept = used(columns, lines)
    return table([column.title for column in kept], ([text(column.text(line)) for column in kept] for line in lines),
                 right=[i for i, column in enumerate(kept) if column.right])


def _changes(report: Report) -> list[str]:
    compared = report.compared
    if compared is None:
        return []
    worse = {id(change) for change in compared.regressions}
    rows = []
    for change in compared.changes:
        cells = [text(cell) for cell in change_cells(change)]
        rows.append([*cells[:-1], f"**{cells[-1]}**" if id(change) in worse else cells[-1]])
    blocks = ["## Regressions" if worse else "## No regression", f"{text(summary(compared))}.",
              *table(CHANGE_TITLES, rows, right=range(4, 9))]
    blocks += _listed("Not measured this time", compared.gone) + _listed("Not measured then", compared.added)
    return blocks + _listed("What else changed", compared.software)


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"### {title}", "\n".join(f"- {text(line)}" for line in lines)] if lines else []


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {text(name)}: {code(value) if name == 'command' else text(value)}" for name, value in pairs)
