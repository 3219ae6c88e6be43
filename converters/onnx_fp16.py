"""Our graph in float16 as runtimes compute it: float16 tensors and operators between float32 at both ends.

`onnx_half` writes the same roundings as float32 operators, to see what they do; here they are what the file is. Which
operator computes in which type is decided as there: a layer in float16 unless it is kept, what has no weights in the
widest type that comes in.
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto, NodeProto, TensorProto, helper

from converters.onnx_graph import INPUT, OnnxModel
from dbnet.precision import always_float32, layers
from dbnet.spec import ModelSpec

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
#: Operators whose other inputs have a type of their own.
_FIRST_ONLY = {"Resize"}


def compute_in_half(model: OnnxModel, spec: ModelSpec, keep: Collection[str]) -> None:
    """Makes a graph compute in float16, but for the layers to `keep` and deformable convolutions.

    It must have been built of float16 weights (float32 for the layers to keep: `onnx_half.half_weights`), and not be
    changed otherwise yet. Input and output stay float32.
    """
    _Halving(model, spec, {*keep, *always_float32(spec)}).run()


class _Halving:
    """types: of all float values. constant: those that depend on no image, which widen nothing. cast: (value, type) ->
    that value in that type.
    """

    def __init__(self, model: OnnxModel, spec: ModelSpec, keep: set[str]):
        self.proto: ModelProto = model.proto
        self.layers, self.keep = frozenset(layers(spec)), keep
        weights = {name: _HALF if array.dtype.name == "float16" else _FLOAT
                   for name, array in model.initialisers.items()}
        self.types: dict[str, int] = {INPUT: _FLOAT, **weights}
        self.constant = set(weights)
        self.cast: dict[tuple[str, int], str] = {}
        self.same: dict[str, str] = {}  # a weight as float32 -> the weight itself
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        graph = self.proto.graph
        for node in [NodeProto.FromString(node.SerializeToString()) for node in graph.node]:
            self._add(node)
        for output in graph.output:
            if self.types[output.name] == _HALF:
                half = f"{output.name}.half"
                for node in self.nodes:
                    node.input[:] = [half if name == output.name else name for name in node.input]
                    node.output[:] = [half if name == output.name else name for name in node.output]
                self.nodes.append(helper.make_node("Cast", [half], [output.name], name=f"{output.name}.float",
                                                   to=_FLOAT))
        del graph.node[:]
        graph.node.extend(self.nodes)

    def _add(self, node: NodeProto) -> None:
        if node.op_type == "Cast" and node.input[0] in self.constant and node.name == f"{node.input[0]}.float32":
            self.same[node.output[0]] = node.input[0]
            return
        node.input[:] = [self.same.get(name, name) for name in node.input]
        floats = [i for i, name in enumerate(node.input) if name in self.types]
        if node.op_type in _FIRST_ONLY:
            floats = floats[:1]
        kind = self._kind(node, [node.input[i] for i in floats])
        if kind is not None:
            for i in floats:
                node.input[i] = self._as(node.input[i], kind)
        if _gives_floats(node, bool(floats)):
            self.types |= dict.fromkeys(node.output, kind or _FLOAT)
            if all(name in self.constant for name in node.input if name):
                self.constant |= set(node.output)
        self.nodes.append(node)

    def _kind(self, node: NodeProto, inputs: list[str]) -> int | None:
        """The type that a node computes in; None if no value goes in."""
        if not inputs or node.op_type == "Cast":
            return None
        layer = node.name
        while layer and layer not in self.layers:
            layer = layer.rpartition(".")[0]
        if layer:
            return _FLOAT if layer in self.keep else _HALF
        values = [name for name in inputs if name not in self.constant] or inputs
        return _FLOAT if any(self.types[name] == _FLOAT for name in values) else _HALF

    def _as(self, name: str, kind: int) -> str:
        """A value in that type, cast once."""
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.cast:
            self.cast[name, kind] = to = f"{name}.{'half' if kind == _HALF else 'float'}"
            self.nodes.append(helper.make_node("Cast", [name], [to], name=to, to=kind))
            self.types[to] = kind
            self.constant |= {to} if name in self.constant else set()
        return self.cast[name, kind]


def _gives_floats(node: NodeProto, takes: bool) -> bool:
    if node.op_type == "Constant":
        return bool(node.attribute[0].t.data_type == _FLOAT)
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i == _FLOAT for a in node.attribute)
    return takes and node.op_type != "Shape"
