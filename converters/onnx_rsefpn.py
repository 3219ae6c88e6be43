"""RSEFPN and the ways of enlarging as ONNX nodes, function by function what those of the two halves are."""

from __future__ import annotations

from onnx import TensorProto, helper

from converters.onnx_layers import Graph, conv, enlarge, gate, map_mean, relu
from dbnet.spec import ModelSpec, SeGate, Upsampling


def rsefpn(g: Graph, spec: ModelSpec, maps: list[str]) -> tuple[str, ...]:
    """c2..c5 -> p2..p5 (neck_channels / 4 each, at their own strides) and fused (neck_channels, stride 4)."""
    places, kind = spec.upsampling, spec.neck_gate
    merged = residual_squeeze(g, "neck.ins_conv.3", maps[3], kind)
    pyramid = [residual_squeeze(g, "neck.inp_conv.3", merged, kind)]
    for i in (2, 1, 0):
        above = larger(g, f"neck.enlarge.{i + 1}", merged, 2, places)
        merged = g.node("Add", f"neck.add.{i}", residual_squeeze(g, f"neck.ins_conv.{i}", maps[i], kind), above)
        pyramid.insert(0, residual_squeeze(g, f"neck.inp_conv.{i}", merged, kind))
    joined = [*(larger(g, f"neck.enlarge_out.{i}", pyramid[i], 2**i, places) for i in (3, 2, 1)), pyramid[0]]
    return *pyramid, g.node("Concat", "neck.fuse", *joined, axis=1)


def residual_squeeze(g: Graph, path: str, x: str, kind: SeGate) -> str:
    """A convolution, and its output once more as squeeze-and-excitation weighs it."""
    x, block = conv(g, f"{path}.in_conv", x), f"{path}.se_block"
    weight = map_mean(g, f"{block}.mean", x)
    weight = relu(g, f"{block}.act", conv(g, f"{block}.conv1", weight))
    weight = gate(g, f"{block}.gate", conv(g, f"{block}.conv2", weight), kind)
    return g.node("Add", path, x, g.node("Mul", block, x, weight))


def larger(g: Graph, path: str, x: str, factor: int, kind: Upsampling) -> str:
    """Enlargement as the spec wants it; the factor is even."""
    if kind == "rounded" and factor > 2:
        return shifted(g, path, enlarge(g, f"{path}.squares", x, factor), factor // 2 - 1)
    if kind != "align_corners":
        return enlarge(g, path, x, factor)
    # Not by Resize with align_corners, which OpenCV takes and silently computes otherwise.
    size = g.node("Shape", f"{path}.size", x)
    rows = g.node("Gather", f"{path}.rows", x, aligned_places(g, f"{path}.rows", size, 2, factor), axis=2)
    return g.node("Gather", path, rows, aligned_places(g, f"{path}.columns", size, 3, factor), axis=3)


def shifted(g: Graph, path: str, x: str, by: int) -> str:
    """Everything `by` pixels further up and left; the last rows and columns stay."""
    end = g.constant(f"{path}.end", [(1 << 31) - 1], TensorProto.INT64)
    for axis, name in ((2, f"{path}.rows"), (3, path)):
        along = g.constant(f"{name}.axis", [axis], TensorProto.INT64)
        parts = [g.node("Slice", f"{name}.{part}", x, g.constant(f"{name}.{part}.begin", [begin], TensorProto.INT64),
                        end, along) for part, begin in (("most", by), ("last", -by))]
        x = g.node("Concat", name, *parts, axis=axis)
    return x


def aligned_places(g: Graph, path: str, size: str, axis: int, factor: int) -> str:
    """round(i (n - 1) / (factor n - 1)) for every i below factor n, in whole numbers; n: the size along `axis`."""
    def number(name: str, value: int) -> str:
        return g.node("Constant", f"{path}.{name}", value=helper.make_tensor(name, TensorProto.INT64, [], [value]))

    def op(operator: str, name: str, *inputs: str) -> str:
        return g.node(operator, f"{path}.{name}", *inputs)

    one = number("one", 1)
    n = g.node("Gather", f"{path}.n", size, number("axis", axis), axis=0)
    larger_n = op("Mul", "larger_n", n, number("factor", factor))
    last, larger_last = op("Sub", "last", n, one), op("Sub", "larger_last", larger_n, one)
    i = op("Range", "i", number("zero", 0), larger_n, one)
    above = op("Add", "above", op("Mul", "product", op("Mul", "twice", i, number("two", 2)), last), larger_last)
    return op("Div", "place", above, op("Add", "below", larger_last, larger_last))
