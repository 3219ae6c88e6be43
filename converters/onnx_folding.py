"""Constants of an .onnx computed at reading, and sizes of maps as symbols: what exporters write around the layers.

A size that a graph computes from the image's is a `Side`: so many image sides along an axis. Tensors of sizes are
arrays of objects, which numpy computes with like any other. Source: the ONNX operators' definitions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

from converters.onnx_nodes import Node
from converters.onnx_wire import DTYPES

#: Values of a result that is larger than what it was made of: sizes, indices, paddings.
MAX_MADE = 1 << 14
#: Values in a tensor of sizes, and how large each of them may be: Python's own integers grow without end.
MAX_SIDES, MAX_SIDE = 64, 1 << 40
#: Memory for copies of weights in another layout, beyond the size of the file's own tensors.
SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Side:
    """factor times the image's size along `axis` (0: the number of images), which nobody knows yet."""

    axis: int
    factor: Fraction

    def _scaled(self, other: Any, how: Callable[[Any, Any], Fraction]) -> Side:
        if not isinstance(other, Real):
            raise TypeError("a side is multiplied by numbers only")
        return Side(self.axis, how(self.factor, Fraction(float(other)).limit_denominator(1 << 12)))

    def __mul__(self, other: Any) -> Side:
        return self._scaled(other, operator.mul)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Side:
        return self._scaled(other, operator.truediv)

    __floordiv__ = __truediv__  # sides are multiples of 32

    def __add__(self, other: Any) -> Side:
        if not (isinstance(other, Real) and other == 0):
            raise TypeError("a side is not added to")
        return self

    __radd__ = __sub__ = __add__


class Folding:
    """Computes nodes whose inputs are known, within `spare` bytes."""

    def __init__(self, spare: int):
        self.left = spare

    def __call__(self, node: Node, inputs: Sequence[np.ndarray | None], opset: int) -> np.ndarray | None:
        """The node's first output, None if it is not to be had."""
        compute = _OPERATORS.get(node.operator)
        if compute is None:
            return None
        try:
            with np.errstate(all="ignore"):
                result = compute(_Call(node, inputs, opset))
            result = None if result is None else np.asarray(result)
            if result is None:
                return None
            if result.dtype == object and not all(map(_small, result.reshape(-1)[:MAX_SIDES + 1])):
                return None
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError):
            return None  # not computed as ONNX defines it, or with a side of the image in a place for numbers
        if result.base is None or result.dtype == object:
            self.left -= result.nbytes
        return result if self.left >= 0 else None


def _small(value: Any) -> bool:
    """False for what no size of a map is. Raises ValueError, OverflowError and TypeError for what is no number."""
    factor = value.factor if isinstance(value, Side) else Fraction(value)
    return abs(factor.numerator) < MAX_SIDE and factor.denominator < MAX_SIDE


@dataclass(frozen=True)
class _Call:
    node: Node
    inputs: Sequence[np.ndarray | None]
    opset: int

    def array(self, i: int) -> np.ndarray:
        """An input that must be there. Raises IndexError."""
        array = self.inputs[i]
        if array is None:
            raise IndexError(i)
        return array

    def given(self, i: int, name: str) -> Any:
        """What newer opsets have as an input and older ones as an attribute, as a list; None if it is not there."""
        if i < len(self.inputs) and self.inputs[i] is not None:
            return self.array(i).reshape(-1).tolist()
        value = self.node.attributes.get(name)
        return list(value) if isinstance(value, tuple) else value


def _elementwise(function: Callable[..., Any]) -> Callable[[_Call], np.ndarray]:
    def compute(call: _Call) -> np.ndarray:
        arrays = [call.array(i) for i in range(len(call.inputs))]
        _check_size(math.prod(np.broadcast_shapes(*(a.shape for a in arrays))), *arrays)
        return np.asarray(function(*arrays))
    return compute


def _check_size(count: int, *made_of: np.ndarray) -> None:
    if count > max(MAX_MADE, *(array.size for array in made_of), 0):
        raise OverflowError("too large")


def _divide(a: np.ndarray, b: np.ndarray) -> Any:
    return a // b if a.dtype.kind in "iu" and b.dtype.kind in "iu" else a / b


