"""The rules of `onnx_reading.Reader` for sizes, paddings, pooling, enlarging, joining and taking apart."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from converters.onnx_folding import Side
from converters.onnx_nodes import Node
from converters.onnx_reading import Reader, Rule, Value
from converters.onnx_terms import Term, scaled

#: How a Resize places pixels (and rounds): what that is at every even factor.
_FLOOR = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"),
          ("pytorch_half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_ceil"),
          ("half_pixel_symmetric", "round_prefer_floor"), ("half_pixel_symmetric", "round_prefer_ceil")}
_ROUNDED = {("asymmetric", "round_prefer_floor")}
_ALIGNED = {("align_corners", "round_prefer_floor"), ("align_corners", "round_prefer_ceil")}


# Attributes -----------------------------------------------------------------------------------------------------------


def pair(node: Node, name: str, otherwise: int) -> tuple[int, int]:
    """A value for rows and one for columns; (0, 0) if the attribute has not two."""
    value = node.attributes.get(name) or (otherwise, otherwise)
    return (value[0], value[1]) if isinstance(value, tuple) and len(value) == 2 else (0, 0)


def padding(node: Node, kernel: Sequence[int], strides: tuple[int, int]) -> tuple[int, ...] | None:
    """Top, left, bottom, right, on sides that are multiples of the stride; None for what is none."""
    auto = node.attributes.get("auto_pad", b"NOTSET")
    if auto == b"NOTSET":
        pads = node.attributes.get("pads") or (0, 0, 0, 0)
        return tuple(pads) if isinstance(pads, tuple) and len(pads) == 4 else None
    if auto == b"VALID":
        return 0, 0, 0, 0
    totals = [max(side - stride, 0) for side, stride in zip(kernel, strides, strict=True)]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    if auto not in (b"SAME_UPPER", b"SAME_LOWER"):
        return None
    return (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)


def padded_before(x: Term, pads: tuple[int, ...] | None, zeros_only: bool) -> tuple[Term, tuple[int, ...] | None]:
    """A layer's map and padding, with that of a Pad before it. zeros_only: else what is padded may be any minimum."""
    if x.op != "Pad" or pads is None or x["value"] != 0 or not (zeros_only or x.args[0].op == "Relu"):
        return x, pads
    return x.args[0], tuple(a + b for a, b in zip(pads, x["pads"], strict=True))


def axes(node: Node, given: np.ndarray | None) -> set[int] | None:
    """Of a reduction; None for all."""
    value = node.attributes.get("axes") if given is None else tuple(given.reshape(-1).tolist())
    return set(value) if isinstance(value, tuple) else None


def _first(inputs: Sequence[Value | None]) -> Term | None:
    return inputs[0] if isinstance(inputs[0], Term) else None


def _given(node: Node, inputs: Sequence[Value | None], i: int, name: str) -> list[Any] | None:
    """A list that newer opsets have as an input and older ones as an attribute."""
    value = inputs[i] if len(inputs) > i else None
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist() if value.size else None
    value = node.attributes.get(name)
    return list(value) if isinstance(value, tuple) and len(inputs) <= i else None


# Rules ----------------------------------------------------------------------------------------------------------------


