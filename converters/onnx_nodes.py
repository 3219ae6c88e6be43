"""The nodes of an .onnx on the wire: operators, names, attributes and tensors as arrays, with the onnx package absent.

Nothing is computed here, and no graph within a node is entered but for the names that it takes from outside.
Source: onnx/onnx.proto of onnx 1.23 (field numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.mapped_file import MappedFile
from converters.onnx_wire import (
    GRAPH,
    OPSETS,
    array_of,
    initialisers,
    model_places,
    tensor_at,
)
from converters.protobuf_wire import (
    FIXED32,
    LENGTH,
    VARINT,
    MalformedError,
    UnsupportedError,
    fields,
    messages,
    read_numbers,
    read_varint,
    signed,
    text_at,
)
from converters.tensor_file import Weights
from dbnet.errors import DbnetError, UnknownNetworkError, short

#: A deformable DBNet++, taken apart by torch, has below 6,000.
MAX_NODES = 30_000
#: Of a node's inputs, outputs and attributes, and of an attribute's values: more is no layer.
MAX_VALUES = 1 << 12
#: Of graphs in nodes of graphs.
_MAX_DEPTH = 4

# Fields of ModelProto, GraphProto, NodeProto, AttributeProto, ValueInfoProto, TypeProto and TensorShapeProto.
_FUNCTIONS = 25
_NODE, _INPUT, _OUTPUT = 1, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7
_NAME, _FLOAT, _INT, _TEXT, _TENSOR, _SUBGRAPH, _FLOATS, _INTS, _TEXTS = 1, 2, 3, 4, 5, 6, 7, 8, 9
_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """operator: with its domain, unless that is ONNX's own. attributes: numbers, texts (bytes), tuples of them, arrays;
    None for what is not read. captured: names from outside that graphs within the node use.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    captured: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How to call it in a message."""
        name = self.name or next(iter(self.outputs), "")
        return f"{self.operator} {name[:60]}".strip()


@dataclass
class NodeGraph:
    """tensors: initialisers. inputs: name -> its sides, None where one is open, of what is no initialiser.
    outputs: names in the file's order. opset: of ONNX's own operators.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: Weights = field(default_factory=dict)
    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    opset: int = 1
    release: Callable[[np.ndarray], None] = lambda array: None


def read_nodes(path: Path) -> NodeGraph:
    """Raises DbnetError if the file is no ONNX model or damaged, or keeps what is needed where it is not read from."""
    mapped = MappedFile(path)
    try:
        graph = _read_model(mapped)
    except UnsupportedError as error:
        raise UnknownNetworkError(f"{path}: {short(error, 400)}") from error
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no ONNX model: {short(error)}; copy or download it again") from error
    graph.release = mapped.release
    return graph


def _read_model(mapped: MappedFile) -> NodeGraph:
    view, graph = mapped.view, NodeGraph()
    begin, stop = model_places(view).graph
    for number, inner, end in messages(view, 0, len(view)):
        if number == OPSETS:
            graph.opset = _opset(view, inner, end, graph.opset)
        elif number == _FUNCTIONS:
            raise UnsupportedError("holds functions of its own, which are not read; inline them: "
                                   "onnx.inliner.inline_local_functions")
        elif number == GRAPH:
            assert (inner, end) == (begin, stop)
    graph.tensors = initialisers(mapped, begin, stop)
    for number, inner, end in messages(view, begin, stop):
        if number == _NODE:
            if len(graph.nodes) >= MAX_NODES:
                raise MalformedError(f"it has more than {MAX_NODES} nodes")
            graph.nodes.append(_node(mapped, inner, end))
        elif number in (_INPUT, _OUTPUT):
            if len(graph.inputs) + len(graph.outputs) > len(graph.tensors) + MAX_VALUES:
                raise MalformedError("it has more inputs and outputs than a network can have")
            name, sides = _value(view, inner, end)
            if number == _OUTPUT:
                graph.outputs.append(name)
            elif name not in graph.tensors:  # before IR 4 initialisers were inputs too
                graph.inputs[name] = sides
    return graph


def _opset(view: memoryview, begin: int, stop: int, known: int) -> int:
    domain, version = "", known
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == 1 and wire_type == LENGTH:
            domain = text_at(view, inner, end)
        elif number == 2 and wire_type == VARINT:
            version = read_varint(view, inner, end)[0]
    return version if domain in _STANDARD else known


def _value(view: memoryview, begin: int, stop: int) -> tuple[str, list[int | None]]:
    """Name and sides of an input or output."""
    name, sides = "", list[int | None]()
    for number, inner, end in messages(view, begin, stop):
        if number == 1:
            name = text_at(view, inner, end)
        elif number == 2:
            for kind, *tensor in messages(view, inner, end):
                for part, *shape in messages(view, *tensor) if kind == 1 else ():
                    sides = [_side(view, *dim) for one, *dim in messages(view, *shape) if one == 1] if part == 2 \
                        else sides
    return name, sides


