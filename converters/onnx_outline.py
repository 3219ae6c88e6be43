"""What an .onnx says without its values: who wrote it, its nodes, which files it needs; and whose pixels it takes.

Source: onnx/onnx.proto of onnx 1.23 (field numbers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from converters.mapped_file import MAX_ENTRIES, MappedFile
from converters.protobuf_wire import MalformedError, messages, text_at
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY

#: Of graphs in nodes of graphs.
_MAX_DEPTH = 16

# Fields of ModelProto, GraphProto, FunctionProto, NodeProto, AttributeProto, TensorProto, StringStringEntryProto.
_PRODUCER, _GRAPH, _OPSETS, _METADATA, _FUNCTIONS = 2, 7, 8, 14, 25
_NODES, _GRAPH_NAME, _INITIALISERS, _OUTPUTS, _SPARSE = 1, 2, 5, 12, 15
_FUNCTION_NODES, _FUNCTION_ATTRIBUTES = 7, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTES, _DOMAIN = 1, 2, 3, 4, 5, 7
_TENSORS, _GRAPHS, _SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
_TENSOR_NAME, _EXTERNAL = 8, 13
_KEY, _VALUE = 1, 2


@dataclass(frozen=True)
class Node:
    """operator: with its domain, as in `com.microsoft.FusedConv`, unless that is ONNX's own."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class Outline:
    """producer, graph: names of who wrote it. nodes, tensors (names of initialisers), outputs: of the main graph.
    domains: of its operators. locations: of external data, wherever in the file. record: our own, if it carries one.
    """

    producer: str = ""
    graph: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    locations: set[str] = field(default_factory=set)
    record: str | None = None


def read_outline(path: Path) -> Outline:
    """Raises DbnetError if the file cannot be read or is damaged."""
    view = MappedFile(path).view
    outline = Outline()
    try:
        for number, begin, stop in messages(view, 0, len(view)):
            if number == _PRODUCER:
                outline.producer = text_at(view, begin, stop)
            elif number == _GRAPH:
                _read_graph(view, begin, stop, outline)
            elif number == _OPSETS:
                outline.domains |= {text_at(view, *at) for inner, *at in messages(view, begin, stop) if inner == 1}
            elif number == _METADATA:
                entry = _entry(view, begin, stop)
                if text_at(view, *entry.get(_KEY, (0, 0))) == RECORD_KEY:
                    outline.record = text_at(view, *entry.get(_VALUE, (0, 0)))
            elif number == _FUNCTIONS:
                _find_external(view, begin, stop, outline, _FUNCTION_NODES, 0)
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no ONNX model: {short(error)}; copy or download it again") from error
    return outline


def _entry(view: memoryview, begin: int, stop: int) -> dict[int, tuple[int, int]]:
    """Of a message whose fields are there once each: where they lie."""
    return {number: (inner, end) for number, inner, end in messages(view, begin, stop)}


def _read_graph(view: memoryview, begin: int, stop: int, outline: Outline) -> None:
    for i, (number, inner, end) in enumerate(messages(view, begin, stop)):
        if i >= 4 * MAX_ENTRIES:
            raise MalformedError(f"its graph has more than {4 * MAX_ENTRIES} parts")
        if number == _GRAPH_NAME:
            outline.graph = text_at(view, inner, end)
        elif number == _NODES:
            outline.nodes.append(_node(view, inner, end))
        elif number == _INITIALISERS:
            outline.tensors += [text_at(view, *at) for field_, *at in messages(view, inner, end)
                                if field_ == _TENSOR_NAME]
        elif number == _OUTPUTS:
            outline.outputs += [text_at(view, *at) for field_, *at in messages(view, inner, end) if field_ == 1]
    _find_external(view, begin, stop, outline, _NODES, 0)


def _node(view: memoryview, begin: int, stop: int) -> Node:
    texts: dict[int, list[str]] = {number: [] for number in
                                   (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _OPERATOR, _DOMAIN)}
    for number, inner, end in messages(view, begin, stop):
        if number in texts:
            texts[number].append(text_at(view, inner, end))
    domain, operator = ".".join(texts[_DOMAIN]), ".".join(texts[_OPERATOR])
    return Node(".".join(texts[_NODE_NAME]), f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator,
                tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]))


