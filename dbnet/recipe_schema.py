"""What a recipe's schema is made of: keys with their kinds and defaults, in sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dbnet.recipe_kinds import Kind

#: No value: the key is left out.
UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET"})()


@dataclass(frozen=True)
class By:
    """A default that depends on a key before it in the same section. otherwise: for other values, and without it."""

    sibling: str
    values: Mapping[Any, Any]
    otherwise: Any = UNSET

    def pick(self, siblings: Mapping[str, Any]) -> Any:
        value = siblings.get(self.sibling)
        return self.values.get(value.lower() if isinstance(value, str) else value, self.otherwise)


@dataclass(frozen=True)
class Key:
    """One setting.

    default: what is filled in where a recipe says nothing. absent: what MindOCR's code takes for a key that stays out.
    doc: a few words for people.
    """

    kind: Kind
    default: Any = UNSET
    absent: Any = UNSET
    doc: str = ""


@dataclass(frozen=True)
class Section:
    """Settings under one name. filled: whether defaults are filled in, also where a recipe leaves out the section."""

    keys: Mapping[str, Key | Section]
    filled: bool | By = True


def keys(section: Section, path: str = "") -> Iterator[tuple[str, Key | Section]]:
    """Every key and section below `section` with its dotted path, a section before its keys."""
    for name, entry in section.keys.items():
        yield f"{path}{name}", entry
        if isinstance(entry, Section):
            yield from keys(entry, f"{path}{name}.")


def find(section: Section, path: str) -> Key | Section | None:
    """The entry of a dotted path below `section`."""
    entry: Key | Section | None = section
    for name in path.split("."):
        entry = entry.keys.get(name) if isinstance(entry, Section) else None
    return entry
