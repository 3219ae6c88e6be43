"""Does a file hold exactly the weights of a spec? One report says all that is wrong; nothing is silently ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from converters.dialects import DIALECTS
from converters.pickled_objects import printable
from converters.prefixes import candidates
from converters.tensor_file import Weights
from converters.weight_map import Dialect, WeightMap
from dbnet.errors import DbnetError, short
from dbnet.spec import SPECS, WIDEST_NECK, ModelSpec

#: What a parameter may be stored as; anything else is an error.
DTYPES = ("float16", "bfloat16", "float32", "float64")
#: How many names an error line or report lists before it counts the rest.
LISTED = 3


@dataclass
class WeightReport:
    """How the tensors of a file fit one (dialect, spec, prefix). Names are the file's own.

    missing, unexpected: names; misshapen, wrong_dtype: name -> what is wrong; dropped: known and not used;
    subset: "complete", or "inference" if the whole threshold branch is absent.
    """

    dialect: Dialect
    spec: ModelSpec
    prefix: str
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)
    wrong_dtype: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    subset: str = "complete"

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + len(self.wrong_dtype)

    def describe(self) -> str:
        """All problems in one phrase."""
        parts = []
        for what, names in (("missing", self.missing), ("unexpected", self.unexpected),
                            ("of another shape", [f"{n} {why}" for n, why in self.misshapen.items()]),
                            ("of another type", [f"{n} {why}" for n, why in self.wrong_dtype.items()])):
            if names:
                parts.append(f"{len(names)} {what} ({listed(names)})")
        return short(", ".join(parts), 320) or "fits"


def listed(names: list[str]) -> str:
    """The first few names, then a count."""
    rest = len(names) - LISTED
    return ", ".join(map(printable, names[:LISTED])) + (f", and {rest} more" if rest > 0 else "")


@lru_cache(maxsize=128)
def weight_map(dialect_name: str, spec: ModelSpec) -> WeightMap:
    """The map of a named dialect for a spec."""
    return WeightMap(DIALECTS[dialect_name], spec)


def fit(tensors: Weights, mapping: WeightMap, prefix: str) -> WeightReport:
    """Compares names, shapes and types of a file with what `mapping` expects under `prefix`."""
    report = WeightReport(mapping.dialect, mapping.spec, prefix)
    inner = {name[len(prefix):]: name for name in tensors if name.startswith(prefix)}
    report.missing = [prefix + entry.foreign for entry in mapping.entries if entry.foreign not in inner]
    training = [prefix + entry.foreign for entry in mapping.entries if entry.parameter.training_only]
    if set(training) <= set(report.missing):
        report.subset = "inference"
        report.missing = [name for name in report.missing if name not in set(training)]
    for name, array in tensors.items():
        entry = mapping.by_foreign.get(name[len(prefix):]) if name.startswith(prefix) else None
        if entry is None:
            known = name.startswith(prefix) and mapping.is_dropped(name[len(prefix):])
            (report.dropped if known else report.unexpected).append(name)
        elif array.shape != entry.foreign_shape:
            report.misshapen[name] = f"{_size(array.shape)} instead of {_size(entry.foreign_shape)}"
        elif array.dtype.name not in DTYPES:
            report.wrong_dtype[name] = f"{array.dtype.name} instead of a float"
    return report


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def identify(tensors: Weights, dialect: str | None = None, spec: ModelSpec | None = None, *,
             any_width: bool | None = None) -> WeightReport:
    """The (dialect, spec) that covers every name and shape, or the nearest one with what is wrong.

    dialect: a name of DIALECTS; spec: from a record or a user; both restrict the search. any_width: the neck may be as
    wide as it is in the file; by default if no spec is given.
    Raises DbnetError only if the two exclude each other.
    """
    best: WeightReport | None = None
    free = spec is None if any_width is None else any_width
    for mapping, prefix in _likeliest_first(tensors, dialect, spec):
        report = _fit_any_width(tensors, mapping, prefix) if free else fit(tensors, mapping, prefix)
        if report.problems == 0:
            return report
        if best is None or _distance(report, tensors) < _distance(best, tensors):
            best = report
    if best is None:
        raise DbnetError(f"{dialect} names do not exist for {spec.name if spec else 'any spec'}; "
                         f"they exist for {', '.join(DIALECTS[str(dialect)].specs)}")
    return best


def _likeliest_first(tensors: Weights, dialect: str | None, spec: ModelSpec | None) -> list[tuple[WeightMap, str]]:
    """Every (map, prefix) that may be meant, those first that know the most names of the file."""
    inner: dict[str, set[str]] = {}
    found: list[tuple[WeightMap, str]] = []
    for candidate in DIALECTS.values():
        if dialect is not None and candidate.name != dialect:
            continue
        for possible in (SPECS.values() if spec is None else (spec,)):
            if possible.name not in candidate.specs:
                continue
            mapping = weight_map(candidate.name, possible)
            for prefix in candidates(tensors, mapping):
                if prefix not in inner:
                    inner[prefix] = {name[len(prefix):] for name in tensors if name.startswith(prefix)}
                if inner[prefix] or not prefix:
                    found.append((mapping, prefix))
    known = {(id(mapping), prefix): len(mapping.by_foreign.keys() & inner[prefix]) for mapping, prefix in found}
    return sorted(found, key=lambda pair: -known[id(pair[0]), pair[1]])


def _fit_any_width(tensors: Weights, mapping: WeightMap, prefix: str) -> WeightReport:
    """`fit`, with the neck as wide as it is in the file if everything fits then."""
    report = fit(tensors, mapping, prefix)
    first = tensors.get(prefix + next(e.foreign for e in mapping.entries if e.parameter.path.startswith("neck.")))
    if not report.misshapen or report.missing or report.unexpected or first is None or not first.shape:
        return report
    width = first.shape[0]
    if width % 16 or not 16 <= width <= WIDEST_NECK:
        return report
    wider = fit(tensors, weight_map(mapping.dialect.name, replace(mapping.spec, neck_channels=width)), prefix)
    return report if wider.problems else wider


def _distance(report: WeightReport, tensors: Weights) -> tuple[int, int]:
    """For sorting: the nearest knows the most names of the file, and then has the fewest problems."""
    return len(report.unexpected) - len(tensors), report.problems


def require_finite(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Raises DbnetError naming the first tensors that hold NaN or Inf, or a negative variance."""
    bad = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if bad:
        raise DbnetError(f"{where}: NaN or Inf in {len(bad)} tensors ({listed(bad)}); "
                         f"these weights cannot be used, take an earlier checkpoint")
    negative = [name for name, array in weights.items()
                if name.endswith(".moving_variance") and bool((array < 0).any())]
    if negative:
        raise DbnetError(f"{where}: negative variance in {listed(negative)}; these weights cannot be used")
