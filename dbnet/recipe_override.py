"""`-o KEY=VALUE`: MindOCR's way to change settings on the command line, also single arguments of a pipeline."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

from dbnet.errors import DbnetError
from dbnet.recipe_check import OPTION, SEED_DEFAULT
from dbnet.recipe_keys import SCHEMA
from dbnet.recipe_schema import UNSET, By, Key, find
from dbnet.recipe_yaml import Node, kind_of, located, parse_yaml, plain

_STEP = re.compile(r"([A-Za-z_][\w+-]*)((?:\[\d+\])*)")


def override(tree: Node, text: str) -> Node:
    """`tree` with one setting changed by `KEY=VALUE`, VALUE read as YAML.

    KEY: dotted, e.g. `eval.dataset.dataset_root`; an operation of a pipeline by its number or, where it comes once, by
    its name: `eval.dataset.transform_pipeline[2].DetResize.target_size`, `eval.dataset.transform_pipeline.DetResize`.
    Raises DbnetError if it is no such text, or leads into something that is no section.
    """
    key, equals, value = text.strip().partition("=")
    where = f"{OPTION}{text.strip()}"
    steps: list[str | int] = []
    for part in key.strip().split("."):
        match = _STEP.fullmatch(part)
        if not equals or match is None:
            raise DbnetError(f"{where}: write KEY=VALUE with a dotted key, e.g. -o eval.dataset.dataset_root=/data")
        steps += [match[1], *map(int, re.findall(r"\d+", match[2]))]
    return _put(tree, steps, parse_yaml(value, where, lines=False), "")


def _put(node: Node | None, steps: list[str | int], value: Node, path: str) -> Node:
    """`node`, which stands at `path`, with `value` put where the steps lead; nothing is changed in place."""
    if not steps:
        return value
    step, *rest = steps
    inside = {} if node is None or node.value is None else node.value
    where = value.where if node is None else node.where
    if isinstance(inside, list):
        index = _index(inside, step, value, path)
        rest = rest if isinstance(step, int) else steps
        if rest and rest[0] not in inside[index].value:
            raise DbnetError(f"{value.where}: {path}[{index}] is {' and '.join(inside[index].value)}, not {rest[0]}")
        changed = _put(inside[index], rest, value, f"{path}[{index}]")
        return Node([*inside[:index], changed, *inside[index + 1:]], where)
    if not isinstance(inside, dict) or isinstance(step, int):
        raise DbnetError(f"{value.where}: {path or 'a recipe'} is {kind_of(plain(Node(inside, where)))}; "
                         f"{step!r} cannot be in it")
    inner = f"{path}.{step}".lstrip(".")
    child = inside.get(step)
    if child is None and rest:
        child = _default(inner, Node(inside, where))
    return Node({**inside, step: _put(child, rest, value, inner)}, where)


def _index(operations: list[Node], step: str | int, value: Node, path: str) -> int:
    names = [next(iter(item.value)) if isinstance(item.value, dict) else None for item in operations]
    if isinstance(step, int):
        if step >= len(operations) or names[step] is None:
            raise DbnetError(f"{value.where}: {path} has {len(operations)} entries, numbered from 0")
        return step
    if names.count(step) != 1:
        told = f"{names.count(step)} times; give its number" if step in names else "not"
        raise DbnetError(f"{value.where}: {step} stands in {path} {told}; there are "
                         f"{', '.join(f'[{i}] {name}' for i, name in enumerate(names))}")
    return names.index(step)


def _default(path: str, siblings: Node) -> Node | None:
    """The seed's default of a list that the recipe leaves out, for an option that changes a part of it."""
    entry = find(SCHEMA, path)
    if not isinstance(entry, Key):
        return None
    default = entry.default.pick(plain(siblings)) if isinstance(entry.default, By) else entry.default
    return None if default is UNSET else replace(located(copy.deepcopy(default), SEED_DEFAULT))