def _power(call: _Call) -> np.ndarray:
    if object in (call.array(0).dtype, call.array(1).dtype):
        raise TypeError("sizes are not raised to powers")
    return _elementwise(np.power)(call)


def _cast(call: _Call) -> np.ndarray:
    array = call.array(0)
    return array if array.dtype == object else array.astype(DTYPES[call.node.attributes["to"]], copy=False)


def _reshape(call: _Call) -> np.ndarray:
    array, shape = call.array(0), [int(side) for side in call.given(1, "shape")]
    return array.reshape([array.shape[i] if side == 0 else side for i, side in enumerate(shape)])


def _transpose(call: _Call) -> np.ndarray:
    return call.array(0).transpose(call.node.attributes.get("perm"))


def _squeeze(call: _Call) -> np.ndarray:
    axes = call.given(1, "axes")
    return np.squeeze(call.array(0), None if axes is None else tuple(axes))


def _unsqueeze(call: _Call) -> np.ndarray:
    return np.expand_dims(call.array(0), tuple(call.given(1, "axes")))


def _concat(call: _Call) -> np.ndarray:
    arrays = [call.array(i) for i in range(len(call.inputs))]
    _check_size(sum(array.size for array in arrays))
    return np.concatenate(arrays, call.node.attributes["axis"])


def _gather(call: _Call) -> np.ndarray:
    data, index = call.array(0), call.array(1)
    _check_size(data.size // max(data.shape[0], 1) * index.size if data.ndim else 0, data)
    return np.take(data, index.astype(np.int64), call.node.attributes.get("axis", 0))


def _slice(call: _Call) -> np.ndarray:
    data, begins, ends = call.array(0), call.given(1, "starts"), call.given(2, "ends")
    axes = call.given(3, "axes") or list(range(len(begins)))
    steps = call.given(4, "steps") or [1] * len(begins)
    cut = [slice(None)] * data.ndim
    for begin, end, axis, step in zip(begins, ends, axes, steps, strict=True):
        beyond = step < 0 and end < -data.shape[axis]
        cut[axis] = slice(begin, None if beyond else end, step)
    return data[tuple(cut)]


def _filled(call: _Call) -> np.ndarray:
    shape, value = [int(side) for side in call.array(0)], call.node.attributes.get("value")
    _check_size(math.prod(shape))
    return np.full(shape, np.float32(0) if value is None else value.reshape(())[()])


def _expand(call: _Call) -> np.ndarray:
    shape = np.broadcast_shapes(call.array(0).shape, tuple(int(side) for side in call.array(1)))
    _check_size(math.prod(shape))
    return np.broadcast_to(call.array(0), shape).copy()


def _range(call: _Call) -> np.ndarray:
    begin, end, step = (call.array(i).reshape(())[()] for i in range(3))
    _check_size(int(abs(end - begin) // abs(step)))
    return np.arange(begin, end, step)


def _shape(call: _Call) -> np.ndarray:
    begin, end = call.node.attributes.get("start", 0), call.node.attributes.get("end")
    return np.array(call.array(0).shape[begin:end], np.int64)


def _rounded(call: _Call) -> np.ndarray:
    array = call.array(0)
    return array if array.dtype == object else (np.floor if call.node.operator == "Floor" else np.ceil)(array)


_OPERATORS: dict[str, Callable[[_Call], Any]] = {
    "Identity": lambda call: call.array(0), "Add": _elementwise(operator.add), "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul), "Div": _elementwise(_divide), "Neg": _elementwise(operator.neg),
    "Sqrt": _elementwise(np.sqrt), "Reciprocal": _elementwise(lambda a: 1 / a), "Pow": _power,
    "Equal": _elementwise(np.equal), "Where": _elementwise(np.where), "Floor": _rounded, "Ceil": _rounded,
    "Cast": _cast, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Flatten": lambda call: call.array(0).reshape(math.prod(call.array(0).shape[:call.node.attributes.get("axis", 1)]),
                                                  -1),
    "Concat": _concat, "Gather": _gather, "Slice": _slice, "ConstantOfShape": _filled, "Expand": _expand,
    "Range": _range, "Shape": _shape,
}
