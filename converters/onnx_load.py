"""An .onnx that carries no record, or whose tensors' names say nothing: what its graph says decides.

Where the names are those of a known project and the graph uses the same values, the tensors come from the names, for
these have the training branch too, in the type in which it was stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.check import WeightReport, weight_map
from converters.dialects import DIALECTS, origin_of
from converters.onnx_foreign import ForeignModel, RefusedGraphError, read_foreign
from converters.tensor_file import Weights
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.pixel_formats import pixel_choice
from dbnet.record import Record
from dbnet.spec import TRAINING_FIELDS, ModelSpec


@dataclass
class GraphModel:
    """What `load_model` makes a model of. dialect: whose names or, without such, whose network it is."""

    foreign: ForeignModel
    record: Record
    weights: Weights
    dialect: str
    subset: str
    dropped: list[str]
    notes: list[str]


def by_graph(path: Path, tensors: Weights, record: Record | None, report: WeightReport, dialect: str | None,
             said: ModelSpec | None, pixels: str | None = None) -> GraphModel:
    """Reads the graph. report: how the tensors' names fit. dialect, said, pixels: what the user says of project,
    network and pixels.

    Raises UnknownNetworkError if the graph is no network that is built here; DbnetError if it is damaged, or another
    network than `said`.
    """
    try:
        foreign = read_foreign(path, record)
    except RefusedGraphError as error:
        if report.problems:
            raise
        raise DbnetError(str(error)) from error  # names that fit do not make it right
    spec = foreign.record.spec
    if said is not None and said.name != spec.name:
        raise DbnetError(f"{path}: its graph is {spec.name}, you say {said.name}; leave out --spec")
    origin, told = dialect or foreign.record.origin, foreign.told
    weights, subset, dropped = foreign.weights, foreign.subset, list[str]()
    named = None if report.problems else _named(tensors, report)
    by_name = named is not None and _same_values(foreign.weights, named)
    if named is not None and by_name:
        weights, subset, dropped = named, report.subset, report.dropped
        origin, told = report.dialect.name, f"its tensors have the names of {report.dialect.project}"
    known = foreign.record
    if record is None and (by_name or dialect):
        known = foreign.of_origin(origin_of(DIALECTS[origin], spec.name))
    notes = [*foreign.notes, *([] if record else [_whose(known, told, dialect, pixels)])]
    return GraphModel(foreign, known, weights, report.dialect.name if by_name else origin, subset, dropped, notes)


def contradiction(path: Path, tensors: Weights, record: Record, report: WeightReport) -> str | None:
    """Where the graph of a file with names and a record that fit computes something else than they say, in one phrase.

    Every graph that is written here can be read, so one that cannot was edited. Raises DbnetError if it is damaged.
    """
    again = "one of them was edited: convert the original file again"
    try:
        foreign = read_foreign(path, record)
    except UnknownNetworkError as error:
        return f"its graph is not that of its record ({str(error).removeprefix(f'{path}: ')}); {again}"
    found = foreign.record.spec
    for name, said in record.spec.relevant_semantics().items():
        if name not in TRAINING_FIELDS and getattr(found, name) != said:
            return f"its record says {name}={said}, its graph computes {getattr(found, name)}; {again}"
    if not _same_values(foreign.weights, _named(tensors, report)):
        return f"its graph uses its tensors for others than their names say; {again}"
    return None


def _whose(record: Record, told: str | None, dialect: str | None, pixels: str | None) -> str:
    """Where pixels and boxes come from, as far as the user does not say."""
    project = DIALECTS[record.origin].project
    choice = pixel_choice(pixels) if pixels is not None else None
    if choice is not None and choice.family:
        return f"boxes: {choice.family}'s, with its pixels"
    what, other = ("boxes", "") if choice else ("pixels and boxes", "; --pixels says otherwise")
    if dialect is not None:
        return f"{what}: {project}'s, as you say"
    if told is None:
        return f"{what}: nothing in the file tells them; {project}'s are taken{other.replace(';', ',')}"
    return f"{what}: {project}'s, for {told}{other}"


def _named(tensors: Weights, report: WeightReport) -> Weights:
    inner = {name[len(report.prefix):]: array for name, array in tensors.items() if name.startswith(report.prefix)}
    return weight_map(report.dialect.name, report.spec).apply(inner)


def _same_values(used: Weights, named: Weights) -> bool:
    """True if every tensor that the graph uses is the one with its name."""
    return all(name in named and named[name].shape == array.shape
               and np.array_equal(array.astype(np.float32), named[name].astype(np.float32), equal_nan=True)
               for name, array in used.items())
