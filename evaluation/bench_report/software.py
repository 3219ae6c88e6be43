"""Everything below a model that can change between two runs: versions, drivers, systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benching.bundle import Bundle, Row

#: What says which machine it is, not what runs on it.
_HARDWARE = ("cpu", "cores", "label", "memory_bytes")
PACKAGE = "dbnet-parity"
#: Of dicts within dicts, no further.
_DEEPEST = 3


def software(bundle: Bundle, row: Row) -> dict[str, str]:
    """Name -> version or text."""
    return {**_flat(bundle.machine, _HARDWARE), **versions_of(bundle, row)}


def versions_of(bundle: Bundle, row: Row) -> dict[str, str]:
    """The same of the package and of the row's runner and libraries, whatever machine they ran on."""
    return {**_flat({PACKAGE: bundle.made[PACKAGE]}), **_flat(row.environment)}


def _flat(told: Mapping[str, Any], without: Sequence[str] = (), depth: int = 0) -> dict[str, str]:
    """Texts and numbers of a dict, those in dicts and lists of dicts too."""
    found: dict[str, str] = {}
    for name, value in told.items():
        if name in without or depth > _DEEPEST:
            continue
        if isinstance(value, (str, int, float)):
            found[name] = str(value)
        elif isinstance(value, Mapping):
            found |= _flat(value, (), depth + 1)
        elif isinstance(value, list):
            for each in value:
                found |= _flat(each, ("name", "count"), depth + 1) if isinstance(each, Mapping) else {}
    return found
