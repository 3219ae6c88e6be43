"""The schema of a recipe in words, for `dbnet recipe keys` and docs/recipes.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbnet.recipe_keys import PIPELINE, SCHEMA
from dbnet.recipe_schema import UNSET, By, Key, Section, keys

HEADER = ("key", "must be", "default", "left out", "")


def rows() -> Iterator[tuple[str, str, str, str, str]]:
    """(dotted path, kind, default, what MindOCR's code takes without it, remark) of every key."""
    for path, entry in keys(SCHEMA):
        if isinstance(entry, Key) and not path.startswith("predict."):
            yield path, _kind(entry), _default(entry.default), _value(entry.absent), entry.doc
        elif isinstance(entry, Section) and path == "predict":
            yield path, "a section like eval", "", "", "of MindOCR's tools/infer; read and shown only"


def _kind(entry: Key) -> str:
    return "a list of operations" if entry.kind is PIPELINE else entry.kind.words


def _default(default: Any) -> str:
    if not isinstance(default, By):
        return _value(default)
    parts: dict[str, list[str]] = {}
    for name, value in default.values.items():
        parts.setdefault(_value(value) or "none", []).append(str(name))
    told = [f"{value} with {default.sibling} {', '.join(names)}" for value, names in parts.items()]
    return "; ".join([*told, *([f"else {_value(default.otherwise)}"] if default.otherwise is not UNSET else [])])


def _value(value: Any) -> str:
    if value is UNSET:
        return ""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} operations"
    return "null" if value is None else str(value) if value != "" else "''"
