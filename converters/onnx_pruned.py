"""Of a stranger's .onnx what one output needs, to be executed: no other node runs, and nothing that repeats others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbnet.errors import DbnetError, shown

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: Values of one tensor in the graph, as far as its shape is known before it runs: this many, or for each pixel of the
#: image this many. The largest of a network built here are 72 for each pixel, of a deformable convolution in pieces.
MAX_VALUES, MAX_PER_PIXEL = 1 << 26, 256
#: The one graph in a node that is executed: torch writes a deformable convolution's sums (its embedding_bag) as a Loop
#: over positions, with these operators. Rounds: of 1344 x 1344 pixels, and nothing is handed from one to the next.
_BAG = frozenset(("Gather", "Slice", "Unsqueeze", "Squeeze", "Mul", "ReduceSum", "Cast", "Constant"))
MAX_ROUNDS = 1 << 18
#: TensorProto's numbers of float16 and bfloat16; AttributeProto's kinds that hold graphs.
_HALF, _GRAPHS = (10, 16), (5, 10)


@dataclass(frozen=True)
class Pruned:
    """content: a model of its own. output: its name. kind: TensorProto's number of the image's type. shape: of the
    image, None for a side that may be any. half: whether anything is computed in float16 or bfloat16."""

    content: bytes
    output: str
    kind: int
    shape: tuple[int | None, ...]
    half: bool


def pruned(path: Path, output: str | None, repaired: Iterable[str] = ()) -> Pruned:
    """The model with only what `output` (None: the first one) needs. repaired: transposed convolutions that lose the
    attributes that no runtime takes.

    Raises DbnetError for a file with external data, a graph in a node that is needed (If, Loop, Scan), a function, or a
    tensor larger than a network's.
    """
    import onnx
    from google.protobuf.message import DecodeError
    try:
        model = onnx.load_model(str(path), load_external_data=False)
        return _pruned(model, output, set(repaired), path)
    except (DecodeError, UnicodeDecodeError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise DbnetError(f"{path}: cannot be proved, onnx does not read it: {shown(str(error), 160)}; nothing was "
                         f"written") from error


def _pruned(model: ModelProto, output: str | None, repaired: set[str], path: Path) -> Pruned:
    graph = model.graph
    result = next((value for value in graph.output if output in (None, value.name)), None)
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    image = next((value for value in graph.input if value.name not in constants), None)
    if result is None or image is None:
        raise DbnetError(f"{path}: cannot be proved, its graph has no image or no output; nothing was written")
    nodes, names = _needed(graph, result.name)
    functions = {(function.domain, function.name) for function in model.functions}
    for node in nodes:
        _refuse_programs(node, functions, path)
        if node.op_type == "ConvTranspose" and (node.name or node.output[0]) in repaired:
            _drop(node, "output_shape", "auto_pad")
    nodes = [part for node in nodes for part in (_capped(node) if _is_bag(node) else [node])]
    inputs = [image, *(value for value in graph.input if value.name in names and value.name != image.name)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in names]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in names]
    if any(tensor.data_location for tensor in _tensors(nodes, tensors)):
        raise DbnetError(f"{path}: keeps tensors in another file (external data), which is not read; save it as one "
                         f"file")
    half = _half(nodes, tensors) or image.type.tensor_type.elem_type in _HALF
    for part, kept in ((graph.node, nodes), (graph.initializer, tensors), (graph.sparse_initializer, sparse),
                       (graph.input, inputs), (graph.output, [result]), (graph.value_info, [])):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del part[:]
        part.extend(copies)  # type: ignore[arg-type]
    for field in ("functions", "training_info", "metadata_props"):
        model.ClearField(field)
    sides = tuple(side.dim_value if side.dim_value > 0 else None for side in image.type.tensor_type.shape.dim)
    _require_bounded(model, sides, path)
    return Pruned(model.SerializeToString(), result.name, image.type.tensor_type.elem_type, sides, half)


def _needed(graph: GraphProto, output: str) -> tuple[list[NodeProto], set[str]]:
    """The nodes in their order, and the names of all values that they take."""
    givers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    names, waiting, kept = {output}, [output], set[int]()
    while waiting:
        i = givers.get(waiting.pop())
        if i is not None and i not in kept:
            kept.add(i)
            taken = [*graph.node[i].input, *(name for attribute in graph.node[i].attribute
                                             for inner in attribute.g.node for name in inner.input)]
            waiting += [name for name in taken if name]
            names.update(taken)
    return [graph.node[i] for i in sorted(kept)], names


def _refuse_programs(node: NodeProto, functions: set[tuple[str, str]], path: Path) -> None:
    if (node.domain, node.op_type) in functions:
        raise DbnetError(f"{path}: cannot be proved, {shown(node.op_type)} is a function of its own, which is not "
                         f"executed; nothing was written")
    if _has_graph(node) and not _is_bag(node):
        raise DbnetError(f"{path}: cannot be proved, {shown(node.op_type)} {shown(node.name or node.output[0])} has a "
                         f"graph in it, which is not executed; nothing was written")


def _has_graph(node: NodeProto) -> bool:
    return any(attribute.type in _GRAPHS or attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _is_bag(node: NodeProto) -> bool:
    if (node.op_type, node.domain, len(node.input), len(node.attribute)) != ("Loop", "", 2, 1) or not node.input[0]:
        return False
    graph = node.attribute[0].g
    return len(graph.node) <= 2 * len(_BAG) and not graph.sparse_initializer and not any(
        inner.domain or inner.op_type not in _BAG or _has_graph(inner) for inner in graph.node)


def _capped(loop: NodeProto) -> list[NodeProto]:
    """The Loop with MAX_ROUNDS at most; one that wants more then gives something else than the converted model."""
    from onnx.helper import make_node, make_tensor
    rounds, name = loop.input[0], f"{loop.output[0]}/rounds"
    most = make_tensor("", 7, (), [MAX_ROUNDS])
    loop.input[0] = name
    return [make_node("Constant", [], [f"{name}/most"], value=most),
            make_node("Less", [rounds, f"{name}/most"], [f"{name}/fewer"]),
            make_node("Where", [f"{name}/fewer", rounds, f"{name}/most"], [name]), loop]


def _drop(node: NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _tensors(nodes: list[NodeProto], initialisers: list[TensorProto]) -> list[TensorProto]:
    inner = [part for node in nodes for a in node.attribute for part in a.g.node]
    return [*initialisers, *(a.t for node in (*nodes, *inner) for a in node.attribute if a.HasField("t")),
            *(tensor for node in nodes for a in node.attribute for tensor in a.g.initializer)]


def _half(nodes: list[NodeProto], initialisers: list[TensorProto]) -> bool:
    """Whether anything but a Cast takes a short tensor, or something is cast to one."""
    short = {tensor.name for tensor in initialisers if tensor.data_type in _HALF}
    short |= {node.output[0] for node in nodes if node.op_type == "Constant" and node.output
              for a in node.attribute if a.HasField("t") and a.t.data_type in _HALF}
    for node in nodes:
        if node.op_type == "Cast":
            if any(a.name == "to" and a.i in _HALF for a in node.attribute):
                return True
        elif short.intersection(node.input):
            return True
    return False


def _require_bounded(model: ModelProto, sides: tuple[int | None, ...], path: Path) -> None:
    """Of what is known without running: ConstantOfShape, Expand, Tile and the like with sizes from constants."""
    import onnx
    known = sides[-2:] if len(sides) == 4 else ()
    most = max(MAX_VALUES, MAX_PER_PIXEL * math.prod(side or 1 for side in known))
    for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
        shape = [side.dim_value for side in value.type.tensor_type.shape.dim if side.dim_value > 0]
        if math.prod(shape) > most:
            raise DbnetError(f"{path}: cannot be proved, {shown(value.name)} has {math.prod(shape):,} values, more "
                             f"than {most:,}; nothing was written")
