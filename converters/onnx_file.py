"""ONNX files, read and written on the wire: initialisers go from array to stream, and come back as views.

`onnx.save` holds a file in memory more than six times. Reading needs no onnx at all, and takes what a tensor means from
nothing but its name: the semantics of our own files stand in their record, never in the graph.
Source: onnx/onnx.proto of onnx 1.23 (field numbers, `TensorProto.DataType`, which typed field holds which type).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import ml_dtypes
import numpy as np

from converters.formats import detect
from converters.mapped_file import MAX_DIMS, MAX_ENTRIES, MappedFile
from converters.protobuf_wire import (
    LENGTH,
    VARINT,
    MalformedError,
    bytes_field,
    fields,
    length_head,
    read_numbers,
    read_varint,
    varint_field,
)
from converters.tensor_file import TensorFile, Weights
from converters.weights import bytes_of
from dbnet.errors import DbnetError
from dbnet.record import RECORD_KEY
from dbnet.spec import ModelSpec

if TYPE_CHECKING:
    from converters.onnx_graph import Form
    from converters.onnx_layers import DeformableForm

#: TensorProto.DataType -> the array's type, in the file little-endian.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"), 16: np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype.name: code for code, dtype in DTYPES.items()}
#: Beside the record in metadata_props: which form the graph has.
FORM_KEY = "dbnet.form"
#: What a protocol buffer may hold; beyond it every reader refuses the file.
MAX_BYTES = (1 << 31) - 1
#: Of a name, a record or another text.
MAX_TEXT_BYTES = 1 << 20
#: Varints of typed data are decoded this many bytes at a time, for that takes forty times the memory.
BLOCK_BYTES = 1 << 18

# Fields of ModelProto, GraphProto and TensorProto.
_GRAPH, _OPSETS, _METADATA = 7, 8, 14
_INITIALIZER, _SPARSE = 5, 15
_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
#: Field of TensorProto for typed data -> codes of the types that it holds; float16 and bfloat16 stand in int32_data as
#: the number that their bits are.
_FLOATS, _DOUBLES = 4, 10
_TYPED = {_FLOATS: (1,), 5: (2, 3, 4, 5, 6, 9, 10, 16), 7: (7,), _DOUBLES: (11,), 11: (12, 13)}


class _UnsupportedError(ValueError):
    """A valid file that is not read here; one phrase, and what to do."""


# Writing --------------------------------------------------------------------------------------------------------------


def write(stream: BinaryIO, weights: Weights, spec: ModelSpec, record: str | None, *, form: Form = "archive",
          opset: int | None = None, stages: bool = False, data_shape: tuple[int, int] | None = None,
          batch: int | None = None, deformable: DeformableForm | None = None) -> None:
    """Writes the model; every tensor keeps its canonical name, its type and its bits, and `read` gives it back.

    The delivery form leaves out the training branch. The other arguments are those of `onnx_graph.build_graph`.
    Raises DbnetError as `build_graph` does, and for more than 2 GiB; OSError as the stream does.
    """
    from converters.onnx_graph import build_graph  # imports onnx, which reading does not need

    model = build_graph(spec, weights, form=form, opset=opset, stages=stages, data_shape=data_shape, batch=batch,
                        deformable=deformable)
    graph = model.proto.graph.SerializeToString()
    model.proto.ClearField("graph")
    for key, value in ((RECORD_KEY, record), (FORM_KEY, form)):
        if value is not None:
            model.proto.metadata_props.add(key=key, value=value)
    heads = [_tensor_head(name, array) for name, array in model.initialisers.items()]
    size = len(graph) + sum(map(len, heads)) + sum(array.nbytes for array in model.initialisers.values())
    if size > MAX_BYTES:
        raise DbnetError(f"an .onnx file cannot hold {size} bytes; store the weights as float16 or in .safetensors")
    # The graph comes last, so that a file cut off anywhere ends before its graph should.
    stream.write(model.proto.SerializeToString() + length_head(_GRAPH, size) + graph)
    for head, array in zip(heads, model.initialisers.values(), strict=True):
        stream.write(head)
        stream.write(bytes_of(array))


def _tensor_head(name: str, array: np.ndarray) -> bytes:
    """All of a graph's `initializer` field but the values."""
    inner = b"".join(varint_field(_DIMS, dim) for dim in array.shape)
    inner += varint_field(_TYPE, _CODES[array.dtype.name]) + bytes_field(_NAME, name.encode())
    inner += length_head(_RAW, array.nbytes)
    return length_head(_INITIALIZER, len(inner) + array.nbytes) + inner


