"""What stands before the names of a file: wrappers of frameworks, and the networks of a distillation."""

from __future__ import annotations

import re
from collections.abc import Iterable

from converters.weight_map import WeightMap

#: What DataParallel, Lightning, torch.compile and trainers put before every name, in any order.
WRAPPERS = re.compile(r"(?:(?:module|model|net|network|detector|_orig_mod|_layers|_forward_module)\.)*")
#: The networks in one file of a distillation by Paddle.
NETWORKS = re.compile(r"(Student\d*|Teacher\d*)\.")


def candidates(names: Iterable[str], mapping: WeightMap) -> list[str]:
    """The prefixes under which a file may hold the weights of `mapping`, none but known ones, the dialect's first.

    They are read off before a few names that every such file has.
    """
    entries = mapping.entries
    anchors = tuple(entries[i].foreign for i in (0, 1, len(entries) // 3, len(entries) // 2))
    likely = [name for name in names if name.endswith(anchors)]
    found = {name[:-len(anchor)] for name in likely for anchor in anchors if name.endswith(anchor)}
    known = mapping.dialect.prefixes
    new = sorted((prefix for prefix in found if prefix not in known and _is_wrapped(prefix, known)), key=len)
    return [*known, *new]


def _is_wrapped(prefix: str, known: tuple[str, ...]) -> bool:
    return any(prefix.endswith(inner) and WRAPPERS.fullmatch(prefix[:len(prefix) - len(inner)]) for inner in known)


def networks(names: Iterable[str]) -> list[str]:
    """The networks of a distillation in a file, as their prefixes say: `Student`, `Teacher`; empty if none does."""
    return sorted({network for name in names if (network := network_of(name)) is not None})


def network_of(name: str) -> str | None:
    """The network of a distillation that a tensor belongs to, whatever wrappers stand before it."""
    wrappers = WRAPPERS.match(name)
    match = NETWORKS.match(name, wrappers.end() if wrappers else 0)
    return match[1] if match else None
