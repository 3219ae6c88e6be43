"""Modulated deformable convolution (DCNv2) as ONNX nodes: the standard's own operator, or plain ones for every runtime.

Both read the parameters under their canonical names, so a file of either form goes back to a checkpoint. The decomposed
form does what `torch_reference/deform.py` does. Source: onnx `DeformConv`.
"""

from __future__ import annotations

from onnx import TensorProto

from converters.onnx_layers import Graph, conv, sigmoid
from dbnet.spec import Offsets

_INT, _FLOAT = TensorProto.INT64, TensorProto.FLOAT


def deformable_conv(g: Graph, path: str, x: str, stride: int, offsets: Offsets) -> str:
    """3x3 with padding 1: (N, C, H, W) -> (N, O, H / stride, W / stride), offsets and masks by `{path}_offset`."""
    predicted = conv(g, f"{path}_offset", x, stride if offsets == "strided" else 1)
    offset = _slice(g, f"{path}.offset", predicted, 0, 18, axis=1)
    mask = sigmoid(g, f"{path}.mask", _slice(g, f"{path}.mask_logits", predicted, 18, 27, axis=1))
    if offsets == "mhliao" and stride > 1:
        size = _size_of_first_part(g, f"{path}.size", predicted, stride)
        offset = _first_part(g, f"{path}.offset_part", offset, 18, stride, size)
        mask = _first_part(g, f"{path}.mask_part", mask, 9, stride, size)
    if g.deformable == "native":
        return g.node("DeformConv", path, x, g.weight(f"{path}.weight"), offset, "", mask, kernel_shape=[3, 3],
                      strides=[stride] * 2, pads=[1] * 4)
    return _decomposed(g, path, x, offset, mask, stride)


# MhLiao/DB's reading of a map that is too large -----------------------------------------------------------------------


def _size_of_first_part(g: Graph, path: str, x: str, stride: int) -> str:
    """Height and width that are left of (N, C, H, W)."""
    sides = g.node("Gather", f"{path}.sides", g.node("Shape", f"{path}.shape", x),
                   g.constant(f"{path}.axes", [2, 3], _INT))
    return g.node("Div", path, sides, g.constant(f"{path}.stride", [stride], _INT))


def _first_part(g: Graph, path: str, x: str, channels: int, stride: int, size: str) -> str:
    """The first values of each image as they lie in memory, for a map of the size `size`."""
    parts = g.node("Reshape", f"{path}.parts", x, g.constant(f"{path}.parts_shape", [0, stride * stride, -1], _INT))
    shape = g.node("Concat", f"{path}.shape", g.constant(f"{path}.begin", [0, channels], _INT), size, axis=0)
    return g.node("Reshape", path, _slice(g, f"{path}.first", parts, 0, 1, axis=1), shape)


# The decomposed form --------------------------------------------------------------------------------------------------


def _decomposed(g: Graph, path: str, x: str, offset: str, mask: str, stride: int) -> str:
    """Gathers the four pixels around each position, weighs them, and multiplies by the kernel as a matrix."""
    out_channels, channels = g.weights[f"{path}.weight"].shape[:2]
    offset = g.node("Transpose", f"{path}.offset_last", offset, perm=[0, 2, 3, 1])
    mask = g.node("Transpose", f"{path}.mask_last", mask, perm=[0, 2, 3, 1])  # (N, rows, columns, 9)
    sides = _sides(g, f"{path}.input", x)
    rows, columns = (_places(g, f"{path}.{name}", mask, _slice(g, f"{path}.{name}.offset", offset, i, 18, 3, step=2),
                             sides, i, stride) for i, name in enumerate(("row", "column")))
    begins = _begins_of_rows(g, f"{path}.begin", rows, sides)
    pixels = _pixels(g, f"{path}.pixels", x, channels)
    taps = ""
    for i, (begin, (_, down)) in enumerate(zip(begins, rows, strict=True)):
        masked = g.node("Mul", f"{path}.masked.{i}", down, mask)
        for j, (column, right) in enumerate(columns):
            corner = f"{path}.corner.{i}{j}"
            found = g.node("Gather", f"{corner}.pixel", pixels, g.node("Add", f"{corner}.place", begin, column), axis=0)
            share = g.node("Reshape", f"{corner}.share", g.node("Mul", f"{corner}.product", masked, right),
                           g.constant(f"{corner}.shape", [0, 0, 0, 9, 1], _INT))
            weighed = g.node("Mul", corner, found, share)
            taps = g.node("Add", f"{corner}.sum", taps, weighed) if taps else weighed
    taps = g.node("Reshape", f"{path}.taps", taps, g.constant(f"{path}.taps_shape", [0, 0, 0, 9 * channels], _INT))
    kernel = g.node("Transpose", f"{path}.kernel_last", g.weight(f"{path}.weight"), perm=[2, 3, 1, 0])
    kernel = g.node("Reshape", f"{path}.kernel", kernel,
                    g.constant(f"{path}.kernel_shape", [9 * channels, out_channels], _INT))
    return g.node("Transpose", path, g.node("MatMul", f"{path}.product", taps, kernel), perm=[0, 3, 1, 2])