def _shape(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x = _first(inputs)
    if x is None or not x.scale:
        return None
    sides = [Side(0, Fraction(1)), x.channels or Side(1, Fraction(1)), Side(2, x.scale), Side(3, x.scale)]
    array = np.empty(4, object)
    array[:] = sides
    return array[node.attributes.get("start", 0):node.attributes.get("end")]


def _pad(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, pads = _first(inputs), _given(node, inputs, 1, "pads")
    value = inputs[2] if len(inputs) > 2 else None
    filled = float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size == 1 \
        else node.attributes.get("value", 0.0)
    plain = node.attributes.get("mode", b"constant") == b"constant" and len(inputs) <= 3
    if x is None or pads is None or len(pads) != 8 or not plain or any(pads[i] for i in (0, 1, 4, 5)):
        return None
    sides = tuple(int(pads[i]) for i in (2, 3, 6, 7))
    return reader.terms.make("Pad", x, pads=sides, value=filled) if any(sides) else x


def _max_pool(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Where its last window may hang over the edge, on sides that are multiples of the stride, that is a padding."""
    x, kernel, strides = _first(inputs), pair(node, "kernel_shape", 0), pair(node, "strides", 1)
    pads = padding(node, kernel, strides)
    if x is None or strides[0] != strides[1] or strides[0] < 1 or pair(node, "dilations", 1) != (1, 1):
        return None
    x, pads = padded_before(x, pads, zeros_only=False)
    if node.attributes.get("ceil_mode", 0) and pads is not None:
        pads = (*pads[:2], *(pads[i + 2] + (strides[i] - (pads[i] + pads[i + 2] - kernel[i]) % strides[i])
                             % strides[i] for i in (0, 1)))
    return reader.terms.make("MaxPool", x, scale=scaled(x, Fraction(1, strides[0])), kernel=kernel, stride=strides[0],
                             pads=pads)


def _resize(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x = _first(inputs)
    if x is None:
        return None
    older = node.operator == "Upsample" or reader.opset < 11
    scales = _given(node, inputs, 1 if older else 2, "scales")
    sizes = None if older else _given(node, inputs, 3, "")
    mode = "floor" if older else _places(node)
    if _text(node, "mode", "nearest") != "nearest":
        mode = _text(node, "mode", "nearest")
    factor = _factor(reader, x, node.attributes.get("axes"), scales, sizes)
    return reader.terms.make("Enlarge", x, scale=None if factor is None else scaled(x, factor), factor=factor,
                             mode=mode)


def _places(node: Node) -> str:
    """Which pixel goes where: a value of `dbnet.spec.Upsampling`, or the attributes that are none of them."""
    place = (_text(node, "coordinate_transformation_mode", "half_pixel"),
             _text(node, "nearest_mode", "round_prefer_floor"))
    for name, places in (("floor", _FLOOR), ("rounded", _ROUNDED), ("align_corners", _ALIGNED)):
        if place in places:
            return name
    return " ".join(place)


def _text(node: Node, name: str, otherwise: str) -> str:
    value = node.attributes.get(name)
    return value.decode(errors="replace") if isinstance(value, bytes) else otherwise


def _factor(reader: Reader, x: Term, axes_: Any, scales: list[Any] | None, sizes: list[Any] | None) -> Fraction | None:
    """By how much both sides grow; None if that cannot be told."""
    values = scales if scales is not None else sizes
    if values is None or len(values) not in (2, 4):
        return None
    if len(values) == 2 and (not isinstance(axes_, tuple) or [axis % 4 for axis in axes_] != [2, 3]):
        return None
    found = set()
    for axis, value in zip((2, 3), values[-2:], strict=True):
        if isinstance(value, Side):
            found.add(value.factor / x.scale if sizes is values and x.scale and value.axis == axis else None)
        elif sizes is values:
            side = reader.size[axis - 2]
            found.add(Fraction(int(value)) / (side * x.scale) if side and x.scale else None)
        else:
            found.add(Fraction(float(value)).limit_denominator(64) if 0 < value < 1 << 12 else None)
    return found.pop() if len(found) == 1 else None


def _concat(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    terms = [value for value in inputs if isinstance(value, Term)]
    if len(terms) == len(inputs) == 2 and node.attributes.get("axis") in (2, 3, -1, -2):
        return _shifted(reader, terms, node.attributes["axis"] % 4)
    if len(terms) < len(inputs) or node.attributes.get("axis") not in (1, -3):
        return None
    counts = [term.channels for term in terms]
    total = sum(count for count in counts if count) if all(counts) else None
    scale = next((term.scale for term in terms if term.scale), None)
    return Term("Concat", tuple(terms), {}, node.label, total, scale)


def _shifted(reader: Reader, terms: list[Term], axis: int) -> Term | None:
    """A map without its first rows or columns, and as many of the last ones once more."""
    most, last = terms
    if (most.op, last.op, most["axis"], last["axis"]) != ("Cut", "Cut", axis, axis) \
            or most.args[0] is not last.args[0] or not most["begin"] == -last["begin"] > 0:
        return None
    return reader.terms.make("Shift", most.args[0], axis=axis, by=most["begin"])


def _split(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> list[Value] | None:
    x, parts = _first(inputs), len(node.outputs)
    if x is None or node.attributes.get("axis", 0) not in (1, -3) or not x.channels:
        return None
    sizes = _given(node, inputs, 1, "split") or [x.channels // parts] * parts
    if len(sizes) != parts or sum(sizes) != x.channels:
        return None
    ends = np.cumsum(sizes).tolist()
    return [take(reader, x, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def take(reader: Reader, x: Term, begin: int, end: int) -> Term:
    """Some channels."""
    if x.op == "Take":
        begin, end, x = begin + x["begin"], end + x["begin"], x.args[0]
    if (begin, end) == (0, x.channels):
        return x
    return reader.terms.make("Take", x, channels=end - begin, begin=begin, end=end)


def _slice(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    x, begins, ends = _first(inputs), _given(node, inputs, 1, "starts"), _given(node, inputs, 2, "ends")
    axes_, steps = _given(node, inputs, 3, "axes"), _given(node, inputs, 4, "steps")
    if x is None or not axes_ or len(axes_) != 1 or steps not in (None, [1]) or not begins or not ends:
        return None
    axis = axes_[0] % 4
    if axis in (2, 3) and ends[0] >= (1 << 31) - 1:
        return reader.terms.make("Cut", x, axis=axis, begin=begins[0])
    if axis != 1 or not x.channels:
        return None
    begin, end, _ = slice(begins[0], ends[0]).indices(x.channels)
    return take(reader, x, begin, end) if begin < end else None


def _gather(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """One channel, or rows or columns: where these are computed from the size of the map, nobody knows which."""
    x, index, axis = _first(inputs), inputs[1] if len(inputs) > 1 else None, node.attributes.get("axis", 0) % 4
    if x is None:
        return None
    known = index if isinstance(index, np.ndarray) and index.dtype.kind in "iu" else None
    if axis == 1 and known is not None and known.size == 1 and x.channels:
        begin = int(known.reshape(-1)[0]) % x.channels
        return take(reader, x, begin, begin + 1)
    if axis in (2, 3) and (known is None or known.ndim == 1):
        return reader.terms.make("Pick", x, axis=axis, index=known)
    return None


def _reshaped(reader: Reader, node: Node, inputs: Sequence[Value | None]) -> Value | None:
    """Of one value for each channel: it stays the same, whatever its rank."""
    x = _first(inputs)
    if x is None or x.scale != 0:
        return None
    return x


RULES: dict[str, Rule] = {
    "Shape": _shape, "Pad": _pad, "MaxPool": _max_pool, "Resize": _resize, "Upsample": _resize, "Concat": _concat,
    "Split": _split, "Slice": _slice, "Gather": _gather, "Reshape": _reshaped, "Flatten": _reshaped,
    "Squeeze": _reshaped, "Unsqueeze": _reshaped,
}
