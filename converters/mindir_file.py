"""MindSpore's .mindir, read without MindSpore and without its schema: the weights, the record, and where the graph is.

One protocol buffer message `ModelProto`; the weights are its graph's parameters, named `<graph>:<name>`, with their
bytes in them or, above 1 GiB, in `<file>_variables/data_<n>` beside the file. What the graph computes is read by
`mindir_semantics`, of which this module only knows where to begin. A record stands in `user_info["dbnet"]`, a delivery
note in `user_info["dbnet.delivery"]`: `mindspore.export(..., custom_func=...)` can fill these, and MindSpore carries
them along unread.
Source: mind_ir.proto of MindSpore 2.10 (`mindspore/train/mind_ir_pb2.py`: field numbers, `TensorProto.DataType`),
`mindspore/train/serialization.py` (`_save_mindir_together`, `_split_save`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from converters.delivery_note import DELIVERY_KEY, DeliveryNote
from converters.formats import ENCRYPTED_CKPT, detect
from converters.graph_reading import GraphReading
from converters.mapped_file import MAX_ENTRIES, MappedFile, add_entry, more_dims, require_room
from converters.mindir_nodes import input_shape
from converters.mindir_wire import DTYPES
from converters.protobuf_wire import (
    LENGTH,
    VARINT,
    MalformedError,
    UnsupportedError,
    fields,
    messages,
    read_number,
    read_varint,
    text_at,
)
from converters.tensor_file import TensorFile, Weights
from converters.training_state import split_training_state
from dbnet.errors import DbnetError, short, shown
from dbnet.record import RECORD_KEY
from dbnet.spec import ModelSpec

#: Files of weights beside one graph: MindSpore begins another after 1 TiB.
MAX_DATA_FILES = 64

# Fields of ModelProto, GraphProto and TensorProto.
_GRAPH, _PREPROCESSOR, _LITTLE, _PRIMITIVES, _USER_INFO = 7, 9, 10, 12, 14
_PARAMETER, _INPUT, _TABLES = 3, 5, 10
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _COMPRESSION, _QUANTISED = 1, 2, 7, 9, 12, 16, 17
#: Values as typed fields, which MindSpore never uses for a weight.
_TYPED = (3, 4, 5, 6, 10, 11)


@dataclass
class _Tensor:
    """A TensorProto: its bytes are view[raw[0]:raw[1]], or in another file at `external`: (location, offset, length).
    """

    name: str = ""
    code: int = 0
    dims: list[int] = field(default_factory=list)
    raw: tuple[int, int] | None = None
    external: tuple[str, int, int] | None = None


@dataclass
class _Model:
    """Where the graph lies, and what stands beside it."""

    graph: tuple[int, int] = (0, 0)
    operators: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    preprocessor: bool = False


def read(path: Path) -> TensorFile:
    """Reads a model. The tensors are views into the mapped file or files, which must stay as they are meanwhile.

    Raises DbnetError if it is no .mindir, encrypted, damaged, or keeps weights where or as they are not read.
    """
    mapped = MappedFile(path)
    if bytes(mapped.view[:4]) in ENCRYPTED_CKPT:
        raise DbnetError(f"{path}: is encrypted; decrypt it with MindSpore: ms.save_checkpoint(ms.nn.GraphCell(ms.load("
                         f"'x.mindir', dec_key=..., dec_mode=...)), 'x.ckpt'), and convert that")
    if (found := detect(path)) != "mindir":
        raise DbnetError(f"{path}: is a .{found} file, not a MindIR; name it so")
    outside = _DataFiles(path)
    try:
        model = _model(mapped.view)
        tensors = _parameters(mapped, outside, *model.graph)
        notes = _notes(mapped.view, model)
    except UnsupportedError as error:
        raise DbnetError(f"{path}: {short(error)}") from error
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no MindIR: {short(error)}; copy it or export it again") from error

    note = model.metadata.pop(DELIVERY_KEY, None)
    logits = note is not None and DeliveryNote.from_json(note, str(path)).logits
    notes += ["its own graph gives logits, the weights are the same"] * logits

    def read_graph(spec: ModelSpec, names: Mapping[str, str]) -> GraphReading:
        from converters.mindir_semantics import read_semantics
        return read_semantics(mapped.view, spec, names, str(path), logits)

    def release(array: np.ndarray) -> None:
        for one in (mapped, *outside.opened.values()):
            one.release(array)

    record = model.metadata.pop(RECORD_KEY, None)
    tensors, training, ema = split_training_state(tensors)
    return TensorFile("mindir", tensors, record, model.metadata, training, notes, ema, release=release,
                      read_graph=read_graph)


def texts_of(path: Path) -> dict[str, str]:
    """Record and delivery note as they stand, by their keys; nothing else is looked at. Raises DbnetError."""
    mapped = MappedFile(path)
    found: dict[str, str] = {}
    try:
        for number, begin, stop in messages(mapped.view, 0, len(mapped.view)):
            if number == _USER_INFO:
                add_entry(found, "user_info", mapped.view, begin, stop)
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no MindIR: {short(error)}; copy it or export it again") from error
    return {key: found[key] for key in (RECORD_KEY, DELIVERY_KEY) if key in found}


# The model ------------------------------------------------------------------------------------------------------------


def _model(view: memoryview) -> _Model:
    """Raises MalformedError without exactly one graph, UnsupportedError for big-endian values."""
    model, graphs = _Model(), 0
    for number, wire_type, begin, stop in fields(view, 0, len(view)):
        if number == _LITTLE and wire_type == VARINT and not read_varint(view, begin, stop)[0]:
            raise UnsupportedError("was written on a big-endian machine, which is not read; export it on another")
        if wire_type != LENGTH:
            continue
        if number == _GRAPH:
            model.graph, graphs = (begin, stop), graphs + 1
        elif number == _PRIMITIVES and len(model.operators) < MAX_ENTRIES:
            model.operators |= {text_at(view, *place) for inner, *place in messages(view, begin, stop) if inner == 2}
        elif number == _PREPROCESSOR:
            model.preprocessor = True
        elif number == _USER_INFO:
            add_entry(model.metadata, "user_info", view, begin, stop)
    if "Conv2D" not in model.operators and any(one == "Custom" or one.endswith("Fusion") for one in model.operators):
        raise UnsupportedError("was converted by MindSpore Lite, whose operators hold folded weights; take the .mindir "
                               "or .ckpt that it was made of")
    if graphs != 1:
        raise MalformedError("it has no graph" if not graphs else "it has several graphs")
    return model


def _notes(view: memoryview, model: _Model) -> list[str]:
    notes = []
    if model.preprocessor:
        notes.append("it carries a preprocessing of images (dataset=...), which is not read")
    shapes = [shape for number, begin, stop in messages(view, *model.graph) if number == _INPUT
              if (shape := input_shape(view, begin, stop)) is not None]
    if len(shapes) == 1 and all(side is not None for side in shapes[0]):
        notes.append(f"its graph takes images of shape {'x'.join(map(str, shapes[0]))} only; the weights fit every "
                     f"size")
    return notes


# The weights ----------------------------------------------------------------------------------------------------------


def _parameters(mapped: MappedFile, outside: _DataFiles, begin: int, stop: int) -> Weights:
    tensors: Weights = {}
    for number, inner, end in messages(mapped.view, begin, stop):
        if number == _TABLES:
            raise UnsupportedError("holds hash tables (map_parameter), so it is no DBNet; name another file")
        if number != _PARAMETER:
            continue
        tensor = _tensor(mapped.view, inner, end)
        name = tensor.name.partition(":")[2] or tensor.name
        if not name:
            raise MalformedError(f"the parameter at byte {inner} has no name")
        require_room(tensors, name)
        tensors[name] = _array(mapped, outside, tensor, name)
    return tensors


def _tensor(view: memoryview, begin: int, stop: int) -> _Tensor:
    tensor = _Tensor()
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == _DIMS:
            tensor.dims = more_dims(tensor.dims, view, wire_type, inner, end, begin)
        elif number == _TYPE:
            tensor.code = read_number(view, wire_type, inner, end)
        elif number == _COMPRESSION and read_number(view, wire_type, inner, end):
            raise UnsupportedError("holds compressed weights; export it again without compression")
        elif number == _QUANTISED:
            raise UnsupportedError("holds quantised weights, which have no counterpart here; take the file it was made "
                                   "of")
        elif number in _TYPED:
            raise MalformedError(f"the tensor at byte {begin} has its values where MindSpore puts none")
        elif wire_type == LENGTH and number == _NAME:
            tensor.name = text_at(view, inner, end)
        elif wire_type == LENGTH and number in (_RAW, _EXTERNAL):
            if tensor.raw is not None or tensor.external is not None:
                raise MalformedError(f"the tensor at byte {begin} has its values in several places")
            if number == _RAW:
                tensor.raw = inner, end
            else:
                tensor.external = _place(view, inner, end)
    return tensor


def _place(view: memoryview, begin: int, stop: int) -> tuple[str, int, int]:
    """An ExternalDataProto: location, offset and length."""
    location, numbers = "", {2: 0, 3: 0}
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == 1 and wire_type == LENGTH:
            location = text_at(view, inner, end)
        elif number in numbers and wire_type == VARINT:
            numbers[number] = read_varint(view, inner, end)[0]
    return location, numbers[2], numbers[3]


def _array(mapped: MappedFile, outside: _DataFiles, tensor: _Tensor, name: str) -> np.ndarray:
    """The values: a view."""
    shape = tuple(tensor.dims)
    if tensor.code not in DTYPES:
        raise UnsupportedError(f"{name} has the type {tensor.code} of MindIR's TensorProto.DataType, which is not "
                               f"read; convert it to float32")
    dtype = DTYPES[tensor.code]
    if any(not 0 < dim < 1 << 31 for dim in shape):
        raise MalformedError(f"{name} has the shape {shape}")
    if tensor.external is not None:
        location, begin, size = tensor.external
    else:
        location, (begin, stop) = "", tensor.raw or (0, 0)
        size = stop - begin
    if size != prod(shape) * dtype.itemsize:
        raise MalformedError(f"{name} has {size} bytes, but its shape {shape} of {dtype.name} takes "
                             f"{prod(shape) * dtype.itemsize}")
    if tensor.external is None:
        return mapped.array(dtype, shape, begin)
    data = outside.open(location)
    if begin + size > len(data.view):
        raise MalformedError(f"{name} ends {begin + size - len(data.view)} bytes beyond the end of {shown(location)}")
    return data.array(dtype, shape, begin)


class _DataFiles:
    """The files of weights beside the graph's, each mapped once."""

    def __init__(self, path: Path):
        self.path = path
        self.opened: dict[str, MappedFile] = {}

    def open(self, location: str) -> MappedFile:
        """Raises DbnetError if it is missing or unfinished, MalformedError if it lies elsewhere than beside `path`."""
        if location in self.opened:
            return self.opened[location]
        place = PurePosixPath(location.replace("\\", "/"))  # which MindSpore writes on Windows
        if not place.parts or "\0" in location or ".." in place.parts or place.is_absolute():
            raise MalformedError(f"it wants its weights from {shown(location)}, which is not beside it")
        if len(self.opened) >= MAX_DATA_FILES:
            raise MalformedError(f"it wants its weights from more than {MAX_DATA_FILES} files")
        folder, wanted = self.path.parent, self.path.parent / place
        try:
            if not wanted.exists():
                raise DbnetError(f"{self.path}: its weights lie in {shown(location)}, which is not beside it; copy "
                                 f"{'the folder ' if place.parts[1:] else ''}{short(place.parts[0])} too")
            if not wanted.resolve().is_relative_to(folder.resolve()):
                raise MalformedError(f"it wants its weights from {shown(location)}, a link to elsewhere")
        except OSError as error:  # a name too long, a loop of links
            raise DbnetError(f"{wanted}: cannot be read ({error.strerror}); check the path") from error
        data = MappedFile(wanted)
        if bytes(data.view[:4]) in ENCRYPTED_CKPT or data.view[0] != 1:  # MindSpore writes this byte last
            raise DbnetError(f"{wanted}: was not written to its end by ms.export, or is encrypted; export it again")
        self.opened[location] = data
        return data
