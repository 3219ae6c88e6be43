"""Terms of a graph against the layers of a DBNet: which constants are which parameters, and what the layers compute.

The walk goes from the output backwards and never guesses: at each term either the one layer is there that can be, or
the graph is another network's. What may be written in several ways has become one in `onnx_terms`; what may be
computed in several ways is read into `semantics`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.onnx_terms import IDENTITY, OTHER, Term, close
from converters.tensor_file import Weights

#: Terms that an enlarged map may be.
#: Values of `dbnet.spec.Upsampling`, the likeliest first.
PLACES = ("floor", "align_corners", "rounded")
ENLARGING = ("Enlarge", "Pick", "Shift")
_GATES = {1 / 6: "hard_sigmoid", 0.2: "hard_sigmoid_0.2"}


class MismatchError(ValueError):
    """The graph is not this network; where the two part, in one phrase."""


@dataclass
class Norm:
    """A batch norm as it is in the graph, before one epsilon is chosen for all; variance: IDENTITY for a folded one."""

    path: str
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray | None
    eps: float


@dataclass
class Match:
    """What was found. weights: canonical names, without the batch norms, which are in `norms`.

    order: in which the four maps are joined in the graph, as indices into those of the spec. places: how all maps seen
    so far may be enlarged; some ways are the same at a factor of 2, or on small maps.
    """

    weights: Weights = field(default_factory=dict)
    norms: list[Norm] = field(default_factory=list)
    semantics: dict[str, Any] = field(default_factory=dict)
    order: tuple[int, ...] = (0, 1, 2, 3)
    places: set[str] = field(default_factory=lambda: set(PLACES))

    def says(self, name: str, value: Any, term: Term) -> None:
        """Notes what a layer computes. Raises MismatchError if another one of its kind computes something else."""
        if self.semantics.setdefault(name, value) != value:
            raise MismatchError(f"at node {term.label} {name} is {value}, elsewhere {self.semantics[name]}")

    def bind(self, name: str, array: np.ndarray, shape: tuple[int, ...], term: Term) -> None:
        """A parameter. Raises MismatchError if it has another shape."""
        if array.shape != shape:
            raise MismatchError(f"at node {term.label} a kernel of {_size(array.shape)} is where {name} has "
                                f"{_size(shape)}")
        self.weights[name] = array

    # Layers -----------------------------------------------------------------------------------------------------------

    def conv(self, term: Term, path: str, shape: tuple[int, ...], *, biased: bool = False, stride: int = 1,
             pads: tuple[int, ...] | None = None) -> Term:
        """A convolution; returns what it is of. biased: this layer has a bias here; else there may be none."""
        self.kernel(term, path, shape, stride, pads)
        if biased:
            bias = term["bias"]
            count = shape[0]
            self.bind(f"{path}.bias", np.zeros(count, np.float32) if bias is None else bias.reshape(-1), (count,), term)
        elif term["bias"] is not None and np.any(term["bias"]):
            raise MismatchError(f"{term.label} has a bias, {path} has none")
        return term.args[0]

    def kernel(self, term: Term, path: str, shape: tuple[int, ...], stride: int = 1,
               pads: tuple[int, ...] | None = None) -> None:
        """A convolution's weight, and what else decides its numbers. pads: None for those that keep the size."""
        expect(term, "Conv", path)
        side = shape[2]
        wanted = (side // 2,) * 4 if pads is None else pads
        group = term["group"]
        if (term["stride"], term["pads"], term["dilation"]) != (stride, wanted, 1 if side > 1 else term["dilation"]):
            raise MismatchError(f"{term.label} has stride {term['stride']}, pads {term['pads']} and dilation "
                                f"{term['dilation']}, {path} stride {stride} and pads {wanted}")
        if group != (shape[0] if shape[1] == 1 and shape[0] > 1 and side > 1 else 1):
            raise MismatchError(f"{term.label} has {group} groups, {path} another number")
        self.bind(f"{path}.weight", term["weight"], shape, term)

    def conv_norm(self, term: Term, path: str, norm: str, shape: tuple[int, ...], *, stride: int = 1,
                  pads: tuple[int, ...] | None = None) -> Term:
        """A convolution without a bias and its batch norm, which may have been folded into it."""
        conv = self.norm(term, norm)
        self.kernel(conv, path, shape, stride, pads)
        return conv.args[0]

    def norm(self, term: Term, path: str) -> Term:
        """A batch norm; returns the layer before it, whose bias has become a part of the batch norm."""
        layer = term.args[0] if term.op == "Norm" else term
        if layer.op not in ("Conv", "ConvTranspose"):
            expect(layer, "Conv", path)
        bias, count = layer["bias"], layer.channels or 0
        one, zero = np.ones(count, np.float32), np.zeros(count, np.float32)
        if bias is not None and term.op == "Norm" and bias.size != term["mean"].size:
            raise MismatchError(f"{layer.label} has {bias.size} biases, {path} {term['mean'].size} means")
        if term.op != "Norm":
            self.norms.append(Norm(path, one, zero if bias is None else bias.reshape(-1), zero, IDENTITY, 0.0))
        else:
            mean = term["mean"] if bias is None else term["mean"] - bias.reshape(-1)
            self.norms.append(Norm(path, term["gamma"], term["beta"], mean, term["variance"], term["eps"]))
        return layer

    def transposed(self, term: Term, path: str, shape: tuple[int, ...]) -> Term:
        """A 2x2 transposed convolution of stride 2."""
        expect(term, "ConvTranspose", path)
        self.bind(f"{path}.weight", term["weight"], shape, term)
        bias = term["bias"]
        self.bind(f"{path}.bias", np.zeros(shape[1], np.float32) if bias is None else bias.reshape(-1), (shape[1],),
                  term)
        return term.args[0]

    def gate(self, term: Term, semantic: str) -> Term:
        """The last function of squeeze-and-excitation."""
        if term.op == "Sigmoid":
            self.says(semantic, "sigmoid", term)
            return term.args[0]
        expect(term, "HardSigmoid", "the gate of a squeeze-and-excitation")
        kind = next((kind for slope, kind in _GATES.items() if close(term["alpha"], slope)), None)
        if kind is None or not close(term["beta"], 0.5):
            raise MismatchError(f"{term.label} is a hard sigmoid of slope {term['alpha']:.4g}, here they have 1/6 or "
                                f"0.2")
        self.says(semantic, kind, term)
        return term.args[0]

    def squeezed(self, term: Term, semantic: str, first: str, second: str, channels: int) -> Term:
        """The weights of a squeeze-and-excitation; returns the map whose means it takes."""
        x = self.conv(self.gate(term, semantic), second, (channels, channels // 4, 1, 1), biased=True)
        expect(x, "Relu", f"{first}'s activation")
        x = self.conv(x.args[0], first, (channels // 4, channels, 1, 1), biased=True)
        return expect(x, "Mean", f"what {first} takes").args[0]

    def enlarged(self, term: Term, factor: int) -> Term:
        """Returns the smaller map."""
        smaller, by, places = enlargement(term)
        if by not in (None, factor):
            raise MismatchError(f"{term.label} enlarges {by} times, a pyramid's map {factor} times")
        if not places & set(PLACES):
            raise MismatchError(f"{term.label} enlarges by {min(places)}, which is not built here")
        if not places & self.places:
            raise MismatchError(f"{term.label} enlarges by {min(places)}, others by {min(self.places)}")
        self.places &= places
        return smaller


def expect(term: Term, op: str, what: str) -> Term:
    """The term itself. Raises MismatchError if it is another layer."""
    if term.op != op:
        found = term.op.removeprefix(OTHER)
        raise MismatchError(f"{term.label} is a {found}{' of another kind' * (found == op)}, where {what} is a {op}")
    return term


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def enlargement(term: Term) -> tuple[Term, int | None, set[str]]:
    """A smaller map, how many times it is enlarged (None if unknown), and how that may be: values of PLACES, or others.

    Raises MismatchError for another layer.
    """
    if term.op == "Pick":  # rows by columns: how our own graphs and torch's write aligned corners
        return picked(term)
    if term.op == "Shift":
        inner = expect(term.args[0], "Shift", "an enlarged map")
        smaller, factor, places = enlargement(inner.args[0])
        if {term["axis"], inner["axis"]} != {2, 3} or "floor" not in places \
                or not factor or {term["by"], inner["by"]} != {factor // 2 - 1}:
            raise MismatchError(f"{term.label} shifts an enlarged map otherwise than rounding does")
        return smaller, factor, {"rounded"}
    expect(term, "Enlarge", "an enlarged map")
    by, mode = term["factor"], term["mode"]
    if by is not None and by.denominator != 1:
        raise MismatchError(f"{term.label} enlarges {by} times")
    same = mode in ("floor", "rounded") and by == 2
    return term.args[0], None if by is None else int(by), {"floor", "rounded"} if same else {mode}


def picked(term: Term) -> tuple[Term, int | None, set[str]]:
    """`enlargement` by lists of rows and columns, which may be unknown: then the corners are aligned."""
    inner = expect(term.args[0], "Pick", "an enlarged map")
    if {term["axis"], inner["axis"]} != {2, 3}:
        raise MismatchError(f"{term.label} takes rows and columns otherwise than an enlarged map")
    factors, places = set(), {"align_corners"} if term["index"] is None else {*PLACES, "places that are none of these"}
    for index in (pick["index"] for pick in (inner, term) if pick["index"] is not None):
        factor, found = places_of(index)
        factors.add(factor)
        places &= found
    if len(factors) > 1 or not places:
        raise MismatchError(f"{term.label} enlarges rows otherwise than columns")
    return inner.args[0], next(iter(factors), None), places


def places_of(index: np.ndarray) -> tuple[int, set[str]]:
    """How many times a list of pixels enlarges a side, and how that may be."""
    count, n = index.size, int(index.max(initial=0)) + 1
    factor = count // n if count else 0
    if factor < 2 or factor * n != count:
        return factor, {"places that are none of these"}
    i = np.arange(count)
    ways = {"floor": i // factor, "rounded": np.minimum((i + factor // 2 - 1) // factor, n - 1),
            "align_corners": (2 * i * (n - 1) + count - 1) // (2 * (count - 1))}
    return factor, {name for name, way in ways.items() if np.array_equal(index, way)} or {
        "places that are none of these"}
