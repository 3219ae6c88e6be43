"""How each operator is read: the rules of `onnx_reading.Reader`. Those of sizes and paddings are in `onnx_rules_maps`.

Source: the ONNX operators' definitions, opset 7 to 25.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from converters import onnx_rules_maps as maps
from converters.onnx_folding import MAX_MADE
from converters.onnx_nodes import Node
from converters.onnx_reading import Reader, Rule, Value
from converters.onnx_terms import Term

#: Casts that a network in float32 is not changed by: to float, float16, double, bfloat16.
_FLOATS = (1, 10, 11, 16)
#: Of weights: what files of weights hold.
_WEIGHTS = ("float16", "float32", "float64", "bfloat16")


def first(inputs: Sequence[Value | None]) -> Term | None:
    """The first input, if it is a map."""
    return inputs[0] if isinstance(inputs[0], Term) else None


def second(inputs: Sequence[Value | None], i: int = 1) -> np.ndarray | None:
    """Another input, if it is known."""
    value = inputs[i] if len(inputs) > i else None
    return value if isinstance(value, np.ndarray) and value.dtype != object else None


def number(array: np.ndarray | None, otherwise: float | None = None) -> float | None:
    """The only value of an array."""
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else otherwise


def channels(array: np.ndarray, x: Term) -> np.ndarray | None:
    """(C,) of what has one value for each channel of x, when it is added to it: (C, 1, 1), (1, C, 1, 1)."""
    shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
    flat = len(shape) == 3 and shape[1:] == (1, 1)
    dense = x.scale == 0 and len(shape) in (1, 2) and max(shape, default=0) == array.size  # (N, C), as a dense layer's
    return array.reshape(-1) if (flat or dense) and shape[0 if flat else -1] == x.channels else None


# Numbers --------------------------------------------------------------------------------------------------------------


def _same(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    return first(inputs)


def _cast(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    return first(inputs) if node.attributes.get("to") in _FLOATS else None


def _simple(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x = first(inputs)
    return None if x is None else reader.terms.make(node.operator, x)


def _hard_sigmoid(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, attrs = first(inputs), node.attributes
    alpha, beta = float(attrs.get("alpha", 0.2)), float(attrs.get("beta", 0.5))
    return None if x is None else reader.terms.hard_sigmoid(x, alpha, beta)


def _clip(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, attrs = first(inputs), node.attributes
    if x is None:
        return None
    if reader.opset < 11:
        return reader.terms.clip(x, attrs.get("min", -np.inf), attrs.get("max", np.inf))
    low, high = (number(second(inputs, i), end if len(inputs) <= i or inputs[i] is None else None)
                 for i, end in ((1, -np.inf), (2, np.inf)))
    if low == -np.inf and x.op == "Relu":
        low = 0.0
    return None if low is None or high is None else reader.terms.clip(x, low, high)


def _bounded(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Max(x, 0), and Min(x, 6) of a ReLU."""
    x = next((value for value in inputs if isinstance(value, Term)), None)
    bound = next((number(value) for value in inputs if isinstance(value, np.ndarray)), None)
    if x is None or bound is None or len(inputs) != 2:
        return None
    if node.operator == "Max":
        return reader.terms.clip(x, bound, np.inf)
    return reader.terms.clip(x, 0.0, bound) if x.op == "Relu" else None


