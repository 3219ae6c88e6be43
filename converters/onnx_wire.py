"""ONNX files on the wire, as far as tensors go: where the graph lies, what stands beside it, and tensors as arrays.

Nothing here needs the onnx package. Arrays of raw data are views of the mapped file; typed fields are copied.
Source: onnx/onnx.proto of onnx 1.23 (field numbers, `TensorProto.DataType`, which typed field holds which type).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import ml_dtypes
import numpy as np

from converters.mapped_file import MappedFile, add_entry, more_dims, require_room
from converters.protobuf_wire import (
    LENGTH,
    MalformedError,
    UnsupportedError,
    fields,
    messages,
    read_number,
    text_at,
)
from converters.tensor_file import Weights

#: TensorProto.DataType -> the array's type, in the file little-endian.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"), 16: np.dtype(ml_dtypes.bfloat16),
}
#: Varints of typed data are decoded this many bytes at a time, for that takes forty times the memory.
BLOCK_BYTES = 1 << 18

# Fields of ModelProto, GraphProto and TensorProto.
GRAPH, OPSETS, METADATA = 7, 8, 14
INITIALIZER, _SPARSE = 5, 15
_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
#: Field of TensorProto for typed data -> codes of the types that it holds; float16 and bfloat16 stand in int32_data as
#: the number that their bits are.
_FLOATS, _DOUBLES = 4, 10
_TYPED = {_FLOATS: (1,), 5: (2, 3, 4, 5, 6, 9, 10, 16), 7: (7,), _DOUBLES: (11,), 11: (12, 13)}


@dataclass
class ModelPlaces:
    """Where the graph lies, and the texts beside it."""

    graph: tuple[int, int]
    metadata: dict[str, str]


@dataclass
class Tensor:
    """A TensorProto: its values lie in view[begin:stop] of `data`, (field, begin, stop), or are none (None)."""

    name: str = ""
    code: int = 0
    dims: list[int] = field(default_factory=list)
    data: tuple[int, int, int] | None = None


def model_places(view: memoryview) -> ModelPlaces:
    """Raises MalformedError without exactly one graph and an opset, which a file cut off behind its graph lacks."""
    graph: tuple[int, int] | None = None
    metadata: dict[str, str] = {}
    versioned = False
    for number, begin, stop in messages(view, 0, len(view)):
        if number == GRAPH:
            if graph is not None:
                raise MalformedError("it has two graphs")
            graph = begin, stop
        elif number == OPSETS:
            versioned = True
        elif number == METADATA:
            add_entry(metadata, "metadata", view, begin, stop)
    if graph is None:
        raise MalformedError("it has no graph")
    if not versioned:
        raise MalformedError("it does not say its opset")
    return ModelPlaces(graph, metadata)


def initialisers(mapped: MappedFile, begin: int, stop: int) -> Weights:
    """The initialisers of the graph that lies there, by name. Raises MalformedError or UnsupportedError."""
    tensors: Weights = {}
    for number, inner, end in messages(mapped.view, begin, stop):
        if number == _SPARSE:
            raise UnsupportedError("holds sparse tensors, which are not read; store them densely")
        if number != INITIALIZER:
            continue
        tensor = tensor_at(mapped.view, inner, end)
        require_room(tensors, tensor.name)
        tensors[tensor.name] = array_of(mapped, tensor)
    return tensors


def tensor_at(view: memoryview, begin: int, stop: int, named: bool = True) -> Tensor:
    """Where a tensor's values lie. named: it must have a name. Raises MalformedError or UnsupportedError."""
    tensor = Tensor()
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == _DIMS:
            tensor.dims = more_dims(tensor.dims, view, wire_type, inner, end, begin)
        elif number == _TYPE:
            tensor.code = read_number(view, wire_type, inner, end)
        elif number == _EXTERNAL or (number == _LOCATION and read_number(view, wire_type, inner, end)):
            raise _external()
        elif number == _SEGMENT:
            raise UnsupportedError("holds a tensor in segments, which are not read; store it in one piece")
        elif number == _NAME and wire_type == LENGTH:
            tensor.name = text_at(view, inner, end)
        elif number == _RAW or number in _TYPED:
            if tensor.data is not None or wire_type != LENGTH:
                raise MalformedError(f"the tensor at byte {begin} has its values in several places")
            tensor.data = number, inner, end
    if named and not tensor.name:
        raise MalformedError(f"the tensor at byte {begin} has no name")
    return tensor


def _external() -> UnsupportedError:
    return UnsupportedError("keeps its weights in another file (external data), which is not read; put them into one: "
                             "onnx.save(onnx.load('model.onnx'), 'single.onnx')")


def array_of(mapped: MappedFile, tensor: Tensor) -> np.ndarray:
    """The values: a view of raw data, a copy of typed data."""
    name, shape = tensor.name, tuple(tensor.dims)
    if tensor.code not in DTYPES:
        raise UnsupportedError(f"{name} has the type {tensor.code} of TensorProto.DataType, which is not read; "
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


def _varints(view: memoryview, tensor: Tensor, count: int, dtype: np.dtype) -> np.ndarray:
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
