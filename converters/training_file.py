"""Training files: one .ckpt or .pth from which either half goes on, and which every command reads for its weights.

The weights stand under the file's own names, as in any file of that format. Beside them, as MindSpore's training cells
store them: the optimizer's moments and the average under the same names with a prefix, the single numbers of
`dbnet.training.Progress`, and `dbnet_training`, whatever else the training has to know, as JSON in bytes. One file,
because one rename replaces it: a training that is killed at any moment leaves the old one or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from converters.check import WeightReport, identify, require_finite, weight_map
from converters.convert import require_same
from converters.dialects import MINDOCR, native_dialect, origin_of
from converters.formats import codec, read_file, target_format
from converters.load import default_record
from converters.tensor_file import TensorFile, Weights
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.record import Record
from dbnet.spec import ModelSpec
from dbnet.training import AVERAGE, MOMENTS, PENDING

#: Where the JSON is, a 1-d array of bytes: the only thing that both formats can hold beside weights.
ABOUT = "dbnet_training"
#: What may stand before a parameter's name.
PREFIXES = (*(prefix for prefixes in MOMENTS.values() for prefix in prefixes), AVERAGE, PENDING)
#: MindSpore's nn.SGD has another name for the moments of nn.Momentum (MindOCR's train_resume.ckpt).
_ALIASES = {"accum.": "moments."}
_MAX_ABOUT = 1 << 26


@dataclass
class TrainingFile:
    """A training file, understood. record: of its weights. state: as a trainer's `state()`. about: the JSON, {} in a
    file of MindOCR's. bare: it carries no record, so MindOCR's semantics were taken."""

    path: Path
    record: Record
    state: Weights
    about: dict[str, Any] = field(default_factory=dict)
    bare: bool = False


def write_training(target: Path, spec: ModelSpec, state: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes `target`, a .ckpt or .pth, so that it is whole and verified, or as it was before.

    state: as a trainer's `state()`. Raises DbnetError for weights that are no numbers, a full disk, or a folder that
    does not let us.
    """
    kind = target_format(target)
    if kind not in ("ckpt", "pth"):
        raise DbnetError(f"{target}: a training is kept in a .ckpt or .pth file; name it so")
    mapping = weight_map(native_dialect(target.suffix).name, spec)
    weights = {p.name: state[p.name] for p in parameters(spec)}
    require_finite(weights, str(target))
    tensors = mapping.inverse(weights)
    for prefix in PREFIXES:
        tensors |= {prefix + entry.foreign: entry.to_foreign(state[prefix + entry.parameter.name])
                    for entry in mapping.entries if prefix + entry.parameter.name in state}
    tensors |= {name: array for name, array in state.items() if "." not in name}
    tensors[ABOUT] = np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)
    text = Record(spec, origin_of(MINDOCR, spec.name), digest(weights)).to_json()
    module = codec(kind)

    def write(stream: BinaryIO) -> None:
        module.write(stream, tensors, text)

    def verify(path: Path) -> None:
        file: TensorFile = module.read(path)
        file.tensors = file.raw
        require_same(file, tensors, text, target)

    write_verified(target, write, verify)


def read_training(path: Path) -> TrainingFile:
    """Raises DbnetError if the file is damaged, no network of ours, or holds weights only."""
    file = read_file(path)
    if ABOUT not in file.raw and not file.training:
        raise DbnetError(f"{path}: holds weights only, no training to go on with; begin a new one from it: "
                         f"--pretrained {path}")
    record = Record.from_json(file.record, str(path)) if file.record is not None else None
    report = identify(file.tensors, None, record.spec if record else None)
    if report.problems:
        raise DbnetError(f"{path}: fits no known network; nearest is {report.spec.name} in {report.dialect.name} "
                         f"names: {report.describe()}; see dbnet inspect {path.name}")
    if report.subset == "inference":
        raise DbnetError(f"{path}: is an inference subset without head.thresh, which cannot be trained further; take "
                         f"the file that the training wrote")
    state = dict(_state(file.raw, report))
    require_finite({p.name: state[p.name] for p in parameters(report.spec)}, str(path))
    return TrainingFile(path, record or default_record(report.dialect.name, report.spec.name), state,
                        _about(file.raw.get(ABOUT), path), record is None)


def _state(raw: Weights, report: WeightReport) -> Iterator[tuple[str, np.ndarray]]:
    """Under canonical names. What no trainer knows is left out."""
    mapping = weight_map(report.dialect.name, report.spec)
    known = {report.prefix + foreign: entry for foreign, entry in mapping.by_foreign.items()}
    for name, array in raw.items():
        prefix = next((prefix for prefix in (*PREFIXES, *_ALIASES) if name.startswith(prefix)), "")
        entry = known.get(name[len(prefix):])
        if entry is not None and array.shape == entry.foreign_shape:
            yield _ALIASES.get(prefix, prefix) + entry.parameter.name, entry.to_canonical(array)
        elif "." not in name and array.size == 1:
            yield name, array.reshape(())


def _about(array: np.ndarray | None, path: Path) -> dict[str, Any]:
    if array is None:
        return {}
    try:
        if array.dtype != np.uint8 or array.ndim != 1 or array.size > _MAX_ABOUT:
            raise ValueError(f"{array.dtype} of shape {array.shape}")
        about = json.loads(array.tobytes())
        if not isinstance(about, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise DbnetError(f"{path}: what it says of its training is damaged ({str(error)[:80]}); take an earlier "
                         f"checkpoint") from error
    return about