def _find_external(view: memoryview, begin: int, stop: int, outline: Outline, nodes: int, depth: int) -> None:
    """Adds the files that tensors of a graph (or of a function: `nodes` is the field of its nodes) lie in."""
    if depth > _MAX_DEPTH:
        raise MalformedError(f"its graphs are nested more than {_MAX_DEPTH} deep")
    for number, inner, end in messages(view, begin, stop):
        if number == nodes:
            for field_, *at in messages(view, inner, end):
                if field_ == _ATTRIBUTES:
                    _find_in_attribute(view, at[0], at[1], outline, depth)
        elif nodes == _FUNCTION_NODES:
            if number == _FUNCTION_ATTRIBUTES:
                _find_in_attribute(view, inner, end, outline, depth)
        elif number in (_INITIALISERS, _SPARSE):
            _find_in_tensor(view, inner, end, outline, number == _SPARSE)


def _find_in_attribute(view: memoryview, begin: int, stop: int, outline: Outline, depth: int) -> None:
    for number, inner, end in messages(view, begin, stop):
        if number in _TENSORS or number in _SPARSE_TENSORS:
            _find_in_tensor(view, inner, end, outline, number in _SPARSE_TENSORS)
        elif number in _GRAPHS:
            _find_external(view, inner, end, outline, _NODES, depth + 1)


def _find_in_tensor(view: memoryview, begin: int, stop: int, outline: Outline, sparse: bool) -> None:
    for number, inner, end in messages(view, begin, stop):
        if sparse and number in (1, 2):  # its values and indices
            _find_in_tensor(view, inner, end, outline, False)
        elif not sparse and number == _EXTERNAL:
            entry = _entry(view, inner, end)
            if text_at(view, *entry.get(_KEY, (0, 0))) == "location":
                outline.locations.add(text_at(view, *entry.get(_VALUE, (0, 0))))


# Whose pixels ---------------------------------------------------------------------------------------------------------

#: Names that Paddle2ONNX gives outputs, and what each project calls its head, in tensors and in names of nodes.
_PADDLE_OUTPUT = re.compile(r"(sigmoid_\d+\.tmp_\d+|save_infer_model/scale_\d+\.tmp_\d+|fetch_name_\d+)")
_NAMES = {
    "paddle": re.compile(r"\bhead[./]binarize[./]conv(1|_bn1)\b"),
    "mhliao": re.compile(r"\bdecoder[./](binarize|thresh|in[2-5]|out[2-5])\b"),
    "mmocr": re.compile(r"\b(det_head|bbox_head)[./](binarize|threshold)\b"),
    "mindocr": re.compile(r"\bhead[./]segm\b"),
}
_ADAPTIVE_FUSION = re.compile(r"\bneck[./]fuse[./](chan|spat|scale)_att\b")


def family_of(outline: Outline) -> tuple[str, str] | None:
    """Whose pixels the file most likely takes, a name of `dbnet.pixel_formats.FAMILIES`, and what tells so.

    None if nothing does, or if several things tell different families.
    """
    found: dict[str, str] = {}
    if "paddle" in outline.producer.lower() + outline.graph.lower():
        found["paddle"] = f"it was written by Paddle2ONNX ({outline.producer or outline.graph})"
    elif outline.outputs and all(map(_PADDLE_OUTPUT.fullmatch, outline.outputs)):
        found["paddle"] = f"its output is called as Paddle2ONNX does ({outline.outputs[0]})"
    if "mmdeploy" in outline.domains:
        found["mmocr"] = "it has operators of mmdeploy"
    names = [*outline.tensors, *(node.name for node in outline.nodes)]
    for family, pattern in _NAMES.items():
        example = next((name for name in names if pattern.search(name)), None)
        if example is not None:
            pp = family == "mindocr" and any(map(_ADAPTIVE_FUSION.search, names))
            found.setdefault(f"{family}_pp" if pp else family,
                             f"its tensors have that project's names ({example[:60]})")
    return next(iter(found.items())) if len(found) == 1 else None
