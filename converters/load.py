"""From a file to a model: weights under canonical names, and the record that says what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from converters.backbones import backbone_alone
from converters.check import WeightReport, identify, require_finite, weight_map
from converters.delivery_note import DELIVERY_KEY, exported
from converters.dialects import DIALECTS, get_dialect, origin_of
from converters.formats import read_file
from converters.graph_reading import GraphReading
from converters.not_dbnet import recognised
from converters.onnx_foreign import ForeignModel
from converters.onnx_load import GraphModel, by_graph, contradiction
from converters.prefixes import network_of, networks
from converters.tensor_file import TensorFile, Weights
from converters.weights import digest
from dbnet.errors import DbnetError, UnknownNetworkError, shown
from dbnet.parameters import parameters
from dbnet.pixel_formats import pixel_choice
from dbnet.record import Record
from dbnet.spec import SPECS, ModelSpec, get_spec, with_semantics

Take = Literal["plain", "ema"]
#: The metadata of a trace has this, see parity/trace_file.py; a test compares.
TRACE_KEY = "dbnet_trace"
INFERENCE_NOTE = "inference subset: no head.thresh, so it cannot be trained further"


class NoChoiceError(DbnetError):
    """There is nothing to choose in this file, and somebody has chosen. fields: of `SourceOptions`."""

    def __init__(self, message: str, *fields: str):
        super().__init__(message)
        self.fields = fields


class OpenChoiceError(DbnetError):
    """A training file, and nobody has said which of its weights are meant."""


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about a file that the file does not say itself.

    spec, dialect: names that restrict the search. semantics: fields to change, on top of dialect or record.
    take: which weights of a training file: "plain" or "ema". allow_edited: accept weights that no longer have the
    digest in their record. part: of a file with several networks, `Student` or `Teacher`. pixels: what goes in, and
    with a family's name the box rule too, see `dbnet.pixel_formats.pixel_choice`. output: which output of an .onnx
    that runs as it is is the probability map.
    """

    spec: str | None = None
    dialect: str | None = None
    semantics: Mapping[str, Any] = field(default_factory=dict)
    take: Take | None = None
    allow_edited: bool = False
    part: str | None = None
    pixels: str | None = None
    output: str | None = None


@dataclass
class LoadedModel:
    """A weight file, understood.

    record: spec, origin and digest. weights: canonical names, canonical order. subset: "complete", or "inference"
    without the training branch. bare: the file carried no record, so its dialect's defaults were taken. training: it
    held a training's state beside the weights. graph_read: semantics were read from the graph that it holds. foreign:
    of an .onnx that is not ours, how it was read. unread: why its own graph may compute something else than `record`
    says, for it was edited, or only the names of its weights are known; None if not. assumed: of an .onnx, neither it
    nor the user says its pixels and boxes.
    """

    path: Path
    format: str
    dialect: str
    record: Record
    weights: Weights
    subset: str
    bare: bool
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    release: Callable[[np.ndarray], None] = lambda array: None
    training: bool = False
    graph_read: bool = False
    foreign: ForeignModel | None = None
    unread: str | None = None
    assumed: bool = False


def require_sound(model: LoadedModel) -> None:
    """Raises DbnetError for a file whose record and graph contradict each other: nobody knows which one is meant."""
    if model.unread is not None and not model.bare:
        raise DbnetError(f"{model.path}: {model.unread}")


def record_of(file: TensorFile, path: Path) -> Record | None:
    """What the file says of itself, None if nothing. Raises DbnetError for a record that cannot be used."""
    if file.record is None:
        return None
    record = Record.from_json(file.record, str(path))
    if record.origin not in DIALECTS:
        raise DbnetError(f"{path}: its record cannot be used: its origin {shown(record.origin)} is none of "
                         f"{', '.join(DIALECTS)}; convert the original file again")
    return record


def default_record(dialect_name: str, spec: ModelSpec) -> Record:
    """What a bare file of that dialect is taken for; `spec`: which network, and how wide its neck is."""
    dialect = DIALECTS[dialect_name]
    base = replace(SPECS[spec.name], neck_channels=spec.neck_channels)
    return Record(dialect.spec(base), origin_of(dialect, spec.name))


