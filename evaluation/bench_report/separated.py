"""The report as CSV: every line with all digits, one header, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from typing import Any

from evaluation.bench_report.changes import Change
from evaluation.bench_report.columns import record
from evaluation.bench_report.report import Report
from evaluation.comparison_report.words import one_line

#: How every file of ours begins.
MARK = "source,model,backbone,"
#: A text that begins so is a formula to spreadsheets; an apostrophe before it says that it is a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")


def separated(report: Report) -> str:
    """Comma-separated, UTF-8, \\n at line ends. With a comparison its figures stand at the end of each row's line that
    was measured in both, those of `whole` or of the training step.
    """
    rows = [record(line) for line in report.lines]
    if report.compared is not None:
        for row, line in zip(rows, report.lines, strict=True):
            row |= _change(report.change_of(line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else MARK.split(",")[:3], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _change(change: Change | None) -> dict[str, Any]:
    factor = change.factor if change else None
    return {"then_ms": change.old if change else None, "factor": factor.factor if factor else None,
            "factor_low": factor.low if factor else None, "factor_high": factor.high if factor else None,
            "verdict": change.verdict if change else None}


def _cell(value: Any) -> Any:
    """Numbers as they are; a text on one line, and never a formula."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.startswith(_FORMULA) else line