# Reading --------------------------------------------------------------------------------------------------------------


@dataclass
class _Model:
    """Where the graph lies, and the texts beside it."""

    graph: tuple[int, int]
    metadata: dict[str, str]


@dataclass
class _Tensor:
    """A TensorProto: its values lie in view[begin:stop] of `data`, (field, begin, stop), or are none (None)."""

    name: str = ""
    code: int = 0
    dims: list[int] = field(default_factory=list)
    data: tuple[int, int, int] | None = None


def read(path: Path) -> TensorFile:
    """Reads all initialisers of a graph. They are views into the mapped file, possibly unaligned, so it must stay as
    it is while they are used; those that another program stored as typed fields are copies.

    Weights that our delivery form stores in the shape of 1x1 kernels come back as the dense layers' (O, I).
    Raises DbnetError if it is no ONNX model, damaged, or keeps tensors where they are not read from.
    """
    mapped = MappedFile(path)
    if (found := detect(path)) != "onnx":
        raise DbnetError(f"{path}: is a .{found} file, not an ONNX model; name it so")
    try:
        model = _model(mapped.view)
        tensors = _initialisers(mapped, *model.graph)
    except _UnsupportedError as error:
        raise DbnetError(f"{path}: {error}") from error
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no ONNX model: {error}; copy or download it again") from error
    record = model.metadata.pop(RECORD_KEY, None)
    if model.metadata.get(FORM_KEY) == "delivery":
        tensors = {name: _dense(name, array) for name, array in tensors.items()}
    return TensorFile("onnx", tensors, record, model.metadata, release=mapped.release)


def _dense(name: str, array: np.ndarray) -> np.ndarray:
    dense = name.endswith((".conv_reduce.weight", ".conv_expand.weight")) and array.shape[2:] == (1, 1)
    return array.reshape(array.shape[:2]) if dense else array


def _model(view: memoryview) -> _Model:
    """Raises MalformedError without exactly one graph and an opset, which a file cut off behind its graph lacks."""
    graph: tuple[int, int] | None = None
    metadata: dict[str, str] = {}
    versioned = False
    for number, begin, stop in _messages(view, 0, len(view)):
        if number == _GRAPH:
            if graph is not None:
                raise MalformedError("it has two graphs")
            graph = begin, stop
        elif number == _OPSETS:
            versioned = True
        elif number == _METADATA:
            entry = {inner: _text(view, *place) for inner, *place in _messages(view, begin, stop)}
            if set(entry) - {1, 2} or entry.get(1, "") in metadata or len(metadata) >= MAX_ENTRIES:
                raise MalformedError(f"its metadata at byte {begin} are no table of texts")
            metadata[entry.get(1, "")] = entry.get(2, "")
    if graph is None:
        raise MalformedError("it has no graph")
    if not versioned:
        raise MalformedError("it does not say its opset")
    return _Model(graph, metadata)