def _sides(g: Graph, path: str, x: str) -> tuple[str, str, str]:
    """N, and height and width with a border of one pixel, as integers without a dimension."""
    shape = g.node("Shape", f"{path}.shape", x)
    batch, height, width = (g.node("Gather", f"{path}.side.{i}", shape, g.scalar(f"{path}.axis.{i}", i, _INT))
                            for i in (0, 2, 3))
    border = g.scalar(f"{path}.border", 2, _INT)
    return (batch, g.node("Add", f"{path}.height", height, border), g.node("Add", f"{path}.width", width, border))


def _places(g: Graph, path: str, mask: str, offset: str, sides: tuple[str, str, str], axis: int,
            stride: int) -> list[tuple[str, str]]:
    """The two pixels that a position lies between along one axis (0: down, 1: to the right), counted with the border,
    in which all ends that lies outside; and the share of each. All (N, rows, columns, 9).
    """
    count = g.node("Gather", f"{path}.count", g.node("Shape", f"{path}.shape", mask),
                   g.scalar(f"{path}.axis", axis + 1, _INT))
    start = g.node("Range", f"{path}.range", g.scalar(f"{path}.zero", 0, _INT), count,
                   g.scalar(f"{path}.step", 1, _INT))
    start = g.node("Mul", f"{path}.start", start, g.scalar(f"{path}.stride", stride, _INT))
    start = g.node("Reshape", f"{path}.along", start, g.constant(f"{path}.along_shape", [-1] + [1] * (2 - axis), _INT))
    taps = [i // 3 - 1 for i in range(9)] if axis == 0 else [i % 3 - 1 for i in range(9)]
    start = g.node("Add", f"{path}.tap", start, g.constant(f"{path}.taps", taps, _INT))
    position = g.node("Add", f"{path}.position", g.node("Cast", f"{path}.float", start, to=_FLOAT), offset)
    low = g.node("Floor", f"{path}.floor", position)
    one = g.scalar(f"{path}.one", 1.0, _FLOAT)
    above = g.node("Sub", f"{path}.share.1", position, low)
    shares = (g.node("Sub", f"{path}.share.0", one, above), above)
    last = g.node("Sub", f"{path}.last", g.node("Cast", f"{path}.side", sides[axis + 1], to=_FLOAT), one)
    zero = g.scalar(f"{path}.first", 0.0, _FLOAT)
    # A position that is no number has a place nevertheless; its shares make the result no number.
    low = g.node("Where", f"{path}.number", g.node("IsNaN", f"{path}.is_nan", low), zero, low)
    places = []
    for i in (0, 1):
        bordered = g.node("Add", f"{path}.bordered.{i}", low, g.scalar(f"{path}.border.{i}", 1.0 + i, _FLOAT))
        inside = g.node("Clip", f"{path}.inside.{i}", bordered, zero, last)
        places.append((g.node("Cast", f"{path}.place.{i}", inside, to=_INT), shares[i]))
    return places


def _begins_of_rows(g: Graph, path: str, rows: list[tuple[str, str]], sides: tuple[str, str, str]) -> list[str]:
    """At which pixel of the whole batch each of the rows begins."""
    batch, height, width = sides
    images = g.node("Range", f"{path}.images", g.scalar(f"{path}.zero", 0, _INT), batch,
                    g.scalar(f"{path}.step", 1, _INT))
    images = g.node("Mul", f"{path}.image", images, g.node("Mul", f"{path}.area", height, width))
    images = g.node("Reshape", f"{path}.along", images, g.constant(f"{path}.along_shape", [-1, 1, 1, 1], _INT))
    return [g.node("Add", f"{path}.{i}", g.node("Mul", f"{path}.row.{i}", row, width), images)
            for i, (row, _) in enumerate(rows)]


def _pixels(g: Graph, path: str, x: str, channels: int) -> str:
    """(N, C, H, W) with a border of zeros -> (pixels, C)."""
    x = g.node("Pad", f"{path}.padded", x, g.constant(f"{path}.pads", [0, 0, 1, 1, 0, 0, 1, 1], _INT))
    x = g.node("Transpose", f"{path}.channels_last", x, perm=[0, 2, 3, 1])
    return g.node("Reshape", path, x, g.constant(f"{path}.shape", [-1, channels], _INT))


def _slice(g: Graph, path: str, x: str, begin: int, end: int, axis: int, step: int = 1) -> str:
    values = {"begin": begin, "end": end, "axis": axis, "step": step}
    return g.node("Slice", path, x, *(g.constant(f"{path}.{name}", [value], _INT) for name, value in values.items()))
