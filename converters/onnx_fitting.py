"""What a runtime needs of our graph beyond the network: its own pixels in front, logits or a map (H, W) at the end."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper

from converters.onnx_front import front
from converters.onnx_graph import INPUT, OUTPUT, OnnxModel
from converters.onnx_layers import Graph
from dbnet.errors import DbnetError
from dbnet.spec import PixelFormat

#: The output of a file without the sigmoid.
LOGITS = "logits"
#: What the network takes where the file takes other pixels.
_NORMALISED = f"{INPUT}.normalised"


def take_pixels(model: OnnxModel, given: PixelFormat, wanted: PixelFormat) -> None:
    """Puts a front before the network: images normalised as `given` become those that it wants, (x - mean) / std of
    each channel, and the channels change places where the colours do. Sizes stay. No node where nothing differs.
    """
    graph = model.proto.graph
    added = Graph({}, _opset(model.proto), delivery=False)
    name = INPUT
    for operator, values in front(given, wanted):
        constant, axis = f"{INPUT}.{operator.lower()}", {"axis": 1} if operator == "Gather" else {}
        kind = TensorProto.INT64 if operator == "Gather" else TensorProto.FLOAT
        value = helper.make_tensor(constant, kind, values.shape, values.ravel().tolist())
        added.node("Constant", constant, value=value)
        name = added.node(operator, f"{constant}.done", name, constant, **axis)
    if name == INPUT:
        return
    added.rename({name: _NORMALISED})
    for node in graph.node:
        _replace(node, INPUT, _NORMALISED)
    _put(graph, [*added.nodes, *graph.node])


def give_logits(model: OnnxModel) -> None:
    """Takes the sigmoid away; the only output is then called `logits`. In the graph as it is built, so first."""
    graph = model.proto.graph
    [last] = [node for node in graph.node if OUTPUT in node.output]
    _put(graph, [node for node in graph.node if node is not last])
    for node in graph.node:
        _replace(node, last.input[0], LOGITS)
        node.output[:] = [LOGITS if name == last.input[0] else name for name in node.output]
    graph.output[0].name = LOGITS


def give_matrix(model: OnnxModel) -> None:
    """Makes the output (H, W), which OpenCV's text detectors ask for. Raises DbnetError for several images at once."""
    graph = model.proto.graph
    output = graph.output[0]
    batch, _, *sides = output.type.tensor_type.shape.dim
    if batch.dim_value != 1:
        raise DbnetError("a map (H, W) is of one image; leave out --batch")
    before, after = f"{output.name}.map", f"{output.name}.matrix"
    for node in graph.node:
        node.output[:] = [before if name == output.name else name for name in node.output]
    g = Graph({}, _opset(model.proto), delivery=False)
    if g.opset >= 13:
        g.node("Squeeze", after, before, g.constant(f"{output.name}.axes", [0, 1], TensorProto.INT64))
    else:
        g.node("Squeeze", after, before, axes=[0, 1])
    g.rename({after: output.name})
    _put(graph, [*graph.node, *g.nodes])
    shape = [side.dim_value or side.dim_param for side in sides]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))


def _opset(proto: ModelProto) -> int:
    return int(proto.opset_import[0].version)


def _replace(node: NodeProto, old: str, new: str) -> None:
    node.input[:] = [new if name == old else name for name in node.input]


def _put(graph: object, nodes: list[NodeProto]) -> None:
    """The graph's nodes, in this order."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]  # type: ignore[attr-defined]
    graph.node.extend(copies)  # type: ignore[attr-defined]
