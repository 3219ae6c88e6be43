"""The backbones' part of `onnx_match`: from c5 back to the image."""

from __future__ import annotations

from collections import deque

import numpy as np

from converters.onnx_match import Match, MismatchError, expect
from converters.onnx_terms import OTHER, Term
from dbnet.parameters import (
    MOBILENET_BLOCKS,
    MOBILENET_FIRST_BLOCK,
    MOBILENET_LAST,
    MOBILENET_STEM,
    MOBILENET_TAPS,
    OFFSET_CHANNELS,
    RESNET_BLOCKS,
    MobileBlock,
)

#: Of the terms that a deformable convolution may be made of.
_MOST_TERMS = 2_000
#: What parts and joins the channels of its offsets and masks.
_PARTS = ("Take", "Concat", *(f"{OTHER}{name}" for name in ("Slice", "Reshape", "Concat", "Split")))


def backbone(found: Match, maps: tuple[Term, ...]) -> None:
    """maps: c2..c5. Raises MismatchError."""
    if found.semantics["backbone"] == "mobilenetv3":
        mobilenetv3(found, maps)
    else:
        resnet(found, maps)


def expect_image(term: Term, path: str) -> None:
    """Raises MismatchError unless the first layer takes the image itself."""
    if term.op != "Image":
        raise MismatchError(f"{term.label} is between the image and {path}, the first layer")


# ResNet ---------------------------------------------------------------------------------------------------------------


def resnet(found: Match, maps: tuple[Term, ...]) -> None:
    name, x = found.semantics["backbone"], maps[3]
    found.semantics["deformable"] = "none"
    for layer, count in reversed(list(enumerate(RESNET_BLOCKS[name], start=1))):
        if maps[layer - 1] is not x:
            raise MismatchError(f"its layer{layer + 1} has another number of blocks than a {name}'s, before "
                                f"{maps[layer - 1].label}")
        for i in reversed(range(count)):
            try:
                x = block(found, x, f"backbone.layer{layer}.{i}", layer, i)
            except MismatchError as error:
                more = f"; has it more blocks than a {name}?" if i == 0 else ""
                raise MismatchError(f"{error}{more}") from error
    pool = expect(x, "MaxPool", f"the pool before layer1 of a {name} (does it have more blocks?)")
    padding = {(0, 0, 1, 1): "same", (1, 1, 1, 1): "symmetric"}.get(pool["pads"])
    if padding is None or (pool["kernel"], pool["stride"]) != ((3, 3), 2):
        raise MismatchError(f"{pool.label} pools {pool['kernel']} with stride {pool['stride']} and pads "
                            f"{pool['pads']}, a {name} 3x3 with stride 2")
    found.says("stem_pool", padding, pool)
    x = expect(pool.args[0], "Relu", "backbone.relu").args[0]
    x = found.conv_norm(x, "backbone.conv1", "backbone.bn1", (64, 3, 7, 7), stride=2)
    expect_image(x, "backbone.conv1")


def block(found: Match, term: Term, path: str, layer: int, i: int) -> Term:
    """A residual block; returns what it takes."""
    name, stride = found.semantics["backbone"], 2 if i == 0 and layer > 1 else 1
    total = expect(expect(term, "Relu", f"{path}.relu").args[0], "Add", f"{path}.add")
    width = 64 * 2 ** (layer - 1)
    mismatch = None
    for main, shortcut in (total.args, total.args[::-1]):
        if main.op not in ("Norm", "Conv"):
            continue
        trial = Match(semantics=dict(found.semantics))
        try:
            x = (basic if name == "resnet18" else bottleneck)(trial, main, path, layer, i, width, stride)
            projected(trial, shortcut, x, path, layer, i, stride)
        except MismatchError as error:
            mismatch = mismatch or error
            continue
        found.weights |= trial.weights
        found.norms += trial.norms
        found.semantics = trial.semantics
        return x
    raise mismatch or MismatchError(f"{total.label} does not add a convolution to a shortcut, as {path} does")


def incoming(name: str, layer: int, i: int) -> int:
    """Channels of what a block takes."""
    outgoing = 64 * 2 ** (layer - 1) * (1 if name == "resnet18" else 4)
    return outgoing if i else 64 if layer == 1 else outgoing // 2


def basic(found: Match, term: Term, path: str, layer: int, i: int, width: int, stride: int) -> Term:
    x = conv2(found, term, path, width, 1, layer)
    x = expect(x, "Relu", f"{path}.relu1").args[0]
    return found.conv_norm(x, f"{path}.conv1", f"{path}.bn1", (width, incoming("resnet18", layer, i), 3, 3),
                           stride=stride)


