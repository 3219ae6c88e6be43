"""Texts and tables in GitHub's Markdown. Whatever a text holds, it stays a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from evaluation.comparison_report.words import one_line

#: What means something in Markdown or HTML, and @, which would call people.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&@$])")
#: Texts that a code span can hold as they are.
_HARMLESS = re.compile(r"[\w./: ,+=()'-]+")


def text(value: Any) -> str:
    """As it stands, on one line."""
    return _SPECIAL.sub(_escaped, one_line(value))


def _escaped(match: re.Match[str]) -> str:
    sign = match[1]
    return f"&#{ord(sign)};" if sign in "<>&@$" else f"\\{sign}"


def code(value: Any) -> str:
    """In the letters of code, where names of people and issues are no links."""
    line = one_line(value)
    return "" if not line else f"`{line}`" if _HARMLESS.fullmatch(line) else f"<code>{text(line)}</code>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """One block, or none without rows. right: the columns with numbers."""
    found = ["| " + " | ".join(row) + " |" for row in rows]
    if not found:
        return []
    numbers = set(right)
    rule = "|".join(" ---: " if i in numbers else " --- " for i in range(len(header)))
    return ["\n".join(["| " + " | ".join(header) + " |", f"|{rule}|", *found])]
