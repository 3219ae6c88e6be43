"""Training files: one .ckpt or .pth from which either half goes on, and which every command reads for its weights.

The weights stand under the file's own names, as in any file of that format. Beside them, as MindSpore's training cells
store them: the optimizer's moments and the average under the same names with a prefix, the single numbers of
`dbnet.training.Progress`, and `dbnet_training`, whatever else the training has to know, as JSON in bytes. One file,
because one rename replaces it: a training that is killed at any moment leaves the old one or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters.check import identify, require_finite, weight_map
from converters.convert import require_same
from converters.dialects import MINDOCR, native_dialect, origin_of
from converters.formats import codec, read_file, target_format
from converters.load import SourceOptions, default_record, record_of
from converters.tensor_file import TensorFile, Weights
from converters.training_foreign import Found, check_numbers, own_state, sorted_out
from converters.training_state import PREFIXES
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.pixel_formats import pixel_choice
from dbnet.record import Record
from dbnet.spec import ModelSpec, get_spec, with_semantics

#: Where the JSON is, a 1-d array of bytes: the only thing that both formats can hold beside weights.
ABOUT = "dbnet_training"
_MAX_ABOUT = 1 << 26


@dataclass
class TrainingFile:
    """A training file, understood. record: of its weights. state: as a trainer's `state()`. about: the JSON, {} in a
    file of others. bare: it carries no record, so its dialect's semantics were taken. dialect: whose names it has.
    notes: what was made of a file of others, and what of it was left out, a phrase each."""

    path: Path
    record: Record
    state: Weights
    about: dict[str, Any] = field(default_factory=dict)
    bare: bool = False
    dialect: str = "mindocr"
    notes: list[str] = field(default_factory=list)


def write_training(target: Path, spec: ModelSpec, state: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes `target`, a .ckpt or .pth, so that it is whole and verified, or as it was before.

    state: as a trainer's `state()`. Raises DbnetError for weights that are no numbers, a full disk, or a folder that
    does not let us.
    """
    write_state(target, Record(spec, origin_of(MINDOCR, spec.name)), state, about)


def write_state(target: Path, record: Record, state: Mapping[str, np.ndarray], about: Mapping[str, Any],
                bare: bool = False) -> None:
    """`write_training` with the record's origin. bare: with neither a record nor `about`, as others' files are."""
    kind = target_format(target)
    if kind not in ("ckpt", "pth"):
        raise DbnetError(f"{target}: a training is kept in a .ckpt or .pth file; name it so")
    mapping = weight_map(native_dialect(target.suffix.lower()).name, record.spec)
    weights = {p.name: state[p.name] for p in parameters(record.spec)}
    require_finite(weights, str(target))
    tensors = mapping.inverse(weights)
    for prefix in PREFIXES:
        tensors |= {prefix + entry.foreign: entry.to_foreign(state[prefix + entry.parameter.name])
                    for entry in mapping.entries if prefix + entry.parameter.name in state}
    tensors |= {name: array for name, array in state.items() if "." not in name}
    text = None
    if not bare:
        tensors[ABOUT] = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
        text = replace(record, sha256=digest(weights)).to_json()
    module = codec(kind)

    def write(stream: BinaryIO) -> None:
        module.write(stream, tensors, text)

    def verify(path: Path) -> None:
        file: TensorFile = module.read(path)
        file.tensors = file.raw
        require_same(file, tensors, text, target)

    write_verified(target, write, verify)


def holds_training(file: TensorFile) -> bool:
    """Whether there is more in a file than weights."""
    return bool(file.raw) and (ABOUT in file.raw or bool(file.training) or "epoch_num" in file.raw)


def read_training(path: Path) -> TrainingFile:
    """Raises DbnetError if the file is damaged, no network of ours, or holds weights only."""
    file = read_file(path)
    if not holds_training(file):
        raise DbnetError(f"{path}: holds weights only, no training to go on with; begin a new one from it: "
                         f"--pretrained {path}")
    return understood(path, file)


def understood(path: Path, file: TensorFile, options: SourceOptions | None = None) -> TrainingFile:
    """The training in a file. options: `take` is not looked at, for a training has all its weights.

    Raises DbnetError if it is damaged, no network of ours, or of an optimizer that no trainer here has.
    """
    options = options or SourceOptions()
    record = record_of(file, path)
    said = get_spec(options.spec) if options.spec else None
    report = identify(file.tensors, options.dialect, record.spec if record else said)
    if report.problems:
        raise DbnetError(f"{path}: fits no known network; nearest is {report.spec.name} in {report.dialect.name} "
                         f"names: {report.describe()}; see dbnet inspect {path.name}")
    if report.subset == "inference":
        raise DbnetError(f"{path}: is an inference subset without head.thresh, which cannot be trained further; take "
                         f"the file that the training wrote")
    about = _about(file.raw.get(ABOUT), path)
    found = sorted_out(path, file, report) if not about else Found(own_state(file.raw, report))
    check_numbers(path, found.state)
    weights = {p.name: found.state[p.name] for p in parameters(report.spec)}
    require_finite({name: array for name, array in found.state.items() if "." in name}, str(path))
    if record is not None and not options.allow_edited and record.sha256 not in (None, digest(weights)):
        raise DbnetError(f"{path}: its weights do not have the digest in its record: damaged, or edited after they "
                         f"were written; take an earlier checkpoint, or write one of what is in it with: dbnet convert "
                         f"{path.name} NEW --with-optimizer --allow-edited")
    known = record or default_record(report.dialect.name, report.spec)
    spec = with_semantics(known.spec, dict(options.semantics))
    if parameters(spec) != parameters(known.spec):
        raise DbnetError(f"{path}: these semantics need other tensors than the file holds; choose another spec")
    known = replace(known, spec=pixel_choice(options.pixels).of(spec) if options.pixels is not None else spec)
    return TrainingFile(path, known, found.state, about, record is None, report.dialect.name, found.notes)


def _about(array: np.ndarray | None, path: Path) -> dict[str, Any]:
    if array is None:
        return {}
    try:
        if array.dtype != np.uint8 or array.ndim != 1 or array.size > _MAX_ABOUT:
            raise ValueError(f"{array.dtype} of shape {array.shape}")
        about = json.loads(array.tobytes(), parse_constant=_no_number)
        if not isinstance(about, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise DbnetError(f"{path}: what it says of its training is damaged ({str(error)[:80]}); take an earlier "
                         f"checkpoint") from error
    return about


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}")
