"""The report as JSON: its lines for programs, and the bundles whole, to be merged, compared and checked again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from evaluation.bench_report.changes import Compared
from evaluation.bench_report.columns import record
from evaluation.bench_report.report import Report
from evaluation.benching.bundle import to_text

KIND, VERSION = "report", 1
#: How every file of ours begins.
MARK = '{"dbnet": "report"'


def document(report: Report) -> str:
    """`lines`: as `separated` has them. `compared`: None, or the figures then and now. `bundles`: as dbnet bench writes
    them, parts already joined, each with the name of its file.
    """
    parts = {"dbnet": json.dumps(KIND), "version": str(VERSION), "notes": _text(report.notes),
             "errors": _text(report.errors), "lines": _list([_text(record(line)) for line in report.lines]),
             "compared": _text(None if report.compared is None else compared_record(report.compared)),
             "bundles": _list([f'{{"name": {_text(source.name)}, "bundle": {to_text(source.bundle).strip()}}}'
                               for source in report.merged.sources])}
    return "{" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "}\n"


def compared_record(compared: Compared) -> dict[str, Any]:
    """Plain values. regressions: how many."""
    changes = [asdict(change) | {"regression": change.is_regression} for change in compared.changes]
    return {"against": list(compared.old), "margin": compared.margin, "regressions": len(compared.regressions),
            "changes": changes, "gone": list(compared.gone), "added": list(compared.added),
            "software": list(compared.software)}


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _list(texts: list[str]) -> str:
    return "[" + ",".join(f"\n{text}" for text in texts) + "]"
