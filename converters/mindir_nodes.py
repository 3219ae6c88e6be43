"""The graphs in a .mindir as nodes, and the operators they refer to: decoded on the wire, bounded, nothing interpreted.

A node names its operator as `REF::<primitive>`, which has the attributes, or `REF::<function>`, or `REF::<value>` for
a function that is chosen at run time. MindSpore 1 wrote the operator itself with its attributes into the node, and a
tuple flat, with its form in `ref_attr_name`. Sources: mind_ir.proto of MindSpore 2.10 and what it writes; MindSpore 1.2
`mindspore/ccsrc/transform/express_ir/mindir_exporter.cc`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from converters.mindir_wire import DTYPES
from converters.protobuf_wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    MAX_TEXT_BYTES,
    VARINT,
    MalformedError,
    fields,
    messages,
    read_numbers,
    read_varint,
    signed,
    text_at,
)

#: Of nodes, inputs and attributes of one file: the largest network has 15,000.
MAX_ITEMS = 60_000
#: Of attributes within attributes.
MAX_DEPTH = 8
#: What stands before the name of a primitive, function or value.
REF = "REF::"

# Fields of ModelProto, GraphProto, NodeProto, PrimitiveProto and AttributeProto.
_GRAPH, _FUNCTIONS, _PRIMITIVES = 7, 8, 12
_NODE, _GRAPH_NAME, _PARAMETER, _INPUT, _OUTPUT = 1, 2, 3, 5, 6
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5
_FLOAT, _INT, _DOUBLE, _TEXT, _TENSOR, _FLOATS, _DOUBLES, _INTS, _TEXTS, _TENSORS, _FORM, _KIND, _VALUES = (
    2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 15, 16, 17)
#: AttributeProto.AttributeType of a tuple and a list.
_SEQUENCES = (20, 21)


@dataclass(frozen=True)
class Node:
    """One node of a graph; `operator` as it stands there."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """inputs: names; shapes: of those that are tensors, None for a free side; parameters: names, with their graph's."""

    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    shapes: list[tuple[int | None, ...] | None] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)


@dataclass
class Program:
    """main: the network's graph; functions: what it calls; primitives: name -> (operator, attributes)."""

    main: Graph
    functions: dict[str, Graph]
    primitives: dict[str, tuple[str, dict[str, Any]]]


def read_program(view: memoryview) -> Program:
    """All graphs of a model. Raises MalformedError."""
    reader = _Reader(view)
    graphs: list[Graph] = []
    functions: dict[str, Graph] = {}
    primitives: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, begin, stop in messages(view, 0, len(view)):
        if number == _GRAPH:
            graphs.append(reader.graph(begin, stop))
        elif number == _FUNCTIONS:
            function = reader.graph(begin, stop)
            if function.name in functions:
                raise MalformedError(f"the function {function.name} is in it twice")
            functions[function.name] = function
        elif number == _PRIMITIVES:
            name, operator, attributes = reader.primitive(begin, stop)
            if name in primitives:
                raise MalformedError(f"the operator {name} is in it twice")
            primitives[name] = operator, attributes
    return Program(graphs[0], functions, primitives)


