"""The one weight map: another project's names <-> canonical names, in both directions from one table of rows.

A `Dialect` is data: rows of path patterns and the framework whose leaf names it uses. Together with a spec's parameter
list the rows yield, for every parameter, its name in that dialect; read backwards, the same list takes a file home. So
the two directions cannot disagree, and completeness is checked with no framework installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from converters.tensor_file import Weights
from dbnet.parameters import BACKBONE_CHANNELS, Framework, Parameter, Role, parameters
from dbnet.spec import TRAINING_FIELDS, BoxRule, ModelSpec, PixelFormat, with_semantics


@dataclass(frozen=True)
class Transform:
    """A change of layout with its inverse: canonical -> foreign and back; both take and return an array."""

    to_foreign: Callable[[np.ndarray], np.ndarray]
    to_canonical: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """One row: a canonical module path and the foreign one. `{x}` stands for one part of a path, `{x*}` for the rest.

    A parameter takes the first row that fits it; without a row it keeps its path.
    """

    canonical: str
    foreign: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Variant:
    """What is particular to one spec of a dialect: rows that come before the others, and what a bare file means."""

    rules: tuple[Rule, ...] = ()
    semantics: Mapping[str, Any] = field(default_factory=dict)
    pixels: PixelFormat | None = None
    boxes: BoxRule | None = None


@dataclass(frozen=True)
class Dialect:
    """How a project names and means its weights.

    framework: whose leaf names. specs: which SPECS its names can hold. suffixes: formats it is native to.
    prefixes: what this project puts before every name; the first is the one that is written. What others put before
    that is known to `converters.prefixes`.
    dropped: patterns (regular expressions over the name without prefix) of tensors that are known and not used.
    unused: such tensors that the project's class cannot load without: name without prefix -> shape, None for the
    channels of c5. They are written as zeros.
    semantics, pixels, boxes: what a bare file of this project computes, where that differs from the spec's default.
    fixed: semantic fields that the project's own code cannot change, with the only value it knows, or a tuple of them.
    variants: what differs from all that for one spec, by its name.
    folded: what the transforms make part of the weights: what -> how it is there. logits: True if the project's own
    head leaves out the last sigmoid.
    foreign: True if a file in this dialect is meant for that project's own code, which would not read our record.
    """

    name: str
    project: str
    framework: Framework
    specs: tuple[str, ...]
    suffixes: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    dropped: tuple[str, ...] = ()
    unused: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    semantics: Mapping[str, Any] = field(default_factory=dict)
    pixels: PixelFormat | None = None
    boxes: BoxRule | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    logits: bool = False
    foreign: bool = True

    def spec(self, base: ModelSpec) -> ModelSpec:
        """What a bare file in this dialect, of the shapes of `base`, computes."""
        variant = self.variant(base)
        changed = with_semantics(base, {**self.semantics, **variant.semantics})
        return replace(changed, pixels=variant.pixels or self.pixels or base.pixels,
                       boxes=variant.boxes or self.boxes or base.boxes)

    def variant(self, spec: ModelSpec) -> Variant:
        """What is particular to `spec`."""
        return self.variants.get(spec.name, Variant())

    def known(self, name: str, spec: ModelSpec) -> Any:
        """The value, or a tuple of them, that the project's own code knows of a semantic field in `fixed`."""
        # `fixed` is about RSEFPN: no project's DBFPN has a choice.
        return "floor" if name == "upsampling" and spec.neck == "dbfpn" else self.fixed[name]

    def knows(self, name: str, spec: ModelSpec) -> bool:
        """False if the project's own code cannot compute this field of `spec`."""
        if name not in self.fixed:
            return True
        known, value = self.known(name, spec), getattr(spec, name)
        return bool(value in known if isinstance(known, tuple) else value == known)

    def cannot_express(self, spec: ModelSpec) -> list[str]:
        """The semantic fields in which `spec` differs from all that the project's own code can infer."""
        ours = spec.relevant_semantics()
        return [name for name in self.fixed
                if name in ours and name not in TRAINING_FIELDS and not self.knows(name, spec)]


