"""Of the outputs of anybody's .onnx: which is the probability map, and whether it holds logits."""

from __future__ import annotations

import re

import numpy as np

from converters.onnx_outline import Node, Outline
from dbnet.errors import DbnetError

#: Outputs that are a DBNet's probability map, whatever else is there.
_PROBABILITY = ("probability", "prob", "prob_map", "shrink_maps")
_THRESHOLD = re.compile(r"thresh", re.IGNORECASE)

# Where an output comes from: operators that leave values as they are, that end in [0, 1], and that do not.
_PASSED_ON = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Flatten", "Slice", "Gather", "Split",
              "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear"}
_FRACTIONS = {"Sigmoid", "HardSigmoid", "Softmax", "com.microsoft.QLinearSigmoid"}
_OPEN = {"Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul", "QLinearConv", "ConvInteger"}
_SUMS = {"Add", "Sub", "Sum"}


def chosen(maps: list[str], where: str) -> str:
    """Which of several outputs that are maps is the probability, by their names.

    where: the file, for the DbnetError that is raised if they leave it open.
    """
    if len(maps) == 1:
        return maps[0]
    by_name = [name for name in maps if name.lower() in _PROBABILITY]
    if {"binary", "thresh_binary"} <= set(maps):  # MindOCR and MhLiao/DB call the probability so
        by_name = by_name or ["binary"]
    rest = by_name or [name for name in maps if not _THRESHOLD.search(name)]
    if len(rest) != 1:
        raise DbnetError(f"{where}: {', '.join(maps)} could each be the probability map; say which: --map-output "
                         f"{rest[0] if rest else maps[0]}")
    return rest[0]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float32 to float32, without overflow."""
    small = np.exp(-np.abs(logits))
    found: np.ndarray = np.where(logits >= 0, 1, small) / (1 + small)
    return found


def as_map(result: np.ndarray, height: int, width: int, channel: int | None = None) -> np.ndarray | str:
    """(H, W) float32 of an output for one image, or what is wrong with its shape. channel: of (1, C, H, W)."""
    result = result if channel is None else result[:, channel:channel + 1]
    shape = np.shape(result)
    if shape in ((1, 1, height, width), (1, height, width), (height, width), (1, height, width, 1)):
        return np.asarray(result, np.float32).reshape(height, width)
    told = f"has the shape {shape} for an image of {height} x {width}"
    sides = [side for side in shape if side != 1]
    scale = height // sides[0] if len(sides) == 2 and sides[0] else 0
    if scale > 1 and sides == [height // scale, width // scale]:
        return f"{told}: a map at 1/{scale} of its size, and a DBNet's has the size of the image"
    return f"{told}, not one value for each pixel"


def holds_logits(outline: Outline, output: str, found: np.ndarray) -> tuple[bool, str]:
    """Whether a sigmoid has still to be applied, and why, if that is worth telling.

    By the operator that the output comes from; if that tells nothing, by whether values for the seeded image, `found`,
    are fractions.
    """
    kind, operator = _ending({name: node for node in outline.nodes for name in node.outputs}, output)
    if kind == "fractions":
        return False, ""
    if kind == "open":
        return True, f"holds logits, for it comes from {operator} without a sigmoid: a sigmoid is applied"
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        return True, (f"is taken to hold logits, for its values are no fractions ({low:.3g} to {high:.3g}): a sigmoid "
                      f"is applied")
    return False, f"is taken to hold probabilities, for its values are fractions ({low:.3g} to {high:.3g})"


def _ending(producers: dict[str, Node], output: str) -> tuple[str, str]:
    """`fractions`, `open` or `unknown`, and the operator that says so."""
    waiting, seen, in_a_sum, operator = [output], set[str](), False, ""
    while waiting:
        name = waiting.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        operator = node.operator
        if operator in _FRACTIONS and not in_a_sum:
            return "fractions", operator
        if operator in _OPEN:
            return "open", operator
        if operator in _SUMS:  # a bias is added to a convolution
            in_a_sum = True
            waiting += node.inputs
        elif operator in _PASSED_ON:
            waiting += node.inputs[:1]
    return "unknown", operator
