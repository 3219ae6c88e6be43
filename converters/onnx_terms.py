"""Layers as the terms that a graph's values are made of, alike for all exporters.

An exporter writes a hard swish as one operator or as five, a bias within a convolution or behind it, a batch norm as
one or as four. `Terms` makes each layer in the one form that `onnx_match` looks for, whatever it was written as. Equal
layers of equal terms are the same object.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

#: Of two floating-point numbers that are meant to be the same constant.
CLOSE = 5e-4
#: Before the operator of a node that was not read.
OTHER = "other "
MAX_SCALE = 1 << 16
#: As a batch norm's variance: such that variance + epsilon is 1.
IDENTITY = None


@dataclass(eq=False, repr=False)  # a repr would tell a shared term again wherever it is used, and never end
class Term:
    """A map, and the layer that computes it.

    op: `Image`, an operator of ONNX, or one of these: `Norm` (a batch norm), `Linear` (a x + b with numbers), `Mean`
    (over a map), `MeanAlong` (an axis), `ChannelMean`, `Enlarge`, `Take` (channels from `begin` to `end`), `Pick` (rows
    or columns by index). label: the node, for messages. channels: None if unknown. scale: of its sides to the image's;
    0 if they are 1, None if unknown.
    """

    op: str
    args: tuple[Term, ...]
    attrs: dict[str, Any]
    label: str
    channels: int | None = None
    scale: Fraction | None = None

    def __getitem__(self, name: str) -> Any:
        return self.attrs.get(name)


@dataclass
class Terms:
    """Makes terms. label: of the node that is being read."""

    label: str = ""
    known: dict[Hashable, Term] = field(default_factory=dict)

    def make(self, op: str, *args: Term, channels: int | None = None, scale: Fraction | None = None,
             **attrs: Any) -> Term:
        """The term of that layer, which takes channels and scale from its first map unless they are given."""
        key = (op, tuple(map(id, args)), tuple(sorted((name, _key(value)) for name, value in attrs.items())))
        if key not in self.known:
            first = args[0] if args else None
            self.known[key] = Term(op, args, attrs, self.label,
                                   first.channels if channels is None and first else channels,
                                   first.scale if scale is None and first else scale)
        return self.known[key]

    # Numbers ----------------------------------------------------------------------------------------------------------

    def linear(self, x: Term, a: float, b: float) -> Term:
        """a x + b."""
        if x.op == "Linear":
            a, b, x = x["a"] * a, x["b"] * a + b, x.args[0]
        if abs(a - 1) < 1e-6 and abs(b) < 1e-12:
            return x
        return self.make("Linear", x, a=a, b=b)

    def clip(self, x: Term, low: float, high: float) -> Term | None:
        """A ReLU, or a hard sigmoid times its highest value. None for another function."""
        if low != 0 or not high > 0:
            return None
        if high > 1e30:
            return self.make("Relu", x)
        if x.op == "Relu":
            x = x.args[0]
        return self.linear(self.hard_sigmoid(x, 1 / high, 0.0), high, 0.0)

    def hard_sigmoid(self, x: Term, alpha: float, beta: float) -> Term:
        """min(1, max(0, alpha x + beta))."""
        if x.op == "Linear":
            alpha, beta, x = alpha * x["a"], alpha * x["b"] + beta, x.args[0]
        return self.make("HardSigmoid", x, alpha=alpha, beta=beta)

    def product(self, x: Term, y: Term) -> Term:
        """x y; a number that one of them is multiplied by goes before the product."""
        factor = 1.0
        for term in (x, y):
            if term.op == "Linear" and term["b"] == 0:
                factor *= term["a"]
        x, y = (t.args[0] if t.op == "Linear" and t["b"] == 0 else t for t in (x, y))
        for gate, other in ((x, y), (y, x)):
            if gate.op == "HardSigmoid" and gate.args[0] is other and close(gate["alpha"], 1 / 6) \
                    and close(gate["beta"], 0.5):
                return self.linear(self.make("HardSwish", other), factor, 0.0)
        larger = y if x.scale == 0 else x
        return self.linear(self.make("Mul", x, y, channels=larger.channels, scale=larger.scale), factor, 0.0)

    # Channels ---------------------------------------------------------------------------------------------------------

    def convolution(self, op: str, x: Term, weight: np.ndarray, bias: np.ndarray | None, **attrs: Any) -> Term:
        """`Conv` or `ConvTranspose`. attrs: stride, pads (top, left, bottom, right), group, dilation."""
        transposed = op == "ConvTranspose"
        step = Fraction(attrs["stride"]) if transposed else Fraction(1, attrs["stride"])
        return self.make(op, x, channels=weight.shape[1 if transposed else 0], scale=scaled(x, step), weight=weight,
                         bias=bias, **attrs)

    def norm(self, x: Term, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray | None,
             eps: float) -> Term:
        """A batch norm; variance: IDENTITY where there is none."""
        return self.make("Norm", x, channels=gamma.size, gamma=gamma, beta=beta, mean=mean, variance=variance, eps=eps)

    def affine(self, x: Term, a: np.ndarray | None, b: np.ndarray | None) -> Term:
        """a x + b with a number for each channel: a convolution's bias, or what is left of a batch norm."""
        if x.op in ("Conv", "ConvTranspose") and a is None and b is not None:
            total = b if x["bias"] is None else x["bias"] + b
            return self.make(x.op, *x.args, channels=x.channels, scale=x.scale, **{**x.attrs, "bias": total})
        count = (a if a is not None else b if b is not None else np.zeros(0)).size
        one, zero = np.ones(count, np.float32), np.zeros(count, np.float32)
        a, b = one if a is None else a, zero if b is None else b
        if x.op == "Norm":
            attrs = {**x.attrs, "gamma": x["gamma"] * a, "beta": x["beta"] * a + b}
            return self.make("Norm", x.args[0], **attrs)
        return self.norm(x, a, b, zero, IDENTITY, 0.0)


def scaled(x: Term, step: Fraction) -> Fraction | None:
    """The scale of a layer that changes it by `step`; None if unknown, or that of no network."""
    scale = None if x.scale is None else x.scale * step
    return scale if scale is None or max(scale.numerator, scale.denominator) < MAX_SCALE else None


def close(a: float, b: float) -> bool:
    """True for a constant and what became of it in float32 and by a division or two."""
    return abs(a - b) <= CLOSE * max(abs(a), abs(b), CLOSE)


def _key(value: Any) -> Hashable:
    return id(value) if isinstance(value, np.ndarray) else value