def _compile(rule: Rule) -> tuple[re.Pattern[str], str, Transform | None]:
    pattern = re.sub(r"\\\{(\w+)(\\\*)?\\\}", lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^.]+'})",
                     re.escape(rule.canonical))
    return re.compile(pattern), re.sub(r"\{(\w+)\*?\}", r"\\g<\1>", rule.foreign), rule.transform


@dataclass(frozen=True)
class Entry:
    """One parameter and its place in a dialect."""

    parameter: Parameter
    foreign: str
    transform: Transform | None

    @cached_property
    def foreign_shape(self) -> tuple[int, ...]:
        return self.to_foreign(np.broadcast_to(np.float32(0), self.parameter.shape)).shape

    def to_foreign(self, array: np.ndarray) -> np.ndarray:
        return array if self.transform is None else self.transform.to_foreign(array)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        return array if self.transform is None else np.ascontiguousarray(self.transform.to_canonical(array))


class WeightMap:
    """The names of one spec in one dialect (without prefix), usable in both directions."""

    def __init__(self, dialect: Dialect, spec: ModelSpec):
        self.dialect, self.spec = dialect, spec
        rules = [_compile(rule) for rule in (*dialect.variant(spec).rules, *dialect.rules)]
        self.entries: list[Entry] = []
        for parameter in parameters(spec):
            path, transform = parameter.path, None
            for pattern, foreign, change in rules:
                if match := pattern.fullmatch(parameter.path):
                    path, transform = match.expand(foreign), change
                    break
            self.entries.append(Entry(parameter, f"{path}.{parameter.role.leaf(dialect.framework)}", transform))
        self.by_foreign = {entry.foreign: entry for entry in self.entries}
        self._dropped = [re.compile(pattern) for pattern in (*dialect.dropped, *map(re.escape, dialect.unused))]
        self._counters = {_counter(entry) for entry in self.entries if entry.parameter.role is Role.NORM_MEAN} \
            if dialect.framework == "torch" else set()

    def is_dropped(self, name: str) -> bool:
        """True for a name (without prefix) that is known and has no use here, such as num_batches_tracked."""
        return name in self._counters or any(pattern.fullmatch(name) for pattern in self._dropped)

    def apply(self, tensors: Mapping[str, np.ndarray]) -> Weights:
        """Foreign -> canonical names and layouts, in canonical order; names that are not in the map are left out."""
        return {entry.parameter.name: entry.to_canonical(tensors[entry.foreign])
                for entry in self.entries if entry.foreign in tensors}

    def inverse(self, weights: Mapping[str, np.ndarray]) -> Weights:
        """Canonical -> foreign names with the dialect's first prefix, and zeros for what has no home here: torch's
        counters, and what the dialect's own code holds unused."""
        prefix, out = self.dialect.prefixes[0], {}
        for entry in self.entries:
            if entry.parameter.name in weights:
                out[prefix + entry.foreign] = entry.to_foreign(weights[entry.parameter.name])
        out = self._with_counters(out)
        kind = next(iter(weights.values())).dtype if weights else np.float32
        channels = BACKBONE_CHANNELS[self.spec.backbone][-1]
        for name, shape in self.dialect.unused.items():
            out[prefix + name] = np.zeros([channels if side is None else side for side in shape], kind)
        return out

    def _with_counters(self, tensors: Weights) -> Weights:
        """torch orders a batch norm as weight, bias, running_mean, running_var, num_batches_tracked."""
        if self.dialect.framework != "torch":
            return tensors
        prefix, ordered = self.dialect.prefixes[0], {}
        leaves = [role.leaf("torch") for role in (Role.NORM_SCALE, Role.NORM_SHIFT, Role.NORM_MEAN, Role.NORM_VARIANCE)]
        for name, array in tensors.items():
            if name in ordered:
                continue
            path = name.rpartition(".")[0]
            if f"{path}.{Role.NORM_MEAN.leaf('torch')}"[len(prefix):] not in self.by_foreign:
                ordered[name] = array
                continue
            ordered.update({f"{path}.{leaf}": tensors[f"{path}.{leaf}"] for leaf in leaves
                            if f"{path}.{leaf}" in tensors})
            ordered[f"{path}.num_batches_tracked"] = np.zeros((), np.int64)
        return ordered


def _counter(entry: Entry) -> str:
    return f"{entry.foreign.rpartition('.')[0]}.num_batches_tracked"

