"""The head's and the neck's part of `onnx_match`: from a probability, or its logits, back to c2..c5."""

from __future__ import annotations

import numpy as np

from converters.onnx_match import ENLARGING, Match, MismatchError, Norm, enlargement, expect
from converters.onnx_terms import IDENTITY, OTHER, Term
from dbnet.spec import NECK_UNIT, WIDEST_NECK

#: How often the maps p5, p4, p3, p2 are enlarged, in the order in which they are joined.
_ORDER = (8, 4, 2, 1)
#: Operators that change the rank of an output only.
_RANKS = ("Squeeze", "Reshape", "Unsqueeze", "Flatten")


# Head -----------------------------------------------------------------------------------------------------------------


def probability_of(term: Term) -> Term:
    """The map behind what only changes an output's rank or counts."""
    while (term.op == "Take" or term.op.removeprefix(OTHER) in _RANKS) and term.args:
        term = term.args[0]
    return term


def head(found: Match, output: Term, branch: str) -> Term:
    """A branch of the head; returns the fused map."""
    term = probability_of(output)
    found.semantics["logits"] = term.op != "Sigmoid"
    term = term.args[0] if term.op == "Sigmoid" else term
    if term.op != "ConvTranspose":
        raise MismatchError(f"it ends with {term.label}, where a DBNet's head ends with a transposed convolution and a "
                            f"sigmoid")
    quarter = term["weight"].shape[0]
    width = quarter * 4
    if width % NECK_UNIT or not 0 < width <= WIDEST_NECK:
        raise MismatchError(f"its neck is {width} wide, here at most {WIDEST_NECK}")
    found.semantics["neck_channels"] = width
    x = found.transposed(term, f"{branch}.6", (quarter, 1, 2, 2))
    x = expect(x, "Relu", f"{branch}.5").args[0]
    layer = x.args[0] if x.op == "Norm" else x
    if x.op == "Norm":
        x = found.norm(Term("Norm", (_without_bias(layer),), x.attrs, x.label, x.channels), f"{branch}.4")
    else:
        one, zero = np.ones(quarter, np.float32), np.zeros(quarter, np.float32)
        found.norms.append(Norm(f"{branch}.4", one, zero, zero, IDENTITY, 0.0))
    x = found.transposed(layer, f"{branch}.3", (quarter, quarter, 2, 2))
    x = expect(x, "Relu", f"{branch}.2").args[0]
    return found.conv_norm(x, f"{branch}.0", f"{branch}.1", (quarter, width, 3, 3))


def _without_bias(layer: Term) -> Term:
    """The head's transposed convolution has a bias of its own beside its batch norm."""
    return Term(layer.op, layer.args, {**layer.attrs, "bias": None}, layer.label, layer.channels)


# Neck -----------------------------------------------------------------------------------------------------------------


def neck(found: Match, fused: Term) -> tuple[Term, ...]:
    """Returns c2..c5."""
    width = found.semantics["neck_channels"]
    maps = list(expect(fused, "Concat", "the map of four scales that the head takes").args)
    if len(maps) != 4:
        raise MismatchError(f"{fused.label} joins {len(maps)} maps, a DBNet's neck 4")
    if all(term.op == "Mul" for term in maps):
        maps = fusion(found, maps, width)
    else:
        found.semantics["fusion"] = "concat"
    factors = [1 if term.op not in ENLARGING else enlargement(term)[1] for term in maps]
    if sorted(factors, key=lambda f: f or 0) == [1, 2, 4, 8]:
        found.order = tuple(_ORDER.index(factor) for factor in factors if factor)
    if found.order != (0, 1, 2, 3) and found.semantics["fusion"] != "concat":
        raise MismatchError(f"{fused.label} fuses its maps in another order than p5 to p2")
    ordered = [maps[found.order.index(i)] for i in range(4)]
    smooth = [found.enlarged(term, factor) for term, factor in zip(ordered[:3], _ORDER[:3], strict=True)]
    return pyramid(found, [*smooth, ordered[3]][::-1], width)


def pyramid(found: Match, outs: list[Term], width: int) -> tuple[Term, ...]:
    """outs: p2..p5 at their own strides. Returns c2..c5."""
    squeezing = outs[3].op == "Add"
    found.semantics["neck"] = "rsefpn" if squeezing else "dbfpn"
    out, into = ("neck.inp_conv", "neck.ins_conv") if squeezing else ("neck.out", "neck.unify_channels")
    quarter, merged = width // 4, list[Term]()
    for i, term in enumerate(outs):
        path, shape = f"{out}.{i}", (quarter, width, 3, 3)
        merged.append(residual(found, term, path, shape) if squeezing else found.conv(term, path, shape))
    maps = []
    for i in range(4):
        lateral = merged[i]
        if i < 3:
            lateral = lateral_of(found, expect(lateral, "Add", f"the sum of two scales before {out}.{i}"),
                                 merged[i + 1])
        path = f"{into}.{i}"
        x = expect(lateral, "Add", path) if squeezing else expect(lateral, "Conv", path)
        inner = expect(_residual_conv(x), "Conv", f"{path}.in_conv") if squeezing else x
        shape = (width, inner["weight"].shape[1], 1, 1)
        maps.append(residual(found, x, path, shape) if squeezing else found.conv(x, path, shape))
    return tuple(maps)


