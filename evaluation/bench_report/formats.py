"""By the suffix of a file: how the report is written there, and what tells a file of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters.writing import check_report
from dbnet.errors import DbnetError
from evaluation.bench_report import document, latex, markdown, page, separated
from evaluation.bench_report.report import Report

#: Of a file, where its mark stands.
BEGIN = 600


@dataclass(frozen=True)
class Format:
    """mark: stands in the first BEGIN bytes of every file of ours."""

    write: Callable[[Report], str]
    mark: str


FORMATS = {
    ".md": Format(markdown.markdown, markdown.MARK), ".csv": Format(separated.separated, separated.MARK),
    ".tex": Format(latex.latex, latex.MARK), ".html": Format(page.html, page.MARK),
    ".json": Format(document.document, document.MARK)}


def check_out(path: Path) -> None:
    """Raises DbnetError if the report cannot be written there, or would replace something else."""
    check_report(path)
    if path.is_file():
        with path.open("rb") as stream:
            begin = stream.read(BEGIN)
        if begin and FORMATS[path.suffix.lower()].mark.encode() not in begin:
            raise DbnetError(f"{path}: exists and is no report of this command; name another file")
