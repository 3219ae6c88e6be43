"""A recipe's YAML as a tree in which every value knows its line.

PyYAML's safe loader, so that a file reads as it does in MindOCR, with three differences: a key that is set twice is an
error, numbers with an exponent and no dot (`1e-6`, text in YAML 1.1) are numbers, and anchors cannot grow a small file
into a large one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dbnet.errors import DbnetError, short, shown

#: Bytes of a file; the seed's have 5,000.
MAX_BYTES = 2**16
#: Values after anchors have been followed, and how deep they may lie; the seed's have 250 and 7.
MAX_VALUES, MAX_DEPTH = 20_000, 40
#: Characters of a key; the longest known ones have 23.
MAX_KEY = 80

_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp")}
_SECTIONS = "sections (system, model, train, eval, ...)"


@dataclass(frozen=True)
class Node:
    """value: a plain scalar, `dict[str, Node]` or `list[Node]`. where: `file:line`, or the option that gave it."""

    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """PyYAML's, with its resolvers copied by the line below. Brackets are counted: its time grows with their square."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, "brackets are nested too deep for a recipe", self.get_mark())
        super().fetch_flow_collection_start(token)


_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver(_TAG + "float", _EXPONENT, list("-+.0123456789"))


def read_yaml(path: Path, label: str | None = None, what: str = "a recipe", wants: str = _SECTIONS) -> Node:
    """The sections of a file. label: what the file is called in errors, default its path. what: it should be, which has
    what `wants` says.

    Raises DbnetError, naming the line, if it cannot be read, is no YAML, or holds anything but sections.
    """
    label = label or str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DbnetError(f"{label}: cannot be read ({error.strerror or error}); give {what} in YAML") from error
    if len(data) > MAX_BYTES:
        raise DbnetError(f"{label}: more than {MAX_BYTES} bytes are no {what.partition(' ')[2]}")
    root = parse_yaml(data, label)
    if root.value is None or root.value == {}:
        raise DbnetError(f"{label}: is empty; {what} has {wants}")
    if not isinstance(root.value, dict):
        raise DbnetError(f"{root.where}: holds {kind_of(plain(root))} where {what} has {wants}")
    return root


def parse_yaml(data: bytes | str, label: str, lines: bool = True) -> Node:
    """One YAML document. lines: its values are told as `label:line`, else as `label`. Raises DbnetError."""
    try:
        loader = _Loader(data)
        root = loader.get_single_node()
        return Node(None, label) if root is None else _Walk(loader, label, lines).node(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{label}:{mark.line + 1}" if mark and lines else label
        hint = "; indent with spaces" if "\\t" in str(error.problem) else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise DbnetError(f"{where}: is no YAML: {short(problem)}{hint}") from error
    except yaml.reader.ReaderError as error:
        raise DbnetError(f"{label}: is no text ({error.reason} at {error.position}); give a file in YAML") from error
    except RecursionError as error:
        raise DbnetError(f"{label}: is nested too deep for a recipe") from error


class _Walk:
    """Turns PyYAML's nodes into ours; an anchor's node is visited again wherever it is used."""

    def __init__(self, loader: _Loader, label: str, lines: bool):
        self._loader, self._label, self._lines, self._count = loader, label, lines, 0

    def where(self, node: yaml.Node) -> str:
        return f"{self._label}:{node.start_mark.line + 1}" if self._lines else self._label

    def node(self, node: yaml.Node, depth: int = 0) -> Node:
        self._count += 1
        where = self.where(node)
        if depth > MAX_DEPTH:
            raise DbnetError(f"{where}: is nested too deep for a recipe, or an anchor holds itself")
        if self._count > MAX_VALUES:
            raise DbnetError(f"{where}: its anchors grow to more than a recipe can hold")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return Node(self._pairs(node, depth), where)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return Node([self.node(item, depth + 1) for item in node.value], where)
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN:
            raise DbnetError(f"{where}: {short(node.tag.replace(_TAG, '!!'), 80)} is no value of a recipe")
        try:
            return Node(self._loader.construct_object(node), where)
        except (ValueError, LookupError, AttributeError) as error:  # the last two by PyYAML, for `!!bool 2`
            raise DbnetError(f"{where}: {node.value[:40]!r} cannot be read as {node.tag.replace(_TAG, '')} "
                             f"({str(error)[:60]}); quote it if it is text") from error

    def _pairs(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        """The keys of a section; those merged in by `<<` come first and give way to its own."""
        merged: dict[str, Node] = {}
        own: dict[str, Node] = {}
        for key, value in node.value:
            where = self.where(key)
            if key.tag == _TAG + "merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found = self.node(source, depth + 1)
                    if not isinstance(found.value, dict):
                        raise DbnetError(f"{where}: << merges sections, not {kind_of(plain(found))}")
                    merged = found.value | merged
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise DbnetError(f"{where}: a key is a word, not a list or a section")
            if len(key.value) > MAX_KEY:
                raise DbnetError(f"{where}: {shown(key.value, 40)} is no key of a recipe")
            if key.value in own:
                raise DbnetError(f"{where}: {key.value[:80]!r} is set twice, first at {own[key.value].where}")
            own[key.value] = replace(self.node(value, depth + 1), where=where)
        return merged | own


def plain(node: Node) -> Any:
    """The value with everything in it, without the lines."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def located(value: Any, where: str) -> Node:
    """The opposite of `plain`: every part is said to come from `where`."""
    if isinstance(value, dict):
        return Node({name: located(child, where) for name, child in value.items()}, where)
    if isinstance(value, list):
        return Node([located(child, where) for child in value], where)
    return Node(value, where)


def kind_of(value: Any) -> str:
    """What a value is, in words, for messages."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"the list {_short(value)}"
    if isinstance(value, bool):
        return f"{str(value).lower()} (YAML reads yes, no, on and off so too)"
    if isinstance(value, str):
        return f"the text {_short(value)}"
    return f"the number {_short(value)}" if isinstance(value, (int, float)) else f"the date {value}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
