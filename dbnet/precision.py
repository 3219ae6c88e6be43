"""Half precision: the two formats, which layers may be kept out of it, and what a map loses in it.

A layer in half precision takes its inputs and its weights in the short type, adds in float32, and rounds what comes
out: what tensor cores and Ascend's cube do. fp16 has 11 bits and ends at 65504; bf16 has 8 bits and float32's range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.precision_names import PRECISIONS, Precision
from dbnet.spec import ModelSpec

__all__ = ["FORMATS", "PRECISIONS", "SIGMOID", "Counts", "HalfFormat", "Precision", "always_float32", "check_precision",
           "count", "count_weights", "kept_layers", "layers", "taken"]

#: The only layer without weights that may be kept in float32: its output is the map that boxes come from.
SIGMOID = "head.sigmoid"


@dataclass(frozen=True)
class HalfFormat:
    """dtype: its name in numpy, torch and ONNX. largest: the largest number. overflow: what this and all above it is
    rounded to infinity. normal: the least number that keeps all bits. vanishes: what this and all below it is rounded
    to zero. epsilon: the distance from 1 to the next number.
    """

    name: str
    dtype: str
    largest: float
    overflow: float
    normal: float
    vanishes: float
    epsilon: float

    def rounded(self, array: np.ndarray) -> np.ndarray:
        """The nearest numbers of this format, in its own type; infinite beyond its range."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(array).astype(self._numpy())

    def _numpy(self) -> Any:
        if self.dtype == "float16":
            return np.float16
        import ml_dtypes
        return ml_dtypes.bfloat16


#: IEEE 754 binary16, and the upper half of float32.
FORMATS = {
    "fp16": HalfFormat("fp16", "float16", 65504.0, 65520.0, 2.0**-14, 2.0**-25, 2.0**-10),
    "bf16": HalfFormat("bf16", "bfloat16", (2 - 2.0**-7) * 2.0**127, (2 - 2.0**-8) * 2.0**127, 2.0**-126, 2.0**-134,
                       2.0**-7),
}


def check_precision(precision: str) -> None:
    """Raises DbnetError for an unknown one."""
    if precision not in PRECISIONS:
        raise DbnetError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")


# Layers ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def layers(spec: ModelSpec) -> tuple[str, ...]:
    """The layers of inference that have weights, by the paths of their modules, in MindOCR's order, and the sigmoid."""
    return (*dict.fromkeys(p.path for p in parameters(spec) if not p.training_only), SIGMOID)


@lru_cache(maxsize=64)
def always_float32(spec: ModelSpec) -> frozenset[str]:
    """Deformable convolutions: a position of 300 pixels has no room in fp16 for a fraction below 1/4."""
    paths = {p.path for p in parameters(spec)}
    return frozenset(path.removesuffix("_offset") for path in paths if path.endswith("_offset"))


def kept_layers(spec: ModelSpec, names: Iterable[str]) -> frozenset[str]:
    """The layers of `names`, each a layer or a module that holds some (`neck`, `backbone.layer1.0`).

    Raises DbnetError for a name that is none.
    """
    known, found = layers(spec), set[str]()
    for name in names:
        inside = {layer for layer in known if layer == name or layer.startswith(f"{name}.")}
        if not inside:
            near = ", ".join(get_close_matches(name, known, n=3, cutoff=0.4))
            raise DbnetError(f"{spec.name} has no layer {name!r} to keep in float32; "
                             f"{'the nearest are ' + near if near else 'they are called like ' + known[0]}")
        found |= inside
    return frozenset(found)


def taken(layer: str) -> str:
    """Under which name is counted what a layer takes, before it is rounded for it."""
    return f"{layer}.taken"


# What a map loses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Values of one layer's output before rounding. nonfinite: Inf and NaN. beyond: finite ones that become infinite.
    flushed: others than zero that become zero. subnormal: those that are left with fewer bits, which some devices make
    zero. largest: magnitude of the finite ones.
    """

    size: int = 0
    nonfinite: int = 0
    beyond: int = 0
    flushed: int = 0
    subnormal: int = 0
    largest: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.size + other.size, self.nonfinite + other.nonfinite, self.beyond + other.beyond,
                      self.flushed + other.flushed, self.subnormal + other.subnormal, max(self.largest, other.largest))

    @property
    def overflows(self) -> bool:
        return bool(self.nonfinite or self.beyond)


def count(array: np.ndarray, form: HalfFormat) -> Counts:
    """What rounding `array` (any float type) would do to it."""
    size = np.abs(np.asarray(array, np.float64))
    finite = np.isfinite(size)
    size = size[finite]
    return Counts(int(finite.size), int(finite.size - size.size), int((size >= form.overflow).sum()),
                  int(((size > 0) & (size <= form.vanishes)).sum()),
                  int(((size > form.vanishes) & (size < form.normal)).sum()), float(size.max(initial=0.0)))


def count_weights(spec: ModelSpec, weights: Mapping[str, np.ndarray], form: HalfFormat) -> dict[str, Counts]:
    """layer -> its weights' counts; layers without weights are left out."""
    found: dict[str, Counts] = {}
    for p in parameters(spec):
        if not p.training_only:
            found[p.path] = found.get(p.path, Counts()) + count(weights[p.name], form)
    return found
