"""The report as one page of HTML: no scripts, nothing that is loaded from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from evaluation.bench_report.columns import MAIN, TIMES, Column, measured, used
from evaluation.bench_report.plots import LEFT, STEP, WIDTH, plots
from evaluation.bench_report.report import CHANGE_TITLES, Report, change_cells, summary
from evaluation.bench_report.table import Line
from evaluation.comparison_report.page import templates

#: In the first bytes of the file, so that nothing but a report of ours is ever replaced by one.
MARK = '<meta name="generator" content="dbnet-parity report">'


def html(report: Report) -> str:
    """A whole page."""
    compared = report.compared
    lines, own = report.lines, [line for line in report.lines if not line.is_seed]
    title = "Benchmarks"
    if compared is not None:
        title = "Regressions" if compared.regressions else "No regression"
    told = "" if compared is None else summary(compared)
    machines = len({source.machine for source in report.merged.sources})
    return _template().render({
        "mark": Markup(MARK), "title": title, "tone": "" if compared is None else
        "different" if compared.regressions else "same",
        "lead": f"{told[:1].upper()}{told[1:]}." if compared is not None else
        f"{len(own)} lines of {machines} machine{'s' * (machines != 1)}"
        f"{f', beside {len(lines) - len(own)} rows that the seed publishes' if len(own) < len(lines) else ''}.",
        "changes": None if compared is None else {
            "titles": CHANGE_TITLES, "rows": [(change_cells(change), change.is_regression)
                                              for change in compared.changes],
            "lists": [("Not measured this time", compared.gone), ("Not measured then", compared.added),
                      ("What else changed", compared.software)]},
        "plots": plots(lines, compared), "main": _table(MAIN, lines), "times": _table(TIMES, measured(lines)),
        "errors": report.errors, "notes": report.notes, "machines": report.machines, "step": STEP, "width": WIDTH,
        "left": LEFT})


def _table(columns: Sequence[Column], lines: Sequence[Line]) -> dict[str, Any]:
    kept = used(columns, lines)
    return {"columns": [(column.title, column.right) for column in kept],
            "rows": [([(column.text(line), column.right) for column in kept], line.is_seed) for line in lines]}


@functools.cache
def _template() -> jinja2.Template:
    return templates("evaluation.bench_report").get_template("report.html")
