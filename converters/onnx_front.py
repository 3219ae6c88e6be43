"""The front of an exported graph: from the pixels that its runtime gives to those that the network wants.

Written by `onnx_fitting.take_pixels`, and taken away again where a graph is read for its network.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from converters.onnx_nodes import Node, NodeGraph
from dbnet.spec import PixelFormat

#: Of the gathered channels where the colours change places.
ORDER = (2, 1, 0)
#: (operator, its constant): what a front does, in order.
Step = tuple[str, np.ndarray]


def front(given: PixelFormat, wanted: PixelFormat) -> list[Step]:
    """What makes images normalised as `given`, y = (x - mean) / std of each channel, those that are wanted: the
    channels in the other order where the colours differ, then a factor and a summand (1, 3, 1, 1), float32, of each
    channel. A step that changes nothing is left out.
    """
    mean, std = (np.array(values, np.float64) for values in (given.mean, given.std))
    steps: list[Step] = []
    if given.colour != wanted.colour:
        mean, std = mean[::-1], std[::-1]
        steps.append(("Gather", np.array(ORDER, np.int64)))
    to = np.array(wanted.std, np.float64)
    for operator, values, neutral in (("Mul", std / to, 1), ("Add", (mean - np.array(wanted.mean)) / to, 0)):
        constant = values.astype(np.float32).reshape(1, 3, 1, 1)
        if (constant != neutral).any():
            steps.append((operator, constant))
    return steps


def without_front(graph: NodeGraph, given: PixelFormat, wanted: PixelFormat) -> NodeGraph:
    """A graph less its front, if that is exactly the one between these pixels; as it is if it is another."""
    image, *others = graph.inputs or [""]
    steps = front(given, wanted)
    if others or not steps:
        return graph
    constants = {node.outputs[0]: node.attributes.get("value") for node in graph.nodes
                 if node.operator == "Constant" and len(node.outputs) == 1}
    name, taken = image, set[int]()
    for operator, constant in steps:
        users = [i for i, node in enumerate(graph.nodes) if name in (*node.inputs, *node.captured)]
        node = graph.nodes[users[0]] if len(users) == 1 else None
        if node is None or not _is(node, name, operator, constants.get(node.inputs[-1]), constant):
            return graph
        taken |= set(users)
        name = node.outputs[0]
    rest = [replace(node, inputs=tuple(image if value == name else value for value in node.inputs))
            for i, node in enumerate(graph.nodes) if i not in taken]
    return replace(graph, nodes=rest)


def _is(node: Node, given: str, operator: str, found: object, constant: np.ndarray) -> bool:
    return (node.operator == operator and len(node.inputs) == 2 and node.inputs[0] == given and len(node.outputs) == 1
            and node.attributes.get("axis", 0) == (1 if operator == "Gather" else 0)
            and isinstance(found, np.ndarray) and found.dtype == constant.dtype and found.shape == constant.shape
            and bool((found == constant).all()))