def load_model(path: str | Path, options: SourceOptions | None = None) -> LoadedModel:
    """Reads and checks a file in any supported format and dialect.

    Raises DbnetError if it is damaged, fits no spec, holds NaN, or leaves open which weights are meant.
    """
    path, options = Path(path), options or SourceOptions()
    file = read_file(path)
    if TRACE_KEY in file.metadata:
        raise DbnetError(f"{path}: is a trace, which holds no weights; compare it with a model: dbnet compare "
                         f"{path.name} MODEL")
    tensors = of_part(_taken(file, path, options.take), path, options.part)
    record = record_of(file, path)
    said = get_spec(options.spec) if options.spec else None
    wanted = record.spec if record else said
    if options.dialect is not None:
        get_dialect(options.dialect)
    if record is not None and said is not None and said.name != record.spec.name:
        raise DbnetError(f"{path}: its record says {record.spec.name}, you say {options.spec}; leave out --spec")
    report = identify(tensors, options.dialect, wanted, any_width=record is None)
    if file.format == "onnx" and (read := read_by_graph(path, file, record, report, options)) is not None:
        return _of_graph(path, file, record, read, options)
    if report.problems:
        raise UnknownNetworkError(f"{path}: {why_not(tensors, report)}; see dbnet inspect {path.name}")
    mapping = weight_map(report.dialect.name, report.spec)
    inner = {name[len(report.prefix):]: array for name, array in tensors.items() if name.startswith(report.prefix)}
    weights = mapping.apply(inner)
    require_finite(weights, str(path))
    sha256 = digest(weights)
    known, reading = known_record(file, record, report, path)
    if options.take != "ema":  # the record's digest is of the plain weights
        _require_unedited(record, sha256, path, options)
    changed = changed_spec(known.spec, path, options)
    notes = [*_notes(file, report, options), *exported(file.metadata, path, known.spec.pixels),
             *graph_notes(reading, record, known, changed)]
    return LoadedModel(path, file.format, report.dialect.name, replace(known, spec=changed, sha256=sha256), weights,
                       report.subset, record is None, report.dropped, notes, file.release, bool(file.training),
                       bool(reading.semantics), unread=file.unread, assumed=_assumes(file, record, options))


def changed_spec(spec: ModelSpec, path: Path, options: SourceOptions) -> ModelSpec:
    """The spec as the user says. Raises DbnetError for a change that has no effect, or needs other tensors."""
    changed = with_semantics(spec, dict(options.semantics))
    relevant = {**spec.relevant_semantics(), **changed.relevant_semantics()}
    idle = [name for name in options.semantics if name not in relevant]
    if idle:
        raise DbnetError(f"{path}: --set {idle[0]} changes nothing in this {changed.name}, which has no such part; "
                         f"leave it out")
    if [(p.name, p.shape) for p in parameters(changed)] != [(p.name, p.shape) for p in parameters(spec)]:
        raise DbnetError(f"{path}: these semantics need other tensors than the file holds; choose another spec")
    return changed if options.pixels is None else pixel_choice(options.pixels).of(changed)


def read_by_graph(path: Path, file: TensorFile, record: Record | None, report: WeightReport,
                  options: SourceOptions) -> GraphModel | None:
    """An .onnx by its graph; None if record and names say all, or the names all that is known.

    Raises DbnetError if it is damaged, or neither graph nor names fit any network.
    """
    if record is not None and not report.problems:
        file.unread = contradiction(path, file.tensors, record, report)
        file.notes += [file.unread] if file.unread else []
        return None
    try:
        said = get_spec(options.spec) if options.spec else None
        return by_graph(path, file.tensors, record, report, options.dialect, said, options.pixels)
    except UnknownNetworkError as error:
        if report.problems and recognised(file.tensors, report.problems * 2 > len(file.tensors)) is None:
            raise
        file.unread = str(error).removeprefix(f"{path}: ")
        file.notes.append(f"its graph was not understood, only the names of its weights; check the semantics "
                          f"({file.unread})")
        return None


def _of_graph(path: Path, file: TensorFile, record: Record | None, read: GraphModel,
              options: SourceOptions) -> LoadedModel:
    require_finite(read.weights, str(path))
    changed = changed_spec(read.record.spec, path, options)
    notes = [*file.notes, *read.notes]
    notes += [f"you say {name}={getattr(changed, name)}, its graph computes {value}: from here on they differ"
              for name, value in read.record.spec.semantics().items() if getattr(changed, name) != value]
    if options.pixels is not None:
        notes.append(f"pixels as you say, {options.pixels}, not the file's own")
    if read.subset == "inference":
        notes.append(INFERENCE_NOTE)
    known = replace(read.record, spec=changed, sha256=digest(read.weights))
    return LoadedModel(path, file.format, read.dialect, known, read.weights, read.subset, record is None, read.dropped,
                       notes, file.release, graph_read=True, foreign=read.foreign,
                       assumed=_assumes(file, record, options))


def _assumes(file: TensorFile, record: Record | None, options: SourceOptions) -> bool:
    """Of an .onnx alone: a weight file without a record is one that means its project's defaults."""
    return file.format == "onnx" and record is None and options.pixels is None and options.dialect is None


def known_record(file: TensorFile, record: Record | None, report: WeightReport,
                 path: Path) -> tuple[Record, GraphReading]:
    """The record, or the dialect's defaults with what the file's graph says, if it holds one that is read.

    Raises DbnetError if the graph computes something else than the record says, or than any spec could.
    """
    known = record or default_record(report.dialect.name, report.spec)
    if file.read_graph is None:
        return known, GraphReading()
    entries = weight_map(report.dialect.name, report.spec).entries
    reading = file.read_graph(known.spec, {entry.parameter.name: report.prefix + entry.foreign for entry in entries})
    if record is None:
        return replace(known, spec=with_semantics(known.spec, reading.semantics)), reading
    for name, value in reading.semantics.items():
        if getattr(known.spec, name) != value:
            raise DbnetError(f"{path}: its record says {name}={getattr(known.spec, name)}, its graph computes {value}; "
                             f"one of them was edited: convert the original file again")
    return known, reading