def bottleneck(found: Match, term: Term, path: str, layer: int, i: int, width: int, stride: int) -> Term:
    x = found.conv_norm(term, f"{path}.conv3", f"{path}.bn3", (4 * width, width, 1, 1))
    x = conv2(found, expect(x, "Relu", f"{path}.relu2").args[0], path, width, stride, layer)
    x = expect(x, "Relu", f"{path}.relu1").args[0]
    return found.conv_norm(x, f"{path}.conv1", f"{path}.bn1", (width, incoming("resnet50", layer, i), 1, 1))


def projected(found: Match, shortcut: Term, x: Term, path: str, layer: int, i: int, stride: int) -> None:
    """The shortcut: the block's input, or a convolution of it where the shape changes."""
    name = found.semantics["backbone"]
    outgoing = 64 * 2 ** (layer - 1) * (1 if name == "resnet18" else 4)
    first = layer == 1 and i == 0 and name == "resnet18"
    if first:
        found.says("first_shortcut", "identity" if shortcut is x else "projection", shortcut)
    if shortcut is x and (i > 0 or first):
        return
    taken = found.conv_norm(shortcut, f"{path}.down_sample.0", f"{path}.down_sample.1",
                            (outgoing, incoming(name, layer, i), 1, 1), stride=stride)
    if taken is not x:
        raise MismatchError(f"{shortcut.label} is no shortcut of {path}'s input")


# Deformable convolution -----------------------------------------------------------------------------------------------


def conv2(found: Match, term: Term, path: str, width: int, stride: int, layer: int) -> Term:
    """A block's second convolution and its batch norm; returns what it takes."""
    shape = (width, width, 3, 3)
    layer_term = term.args[0] if term.op == "Norm" else term
    if layer == 1 or layer_term.op == "Conv":
        if layer > 1:
            if found.semantics["deformable"] != "none":
                raise MismatchError(f"{layer_term.label} is a plain convolution, others are deformable")
            found.semantics["plain"] = True
        return found.conv_norm(term, f"{path}.conv2", f"{path}.bn2", shape, stride=stride)
    if found.semantics.get("plain"):
        raise MismatchError(f"{layer_term.label} is no convolution, {path}.conv2 is one")
    kernel, predicted, x = native(layer_term) if layer_term.op == "DeformConv" else decomposed(layer_term, path, width)
    found.semantics["deformable"] = "modulated"
    found.bind(f"{path}.conv2.weight", kernel, shape, layer_term)
    bias = layer_term["bias"] if layer_term.op == "DeformConv" else None
    folded = Term("Conv", (x,), {"bias": bias}, layer_term.label, width)
    found.norm(Term("Norm", (folded,), term.attrs, term.label, width) if term.op == "Norm" else folded, f"{path}.bn2")
    step = predicted["stride"]
    if stride > 1:
        found.says("offsets", "strided" if step == stride else "mhliao", predicted)
    return found.conv(predicted, f"{path}.conv2_offset", (OFFSET_CHANNELS, width, 3, 3), biased=True, stride=step)


def native(term: Term) -> tuple[np.ndarray, Term, Term]:
    """Of the standard's operator: kernel, the convolution that predicts offsets and masks, and what both take."""
    x, offset, mask = term.args
    predicted = _behind(mask, {"Sigmoid", *_PARTS})
    if predicted is not _behind(offset, {*_PARTS}):
        raise MismatchError(f"{term.label} takes its offsets and its masks from two layers")
    return term["weight"], predicted, x


def _behind(term: Term, passing: set[str]) -> Term:
    """The convolution whose channels a term is a part of."""
    for _ in range(_MOST_TERMS):
        if term.op == "Conv" and term.channels == OFFSET_CHANNELS:
            return term
        if term.op not in passing or not term.args:
            break
        term = term.args[0]
    raise MismatchError(f"{term.label} is where a deformable convolution's offsets come from")


def decomposed(term: Term, path: str, width: int) -> tuple[np.ndarray, Term, Term]:
    """The same of one that was taken apart: the matrix that multiplies the taps, and the layer of 27 channels.

    What lies between is not read: only the proof tells whether it is a deformable convolution.
    """
    waiting, seen, kernel, predicted = deque([term]), {id(term)}, None, None
    while waiting and len(seen) < _MOST_TERMS:
        one = waiting.popleft()
        if one.op == "Conv":
            if one.channels == OFFSET_CHANNELS and predicted is None:
                predicted = one
            continue
        for array in (one["constants"] or ()) if one.op == f"{OTHER}MatMul" else ():
            if array.shape == (9 * width, width) and kernel is None:
                kernel = array
        for arg in one.args:
            if id(arg) not in seen:
                seen.add(id(arg))
                waiting.append(arg)
    if kernel is None or predicted is None:
        raise MismatchError(f"{term.label} is a {term.op.removeprefix(OTHER)}, where {path}.conv2 is a convolution, "
                            f"plain or deformable")
    return np.ascontiguousarray(kernel.reshape(3, 3, width, width).transpose(3, 2, 0, 1)), predicted, predicted.args[0]


