"""Whether a piece of LaTeX compiles, as far as that can be told without LaTeX: what the parser of TeX trips over."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Every macro that a report may use, with the number of its arguments in braces.
MACROS = {"begin": 1, "end": 1, "caption": 1, "label": 1, "setlength": 2, "centering": 0, "scriptsize": 0,
          "tabcolsep": 0, "toprule": 0, "midrule": 0, "bottomrule": 0, "textbackslash": 0, "textasciitilde": 0,
          "textasciicircum": 0, "textless": 0, "textgreater": 0, "textbar": 0, "textasciigrave": 0, "textquotesingle":
          0, "textendash": 0, "ldots": 0, "times": 0, "pm": 0, "resizebox": 3,
          "ifdim": 0, "width": 0, "linewidth": 0, "else": 0, "fi": 0}
_TOKEN = re.compile(r"\\([a-zA-Z]+|.)|([{}&$#^_~%])|([^\\{}&$#^_~%]+)", re.DOTALL)


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text): macro, sign (which means something), plain. Comments are left out."""
    for match in _TOKEN.finditer(re.sub(r"(?m)(?<!\\)%.*\n?", "", text)):
        kind = "macro" if match[1] is not None else "sign" if match[2] else "plain"
        yield kind, match[1] or match[2] or match[3]


def faults(text: str) -> list[str]:
    """One line for each; none for what compiles."""
    found = [] if text.isascii() else ["a sign beyond ASCII"]
    depth, math, opened = 0, False, []
    for kind, token in tokens(text):
        if kind == "macro" and token.isalpha():
            if token not in MACROS:
                found.append(f"\\{token} is not known")
            elif token in ("times", "pm") and not math:
                found.append(f"\\{token} outside $ $")
        elif kind == "macro" and token not in "\\{}$&#_%":
            found.append(f"\\{token} is not known")
        elif token in "{}" and kind == "sign":
            depth += 1 if token == "{" else -1
            if depth < 0:
                found.append("a brace too many")
        elif token == "$" and kind == "sign":
            math = not math
        elif kind == "sign" and token in "#^_~%":
            found.append(f"{token} means something")
    for env in re.finditer(r"\\(begin|end)\{(\w+\*?)\}", text):
        if env[1] == "begin":
            opened.append(env[2])
        elif not opened or opened.pop() != env[2]:
            found.append(f"\\end{{{env[2]}}} ends nothing")
    return found + ["braces do not close"] * (depth != 0) + ["$ does not close"] * math + \
        [f"{name} is not ended" for name in opened] + list(_tables(text))


def _tables(text: str) -> Iterator[str]:
    """Every row has as many cells as its table has columns, and nothing after \\\\ that would belong to it."""
    for table in re.finditer(r"\\begin\{tabular\}\{@\{\}([lcr]+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in table[2].splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        for row in rows:
            if not row.endswith(r" \\"):
                yield f"a row that does not end: {row[:40]}"
            cells = sum(token == "&" and kind == "sign" for kind, token in tokens(row)) + 1
            if cells != len(table[1]):
                yield f"{cells} cells of {len(table[1])}: {row[:40]}"
            if row.lstrip().startswith(("[", "*")):
                yield f"would belong to the row before: {row[:40]}"
