"""What is in a file: told even when it fits nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from converters.backbones import backbone_alone
from converters.check import identify, weight_map
from converters.dialects import get_dialect
from converters.formats import read_file
from converters.load import SourceOptions, default_record, record_of
from converters.not_dbnet import recognised
from converters.prefixes import network_of, networks
from converters.tensor_file import TensorFile
from converters.training_convert import progress_of
from converters.training_file import holds_training, understood
from converters.weights import digest
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.spec import get_spec, with_semantics


def inspect(path: str | Path, options: SourceOptions | None = None) -> dict[str, Any]:
    """Everything known about a weight file, as plain values.

    Keys: format, spec, semantics, dialect, tensors, parameters, sha256, metadata, missing, unexpected (the contract),
    and misshapen, wrong_dtype, dropped, dtypes, subset, record, nearest, training, progress, notes. `spec`, `semantics`
    and `sha256` are None for a file that fits nothing; `nearest` then names the nearest spec and dialect, `recognised`
    what it is if that is known and not read, `backbone` (and subset "backbone") whose backbone alone it is. `progress`:
    where a training stands, see `converters.training_convert.progress_of`; None for weights alone.
    Raises DbnetError only for a file that cannot be read at all.
    """
    path, options = Path(path), options or SourceOptions()
    file = read_file(path)
    if options.take == "ema" and file.ema is None:
        raise DbnetError(f"{path}: holds no EMA copies; use --take plain, or leave it out")
    tensors = file.ema if options.take == "ema" and file.ema is not None else file.tensors
    record = record_of(file, path)
    if options.dialect is not None:
        get_dialect(options.dialect)
    said = get_spec(options.spec) if options.spec else None
    parts = networks(tensors)
    if parts and options.part in (None, *parts):  # told of the first one unless another is asked for
        tensors = {n: a for n, a in tensors.items() if network_of(n) == (options.part or parts[0])}
    elif options.part is not None:
        raise DbnetError(f"{path}: has no part {options.part}; leave out --part")
    report = identify(tensors, options.dialect, record.spec if record else said, any_width=record is None)
    fits = report.problems == 0
    known = record or default_record(report.dialect.name, report.spec)
    spec = with_semantics(known.spec, dict(options.semantics))
    weights = weight_map(report.dialect.name, report.spec).apply(
        {name[len(report.prefix):]: array for name, array in tensors.items() if name.startswith(report.prefix)}
    ) if fits else {}
    sha256 = digest(weights) if fits else None
    progress, notes = _training(path, file, options) if fits else (None, file.notes)
    if len(parts) > 1:
        notes = [*notes, f"several networks: {', '.join(parts)}; this is {options.part or parts[0]} (--part)"]
    backbone = None if fits else backbone_alone(tensors)
    return {
        "format": file.format,
        "spec": report.spec.name if fits else None,
        "semantics": spec.semantics() if fits else None,
        "dialect": report.dialect.name if fits else None,
        "tensors": len(file.tensors),
        "parameters": sum(array.size for array in (weights or file.tensors).values()),
        "sha256": sha256,
        "metadata": {**file.metadata, **_record_values(record)},
        "missing": report.missing,
        "unexpected": report.unexpected,
        "misshapen": report.misshapen,
        "wrong_dtype": report.wrong_dtype,
        "dropped": report.dropped,
        "dtypes": _dtypes(file),
        "subset": report.subset if fits else "backbone" if backbone else None,
        "recognised": None if fits else recognised(tensors, report.problems * 2 > len(tensors)),
        "backbone": None if backbone is None else backbone.describe(),
        "record": None if record is None else "matches" if record.sha256 in (None, sha256) else "edited",
        "nearest": None if fits else {"spec": report.spec.name, "dialect": report.dialect.name},
        "training": file.training,
        "progress": progress,
        "notes": notes,
    }


def _training(path: Path, file: TensorFile, options: SourceOptions) -> tuple[dict[str, Any] | None, list[str]]:
    """Where the training stands, if there is one that could be gone on with, and the notes."""
    if not holds_training(file) or not file.tensors:
        return None, file.notes
    try:
        training = understood(path, file, replace(options, allow_edited=True))
    except DbnetError as error:
        return None, [*file.notes, f"no training to go on with: {str(error).removeprefix(f'{path}: ')}"]
    return progress_of(training), [*file.notes, *(note for note in training.notes if note not in file.notes)]


def _record_values(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {}
    return {"origin": record.origin, "pixels": asdict(record.spec.pixels), "boxes": asdict(record.spec.boxes)}


def _dtypes(file: TensorFile) -> dict[str, int]:
    counts: dict[str, int] = {}
    for array in file.tensors.values():
        counts[array.dtype.name] = counts.get(array.dtype.name, 0) + 1
    return counts
