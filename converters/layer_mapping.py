"""msprobe's layer mapping: which module of one network is which of another, as `msprobe compare -lm` reads it.

The file holds, under the class of a module, paths below it -> paths there; `TopLayer` is what holds the model. The
longest path that fits is taken, and what lies below keeps its names: what is absent corresponds to what is called the
same. Source: mindstudio-probe 26.2 `core/compare/layer_mapping/layer_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from converters.module_names import module_paths
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import ModelSpec

TOP = "TopLayer"
#: Where a module is led that has no counterpart, though one there is called the same.
NOWHERE = "no_counterpart"


@dataclass(frozen=True)
class LayerMapping:
    """rows: path in the target's code -> path in the golden code. modules, paired: how many of the target's a hook can
    see, and how many of these have a counterpart.
    """

    rows: dict[str, str]
    modules: int
    paired: int

    def text(self, comment: str) -> str:
        """The YAML. comment: one line about it."""
        return f"# {comment}\n" + yaml.safe_dump({TOP: self.rows}, sort_keys=False, allow_unicode=True, width=1000)


@dataclass(frozen=True)
class Side:
    """One of two networks. code: of `converters.module_names.CODES`. prefix: see `module_paths`."""

    code: str
    spec: ModelSpec
    prefix: str | None = None


def layer_mapping(target: Side, golden: Side) -> LayerMapping:
    """Which module of `target` is which of `golden`. Raises DbnetError for two networks of other layers."""
    _check_same_layers(target.spec, golden.spec)
    ours = module_paths(target.code, target.spec, target.prefix)
    theirs = module_paths(golden.code, golden.spec, golden.prefix)
    there = set(theirs.values())
    rows: dict[str, str] = {}
    for meaning, path in ours.items():
        wanted = theirs.get(meaning)
        if wanted is None:
            if followed(rows, path) in there:
                rows[path] = NOWHERE
        elif followed(rows, path) != wanted or not any(path.startswith(f"{row}.") for row in rows):
            rows[path] = wanted
    return LayerMapping(rows, len(ours), sum(meaning in theirs for meaning in ours))


def followed(rows: Mapping[str, str], path: str) -> str:
    """Where msprobe looks for the counterpart of `path`."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        if (row := rows.get(".".join(parts[:count]))) is not None:
            return ".".join([row, *parts[count:]])
    return path


def _check_same_layers(a: ModelSpec, b: ModelSpec) -> None:
    first, second = ({p.path: p.role for p in parameters(spec)} for spec in (a, b))
    for path in (*first, *second):
        if first.get(path) != second.get(path):
            raise DbnetError(f"two networks of different layers, {a.name} and {b.name}: {path} is not in both; a layer "
                             f"mapping needs the same network twice")
