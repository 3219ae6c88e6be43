"""Our own ONNX graphs in half precision: what every operator computes is rounded to fp16 or bf16.

Written as float32 operators between casts to the short type and back. ONNX Runtime's CPU has no convolution of either
type: it runs a float16 graph in float32 from end to end, without rounding in between, and refuses bfloat16. Inputs in
the short type, sums in float32 and a rounded output are what tensor cores and Ascend's cube compute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnx import ModelProto, NodeProto, TensorProto, helper

from converters.onnx_counting import add_counts
from converters.onnx_layers import DTYPES, PARTIAL_SUFFIX
from converters.onnx_parts import EXACT_SUFFIX
from converters.tensor_file import Weights
from dbnet.parameters import parameters
from dbnet.precision import HalfFormat, always_float32, layers, taken
from dbnet.spec import ModelSpec

#: Operators that only move or select values: nothing to round.
_UNROUNDED = {"Constant", "Relu", "MaxPool", "Concat", "Split", "Reshape", "Transpose", "Slice", "Gather", "Resize",
              "Identity", "Pad", "Floor"}


def half_weights(spec: ModelSpec, weights: Weights, form: HalfFormat, keep: Collection[str]) -> Weights:
    """The weights in the short type, but for those of the layers to keep, as float32."""
    float32 = {*keep, *always_float32(spec)}
    paths = {p.name: p.path for p in parameters(spec)}
    return {name: array.astype("float32") if paths[name] in float32 else form.rounded(array.astype("float32"))
            for name, array in weights.items()}


def round_values(proto: ModelProto, spec: ModelSpec, form: HalfFormat, keep: Collection[str],
                 counted: bool = False) -> list[str]:
    """Makes every operator of a graph of ours (`onnx_graph.build_graph`) round, but for the layers to `keep`.

    A layer that is kept takes values as they come and gives float32. One that is not takes and gives short values. An
    operator without weights computes in the widest type of its inputs, as in torch. counted: what rounding does is an
    output too, `COUNTS` of `onnx_counting`. Gives the names of the layers, of the operators between them that compute
    something, and of what layers take (`dbnet.precision.taken`), in order.
    """
    walk = _Walk(proto, spec, form, {*keep, *always_float32(spec)})
    nodes = [new for node in proto.graph.node for new in walk.rounded(node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    if counted:
        add_counts(proto, walk.computed, form)
    return list(walk.computed)


class _Walk:
    """wide: the values that are float32 and not rounded. short: those that are, by the name of the value they are of.
    floats: all that are no integers. weights: those that depend on no image. computed: layer or operator -> its value
    before rounding; what a layer takes -> that value.
    """

    def __init__(self, proto: ModelProto, spec: ModelSpec, form: HalfFormat, keep: set[str]):
        self.layers = frozenset(layers(spec))
        self.keep, self.type = keep, DTYPES[form.dtype]
        self.wide = {value.name for value in proto.graph.input}
        self.weights = {p.name for p in parameters(spec)}
        self.floats = self.wide | self.weights
        self.short: dict[str, str] = {}
        self.computed: dict[str, str] = {}

    def layer_of(self, name: str) -> str | None:
        """The layer that a node belongs to, by its name; None for operators without weights."""
        while name:
            if name in self.layers:
                return name
            name = name.rpartition(".")[0]
        return None

    def rounded(self, node: NodeProto) -> list[NodeProto]:
        """What takes the node's place."""
        if not _gives_floats(node, self.floats):
            return [node]
        self.floats |= set(node.output)
        layer = self.layer_of(node.name)
        if not self.floats & set(node.input) - self.weights:
            self.weights |= set(node.output)
        elif layer is not None:
            self.computed.setdefault(taken(layer), node.input[0])
        exact = node.op_type in _UNROUNDED or _is_of_weights(node) or node.name.endswith(PARTIAL_SUFFIX)
        if layer == node.name or (layer is None and not exact):
            self.computed[node.name] = node.output[0]
        if layer in self.keep and layer is not None and not _is_of_weights(node):
            self.wide |= set(node.output)
            return [node]
        before: list[NodeProto] = []
        if layer is not None:
            for i, name in enumerate(node.input):
                if name in self.wide:
                    node.input[i] = self._shortened(name, before)
        elif any(name in self.wide for name in node.input):
            self.wide |= set(node.output)
            return [node]
        if exact:
            return [*before, node]
        [output] = node.output
        node.output[0] = output + EXACT_SUFFIX
        if node.name in self.computed:
            self.computed[node.name] = node.output[0]
        return [*before, node, *self._casts(node.output[0], output)]

    def _shortened(self, name: str, before: list[NodeProto]) -> str:
        """The name of a wide value's rounding, which is made once."""
        if name not in self.short:
            self.short[name] = f"{name}.short"
            before += self._casts(name, self.short[name])
        return self.short[name]

    def _casts(self, value: str, to: str) -> Iterable[NodeProto]:
        between = f"{to}.{'half' if self.type == TensorProto.FLOAT16 else 'bfloat16'}"
        return (helper.make_node("Cast", [value], [between], name=between, to=self.type),
                helper.make_node("Cast", [between], [to], name=f"{to}.rounded", to=TensorProto.FLOAT))


def _is_of_weights(node: NodeProto) -> bool:
    """A weight as float32, or in another shape: what the graph makes of it at loading."""
    return node.name.endswith((".float32", ".kernel", ".kept"))


def _gives_floats(node: NodeProto, floats: set[str]) -> bool:
    if node.op_type == "Constant":
        return bool(node.attribute[0].t.data_type == TensorProto.FLOAT)
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
    if node.op_type in ("Shape", "IsNaN"):
        return False
    return any(name in floats for name in (node.input[1:2] if node.op_type == "Where" else node.input[:1]))