def lateral_of(found: Match, total: Term, above: Term) -> Term:
    """What is added to the enlarged map `above`."""
    for lateral, larger in (total.args, total.args[::-1]):
        if larger.op in ENLARGING and enlargement(larger)[0] is above:
            found.enlarged(larger, 2)
            return lateral
    raise MismatchError(f"{total.label} does not add the next smaller scale, enlarged")


def _residual_conv(term: Term) -> Term:
    return next((arg for arg in term.args if arg.op == "Conv"), term)


def residual(found: Match, term: Term, path: str, shape: tuple[int, ...]) -> Term:
    """RSEFPN's convolution, and its output once more as squeeze-and-excitation weighs it."""
    expect(term, "Add", path)
    conv = expect(_residual_conv(term), "Conv", f"{path}.in_conv")
    weighed = expect(next((arg for arg in term.args if arg is not conv), term), "Mul", f"{path}.se_block")
    gate = next((arg for arg in weighed.args if arg is not conv), weighed)
    block = f"{path}.se_block"
    if conv not in weighed.args \
            or found.squeezed(gate, "neck_gate", f"{block}.conv1", f"{block}.conv2", shape[0]) is not conv:
        raise MismatchError(f"{weighed.label} weighs another map than that of {path}.in_conv")
    return found.conv(conv, f"{path}.in_conv", shape)


# Adaptive scale fusion ------------------------------------------------------------------------------------------------


def fusion(found: Match, weighed: list[Term], width: int) -> list[Term]:
    """Adaptive scale fusion; returns the four maps that it weighs."""
    quarter, path = width // 4, "neck.fuse"
    maps, scores = [], None
    for i, term in enumerate(weighed):
        take, other = term.args if term.args[0].op == "Take" else term.args[::-1]
        expect(take, "Take", f"one of the four weights of {path}.scale_att")
        if (take["begin"], take["end"]) != (i, i + 1) or scores not in (None, take.args[0]):
            raise MismatchError(f"{term.label} weighs its map by another score than {path} does")
        scores = take.args[0]
        maps.append(other)
    assert scores is not None
    x = found.conv(expect(scores, "Sigmoid", f"{path}.scale_att.1").args[0], f"{path}.scale_att.0", (4, quarter, 1, 1))
    places, x = _added(x, "spat_att.3")
    places = _spatial(found, places, f"{path}.spat_att")
    if expect(places, "ChannelMean", f"what {path}.spat_att.0 takes").args[0] is not x:
        raise MismatchError(f"{places.label} takes the mean of another map than {path} does")
    found.semantics["fusion"] = "asf_spatial"
    if x.op == "Add":
        found.semantics["fusion"] = "asf"
        channels, x = _added(x, "chan_att.3")
        y = found.conv(expect(channels, "Sigmoid", f"{path}.chan_att.3").args[0], f"{path}.chan_att.2",
                       (quarter, quarter // 4, 1, 1))
        y = found.conv(expect(y, "Relu", f"{path}.chan_att.1").args[0], f"{path}.chan_att.0",
                       (quarter // 4, quarter, 1, 1))
        if expect(y, "Mean", f"what {path}.chan_att.0 takes").args[0] is not x:
            raise MismatchError(f"{y.label} takes the mean of another map than {path} does")
    joined = found.conv(x, f"{path}.conv", (quarter, width, 3, 3), biased=True)
    if list(expect(joined, "Concat", f"what {path}.conv takes").args) != maps:
        raise MismatchError(f"{joined.label} joins other maps than those that are weighed")
    return maps


def _added(term: Term, what: str) -> tuple[Term, Term]:
    """An attention and the map that it is added to."""
    x, y = expect(term, "Add", f"the sum with {what}").args
    return (x, y) if x.op == "Sigmoid" else (y, x)


def _spatial(found: Match, places: Term, path: str) -> Term:
    """The attention over places. Its second convolution, of one channel to one, may be a product."""
    x = expect(places, "Sigmoid", f"{path}.3").args[0]
    if x.op == "Linear" and x["b"] == 0:
        found.bind(f"{path}.2.weight", np.full((1, 1, 1, 1), x["a"], np.float32), (1, 1, 1, 1), x)
        x = x.args[0]
    elif x.op == "Relu":  # times one
        found.bind(f"{path}.2.weight", np.ones((1, 1, 1, 1), np.float32), (1, 1, 1, 1), x)
    else:
        x = found.conv(x, f"{path}.2", (1, 1, 1, 1))
    return found.conv(expect(x, "Relu", f"{path}.1").args[0], f"{path}.0", (1, 1, 3, 3))