def _side(view: memoryview, begin: int, stop: int) -> int | None:
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == 1 and wire_type == VARINT:
            value = signed(read_varint(view, inner, end)[0])
            return value if 0 < value < 1 << 31 else None
    return None


# Nodes ----------------------------------------------------------------------------------------------------------------


def _node(mapped: MappedFile, begin: int, stop: int) -> Node:
    view = mapped.view
    names: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
    texts = {_NODE_NAME: "", _OPERATOR: "", _DOMAIN: ""}
    attributes: dict[str, Any] = {}
    captured: list[str] = []
    for number, inner, end in messages(view, begin, stop):
        if number in names:
            names[number].append(text_at(view, inner, end))
        elif number in texts:
            texts[number] = text_at(view, inner, end)
        elif number == _ATTRIBUTE:
            name, value = _attribute(mapped, inner, end, captured)
            if name in attributes:
                raise MalformedError(f"the node at byte {begin} has the attribute {name[:60]} twice")
            attributes[name] = value
        if max(len(attributes), len(captured), *map(len, names.values())) > MAX_VALUES:
            raise MalformedError(f"the node at byte {begin} has more parts than a layer can have")
    operator = texts[_OPERATOR] if texts[_DOMAIN] in _STANDARD else f"{texts[_DOMAIN]}.{texts[_OPERATOR]}"
    return Node(operator, texts[_NODE_NAME], tuple(names[_NODE_INPUT]), tuple(names[_NODE_OUTPUT]), attributes,
                tuple(captured))


def _attribute(mapped: MappedFile, begin: int, stop: int, captured: list[str]) -> tuple[str, Any]:
    view, name, value, several = mapped.view, "", None, list[Any]()
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == _NAME and wire_type == LENGTH:
            name = text_at(view, inner, end)
        elif number == _FLOAT and wire_type == FIXED32:
            value = struct.unpack("<f", view[inner:end])[0]
        elif number == _INT and wire_type == VARINT:
            value = signed(read_varint(view, inner, end)[0])
        elif number == _TEXT and wire_type == LENGTH:
            value = bytes(view[inner:min(end, inner + MAX_VALUES)])  # which operator needs a longer one is not read
        elif number == _TENSOR and wire_type == LENGTH:
            value = _constant(mapped, inner, end)
        elif number == _SUBGRAPH and wire_type == LENGTH:
            _capture(view, inner, end, captured, 0)
        elif number in (_FLOATS, _INTS, _TEXTS):
            several += _numbers(view, number, wire_type, inner, end)
        if len(several) > MAX_VALUES:
            raise MalformedError(f"the attribute at byte {begin} has more than {MAX_VALUES} values")
    return name, tuple(several) if several else value


def _numbers(view: memoryview, number: int, wire_type: int, begin: int, stop: int) -> list[Any]:
    """A part of a repeated field: one value, or several packed into one payload."""
    if stop - begin > 10 * MAX_VALUES:
        raise MalformedError(f"the values at byte {begin} are more than {MAX_VALUES}")
    if number == _INTS:
        return [signed(value) for value in read_numbers(view, wire_type, begin, stop)]
    if number == _FLOATS:
        if wire_type not in (FIXED32, LENGTH) or (stop - begin) % 4:
            raise MalformedError(f"floats are expected at byte {begin}")
        return [value for value, in struct.iter_unpack("<f", view[begin:stop])]
    if wire_type != LENGTH:
        raise MalformedError(f"a text is expected at byte {begin}")
    return [bytes(view[begin:stop])]


def _constant(mapped: MappedFile, begin: int, stop: int) -> np.ndarray | None:
    """None for values that no layer of these networks takes: texts, 8-bit floats."""
    tensor = tensor_at(mapped.view, begin, stop, named=False)
    try:
        return array_of(mapped, tensor)
    except UnsupportedError:
        return None


def _capture(view: memoryview, begin: int, stop: int, captured: list[str], depth: int) -> None:
    """Adds the names that nodes of a graph within a node take, wherever they come from."""
    if depth > _MAX_DEPTH:
        raise MalformedError(f"its graphs are nested more than {_MAX_DEPTH} deep")
    for number, inner, end in messages(view, begin, stop):
        if number != _NODE:
            continue
        for part, *place in messages(view, inner, end):
            if part == _NODE_INPUT:
                captured.append(text_at(view, *place))
            elif part == _ATTRIBUTE:
                for kind, at, to in messages(view, *place):
                    if kind == _SUBGRAPH:
                        _capture(view, at, to, captured, depth + 1)
            if len(captured) > MAX_VALUES:
                raise MalformedError(f"the graph at byte {begin} has more parts than a layer can have")
