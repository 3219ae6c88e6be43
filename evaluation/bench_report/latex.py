r"""The report as LaTeX, for \input into a paper: tables in the manner of booktabs, plain ASCII in any engine."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from evaluation.bench_report.columns import MAIN, TIMES, Column, measured, used
from evaluation.bench_report.report import CHANGE_TITLES, Report, change_cells, summary
from evaluation.bench_report.table import Line
from evaluation.comparison_report.words import one_line

#: First in the file, so that nothing but a report of ours is ever replaced by one.
MARK = "% dbnet report"
#: What means something in LaTeX, or comes out as another sign in the old encodings of its fonts. `[` and `*` would
#: belong to the \\ of the row before.
_SIGNS = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "|": r"\textbar{}", '"': "{''}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
          "[": "{[}", "]": "{]}", "*": "{*}", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
          "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{EN DASH}": r"\textendash{}", "\N{MINUS SIGN}": "$-$",
          "\N{PLUS-MINUS SIGN}": r"$\pm$"}
#: Not wider than the page.
_FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
#: Of a paper's page there is no more room: the seed's columns, and who.
_SHORT = ("model", "backbone", "data", "machine", "runner", "task", "cards", "batch", "jit_level", "graph_compile_s",
          "ms_step", "img_s", "recall", "precision_score", "fscore", "protocol")
_TIMES = ("model", "backbone", "machine", "runner", "import_s", "load_s", "first_run_s", "p50_ms", "p95_ms", "p99_ms",
          "pixels_ms", "network_ms", "boxes_ms", "peak_memory_mib")


def latex(report: Report) -> str:
    """Floats of their own: the table, where the time goes, and what changed."""
    main = [column for column in MAIN if column.key in _SHORT]
    times = [column for column in TIMES if column.key in _TIMES]
    blocks = [f"{MARK}\n% \\usepackage{{booktabs,graphicx}} % and textcomp, in LaTeX before 2020",
              _lines("Benchmarks", "tab:dbnet-benchmarks", main, report.lines),
              _lines("Where the time goes", "tab:dbnet-times", times, measured(report.lines))]
    if report.compared is not None:
        rows = [change_cells(change) for change in report.compared.changes]
        blocks.append(_float(summary(report.compared), "tab:dbnet-changes", CHANGE_TITLES, "llllrrrrrl", rows))
    blocks.append("\n".join(f"% {_ascii(line)}" for line in [*report.errors, *report.notes]))
    return "\n\n".join(filter(None, blocks)) + "\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it; of what is beyond ASCII the nearest letters, or ?."""
    plain = (sign if sign in _SIGNS else _ascii(sign) for sign in one_line(text))
    line = "".join(_SIGNS.get(sign, sign) for signs in plain for sign in signs)
    return line.replace("--", "-{}-").replace("--", "-{}-")  # else the sign of a range


def _ascii(text: str) -> str:
    """One line, with ? for what has no letters in ASCII."""
    parts = (unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?" for sign in one_line(text))
    return "".join(parts) if text.strip() else text


def _lines(caption: str, label: str, columns: Sequence[Column], lines: Sequence[Line]) -> str:
    kept = used(columns, lines, ("data",))
    align = "".join("r" if column.right else "l" for column in kept)
    return _float(caption, label, [column.title for column in kept], align,
                  [[column.text(line) for column in kept] for line in lines]) if kept else ""


def _float(caption: str, label: str, titles: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    head, *body = (" & ".join(map(escaped, row)) + r" \\" for row in (titles, *rows))
    return "\n".join([r"\begin{table*}", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
                      rf"\caption{{{escaped(caption)}}}\label{{{label}}}", _FITTED,
                      rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule", head, r"\midrule", *body,
                      r"\bottomrule", r"\end{tabular}}", r"\end{table*}"])
