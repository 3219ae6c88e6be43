"""What is in a file: told even when it fits nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from converters.backbones import backbone_alone
from converters.check import WeightReport, identify, weight_map
from converters.delivery_note import exported
from converters.dialects import get_dialect
from converters.formats import read_file
from converters.graph_reading import GraphReading
from converters.load import (
    SourceOptions,
    changed_spec,
    default_record,
    graph_notes,
    known_record,
    read_by_graph,
    record_of,
)
from converters.not_dbnet import recognised
from converters.onnx_outline import family_of, read_outline
from converters.prefixes import network_of, networks
from converters.tensor_file import TensorFile, Weights
from converters.training_convert import progress_of
from converters.training_file import holds_training, understood
from converters.weights import digest
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.pixel_formats import pixel_choice
from dbnet.record import Record
from dbnet.spec import ModelSpec, get_spec, with_semantics


def inspect(path: str | Path, options: SourceOptions | None = None) -> dict[str, Any]:
    """Everything known about a weight file, as plain values.

    Keys: format, spec, semantics, dialect, tensors, parameters, sha256, metadata, missing, unexpected (the contract),
    and misshapen, wrong_dtype, dropped, dtypes, subset, record, nearest, training, progress, notes. `spec`, `semantics`
    and `sha256` are None for a file that fits nothing; `nearest` then names the nearest spec and dialect, `recognised`
    what it is if that is known and not read, `backbone` (and subset "backbone") whose backbone alone it is. `progress`:
    where a training stands, see `converters.training_convert.progress_of`; None for weights alone. `runs`: of an .onnx
    that fits nothing and may run as it is, the `pixels` it takes (a family, `record`, None if nothing tells) and what
    tells so.
    Raises DbnetError only for a file that cannot be read at all.
    """
    path, options = Path(path), options or SourceOptions()
    file = read_file(path)
    record = record_of(file, path)
    tensors, parts = _chosen(path, file, options)
    if options.dialect is not None:
        get_dialect(options.dialect)
    said = get_spec(options.spec) if options.spec else None
    report = identify(tensors, options.dialect, record.spec if record else said, any_width=record is None)
    fits = report.problems == 0
    known, reading = _known(path, file, record, report) if fits else (
        record or default_record(report.dialect.name, report.spec), GraphReading())
    spec = with_semantics(known.spec, dict(options.semantics))
    weights = weight_map(report.dialect.name, report.spec).apply(
        {name[len(report.prefix):]: array for name, array in tensors.items() if name.startswith(report.prefix)}
    ) if fits else {}
    sha256 = digest(weights) if fits else None
    progress, notes = _training(path, file, options) if fits else (None, file.notes)
    fed = spec if options.pixels is None else pixel_choice(options.pixels).of(spec)
    notes = [*notes, *exported(file.metadata, path, known.spec.pixels), *graph_notes(reading, record, known, fed)]
    if len(parts) > 1:
        notes = [*notes, f"several networks: {', '.join(parts)}; this is {options.part or parts[0]} (--part)"]
    backbone = None if fits else backbone_alone(tensors)
    found = {
        "format": file.format,
        "spec": report.spec.name if fits else None,
        "semantics": spec.semantics() if fits else None,
        "dialect": report.dialect.name if fits else None,
        "tensors": len(file.tensors),
        "parameters": sum(array.size for array in (weights or file.tensors).values()),
        "sha256": sha256,
        "metadata": {**file.metadata, **_record_values(record, spec, options)},
        "missing": report.missing,
        "unexpected": report.unexpected,
        "misshapen": report.misshapen,
        "wrong_dtype": report.wrong_dtype,
        "dropped": report.dropped,
        "dtypes": _dtypes(file.tensors),
        "subset": report.subset if fits else "backbone" if backbone else None,
        "recognised": None if fits else recognised(tensors, report.problems * 2 > len(tensors)),
        "backbone": None if backbone is None else backbone.describe(),
        "record": None if record is None else "matches" if record.sha256 in (None, sha256) else "edited",
        "nearest": None if fits else {"spec": report.spec.name, "dialect": report.dialect.name},
        "training": file.training,
        "progress": progress,
        "runs": _runs(path, record) if file.format == "onnx" and not fits else None,
        "notes": notes,
    }
    return found | _of_graph(path, file, record, report, options, found) if file.format == "onnx" else found


def _of_graph(path: Path, file: TensorFile, record: Record | None, report: WeightReport, options: SourceOptions,
              found: dict[str, Any]) -> dict[str, Any]:
    """What is otherwise in `found` of an .onnx whose graph says more than its names."""
    try:
        read = read_by_graph(path, file, record, report, options)
    except UnknownNetworkError as error:
        return {"notes": [*found["notes"], str(error).removeprefix(f"{path}: ")]}
    if read is None:
        return {"notes": list(dict.fromkeys([*found["notes"], *file.notes]))}
    spec, sha256 = changed_spec(read.record.spec, path, options), digest(read.weights)
    folded = [read.foreign.describe_folded()] if read.foreign.folded and read.weights is read.foreign.weights else []
    held = file.tensors or read.weights  # which may be nodes
    return {
        "tensors": len(held), "dtypes": _dtypes(held), "spec": spec.name, "semantics": spec.semantics(),
        "dialect": read.dialect, "sha256": sha256, "parameters": sum(a.size for a in read.weights.values()),
        "subset": read.subset,
        "metadata": {**file.metadata, "origin": read.record.origin, "pixels": asdict(spec.pixels),
                     "boxes": asdict(spec.boxes)},
        "missing": [], "unexpected": [], "misshapen": {}, "wrong_dtype": {}, "dropped": read.dropped,
        "recognised": None, "backbone": None, "nearest": None, "runs": None,
        "record": None if record is None else "matches" if record.sha256 in (None, sha256) else "edited",
        "notes": [*found["notes"], "read by its graph, not by the names of its tensors", *read.notes, *folded]}


def _chosen(path: Path, file: TensorFile, options: SourceOptions) -> tuple[Weights, list[str]]:
    """The tensors of one network, the first unless another is asked for, and the names of all networks in the file."""
    if options.take == "ema" and file.ema is None:
        raise DbnetError(f"{path}: holds no EMA copies; use --take plain, or leave it out")
    tensors = file.ema if options.take == "ema" and file.ema is not None else file.tensors
    parts = networks(tensors)
    if parts and options.part in (None, *parts):
        return {n: a for n, a in tensors.items() if network_of(n) == (options.part or parts[0])}, parts
    if options.part is not None:
        raise DbnetError(f"{path}: has no part {options.part}; leave out --part")
    return tensors, parts


def _known(path: Path, file: TensorFile, record: Record | None, report: WeightReport) -> tuple[Record, GraphReading]:
    """What is known of a file that fits, and what its graph says; why it cannot be believed, as a note."""
    try:
        return known_record(file, record, report, path)
    except DbnetError as error:
        return (record or default_record(report.dialect.name, report.spec),
                GraphReading({}, [str(error).removeprefix(f"{path}: ")]))


def _runs(path: Path, record: Record | None) -> dict[str, str | None]:
    if record is not None:
        return {"pixels": "record", "because": "it carries a record of ours"}
    family, why = family_of(read_outline(path)) or (None, None)
    return {"pixels": family, "because": why}


def _training(path: Path, file: TensorFile, options: SourceOptions) -> tuple[dict[str, Any] | None, list[str]]:
    """Where the training stands, if there is one that could be gone on with, and the notes."""
    if not holds_training(file) or not file.tensors:
        return None, file.notes
    try:
        training = understood(path, file, replace(options, allow_edited=True))
    except DbnetError as error:
        return None, [*file.notes, f"no training to go on with: {str(error).removeprefix(f'{path}: ')}"]
    return progress_of(training), [*file.notes, *(note for note in training.notes if note not in file.notes)]


def _record_values(record: Record | None, spec: ModelSpec, options: SourceOptions) -> dict[str, Any]:
    """What the record says, or the user."""
    if record is None and options.pixels is None:
        return {}
    own = {} if record is None else {"origin": record.origin}
    spec = spec if options.pixels is None else pixel_choice(options.pixels).of(spec)
    return {**own, "pixels": asdict(spec.pixels), "boxes": asdict(spec.boxes)}


def _dtypes(tensors: Weights) -> dict[str, int]:
    counts: dict[str, int] = {}
    for array in tensors.values():
        counts[array.dtype.name] = counts.get(array.dtype.name, 0) + 1
    return counts