def _messages(view: memoryview, begin: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields (texts, bytes, messages) of a message. Raises MalformedError."""
    for number, wire_type, inner, end in fields(view, begin, stop):
        if wire_type == LENGTH:
            yield number, inner, end


def _initialisers(mapped: MappedFile, begin: int, stop: int) -> Weights:
    tensors: Weights = {}
    for number, inner, end in _messages(mapped.view, begin, stop):
        if number == _SPARSE:
            raise _UnsupportedError("holds sparse tensors, which are not read; store them densely")
        if number != _INITIALIZER:
            continue
        tensor = _tensor(mapped.view, inner, end)
        if tensor.name in tensors:
            raise MalformedError(f"{tensor.name} is in it twice")
        if len(tensors) >= MAX_ENTRIES:
            raise MalformedError(f"it has more than {MAX_ENTRIES} tensors")
        tensors[tensor.name] = _array(mapped, tensor)
    return tensors


def _tensor(view: memoryview, begin: int, stop: int) -> _Tensor:
    tensor = _Tensor()
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == _DIMS:
            if len(tensor.dims) >= MAX_DIMS or end - inner > 10 * MAX_DIMS:
                raise MalformedError(f"the tensor at byte {begin} has more than {MAX_DIMS} dimensions")
            tensor.dims += read_numbers(view, wire_type, inner, end)
        elif number in (_TYPE, _LOCATION):
            if wire_type != VARINT:
                raise MalformedError(f"a number is expected at byte {inner}")
            value = read_varint(view, inner, end)[0]
            if number == _TYPE:
                tensor.code = value
            elif value != 0:
                raise _external()
        elif number == _EXTERNAL:
            raise _external()
        elif number == _SEGMENT:
            raise _UnsupportedError("holds a tensor in segments, which are not read; store it in one piece")
        elif number == _NAME and wire_type == LENGTH:
            tensor.name = _text(view, inner, end)
        elif number == _RAW or number in _TYPED:
            if tensor.data is not None or wire_type != LENGTH:
                raise MalformedError(f"the tensor at byte {begin} has its values in several places")
            tensor.data = number, inner, end
    if not tensor.name:
        raise MalformedError(f"the tensor at byte {begin} has no name")
    return tensor


def _external() -> _UnsupportedError:
    return _UnsupportedError("keeps its weights in another file (external data), which is not read; put them into one: "
                             "onnx.save(onnx.load('model.onnx'), 'single.onnx')")


def _text(view: memoryview, begin: int, stop: int) -> str:
    if stop - begin > MAX_TEXT_BYTES:
        raise MalformedError(f"the text at byte {begin} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        return str(view[begin:stop], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"the text at byte {begin} is not UTF-8") from error


def _array(mapped: MappedFile, tensor: _Tensor) -> np.ndarray:
    """The values: a view of raw data, a copy of typed data."""
    name, shape = tensor.name, tuple(tensor.dims)
    if tensor.code not in DTYPES:
        raise _UnsupportedError(f"{name} has the type {tensor.code} of TensorProto.DataType, which is not read; "
                                f"convert it to float32")
    dtype = DTYPES[tensor.code]
    if any(dim >= 1 << 31 for dim in shape):
        raise MalformedError(f"{name} has the shape {shape}")
    count = prod(shape)
    number, begin, stop = tensor.data or (_RAW, 0, 0)
    if number not in (_RAW, _FLOATS, _DOUBLES):
        return _varints(mapped.view, tensor, count, dtype).reshape(shape)
    if (number != _RAW and tensor.code not in _TYPED[number]) or stop - begin != count * dtype.itemsize:
        raise MalformedError(f"{name} has {stop - begin} bytes, but its shape {shape} of {dtype.name} takes "
                             f"{count * dtype.itemsize}")
    if count == 0:
        if prod(dim for dim in shape if dim) >= 1 << 31:
            raise MalformedError(f"{name} has the shape {shape}")
        return np.empty(shape, dtype)
    return mapped.array(dtype, shape, begin)


def _varints(view: memoryview, tensor: _Tensor, count: int, dtype: np.dtype) -> np.ndarray:
    """Typed data of integers, or of halves as integers. Raises MalformedError unless there are `count` of them."""
    assert tensor.data is not None
    number, begin, stop = tensor.data
    if tensor.code not in _TYPED[number] or count > stop - begin:
        raise MalformedError(f"{tensor.name} has not the {count} values of {dtype.name} that its shape calls for")
    bits = np.dtype("u1") if dtype.name == "bool" else np.dtype(f"<u{dtype.itemsize}")
    values, done = np.empty(count, bits), 0
    while begin < stop:
        block = np.frombuffer(view[begin:min(begin + BLOCK_BYTES, stop)], np.uint8)
        ends = np.flatnonzero(block < 0x80) + 1
        starts = np.concatenate([[0], ends[:-1]])
        lengths = ends - starts if ends.size else np.array([11])  # no end in a block: longer than any number
        if lengths.max() > 10 or done + ends.size > count:
            raise MalformedError(f"{tensor.name} has not the {count} numbers that its shape calls for")
        decoded = np.zeros(ends.size, np.uint64)
        for i in range(lengths.max()):
            here = lengths > i
            decoded[here] |= (block[starts[here] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
        values[done:done + ends.size] = decoded.astype(bits)
        done, begin = done + ends.size, begin + int(ends[-1])
    if done != count:
        raise MalformedError(f"{tensor.name} has {done} numbers, but its shape calls for {count}")
    values.flags.writeable = False
    return values.view(dtype)
