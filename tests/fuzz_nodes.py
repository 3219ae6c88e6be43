"""Nodes of an .onnx spoilt as nodes, in files that stay sound: what a careless exporter or a rewriting tool does."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from tests.fuzz_bytes import Mutator

#: Beside those of the file.
OPERATORS = ("Identity", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Clip", "Add", "Sub", "Mul", "Div",
             "Max", "Min", "Pow", "Sqrt", "Cast", "Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul",
             "DeformConv", "ReduceMean", "GlobalAveragePool", "MaxPool", "Resize", "Upsample", "Concat", "Split",
             "Slice", "Gather", "Pad", "Shape", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand",
             "Range", "ConstantOfShape", "Where", "Equal", "Constant", "Dropout", "com.microsoft.FusedConv")
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 10, 2**31, -2**63, 2**63 - 1, 0.0, 0.5, -1.0, 1e-45, 3e38, float("nan"), float("inf"), "",
    "Relu", "HardSigmoid", "SAME_UPPER", "nearest", "linear", [], [0], [1, 1], [0, 0], [-1, 2], [1] * 4, [0] * 4,
    [2, 3], [1.0, 2.0], [0.0] * 4, [2**40] * 8, ["a", "b"])
TYPES = ("float16", "float64", "int32", "int64", "bool", "uint8")


def _operator(chance: Random, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    domain, _, node.op_type = chance.choice(chance.choice((OPERATORS, [one.op_type for one in graph.node]))
                                            ).rpartition(".")
    node.domain = domain


def _inputs(chance: Random, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    names = list(node.input)
    known = [*(tensor.name for tensor in graph.initializer), *(name for one in graph.node for name in one.output), ""]
    place = chance.randrange(len(names) + 1)
    new = [chance.choice(names or known)] if chance.random() < 0.4 else [chance.choice(known)]
    node.input[:] = chance.choice((names[:place] + names[place + 1:], names[:place] + new + names[place + 1:],
                                   names[:place] + new + names[place:], names[::-1], names[:place]))


def _attributes(chance: Random, _graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Another value of one, of another type as a rule, or none."""
    names = [attribute.name for attribute in node.attribute]
    name = chance.choice(names or ["axis"]) if chance.random() < 0.7 else chance.choice((
        "axis", "axes", "auto_pad", "pads", "strides", "dilations", "group", "epsilon", "training_mode", "alpha",
        "beta", "to", "start", "end", "keepdims", "perm", "activation", "activation_params", "output_shape", "mode"))
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    value = chance.choice(VALUES)
    if chance.random() < 0.85:
        node.attribute.append(helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if value == []
                                                    else None))


def _values(chance: Random, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """A tensor that the node takes: of another type, shape, or with values at their limits."""
    made = {one.output[0]: one.attribute[0].t for one in graph.node if one.op_type == "Constant" and one.attribute}
    tensors = [t for t in graph.initializer if t.name in node.input] + [made[n] for n in node.input if n in made]
    if not tensors:
        _inputs(chance, graph, node)
        return
    tensor = chance.choice(tensors)
    array = numpy_helper.to_array(tensor)
    with np.errstate(all="ignore"):
        changed = chance.choice((
            lambda: array.astype(chance.choice(TYPES)), lambda: array.reshape(-1), lambda: array.reshape(-1)[:0],
            lambda: array[..., None], lambda: array.reshape(-1)[:1], lambda: array * 0, lambda: array.T,
            lambda: np.full(array.shape, 1e38, np.float32), lambda: np.full(array.shape, np.inf, np.float32),
            lambda: np.concatenate([array.reshape(-1), array.reshape(-1)])))()
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))


def _outputs(chance: Random, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Outputs of the graph from another node, or one more of a node."""
    if chance.random() < 0.5:
        graph.output.append(helper.make_tensor_value_info(chance.choice([n for n in node.output if n]), 1, None))
    else:
        node.output.append(chance.choice(("", "more", *node.output)))


def respelt(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """One to three changes of nodes."""
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError("spoilt before") from error
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        node = chance.choice(list(model.graph.node))
        chance.choice((_operator, _inputs, _inputs, _attributes, _attributes, _values, _outputs))(
            chance, model.graph, node)
    return bytes(model.SerializeToString())


NODES: tuple[Mutator, ...] = (respelt,)
