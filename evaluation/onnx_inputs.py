"""What goes into an .onnx and which operators it has, read with the standard library alone.

`converters` reads such files too, and needs more packages than another environment has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dbnet.errors import DbnetError

#: float32 as TensorProto has it.
FLOAT = 1

# Fields of ModelProto, GraphProto, ValueInfoProto, TypeProto, TypeProto.Tensor, TensorShapeProto, Dimension; of
# TensorProto and NodeProto.
_GRAPH, _NODES, _INITIALISERS, _INPUTS = 7, 1, 5, 11
_NAME, _TYPE, _TENSOR, _ELEMENT, _SHAPE, _DIM, _VALUE = 1, 2, 1, 1, 2, 1, 1
_TENSOR_NAME, _OPERATOR = 8, 4


@dataclass
class Graph:
    """inputs: name -> type of its elements, and its sides, None where any will do. operators: of its nodes."""

    inputs: dict[str, tuple[int, tuple[int | None, ...]]] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)


def read_graph(content: bytes, where: str) -> Graph:
    """Raises DbnetError if it is damaged. where: the file, for errors."""
    graph = Graph()
    try:
        view = memoryview(content)
        for part in _parts(view, _GRAPH):
            for node in _parts(part, _NODES):
                graph.operators |= {str(text, "utf-8") for text in _parts(node, _OPERATOR)}
            for value in _parts(part, _INPUTS):
                tensors = [tensor for kind in _parts(value, _TYPE) for tensor in _parts(kind, _TENSOR)]
                sides = [dim for tensor in tensors for shape in _parts(tensor, _SHAPE) for dim in _parts(shape, _DIM)]
                kinds = [_number(tensor, _ELEMENT) for tensor in tensors]
                # A side of 0 is one of any size, as some write it.
                graph.inputs[_name(value, _NAME)] = sum(kinds), tuple(_number(dim, _VALUE) or None for dim in sides)
        weights = {_name(tensor, _TENSOR_NAME) for part in _parts(view, _GRAPH)
                   for tensor in _parts(part, _INITIALISERS)}
    except (ValueError, IndexError) as error:
        raise DbnetError(f"{where}: is damaged or no ONNX model; copy or download it again") from error
    graph.inputs = {name: told for name, told in graph.inputs.items() if name not in weights}
    return graph


def _parts(view: memoryview, wanted: int) -> Iterator[memoryview]:
    """The payloads of one field that holds messages or texts. Raises ValueError, IndexError where it is cut off."""
    yield from (value for number, value in _fields(view) if number == wanted and isinstance(value, memoryview))


def _number(view: memoryview, wanted: int) -> int:
    """A field that holds a number, 0 without it."""
    return next((value for number, value in _fields(view) if number == wanted and isinstance(value, int)), 0)


def _name(view: memoryview, wanted: int) -> str:
    return "".join(str(text, "utf-8") for text in _parts(view, wanted))


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no such field")
        if at + length > len(view):
            raise ValueError("cut off")
        yield tag >> 3, view[at:at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
