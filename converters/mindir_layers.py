"""Layers found in a .mindir's graph, from a layer's output back to its input.

Every method takes the value that a layer gives and returns the one it was made of. `path` is the layer's canonical
path; its parameters are looked for under the names they have in the file. What the graph says of a field of ModelSpec
is noted in `said`. Sources: MindSpore 2.10, `ops/operations/nn_ops.py` (which attribute, which input), and the graphs
it exports of MindOCR's and our networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converters.mindir_values import UnreadError, Value, plain

#: MindSpore's names of functions, and everybody's.
_ACTIVATIONS = {"ReLU": "ReLU", "HSwish": "hard swish", "HSigmoid": "hard sigmoid", "Sigmoid": "sigmoid",
                "ReLU6": "ReLU6", "Tanh": "tanh", "LeakyReLU": "leaky ReLU", "Elu": "ELU", "SiLU": "SiLU",
                "GeLU": "GELU", "Mish": "Mish", "PReLU": "PReLU", "Softplus": "softplus"}
#: They change the shape alone.
_SHAPING = ("ExpandDims", "Reshape", "Squeeze", "Unsqueeze", "View")


class OtherNetworkError(ValueError):
    """The graph computes what no ModelSpec can say; one phrase."""


class Layers:
    """names: canonical names -> the file's. said: fields of ModelSpec -> what the graph computes."""

    def __init__(self, names: Mapping[str, str]):
        self.names = names
        self.said: dict[str, Any] = {}
        self.notes: list[str] = []

    def say(self, name: str, value: Any, path: str) -> None:
        """Raises OtherNetworkError if another layer says otherwise."""
        if self.said.setdefault(name, value) != value:
            raise OtherNetworkError(f"{path} has {name} {value}, others have {self.said[name]}")

    def note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def parameter(self, value: Value, name: str) -> bool:
        """Whether the value is that parameter."""
        return value.op == "parameter" and value.content == self.names.get(name, name)

    def expect(self, value: Value, ops: tuple[str, ...], path: str) -> Value:
        """The value. Raises UnreadError if it is made by another operator."""
        if value.op not in ops:
            raise UnreadError(f"{path} is expected where {value.op} stands")
        return value

    def same(self, value: Value, other: Value, path: str) -> None:
        """Raises OtherNetworkError unless both are one map."""
        if value is not other:
            raise OtherNetworkError(f"{path} takes another map than it should")

    def channels_first(self, value: Value, index: int, path: str) -> None:
        """Raises UnreadError if an attribute or the input `index` (-1: none) says another layout."""
        told = next((value.attributes[name] for name in ("format", "data_format") if name in value.attributes),
                    value.constant(index) if index >= 0 else None)
        if told not in (None, 0, "NCHW"):
            raise UnreadError(f"{path} has the layout {told}")

    # Convolutions -----------------------------------------------------------------------------------------------------

    def conv(self, value: Value, path: str, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> Value:
        """A convolution padded by kernel // 2 on each side; or, with a stride and groups, as `depthwise_padding` says.
        """
        value = self.biased(value, path) if bias else value
        self.expect(value, ("Conv2D",), path)
        self._kernel(value, path)
        self.channels_first(value, -1, path)
        told = sides(value, "stride"), sides(value, "dilation"), _whole(value, ("group", "groups"))
        if told != ((stride, stride), (1, 1), groups):
            raise OtherNetworkError(f"{path} has stride {told[0]}, dilation {told[1]} and groups {told[2]}, not "
                                    f"{(stride, stride)}, (1, 1) and {groups}")
        pads, half = _pads(value, kernel, stride, path), kernel // 2
        if stride > 1 and groups > 1:
            if pads not in ((half,) * 4, (half - 1, half) * 2):
                raise OtherNetworkError(f"{path} pads {pads} (top, bottom, left, right), neither symmetric nor same")
            self.say("depthwise_padding", "symmetric" if pads == (half,) * 4 else "same", path)
        elif pads != (half,) * 4:
            raise OtherNetworkError(f"{path} pads {pads} (top, bottom, left, right), not {half} on each side")
        return value.arg(0)

    def transposed(self, value: Value, path: str) -> Value:
        """A transposed convolution, 2x2 with stride 2, and its bias."""
        value = self.expect(self.biased(value, path), ("Conv2DTranspose", "Conv2DBackpropInput"), path)
        self._kernel(value, path)
        pads = _pads(value, 2, 2, path)
        if sides(value, "stride") != (2, 2) or sides(value, "dilation") != (1, 1) or any(pads):
            raise OtherNetworkError(f"{path} does not double each side: it has stride {sides(value, 'stride')} and "
                                    f"pads {pads}")
        return value.arg(0)

    def dense(self, value: Value, path: str) -> Value:
        """A dense layer with bias, or the 1x1 convolution that is the same."""
        inner = self.biased(value, path)
        if inner.op == "Conv2D":
            return self.conv(inner, path, 1)
        self.expect(inner, ("MatMul", "Dense"), path)
        self._kernel(inner, path)
        return inner.arg(0)

    def biased(self, value: Value, path: str) -> Value:
        """What a bias is added to; a dense layer that takes it itself is left as it is."""
        if value.op == "Dense" and len(value.inputs) > 2 and self.parameter(value.arg(2), f"{path}.bias"):
            return value
        dense = value.op == "Add" and value.arg(0).op in ("MatMul", "Dense")  # to a map, `Add` adds along its rows
        self.expect(value, ("Add",) if dense else ("BiasAdd",), f"the bias of {path}")
        self.channels_first(value, 2, path)
        if not self.parameter(value.arg(1), f"{path}.bias"):
            raise OtherNetworkError(f"{path} has another bias than its own")
        return value.arg(0)

    def _kernel(self, value: Value, path: str) -> None:
        if len(value.inputs) < 2 or not self.parameter(value.arg(1), f"{path}.weight"):
            found = value.arg(1).content if len(value.inputs) > 1 else None
            raise OtherNetworkError(f"where {path} is expected stands {found or 'a computed kernel'}")

    def norm(self, value: Value, path: str) -> Value:
        """A batch norm; says `norm_eps`."""
        self.expect(value, ("BatchNorm",), path)
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        if len(value.inputs) < 5 or not all(self.parameter(item, f"{path}.{leaf}")
                                            for item, leaf in zip(value.inputs[1:5], leaves, strict=True)):
            raise OtherNetworkError(f"where {path} is expected stands another batch norm")
        self.channels_first(value, 8, path)
        if value.constant(5, "is_training"):
            self.note("exported in training mode: its batch norms take each batch's own statistics, the converted "
                      "model takes the stored ones")
        eps = value.constant(6, "epsilon")
        if not isinstance(eps, float):
            raise UnreadError(f"{path} does not tell its epsilon")
        if not 0 < eps <= 1:
            raise OtherNetworkError(f"{path} has the epsilon {eps}")
        self.say("norm_eps", eps, path)
        return value.arg(0)

    # Functions --------------------------------------------------------------------------------------------------------

    def activation(self, value: Value, op: str, path: str) -> Value:
        """ReLU, HSwish or Sigmoid, in front of `path`."""
        if value.op != op and value.op in _ACTIVATIONS:
            raise OtherNetworkError(f"behind {path} stands {_ACTIVATIONS[value.op]}, not {_ACTIVATIONS[op]}")
        return self.expect(value, (op,), f"{_ACTIVATIONS[op]} behind {path}").arg(0)

    def gate(self, value: Value, name: str, path: str) -> Value:
        """A sigmoid, or a hard one with either slope; says the field `name`."""
        if value.op == "Sigmoid":
            self.say(name, "sigmoid", path)
            return value.arg(0)
        if value.op == "HSigmoid":
            self.say(name, "hard_sigmoid", path)
            return value.arg(0)
        slope, inner = _slope(value)
        if slope is None:
            if value.op in _ACTIVATIONS:
                raise OtherNetworkError(f"the gate of {path} is {_ACTIVATIONS[value.op]}")
            raise UnreadError(f"the gate of {path} is written with {value.op}")
        if slope not in ("hard_sigmoid", "hard_sigmoid_0.2"):
            raise OtherNetworkError(f"the gate of {path} has the slope {slope}")
        self.say(name, slope, path)
        return inner

    def mean(self, value: Value, path: str, axes: tuple[int, ...] = (2, 3)) -> Value:
        """The mean over rows and columns, or over channels (axes (1,))."""
        value = self.shaped(value)
        if value.op == "AdaptiveAvgPool2D" and axes == (2, 3) and value.attributes.get("output_size") == (1, 1):
            return value.arg(0)
        self.expect(value, ("ReduceMean", "MeanExt"), f"the mean before {path}")
        told = value.constant(1, "axis")
        told = tuple(sorted(axis % 4 for axis in (told if isinstance(told, tuple) else (told,))
                            if isinstance(axis, int)))
        if told != axes:
            raise OtherNetworkError(f"the mean before {path} is over the axes {told}, not {axes}")
        return value.arg(0)

    def shaped(self, value: Value) -> Value:
        """What was given another shape."""
        while value.op in _SHAPING and value.inputs:
            value = value.arg(0)
        return value

    # Maps -------------------------------------------------------------------------------------------------------------

    def two(self, value: Value, op: str, first: Callable[[Value], bool], path: str) -> tuple[Value, Value]:
        """The two that are added or multiplied, that one in front which is `first`."""
        value = self.expect(value, (op,), f"{op} of {path}")
        a, b = value.arg(0), value.arg(1)
        if not first(a) and not first(b):
            raise UnreadError(f"{path} is expected where {a.op} and {b.op} stand")
        return (a, b) if first(a) else (b, a)


# Attributes -----------------------------------------------------------------------------------------------------------


def sides(value: Value, name: str) -> tuple[int, int]:
    """Of rows and columns: the last two of an attribute's numbers, or twice its only one."""
    told = value.attributes.get(name, 1)
    numbers = told if isinstance(told, tuple) and told else (told,)
    if not all(isinstance(number, int) for number in numbers):
        raise UnreadError(f"{value.op} has the {name} {told}")
    return numbers[-2:] if len(numbers) > 1 else (numbers[0], numbers[0])


def _whole(value: Value, names: tuple[str, ...]) -> int:
    return next((told for name in names if isinstance(told := value.attributes.get(name), int)), 1)


def _pads(value: Value, kernel: int, stride: int, path: str) -> tuple[int, int, int, int]:
    """Top, bottom, left, right, for sides that the stride divides."""
    mode = str(value.attributes.get("pad_mode", "valid")).lower()
    if mode == "valid":
        return 0, 0, 0, 0
    if mode == "same":
        whole = max(kernel - stride, 0)
        return (whole // 2, whole - whole // 2) * 2
    told = value.attributes.get("pad_list", value.attributes.get("pad"))
    if mode != "pad" or not isinstance(told, tuple) or len(told) != 4 or not all(isinstance(p, int) for p in told):
        raise UnreadError(f"{path} has the padding {mode} {told}")
    return told


def _slope(value: Value) -> tuple[str | None, Value]:
    """Of min(6, max(0, a x + 3)) / 6: what `se_gate` calls it, or its slope a / 6; and x. None if it is none."""
    if value.op not in ("Divs", "Div", "RealDiv") or plain(value.arg(1)) != 6 or value.arg(0).op != "ReLU6":
        return None, value
    added = value.arg(0).arg(0)
    if added.op not in ("Add", "Adds"):
        return None, value
    number = next((item for item in added.inputs[:2] if plain(item) == 3), None)
    scaled = next((item for item in added.inputs[:2] if item is not number), None)
    if number is None or scaled is None:
        return None, value
    factor: Any = 1.0
    if scaled.op in ("Muls", "Mul"):
        factor = next((plain(item) for item in scaled.inputs[:2] if isinstance(plain(item), int | float)), None)
        scaled = next((item for item in scaled.inputs[:2] if plain(item) is None), scaled)
    if factor is None:
        return None, value
    known = {1.0: "hard_sigmoid", 1.2: "hard_sigmoid_0.2"}
    return known.get(round(float(factor), 6), f"{float(factor) / 6:.4g}"), scaled
