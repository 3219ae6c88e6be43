"""Layers as ONNX nodes: each function appends what one layer of the network needs and returns its output's name.

A node and the value it computes carry the path of the module (`backbone.layer1.0.conv1`), an initialiser the canonical
name of the parameter (`backbone.layer1.0.conv1.weight`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from onnx import NodeProto, TensorProto, helper

from converters.tensor_file import Weights
from dbnet.spec import Padding, SeGate

#: What initialisers may be stored as; all but float32 are followed by a Cast.
DTYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT,
          "float64": TensorProto.DOUBLE}
#: After the name of what is only a part of an operation's sum: no layer's map, and no half precision rounds it.
PARTIAL_SUFFIX = ".of_rows"
#: Deformable convolutions by the operator of the standard, or made of others, which every runtime has.
DeformableForm = Literal["native", "decomposed"]


class Graph:
    """The nodes of a graph in the making, and the weights that they have used so far.

    weights: canonical names. used: what is to be stored, under the same names. opset: decides how an operator is
    spelled. delivery: weights of dense layers are stored in the shape of 1x1 kernels, and means of maps are operators
    that old runtimes have, too. deformable: how deformable convolutions are written.
    """

    def __init__(self, weights: Weights, opset: int, delivery: bool, deformable: DeformableForm = "decomposed"):
        self.weights, self.opset, self.delivery, self.deformable = weights, opset, delivery, deformable
        self.nodes: list[NodeProto] = []
        self.used: Weights = {}

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Appends an operator with one output, which is called like the node, and returns that name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str) -> str:
        """The float32 value of a parameter."""
        self.used[name] = array = self.weights[name]
        if array.dtype.name == "float32":
            return name
        return self.node("Cast", f"{name}.float32", name, to=TensorProto.FLOAT)

    def constant(self, name: str, values: list[int] | list[float], kind: int) -> str:
        """A constant vector; a node rather than an initialiser, since it is no weight."""
        value = helper.make_tensor(name, kind, [len(values)], values)
        return self.node("Constant", name, value=value)

    def scalar(self, name: str, value: int | float, kind: int) -> str:
        """A constant without a dimension."""
        return self.node("Constant", name, value=helper.make_tensor(name, kind, [], [value]))

    def rename(self, names: dict[str, str]) -> None:
        """Renames values (old -> new); the nodes keep theirs."""
        for node in self.nodes:
            for values in (node.input, node.output):
                for i, value in enumerate(values):
                    values[i] = names.get(value, value)


def conv(g: Graph, path: str, x: str, stride: int = 1, groups: int = 1, padding: Padding = "symmetric") -> str:
    """A convolution that keeps the size (divided by the stride); with a bias if the weights have one.

    `same` is what MindSpore and TensorFlow pad on sides that are multiples of the stride: the odd pixel goes to the
    bottom and right. At stride 1 there is none, and both paddings are equal.
    """
    weight = g.weight(f"{path}.weight")
    kernel = g.weights[f"{path}.weight"].shape[2]
    return g.node("Conv", path, x, weight, *_bias(g, path), kernel_shape=[kernel] * 2, strides=[stride] * 2,
                  pads=pads(kernel, stride, padding), group=groups)


def pads(kernel: int, stride: int, padding: Padding) -> list[int]:
    """Top, left, bottom, right."""
    total = kernel - stride if padding == "same" else 2 * (kernel // 2)
    return [total // 2] * 2 + [total - total // 2] * 2


def _bias(g: Graph, path: str) -> list[str]:
    name = f"{path}.bias"
    return [g.weight(name)] if name in g.weights else []


def conv_transpose(g: Graph, path: str, x: str) -> str:
    """A 2x2 transposed convolution of stride 2: every pixel becomes four."""
    return g.node("ConvTranspose", path, x, g.weight(f"{path}.weight"), g.weight(f"{path}.bias"),
                  kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])


def batch_norm(g: Graph, path: str, x: str, eps: float) -> str:
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    return g.node("BatchNormalization", path, x, *[g.weight(f"{path}.{leaf}") for leaf in leaves], epsilon=eps)


def dense(g: Graph, path: str, x: str) -> str:
    """A dense layer on (N, C, 1, 1), as a 1x1 convolution: OpenCV 4 refuses a Gemm there, and no map changes its rank.

    The weights (O, I) either are stored as (O, I, 1, 1), or keep their shape and are reshaped once, at loading.
    """
    name = f"{path}.weight"
    weight, shape = g.weight(name), (*g.weights[name].shape, 1, 1)
    if g.delivery:
        g.used[name] = np.reshape(g.weights[name], shape)
    else:
        weight = g.node("Reshape", f"{name}.kernel", weight,
                        g.constant(f"{name}.shape", list(shape), TensorProto.INT64))
    return g.node("Conv", path, x, weight, g.weight(f"{path}.bias"), kernel_shape=[1, 1])


def relu(g: Graph, path: str, x: str) -> str:
    return g.node("Relu", path, x)


def sigmoid(g: Graph, path: str, x: str) -> str:
    return g.node("Sigmoid", path, x)


def hard_swish(g: Graph, path: str, x: str) -> str:
    """x min(1, max(0, x / 6 + 1/2)): an operator of its own from opset 14."""
    if g.opset >= 14:
        return g.node("HardSwish", path, x)
    return g.node("Mul", path, x, g.node("HardSigmoid", f"{path}.gate", x, alpha=1 / 6, beta=0.5))


def gate(g: Graph, path: str, x: str, kind: SeGate) -> str:
    """The last function of squeeze-and-excitation; torch's hard sigmoid has slope 1/6, Paddle's had 0.2."""
    if kind == "sigmoid":
        return sigmoid(g, path, x)
    return g.node("HardSigmoid", path, x, alpha=0.2 if kind == "hard_sigmoid_0.2" else 1 / 6, beta=0.5)


def channel_mean(g: Graph, path: str, x: str) -> str:
    """(N, C, H, W) -> (N, 1, H, W)."""
    return _mean_along(g, path, x, 1)


def map_mean(g: Graph, path: str, x: str) -> str:
    """(N, C, H, W) -> (N, C, 1, 1), in an archive as the mean of each row and then of those.

    A GlobalAveragePool, or both axes at once, is added up in one go by ONNX Runtime's CPU operators: on 184 x 320
    values that loses ten times as much. But OpenCV 4.6, which Debian 12 and Ubuntu 24.04 have, silently makes
    NaN of a ReduceMean over rows in a graph for any size.
    """
    if g.delivery:
        return g.node("GlobalAveragePool", path, x)
    return _mean_along(g, path, _mean_along(g, f"{path}{PARTIAL_SUFFIX}", x, 3), 2)


def _mean_along(g: Graph, path: str, x: str, axis: int) -> str:
    """From opset 18 the axes are an input."""
    if g.opset >= 18:
        return g.node("ReduceMean", path, x, g.constant(f"{path}.axes", [axis], TensorProto.INT64), keepdims=1)
    return g.node("ReduceMean", path, x, axes=[axis], keepdims=1)


def split(g: Graph, path: str, x: str, parts: int) -> list[str]:
    """Equal parts of the channels. From opset 18 their number must be said."""
    names = [f"{path}.{i}" for i in range(parts)]
    number: dict[str, Any] = {"num_outputs": parts} if g.opset >= 18 else {}
    g.nodes.append(helper.make_node("Split", [x], names, name=path, axis=1, **number))
    return names


def enlarge(g: Graph, path: str, x: str, factor: int) -> str:
    """Nearest-neighbour enlargement. The scales are constants: a size computed from a shape runs 2 to 6 % slower."""
    scales = g.constant(f"{path}.scales", [1.0, 1.0, float(factor), float(factor)], TensorProto.FLOAT)
    # Before opset 13 the region of interest must be there, though only another mode uses it.
    region = "" if g.opset >= 13 else g.constant(f"{path}.roi", [], TensorProto.FLOAT)
    return g.node("Resize", path, x, region, scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                  nearest_mode="floor")
