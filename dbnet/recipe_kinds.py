"""What a value of a recipe must be: small checks with words for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class MismatchError(ValueError):
    """A value is not of its kind."""


@dataclass(frozen=True)
class Kind:
    """words: what the value must be. read: the value as it is kept; raises MismatchError for another one.

    names: of a choice, what may be chosen.
    """

    words: str
    read: Callable[[Any], Any]
    names: tuple[str, ...] = ()


def _kind(words: str, accepts: Callable[[Any], bool], names: tuple[str, ...] = ()) -> Kind:
    def read(value: Any) -> Any:
        if not accepts(value):
            raise MismatchError(words)
        return value
    return Kind(words, read, names)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(low: float | None = None, high: float | None = None, above: float | None = None) -> Kind:
    """A finite number; an integer stays one. low, high: included; above: not."""
    if high is not None:
        words = f"a number from {low} to {high}"
    else:
        words = f"a number above {above}" if above is not None else f"a number of at least {low}" * (low is not None)
    return _kind(words or "a number", lambda value: (
        _is_number(value) and (low is None or value >= low) and (high is None or value <= high)
        and (above is None or value > above)))


def integer(low: int | None = None) -> Kind:
    """A whole number."""
    words = "a whole number" if low is None else f"a whole number of at least {low}"
    return _kind(words, lambda value: _is_integer(value) and (low is None or value >= low))


def choice(*names: str, fold: bool = False) -> Kind:
    """One of some names, kept as it is written. fold: in capitals or not."""
    known = {name.lower() if fold else name for name in names}
    return _kind(f"one of {', '.join(names)}" if len(names) > 1 else names[0], lambda value: (
        isinstance(value, str) and (value.lower() if fold else value) in known), names)


def one_of(*values: int) -> Kind:
    """One of some whole numbers."""
    return _kind(" or ".join(map(str, values)), lambda value: _is_integer(value) and value in values)


def optional(kind: Kind) -> Kind:
    """That, or nothing; the text None, which YAML does not read as null, is taken for it."""
    def read(value: Any) -> Any:
        return None if value in (None, "None", "none") else kind.read(value)
    return Kind(f"{kind.words}, or null", read, kind.names)


def either(*kinds: Kind) -> Kind:
    """The first that the value is."""
    words = ", or ".join(kind.words for kind in kinds)

    def read(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.read(value)
            except MismatchError:
                continue
        raise MismatchError(words)
    return Kind(words, read, tuple(name for kind in kinds for name in kind.names))


def sequence(kind: Kind, length: int | None = None) -> Kind:
    """A list, of `length` values or of any number."""
    words = f"a list{'' if length is None else f' of {length}'}, each {kind.words}"

    def read(value: Any) -> Any:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise MismatchError(words)
        try:
            return [kind.read(item) for item in value]
        except MismatchError as error:
            raise MismatchError(words) from error
    return Kind(words, read)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, str)) or _is_number(value)


boolean = _kind("True or False", lambda value: isinstance(value, bool))
text = _kind("text", lambda value: isinstance(value, str))
null = optional(_kind("nothing", lambda value: False))
fraction = number(0, 1)
anything = _kind("numbers, texts, lists and sections of them", _is_plain)
