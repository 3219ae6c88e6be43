"""Files as other people's exporters write them: torch's of our own networks, and what tools make of them afterwards."""

from __future__ import annotations

import random
import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from dbnet.parameters import parameters
from dbnet.seeded import seeded_weights
from dbnet.spec import ModelSpec
from torch_reference.dbnet import DBNet

SIZE = (64, 96)


class Trained(torch.nn.Module):
    """Probability, threshold and approximate binary map: what an export in training mode gives."""

    def __init__(self, net: DBNet):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.net.training_outputs(x)


@lru_cache(maxsize=2)
def network(spec: ModelSpec, seed: int = 0) -> DBNet:
    """With seeded weights, in evaluation mode."""
    net, weights = DBNet(spec), seeded_weights(spec, seed)
    arrays = {p.name_in("torch"): torch.from_numpy(weights[p.name]) for p in parameters(spec)}
    net.load_state_dict(net.state_dict() | arrays)
    return net.eval()


def exported(spec: ModelSpec, opset: int = 17, *, folded: bool = True, dynamic: bool = True, seed: int = 0,
             training: bool = False, size: tuple[int, int] = SIZE) -> onnx.ModelProto:
    """By torch's exporter that traces. folded: batch norms are part of their convolutions, as it does by default."""
    net: Any = network(spec, seed)
    net, names = (Trained(net), ["p", "t", "b"]) if training else (net, ["y"])
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("x", *names)} if dynamic else None
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, torch.zeros(1, 3, *size), stream, opset_version=opset, do_constant_folding=folded,
                          training=mode, input_names=["x"], output_names=names, dynamic_axes=axes, dynamo=False)
    return onnx.load_from_string(stream.getvalue())


def scrambled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Every name of a value, tensor or node another one, the nodes in another order that works."""
    rng, graph = random.Random(seed), model.graph
    graph.name = "graph"
    kept = {value.name for value in (*graph.input, *graph.output)}
    values = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    old = sorted(values - kept - {""})
    new = {name: f"v{number}" for name, number in zip(old, rng.sample(range(10**6), len(old)), strict=True)}
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for i, node in enumerate(graph.node):
        node.name = f"n{i}"
        for part in (node.input, node.output):
            part[:] = [new.get(name, name) for name in part]
    del graph.value_info[:]
    shuffle(graph, rng)
    return model


def shuffle(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Another order of the nodes that is still one."""
    waiting, ready = list(graph.node), {value.name for value in (*graph.input, *graph.initializer)} | {""}
    ordered = []
    while waiting:
        free = [node for node in waiting if set(node.input) <= ready]
        node = rng.choice(free)
        waiting.remove(node)
        ordered.append(node)
        ready |= set(node.output)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def as_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every initialiser a node, as Paddle2ONNX writes them."""
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def replaced(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    """Another value for an initialiser."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