class _Reader:
    def __init__(self, view: memoryview):
        self.view = view
        self.left = MAX_ITEMS

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise MalformedError(f"it has more than {MAX_ITEMS} nodes, inputs and attributes")

    def text(self, begin: int, stop: int) -> str:
        self.count()
        return text_at(self.view, begin, stop)

    def graph(self, begin: int, stop: int) -> Graph:
        graph = Graph()
        for number, inner, end in messages(self.view, begin, stop):
            if number == _NODE:
                graph.nodes.append(self.node(inner, end))
            elif number == _GRAPH_NAME:
                graph.name = self.text(inner, end)
            elif number == _PARAMETER:
                graph.parameters.append(self.named(inner, end, 7))
            elif number == _INPUT:
                graph.inputs.append(self.named(inner, end, 1))
                graph.shapes.append(input_shape(self.view, inner, end))
            elif number == _OUTPUT:
                graph.outputs.append(self.named(inner, end, 1))
        return graph

    def named(self, begin: int, stop: int, field_number: int) -> str:
        """Of a message whose only interest is its name, in that field."""
        return next((self.text(inner, end) for number, inner, end in messages(self.view, begin, stop)
                     if number == field_number), "")

    def node(self, begin: int, stop: int) -> Node:
        self.count()
        operator, inputs, outputs, attributes = "", [], [], {}
        for number, inner, end in messages(self.view, begin, stop):
            if number == _NODE_INPUT:
                inputs.append(self.text(inner, end))
            elif number == _NODE_OUTPUT:
                outputs.append(self.text(inner, end))
            elif number == _OPERATOR:
                operator = self.text(inner, end)
            elif number == _ATTRIBUTE:
                name, value = self.attribute(inner, end)
                attributes[name] = value
        return Node(operator, tuple(inputs), tuple(outputs), attributes)

    def primitive(self, begin: int, stop: int) -> tuple[str, str, dict[str, Any]]:
        self.count()
        texts, attributes = {1: "", 2: ""}, {}
        for number, inner, end in messages(self.view, begin, stop):
            if number in texts:
                texts[number] = self.text(inner, end)
            elif number == 3:
                name, value = self.attribute(inner, end)
                attributes[name] = value
        return texts[1], texts[2], attributes

    def attribute(self, begin: int, stop: int, depth: int = 0) -> tuple[str, Any]:
        """Name and value: a number, a text, a tuple of values; None for what is none of these."""
        self.count()
        if depth > MAX_DEPTH:
            raise MalformedError(f"the attribute at byte {begin} is nested more than {MAX_DEPTH} deep")
        name, form, kind, values, flat = "", "", 0, [], []
        for number, wire_type, inner, end in fields(self.view, begin, stop):
            if number == 1 and wire_type == LENGTH:
                name = self.text(inner, end)
            elif number == _FORM and wire_type == LENGTH:
                form = self.text(inner, end)
            elif number == _KIND and wire_type == VARINT:
                kind = read_varint(self.view, inner, end)[0]
            elif number == _VALUES and wire_type == LENGTH:
                values.append(self.attribute(inner, end, depth + 1)[1])
            elif number in (_TENSOR, _TENSORS) and wire_type == LENGTH:
                flat.append(constant(self.view, inner, end))
            elif (one := self.scalar(number, wire_type, inner, end)) is not None:
                self.count()
                flat.append(one)
        if kind in _SEQUENCES:
            return name, tuple(values)
        if form.startswith(("scalar:Tuple[", "scalar:List[")):
            return name, nested(form, flat)
        return name, flat[-1] if flat else None

    def scalar(self, number: int, wire_type: int, begin: int, stop: int) -> float | int | str | None:
        """The value in a field that holds a number or a text; a repeated one is taken for its only value."""
        raw = self.view[begin:stop]
        if number in (_FLOAT, _FLOATS) and (wire_type == FIXED32 or len(raw) == 4):
            return _exact(np.float32(struct.unpack("<f", raw)[0]))
        if number in (_DOUBLE, _DOUBLES) and (wire_type == FIXED64 or len(raw) == 8):
            return float(struct.unpack("<d", raw)[0])
        if number in (_INT, _INTS) and wire_type in (VARINT, LENGTH) and len(raw) <= 10:
            numbers = read_numbers(self.view, wire_type, begin, stop)
            return signed(numbers[0]) if numbers else None
        if number in (_TEXT, _TEXTS) and wire_type == LENGTH:
            return str(raw[:MAX_TEXT_BYTES], "utf-8", "replace")
        return None


def nested(form: str, flat: list[Any]) -> tuple[Any, ...] | None:
    """The tuple whose form is written as `scalar:Tuple[Tuple[value0,value1,],value2,],`; None if that is none."""
    levels: list[list[Any]] = [[]]
    given = iter(flat)
    for part in form.removeprefix("scalar:").replace("[", "[,").split(","):
        if part in ("Tuple[", "List["):
            levels.append([])
        elif part == "]" and len(levels) > 1:
            inner = tuple(levels.pop())
            levels[-1].append(inner)
        elif part:
            levels[-1].append(next(given, None))
        if len(levels) > MAX_DEPTH:
            return None
    return levels[0][0] if len(levels) == 1 and len(levels[0]) == 1 and isinstance(levels[0][0], tuple) else None


def _exact(value: np.float32) -> float:
    """1e-5 for the float32 next to it."""
    return float(str(value))


def input_shape(view: memoryview, begin: int, stop: int) -> tuple[int | None, ...] | None:
    """The shape of a graph's input (a ValueInfoProto), None for a side that is free; None if it is no tensor."""
    for number, inner, end in messages(view, begin, stop):
        if number == 2:
            dims = [dim for part, wire_type, start, until in fields(view, inner, end)
                    if part == 1 and until - start < 320 for dim in read_numbers(view, wire_type, start, until)]
            return tuple(dim if dim < 1 << 31 else None for dim in dims[:32])
    return None


def constant(view: memoryview, begin: int, stop: int) -> Any:
    """The number in a TensorProto of one element, None for any other."""
    dims: list[int] = []
    code, raw = 0, (0, 0)
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number == 1 and end - inner < 320:
            dims += read_numbers(view, wire_type, inner, end)
        elif number == 2 and wire_type == VARINT:
            code = read_varint(view, inner, end)[0]
        elif number == 9 and wire_type == LENGTH:
            raw = inner, end
    dtype = DTYPES.get(code)
    if dtype is None or prod(dims) != 1 or raw[1] - raw[0] != dtype.itemsize:
        return None
    value = np.frombuffer(view[raw[0]:raw[1]], dtype)[0]
    return _exact(value) if dtype == np.float32 else value.item()