def _arithmetic(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Add, Sub, Mul, Div of two maps, or of a map and a constant."""
    if len(inputs) != 2:
        return None
    x, y = inputs
    if isinstance(x, Term) and isinstance(y, Term):
        if node.operator == "Mul":
            return reader.terms.product(x, y)
        return reader.terms.make(node.operator, x, y)
    swapped = isinstance(y, Term)
    term, constant = (y, x) if swapped else (x, y)
    if not isinstance(term, Term) or not isinstance(constant, np.ndarray) or constant.dtype.kind not in "fiu" \
            or constant.size > MAX_MADE:
        return None
    if node.operator == "Div":
        if swapped:
            return None
        constant = 1 / constant.astype(np.float64)
    if node.operator == "Sub":
        if swapped:
            term = reader.terms.linear(term, -1.0, 0.0)
        else:
            constant = -constant.astype(np.float64)
    return _with_constant(reader, term, constant, node.operator in ("Add", "Sub"))


def _with_constant(reader: Reader, x: Term, constant: np.ndarray, added: bool) -> Term | None:
    value = number(constant)
    if value is not None and not (added and x.op in ("Conv", "ConvTranspose") and x.channels == 1):
        return reader.terms.linear(x, *((1.0, value) if added else (value, 0.0)))
    values = constant.reshape(-1) if value is not None else channels(constant, x)
    if values is None:
        return None
    values = values.astype(np.float32, copy=False)
    return reader.terms.affine(x, None if added else values, values if added else None)


# Layers ---------------------------------------------------------------------------------------------------------------


def _of_floats(reader: Reader, node: Node, *arrays: np.ndarray | None) -> bool:
    """False for weights that are whole numbers or truth values, which a runtime may take, but no training gives."""
    kind = next((a.dtype.name for a in arrays if a is not None and a.dtype.name not in _WEIGHTS), None)
    if kind is not None:
        reader.refused.append(f"the weights of {node.label} are {kind}, which cannot be a weight here; convert them to "
                              f"float32")
    return kind is None


def _conv(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, weight, bias = first(inputs), second(inputs), second(inputs, 2)
    if x is None or weight is None or weight.ndim != 4 or (len(inputs) > 2 and inputs[2] is not None and bias is None):
        return None
    if not _of_floats(reader, node, weight, bias):
        return None
    strides, kernel = maps.pair(node, "strides", 1), weight.shape[2:]
    padding = maps.padding(node, kernel, strides)
    x, padding = maps.padded_before(x, padding, zeros_only=True)
    dilations = maps.pair(node, "dilations", 1)
    if strides[0] != strides[1] or dilations[0] != dilations[1] or strides[0] < 1 or padding is None:
        return None
    return reader.terms.convolution("Conv", x, weight, bias, stride=strides[0], pads=padding,
                                    group=int(node.attributes.get("group", 1)), dilation=dilations[0])


def _fused_conv(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """ONNX Runtime's own: a convolution, what is added to it, and a function of the sum."""
    x, added = _conv(reader, node, inputs[:3]), inputs[3] if len(inputs) > 3 else None
    function = node.attributes.get("activation", b"")
    if not isinstance(x, Term) or isinstance(added, np.ndarray):
        return None
    total = x if added is None else reader.terms.make("Add", x, added)
    if function == b"HardSigmoid":
        return reader.terms.hard_sigmoid(total, *node.attributes["activation_params"])
    if function not in (b"", b"Relu", b"Sigmoid"):
        return None
    return reader.terms.make(function.decode(), total) if function else total


def _conv_transpose(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """MindSpore's exporter adds an output_shape of four numbers and an auto_pad, which no runtime takes."""
    x, weight, bias = first(inputs), second(inputs), second(inputs, 2)
    if x is None or weight is None or weight.ndim != 4 or not _of_floats(reader, node, weight, bias):
        return None
    kernel, strides = weight.shape[2:], maps.pair(node, "strides", 1)
    if len(node.attributes.get("output_shape", ())) == 4:
        reader.repaired.append(node.name or node.outputs[0])
        padding: tuple[int, ...] | None = (0, 0, 0, 0)
    else:
        padding = maps.padding(node, kernel, strides)
    plain = strides[0] == strides[1] == kernel[0] == kernel[1] and maps.pair(node, "dilations", 1) == (1, 1) \
        and not any(node.attributes.get("output_padding", ())) and node.attributes.get("group", 1) == 1
    if not plain or padding != (0, 0, 0, 0):
        return None
    return reader.terms.convolution("ConvTranspose", x, weight, bias, stride=strides[0], pads=padding, group=1,
                                    dilation=1)


def _norm(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, values = first(inputs), [second(inputs, i) for i in (1, 2, 3, 4)]
    gamma, beta, mean, variance = values
    if x is None or gamma is None or beta is None or mean is None or variance is None \
            or not _is_plain(reader, node, values) or {value.shape for value in values if value is not None} != \
            {(x.channels or gamma.size,)}:
        return None
    return reader.terms.norm(x, gamma, beta, mean, variance, float(node.attributes.get("epsilon", 1e-5)))


def _is_plain(reader: Reader, node: Node, values: Sequence[np.ndarray | None]) -> bool:
    """False for a batch norm that no weight file can say. Before opset 14, more outputs than one mean training."""
    eps = float(node.attributes.get("epsilon", 1e-5))
    if node.attributes.get("training_mode", 0) or (reader.opset < 14 and any(node.outputs[1:])):
        reader.refused.append(f"{node.label} is a batch norm in training mode, which takes means and variances from "
                              f"each image anew; export the network in evaluation mode (PyTorch: model.eval(), without "
                              f"training=TrainingMode.TRAINING)")
        return False
    if not 0 < eps < np.inf:
        reader.refused.append(f"the epsilon of {node.label} is {eps:.4g}, where a batch norm's is a positive number; "
                              f"export it again with one, 1e-05 as a rule")
        return False
    return _of_floats(reader, node, *values)


def _dense(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Gemm and MatMul on one value for each channel, as a 1x1 convolution."""
    x, weight, bias = first(inputs), second(inputs), second(inputs, 2)
    attrs = node.attributes
    if x is None or x.scale != 0 or weight is None or weight.ndim != 2 or attrs.get("transA", 0) \
            or (attrs.get("alpha", 1.0), attrs.get("beta", 1.0)) != (1.0, 1.0) \
            or not _of_floats(reader, node, weight, bias):
        return None
    kernel = (weight if attrs.get("transB", 0) else weight.T)[:, :, None, None]
    return reader.terms.convolution("Conv", x, kernel, None if bias is None else bias.reshape(-1), stride=1,
                                    pads=(0, 0, 0, 0), group=1, dilation=1)


def _deform(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, weight = first(inputs), second(inputs)
    offset, mask = (inputs[i] if len(inputs) > i else None for i in (2, 4))
    if x is None or weight is None or weight.ndim != 4 or not isinstance(offset, Term) or not isinstance(mask, Term) \
            or not _of_floats(reader, node, weight, second(inputs, 3)):
        return None
    strides = maps.pair(node, "strides", 1)
    plain = strides[0] == strides[1] and maps.pair(node, "dilations", 1) == (1, 1) \
        and maps.padding(node, weight.shape[2:], strides) == (1, 1, 1, 1) \
        and node.attributes.get("group", 1) == node.attributes.get("offset_group", 1) == 1
    if not plain or strides[0] < 1:
        return None
    scale = None if x.scale is None else x.scale / strides[0]
    return reader.terms.make("DeformConv", x, offset, mask, channels=weight.shape[0], scale=scale, weight=weight,
                             bias=second(inputs, 3), stride=strides[0])


def _mean(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Over each map, or over the channels."""
    x = first(inputs)
    if x is None:
        return None
    axes = maps.axes(node, second(inputs))
    if node.operator == "GlobalAveragePool" or axes in ({2, 3}, {-2, -1}):
        return reader.terms.make("Mean", x, scale=Fraction(0))
    if axes is None or len(axes) != 1 or not node.attributes.get("keepdims", 1):
        return None
    [axis] = axes
    if axis == 1:
        return reader.terms.make("ChannelMean", x, channels=1)
    if x.op == "MeanAlong" and x["axis"] != axis % 4:
        return reader.terms.make("Mean", x.args[0], scale=Fraction(0))
    return reader.terms.make("MeanAlong", x, axis=axis % 4) if axis in (-2, -1, 2, 3) else None


RULES: dict[str, Rule] = {
    "Identity": _same, "Dropout": _same, "Cast": _cast, "Relu": _simple, "Sigmoid": _simple, "HardSwish": _simple,
    "HardSigmoid": _hard_sigmoid, "Clip": _clip, "Max": _bounded, "Min": _bounded, "Add": _arithmetic,
    "Sub": _arithmetic, "Mul": _arithmetic, "Div": _arithmetic, "Conv": _conv, "ConvTranspose": _conv_transpose,
    "BatchNormalization": _norm, "Gemm": _dense, "MatMul": _dense, "DeformConv": _deform, "GlobalAveragePool": _mean,
    "ReduceMean": _mean, "com.microsoft.FusedConv": _fused_conv, **maps.RULES,
}
