"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from evaluation.bench_report.columns import Column
    from evaluation.bench_report.report import Report
    from evaluation.bench_report.table import Line

#: Of the columns of the table, what a terminal has room for. The file where our own lines have several.
_SHOWN = ("model", "backbone", "data", "machine", "runner", "file", "task", "cards", "batch", "jit_level",
          "graph_compile_s", "ms_step", "img_s", "recall", "precision_score", "fscore", "protocol")
#: Of where the time goes: shown where they tell lines apart.
_ALIKE = ("model", "backbone", "file", "shape", "batch", "threads")


def show(report: Report) -> None:
    """The table, where the time goes with the parity, and what there is to say."""
    from evaluation.bench_report.columns import MAIN, TIMES, measured
    own = [line for line in report.lines if not line.is_seed]
    files = {line.file for line in own}
    _table("", [column for column in MAIN if column.key in _SHOWN and (column.key != "file" or len(files) > 1)],
           report.lines)
    parity = [column for column in MAIN if column.key == "parity"]
    _table("where the time goes", [*TIMES, *parity], measured(own), _ALIKE)
    for line in report.errors:
        click.echo(f"failed: {line}")
    for note in report.notes:
        click.echo(f"note: {note}")


def _table(title: str, columns: Sequence[Column], lines: Sequence[Line], alike: Sequence[str] = ()) -> None:
    from evaluation.bench_report.columns import used
    kept = used(columns, lines, alike)
    if lines:
        print_table(title, [column.title for column in kept],
                    (["" if column.key == "file" and line.is_seed else column.text(line) for column in kept]
                     for line in lines), right=[i for i, column in enumerate(kept) if column.right])


def show_changes(report: Report) -> None:
    """Against the older report, if there was one: every figure, the regressions once more as lines of their own."""
    from evaluation.bench_report.report import CHANGE_TITLES, change_cells, summary
    compared = report.compared
    if compared is None:
        return
    print_table("", CHANGE_TITLES, (change_cells(change) for change in compared.changes), right=range(4, 9))
    for title, lines in (("not measured this time", compared.gone), ("not measured then", compared.added),
                         ("changed", compared.software)):
        for line in lines:
            click.echo(f"{title}: {line}")
    for change in compared.regressions:
        *who, what, then, now, factor, ends, _, verdict = change_cells(change)
        figures = [f"{then} then, {now} now" if then and now else "", f"factor {factor}" if factor else "", ends]
        click.echo(f"REGRESSION: {', '.join(filter(None, who))}: {what}: "
                   f"{', '.join(filter(None, [*figures, verdict]))}")
    click.echo(summary(compared))
