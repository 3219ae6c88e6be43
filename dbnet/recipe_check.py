"""A recipe's tree against the schema: what is wrong is refused by name and line, what is left out is filled in."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from dbnet.errors import DbnetError, short
from dbnet.recipe_keys import FOR_EVALUATION, OTHER_NAMES, PIPELINE, SCHEMA
from dbnet.recipe_kinds import Kind, MismatchError
from dbnet.recipe_schema import UNSET, By, Key, Section, keys
from dbnet.recipe_transforms import NEEDED, TRANSFORMS
from dbnet.recipe_yaml import Node, kind_of, plain

#: Where a value comes from that no file and no option gave.
SEED_DEFAULT = "seed default"
#: How `Node.where` begins for the value of an option.
OPTION = "-o "


def complete(tree: Node) -> tuple[dict[str, Any], dict[str, str]]:
    """The effective settings of a recipe, nested and plain, and for each leaf's dotted path where it comes from.

    Raises DbnetError with the line for an unknown key and for a value of the wrong kind.
    """
    _check_task(tree)
    checked = _Completion()
    return checked.section(SCHEMA, tree, "", True), checked.origins


class _Completion:
    def __init__(self) -> None:
        self.origins: dict[str, str] = {}

    def section(self, section: Section, node: Node | None, path: str, fill: bool) -> dict[str, Any]:
        given = _children(node, path)
        for name, child in given.items():
            if name not in section.keys:
                raise DbnetError(f"{child.where}: {_unknown(f'{path}{name}', section)}")
        result: dict[str, Any] = {}
        for name, entry in section.keys.items():
            inner = fill and not (path == "" and name in FOR_EVALUATION and not _evaluates(result, given))
            value = self.entry(entry, given.get(name), f"{path}{name}", result, inner)
            if value is not UNSET:
                result[name] = value
        return result

    def entry(self, entry: Key | Section, node: Node | None, path: str, siblings: Mapping[str, Any], fill: bool) -> Any:
        if isinstance(entry, Section):
            filled = entry.filled.pick(siblings) if isinstance(entry.filled, By) else entry.filled
            if node is None and not (fill and filled):
                return UNSET
            present = node is not None and path in FOR_EVALUATION
            return self.section(entry, node, f"{path}.", bool(filled) and (fill or present))
        if node is not None:
            return self._pipeline(node, path) if entry.kind is PIPELINE else self._value(entry.kind, node, path)
        default = entry.default.pick(siblings) if isinstance(entry.default, By) else entry.default
        if not fill or default is UNSET:
            return UNSET
        self.origins.update(dict.fromkeys(leaves(default, path), SEED_DEFAULT))
        return copy.deepcopy(default)

    def _value(self, kind: Kind, node: Node, path: str) -> Any:
        value = read_as(kind, node, path)
        self.origins.update({leaf: _where_of(node, leaf[len(path):]) for leaf in leaves(value, path)})
        return value

    def _pipeline(self, node: Node, path: str) -> list[dict[str, Any]]:
        if not isinstance(node.value, list) or not node.value:
            raise DbnetError(f"{node.where}: {path} is {kind_of(plain(node))}; it must be {PIPELINE.words}")
        operations = []
        for i, item in enumerate(node.value):
            operations.append(_operation(item, f"{path}[{i}]"))
            self.origins[f"{path}[{i}]"] = _where_of_operation(item)
        return operations


def leaves(value: Any, path: str) -> dict[str, Any]:
    """Dotted path -> value for everything in a setting that is no section, the operations of a pipeline one by one."""
    if isinstance(value, dict) and value:
        return {leaf: found for name, child in value.items() for leaf, found in leaves(child, f"{path}.{name}").items()}
    if path.endswith("transform_pipeline"):
        return {f"{path}[{i}]": item for i, item in enumerate(value)}
    return {path: value}


def read_as(kind: Kind, node: Node, path: str) -> Any:
    """The plain value of a node. Raises DbnetError, naming line and key, for another kind."""
    value = plain(node)
    try:
        return kind.read(value)
    except MismatchError as error:
        near = difflib.get_close_matches(value, kind.names, 1) if isinstance(value, str) else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DbnetError(f"{node.where}: {path} is {kind_of(value)}; it must be {kind.words}{hint}") from error


def _children(node: Node | None, path: str) -> dict[str, Node]:
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        raise DbnetError(f"{node.where}: {path.rstrip('.')} is {kind_of(plain(node))}; it must be a section, with keys "
                         f"below it; leave it out to take the defaults")
    children: dict[str, Node] = node.value
    return children


def _evaluates(result: Mapping[str, Any], given: Mapping[str, Node]) -> bool:
    return "eval" in given or bool(result["system"]["val_while_train"])


def _where_of(node: Node, inner: str) -> str:
    """Where the part `.a.b` of a node stands."""
    for name in inner.split(".")[1:]:
        node = node.value[name]
    return node.where


def _operation(item: Node, path: str) -> dict[str, Any]:
    """{name: arguments or None} of one entry of a pipeline."""
    if not isinstance(item.value, dict) or len(item.value) != 1:
        if isinstance(item.value, dict) and item.value:
            names = short(", ".join(item.value), 80)
            raise DbnetError(f"{item.where}: {path} has {len(item.value)} names, {names}, where one belongs; "
                             f"indent arguments further than `- Name:`")
        bare = isinstance(item.value, str) and item.value in TRANSFORMS
        hint = f"`- {item.value}:`, with the colon" if bare else "`- Name:` with its arguments, if any, below"
        raise DbnetError(f"{item.where}: {path} is {kind_of(plain(item))}; write {hint}")
    [(name, node)] = item.value.items()
    if name not in TRANSFORMS:
        raise DbnetError(f"{item.where}: {path}: {_nearest(name, TRANSFORMS, 'operation')}")
    if node.value is not None and not isinstance(node.value, dict):
        raise DbnetError(f"{node.where}: {path}.{name} is {kind_of(plain(node))}; its arguments are a section: "
                         f"{', '.join(TRANSFORMS[name]) or 'none'}")
    arguments, given = TRANSFORMS[name], node.value or {}
    for argument, value in given.items():
        if argument not in arguments:
            raise DbnetError(f"{value.where}: {path}.{name}: {_nearest(argument, arguments, 'argument')}")
    for argument in NEEDED.get(name, ()):
        if argument not in given:
            raise DbnetError(f"{item.where}: {path}.{name} needs {argument}")
    read = {argument: read_as(arguments[argument], value, f"{path}.{name}.{argument}")
            for argument, value in given.items()}
    return {name: read or None}


def _where_of_operation(item: Node) -> str:
    """An option may have set one argument of an operation that stands in a file."""
    [node] = item.value.values()
    options = {value.where for value in (node.value or {}).values() if value.where.startswith(OPTION)} - {item.where}
    return f"{item.where}, {options.pop()}" if options else item.where


def _unknown(path: str, section: Section) -> str:
    """That there is no such key, and which one may be meant: a common other name, the same word elsewhere, or near."""
    name = path.rpartition(".")[2]
    wanted = OTHER_NAMES.get(name.lower(), name)
    known = [other for other, _ in keys(SCHEMA)]
    same = [other for other in known if other.rpartition(".")[2] == wanted]
    same.sort(key=lambda other: other.split(".")[0] != path.split(".")[0])
    near = difflib.get_close_matches(name, section.keys, 1) or difflib.get_close_matches(name.lower(), section.keys, 1)
    if wanted in section.keys:
        best = path.removesuffix(name) + wanted
    elif same:
        best = same[0]
    elif near:
        best = path.removesuffix(name) + near[0]
    else:
        far = difflib.get_close_matches(name, [other.rpartition(".")[2] for other in known], 1)
        best = next((other for other in known if far and other.rpartition(".")[2] == far[0]), "")
    return f"{path} is no key of a recipe; " + (f"did you mean {best}?" if best else
                                                f"there are {', '.join(section.keys)}")


def _nearest(name: str, known: Mapping[str, Any] | Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(name, list(known), 1) or [
        other for other in known if other.lower() == name.lower()]
    return f"there is no {what} {name!r}; " + (f"did you mean {near[0]}?" if near else
                                               f"there are {', '.join(known) or 'none'}")


def _check_task(tree: Node) -> None:
    """Raises DbnetError for the recipe of another task or project, whose keys would all be unknown."""
    sections = tree.value
    if "Global" in sections and "Architecture" in sections:
        raise DbnetError(f"{tree.where}: is a configuration of PaddleOCR (Global, Architecture, ...); a recipe has "
                         f"MindOCR's keys: {', '.join(SCHEMA.keys)}")
    model = sections["model"].value if "model" in sections else None
    if not isinstance(model, dict):
        return
    if "type" in model and isinstance(task := model["type"].value, str) and task != "det":
        raise DbnetError(f"{model['type'].where}: model.type is {task!r}: a recipe of another task; DBNet's is det")
    head = model["head"].value if "head" in model else None
    name = head["name"] if isinstance(head, dict) and "name" in head else None
    if name is not None and isinstance(name.value, str) and name.value in ("PSEHead", "EASTHead", "FCEHead"):
        raise DbnetError(f"{name.where}: model.head.name is {name.value!r}: a recipe of another detector; DBNet's have "
                         f"DBHead or DBHeadEnhance")
