"""Dataclasses from plain values of a file that nobody vouches for, each checked against its type."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from dbnet.errors import shown


class BadBundleError(Exception):
    """What a value is not, with the place where it stands."""


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`: str, int, float (an int will do), bool, Any, list, dict, a union, or a dataclass, whose
    fields may go by other names (metadata `name`) and may be missing where they have a default. Raises BadBundleError.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (Union, types.UnionType):
        others = [each for each in inner if each is not types.NoneType]
        return None if value is None and len(others) < len(inner) else typed(others[0], value, where)
    if origin is list:
        each = inner[0]
        return [typed(each, item, f"{where}[{i}]") for i, item in enumerate(_of(list, value, where))]
    if origin is dict:
        return {_of(str, name, where): typed(inner[1], item, f"{where}.{name}")
                for name, item in _of(dict, value, where).items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else value
    found = _of(kind, value, where)
    if kind is float and not math.isfinite(found):
        raise BadBundleError(f"{where} is {shown(value)}, no number")
    return found


def _of(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadBundleError(f"{where} is {shown(value, 40)}, no {kind.__name__}")
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    held = _of(dict, value, where or "it")
    hints, found = _hints(kind), {}
    names = {each.metadata.get("name", each.name): each for each in fields(kind)}
    at = f"{where}." if where else ""
    if odd := sorted(set(held) - set(names)):
        raise BadBundleError(f"{at}{shown(odd[0], 40)} is nothing that belongs there")
    for name, each in names.items():
        if name in held:
            found[each.name] = typed(hints[each.name], held[name], f"{at}{name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise BadBundleError(f"{at}{name} is missing")
    return kind(**found)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