def graph_notes(reading: GraphReading, record: Record | None, known: Record, changed: ModelSpec) -> list[str]:
    """What was read from the graph, and what no graph tells."""
    notes = list(reading.notes)
    if record is None and reading.semantics:
        project, said = DIALECTS[known.origin].project, ", ".join(f"{k}={v}" for k, v in reading.semantics.items())
        taken = f"; pixels and boxes stand in none: {project}'s are taken (--pixels)"
        notes.append(f"read from its graph: {said}{taken if changed.pixels == known.spec.pixels else ''}")
        default = default_record(known.origin, known.spec).spec
        other = [name for name, value in reading.semantics.items() if getattr(default, name) != value]
        if other and changed.pixels == known.spec.pixels:
            notes.append(f"{', '.join(other)} is not {project}'s, so its pixels may not be either")
    notes += [f"you say {name}={getattr(changed, name)}, its graph computes {value}"
              for name, value in reading.semantics.items() if getattr(changed, name) != value]
    return notes


def why_not(tensors: Weights, report: WeightReport) -> str:
    """Why a file cannot be read whose nearest network `report` describes, in one phrase."""
    reason = recognised(tensors, report.problems * 2 > len(tensors))
    if reason is not None:
        return f"{reason}, so it cannot be converted exactly; only its own project runs it"
    backbone = backbone_alone(tensors)
    if backbone is not None:
        return (f"holds a backbone only, {backbone.describe()}: no neck, no head, so it is no detector; begin a "
                f"training with it: dbnet train --pretrained")
    return (f"fits no known network; nearest is {report.spec.name} in {report.dialect.name} names: "
            f"{report.describe()}")


def of_part(tensors: Weights, path: Path, part: str | None) -> Weights:
    """One network of a file that holds several. Raises DbnetError if it does and none is named, or an unknown one."""
    found = networks(tensors)
    if part is not None and part not in found:
        if not found:
            raise NoChoiceError(f"{path}: has no part {part}: it holds one network only; leave out --part", "part")
        raise DbnetError(f"{path}: has no part {part}: it holds {', '.join(found)}")
    if part is None and len(found) > 1:
        raise DbnetError(f"{path}: holds several networks of a distillation: {', '.join(found)}; say which you mean: "
                         f"--part {found[0]}")
    return tensors if part is None else {n: a for n, a in tensors.items() if network_of(n) == part}


def _taken(file: TensorFile, path: Path, take: Take | None) -> Weights:
    if take == "ema":
        if file.ema is None:
            raise NoChoiceError(f"{path}: holds no EMA copies; use --take plain, or leave it out", "take")
        return file.ema
    if file.training and take is None:
        found = ", ".join(f"{what} ({count})" for what, count in file.training.items())
        choice = " or ".join(["--take plain"] * bool(file.tensors) + ["--take ema"] * bool(file.ema))
        raise OpenChoiceError(f"{path}: is a training file: beside the weights it holds {found}; say which weights "
                              f"you mean: {choice}")
    if not file.tensors and file.format != "onnx":  # whose tensors may be nodes
        raise UnknownNetworkError(f"{path}: holds no tensors; is it the right file?")
    return file.tensors


def _require_unedited(record: Record | None, sha256: str, path: Path, options: SourceOptions) -> None:
    if record is None or record.sha256 in (None, sha256) or options.allow_edited:
        return
    raise DbnetError(f"{path}: its weights do not have the digest in its record: damaged, or edited after they were "
                     f"written; if you edited them, add --allow-edited")


def _notes(file: TensorFile, report: WeightReport, options: SourceOptions) -> list[str]:
    notes = list(file.notes)
    if options.pixels is not None:
        notes.append(f"pixels as you say, {options.pixels}, not the file's own")
    if report.dropped:
        counters = sum(name.endswith("num_batches_tracked") for name in report.dropped)
        others = [name for name in report.dropped if not name.endswith("num_batches_tracked")]
        notes += [f"dropped {counters} num_batches_tracked"] * bool(counters)
        notes += [f"dropped {len(others)} unused tensors ({', '.join(sorted(others)[:3])})"] * bool(others)
    notes += [f"left out {what} ({count})" for what, count in file.training.items()
              if not (what == "EMA copies" and options.take == "ema")]
    # safetensors' "format": the writer's name
    others = [name for name in file.metadata if name not in ("format", DELIVERY_KEY)]
    if others and file.format != "onnx":
        notes.append(f"left out {len(others)} values that are not weights ({', '.join(others[:3])})")
    if report.subset == "inference":
        notes.append(INFERENCE_NOTE)
    return notes
