"""Numbers and texts as a report says them, and reading a dict of which anything may be missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

#: What a value that is not known looks like.
NOTHING = "–"
MINUS = "\N{MINUS SIGN}"
#: Control characters (tab and line feed aside), halves of surrogate pairs, which no encoding takes, what XML forbids,
#: and what turns the direction of writing, with which a name can pass for another.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def cleaned(text: str) -> str:
    """The text with U+FFFD for what neither a page nor XML may hold: file names and messages have anything in them."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: Any) -> str:
    """Cleaned, with single spaces for all white space."""
    return " ".join(cleaned(str(text)).split())


def part(data: Any, *names: str) -> dict[str, Any]:
    """The mapping at that place; empty where there is none."""
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return dict(data) if isinstance(data, Mapping) else {}


def parts(data: Any, name: str) -> list[dict[str, Any]]:
    """The mappings of a list at that place; empty where there is none."""
    return [dict(row) for row in sequence(data, name) if isinstance(row, Mapping)]


def sequence(data: Any, name: str) -> list[Any]:
    """The list at that place, without Nones; empty where there is none."""
    found = data.get(name) if isinstance(data, Mapping) else None
    return [row for row in found if row is not None] if isinstance(found, (list, tuple)) else []


def lines(data: Any, name: str) -> list[str]:
    """The texts of a list at that place, each on one line."""
    return [one_line(row) for row in sequence(data, name)]


def real(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def count(value: Any) -> int:
    """A count; 0 where it is not known."""
    return int(real(value) or 0)


def error(value: Any) -> str:
    """An error, two digits: 1.6e-05; 0 is nothing at all."""
    number = real(value)
    return NOTHING if number is None else "0" if number == 0 else f"{number:.1e}"


def tolerance(value: Any) -> str:
    """A limit that somebody chose: 1e-05, 2.5e-05."""
    number = real(value)
    return NOTHING if number is None else f"{number:.0e}" if number == float(f"{number:.0e}") else f"{number:.1e}"


def plain(value: Any, digits: int = 4) -> str:
    """A number as it is written by people: 0.8125, 12.4, 153,286."""
    number = real(value)
    if number is None:
        return NOTHING
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", MINUS)
    return f"{number:,.{digits}f}".replace("-", MINUS)


def fixed(value: Any, digits: int = 4) -> str:
    """A fraction with that many places; -0.0000 is 0.0000."""
    number = real(value)
    return NOTHING if number is None else f"{round(number, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def signed(value: Any, digits: int = 4) -> str:
    """A difference, with its sign; ±0 if there is none, and enough places for a small one to show."""
    number = real(value)
    if number is None:
        return NOTHING
    if number == 0:
        return "±0"
    return (f"{number:+.{digits}f}" if abs(number) >= 0.5 * 10 ** -digits else f"{number:+.0e}").replace("-", MINUS)


def percent(value: Any) -> str:
    """A fraction as a percentage, with digits where it is small or near all."""
    number = real(value)
    if number is None:
        return NOTHING
    share = 100 * number
    if share == int(share) or 1 <= abs(share) <= 99:
        return f"{share:.0f} %".replace("-", MINUS)
    return f"{share:.2g} %".replace("-", MINUS) if abs(share) < 1 else f"{share:.4g} %".replace("-", MINUS)


def interval(ends: Any, digits: int = 4) -> str:
    """[lo, hi] as text; nothing if it is not known."""
    low, high = both(ends)
    return "" if low is None or high is None else f"{fixed(low, digits)} … {fixed(high, digits)}"


def both(ends: Any) -> tuple[float | None, float | None]:
    """The two numbers of a pair."""
    if isinstance(ends, (list, tuple)) and len(ends) == 2:
        return real(ends[0]), real(ends[1])
    return None, None


def seconds(value: Any) -> str:
    """A duration: 0.41 s, 12 s, 3 min 20 s."""
    number = real(value)
    if number is None:
        return NOTHING
    if number >= 60:
        return f"{int(number) // 60} min {int(number) % 60} s"
    return f"{number:.2g} s" if number < 10 else f"{number:.0f} s"


def many(number: int, noun: str, plural: str = "") -> str:
    """3 boxes, 1 box."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: list[str], most: int = 6) -> str:
    """a, b and c; the rest counted."""
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def name_of(path: Any) -> str:
    """The last part of a path."""
    return re.split(r"[/\\]", one_line(path))[-1] or one_line(path)
