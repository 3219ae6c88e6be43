"""One set of options for several files, of which each takes those that leave it a choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from converters.load import NoChoiceError, SourceOptions

T = TypeVar("T")


def for_each(options: SourceOptions, *openers: Callable[[SourceOptions], T]) -> list[T]:
    """What the openers return. What chooses in a file (part, take, output, ...) is left out for those that have no such
    choice. Raises NoChoiceError if none has it, and what the openers raise.
    """
    refused: dict[str, NoChoiceError] = {}
    opened = []
    for number, opener in enumerate(openers):
        result, idle = _without_idle(opener, options)
        if number:
            refused = {name: error for name, error in refused.items() if name in idle}
        else:
            refused = idle
        opened.append(result)
    for error in refused.values():
        raise error
    return opened


def _without_idle(opener: Callable[[SourceOptions], T],
                  options: SourceOptions) -> tuple[T, dict[str, NoChoiceError]]:
    """What it opens, and the fields of `options` that had to be left out for it."""
    idle: dict[str, NoChoiceError] = {}
    while True:
        try:
            return opener(options), idle
        except NoChoiceError as error:
            chosen = [name for name in error.fields if getattr(options, name) is not None]
            if not chosen:
                raise
            idle |= dict.fromkeys(chosen, error)
            without: dict[str, Any] = dict.fromkeys(chosen)
            options = replace(options, **without)


def parse_setting(text: str) -> tuple[str, Any]:
    """FIELD=VALUE of --set, the value as a number if it is one. Raises ValueError, in words, for anything else."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set wants FIELD=VALUE, not {text!r}")
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), value.strip()