# MobileNetV3 ----------------------------------------------------------------------------------------------------------


def mobilenetv3(found: Match, maps: tuple[Term, ...]) -> None:
    last = MOBILENET_FIRST_BLOCK + len(MOBILENET_BLOCKS)
    x = expect(maps[3], "HardSwish", f"backbone.features.{last + 2}").args[0]
    x = found.conv_norm(x, f"backbone.features.{last}", f"backbone.features.{last + 1}",
                        (MOBILENET_LAST, MOBILENET_BLOCKS[-1].channels, 1, 1))
    for i in reversed(range(len(MOBILENET_BLOCKS))):
        place = MOBILENET_FIRST_BLOCK + i
        if place in MOBILENET_TAPS and maps[MOBILENET_TAPS.index(place)] is not x:
            raise MismatchError(f"{maps[MOBILENET_TAPS.index(place)].label} is not the map of "
                                f"backbone.features.{place}, which the neck takes")
        into = MOBILENET_BLOCKS[i - 1].channels if i else MOBILENET_STEM
        x = inverted_residual(found, x, f"backbone.features.{place}", into, MOBILENET_BLOCKS[i])
    x = expect(x, "HardSwish", "backbone.features.2").args[0]
    expect_image(found.conv_norm(x, "backbone.features.0", "backbone.features.1", (MOBILENET_STEM, 3, 3, 3), stride=2),
                 "backbone.features.0")


def inverted_residual(found: Match, term: Term, path: str, into: int, kind: MobileBlock) -> Term:
    """Returns what the block takes."""
    if kind.stride == 1 and into == kind.channels:
        for main, shortcut in (expect(term, "Add", f"{path}.add").args, term.args[::-1]):
            if main.op in ("Norm", "Conv") and _entry(main) is shortcut:
                return inner(found, main, path, into, kind)
        raise MismatchError(f"{term.label} does not add {path}'s input")
    return inner(found, term, path, into, kind)


def _entry(term: Term) -> Term | None:
    """Behind a block's three convolutions, found by its shortest way back."""
    convolutions = 0
    for _ in range(32):
        if term.op == "Conv":
            convolutions += 1
        if not term.args:
            return None
        # A squeeze-and-excitation's product: the map is what is not a gate.
        term = next((arg for arg in term.args if arg.op not in ("Sigmoid", "HardSigmoid")), term.args[0])
        if convolutions == 3:
            return term
    return None


def inner(found: Match, term: Term, path: str, into: int, kind: MobileBlock) -> Term:
    """The block without its shortcut."""
    act, layers, wide = "HardSwish" if kind.hard_swish else "Relu", f"{path}.layers", kind.expanded
    if not kind.squeeze:
        last = 6
    else:
        squeezing = _projection(term).args[0].op == "Mul"
        last = 7 if squeezing else 6
        if not squeezing:
            found.says("se_gate", "none", term)
    x = found.conv_norm(term, f"{layers}.{last}", f"{layers}.{last + 1}", (kind.channels, wide, 1, 1))
    if last == 7:
        gate, x = x.args if x.args[0].op in ("Sigmoid", "HardSigmoid") else x.args[::-1]
        names = [f"{layers}.6.{leaf}" for leaf in ("conv_reduce", "conv_expand")]
        if found.squeezed(gate, "se_gate", names[0], names[1], wide) is not x:
            raise MismatchError(f"{gate.label} weighs another map than {layers}.6 does")
        for name in names:
            found.weights[f"{name}.weight"] = found.weights[f"{name}.weight"].reshape(
                found.weights[f"{name}.weight"].shape[:2])
    x = depthwise(found, expect(x, act, f"{layers}.5").args[0], layers, kind)
    x = expect(x, act, f"{layers}.2").args[0]
    return found.conv_norm(x, f"{layers}.0", f"{layers}.1", (wide, into, 1, 1))


def _projection(term: Term) -> Term:
    conv = term.args[0] if term.op == "Norm" else term
    return expect(conv, "Conv", "a block's last convolution")


def depthwise(found: Match, term: Term, layers: str, kind: MobileBlock) -> Term:
    conv = term.args[0] if term.op == "Norm" else term
    k = kind.kernel
    symmetric, same = (k // 2,) * 4, ((k - 2) // 2,) * 2 + ((k - 1) // 2,) * 2
    pads = symmetric
    if kind.stride == 2 and conv.op == "Conv":
        pads = same if conv["pads"] == same else symmetric
        found.says("depthwise_padding", "same" if pads == same else "symmetric", conv)
    return found.conv_norm(term, f"{layers}.3", f"{layers}.4", (kind.expanded, 1, k, k), stride=kind.stride, pads=pads)
