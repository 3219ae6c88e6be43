"""Nodes of an ONNX file that are not what its weights and record call for, each kind mended apart from the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from converters.delivery_note import DeliveryNote
from converters.export import fit
from converters.onnx_graph import INPUT, build_graph
from converters.onnx_layers import PARTIAL_SUFFIX
from dbnet.record import RECORD_KEY, Record
from parity.lab import Network, OnnxLab, onnx_of_weights

#: Operator -> the cause that a wrong one of its attributes has, or another operator in its place.
_CAUSES = {"MaxPool": "stem_pool", "BatchNormalization": "bn_eps", "Resize": "upsample_mode",
           "Upsample": "upsample_mode", "Concat": "concat_order", "HardSigmoid": "se_gate"}
#: Operators between two layers that a network has nothing to do with.
_CASTS = {"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Identity"}
#: The same before the first layer, with what they do to the pixels.
_PIXELS = {**dict.fromkeys(("Mul", "Div", "Sub", "Add", "BatchNormalization"), "normalization"),
           **dict.fromkeys(("Gather", "Slice", "Split", "Concat", "GatherND"), "color_order"),
           **dict.fromkeys(("Resize", "Upsample", "Pad"), "resize_rule")}
#: Beside them: the layer itself is not there.
_MISSING = "no layer"
#: What makes a weight of a stored tensor.
_OF_WEIGHTS = ("Cast", "Reshape", "Constant")
#: How the values of an exported file's front begin (`converters.onnx_fitting`).
_FRONT = f"{INPUT}."
_GATES = ("Sigmoid", "HardSigmoid")
_POOLS = ("MaxPool", "AveragePool", "LpPool")


@dataclass(frozen=True, eq=False)
class GraphFault:
    """cause, what: as of `suspects.Fault`. values: what the wrong nodes compute."""

    cause: str
    what: str
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GraphFaults:
    """All in which a file's graph is not the one that is written for its network."""

    lab: OnnxLab
    expected: ModelProto
    known: list[GraphFault]

    def mended(self, faults: Collection[GraphFault]) -> OnnxLab:
        """The graph without some of its faults. Raises DbnetError when it is run, if it does not work so."""
        right = _makers(self.expected)
        wrong = {value for fault in faults for value in fault.values}
        mended = ModelProto()
        mended.CopyFrom(self.lab.proto)
        for node in mended.graph.node:
            if node.output and node.output[0] in wrong:
                node.CopyFrom(right[node.output[0]])
                node.name = ""  # another node, which only stays for its map, may bear it
        _add_front(mended, self.expected)
        return OnnxLab(mended.SerializeToString(), ort=self.lab.ort, note=self.lab.note, feed=self.lab.feed)


def graph_faults(lab: OnnxLab, network: Network) -> GraphFaults:
    """Compares the file's graph, node by node, with the one that is written for its weights and record."""
    expected = _exported(lab, lab.note, network) if lab.note is not None else _with_names(
        onnx_of_weights(network).proto, lab.proto)
    _pool_as(expected, lab.proto)
    right, makers = _makers(expected), _makers(lab.proto)
    kinds: dict[str, list[NodeProto]] = {}
    for node in lab.proto.graph.node:
        match = right.get(node.output[0]) if node.output else None
        if match is not None and _differ(node, match):
            kinds.setdefault(_cause(node, match, _between(node, match, makers, right), makers), []).append(node)
    known = []
    for cause, nodes in kinds.items():
        more = f" and {len(nodes) - 1} more" if nodes[1:] else ""
        known.append(GraphFault(cause, f"{nodes[0].op_type} {nodes[0].output[0]}{more}: not as its record says",
                                tuple(node.output[0] for node in nodes)))
    return GraphFaults(lab, expected, known)


def _add_front(model: ModelProto, expected: ModelProto) -> None:
    """What a mended node of a front wants and the file does not have."""
    makers = _makers(model)
    wanted = {name for node in model.graph.node for name in node.input
              if name.startswith(_FRONT) and name not in makers}
    lacking: list[NodeProto] = []
    for node in reversed(expected.graph.node):
        if wanted & set(node.output):
            lacking.insert(0, node)
            wanted |= {name for name in node.input if name.startswith(_FRONT) and name not in makers}
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in (*lacking, *model.graph.node)]
    if lacking:
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _exported(lab: OnnxLab, note: DeliveryNote, network: Network) -> ModelProto:
    """What `dbnet export` writes for these weights and this note."""
    operators = {node.op_type for node in lab.proto.graph.node}
    given = [side.dim_value or None for side in lab.proto.graph.input[0].type.tensor_type.shape.dim]
    height, width = given[2:4] if len(given) == 4 else (None, None)
    built = build_graph(network.spec, network.weights, form="delivery", opset=lab.proto.opset_import[0].version,
                        data_shape=(height, width) if height and width else None, batch=given[0] if given else None,
                        deformable="native" if "DeformConv" in operators else None)
    own = Record.from_json(text, "").spec if (text := _record_in(lab.proto)) else network.spec
    fit(built, replace(network.spec, pixels=own.pixels), note)
    return OnnxLab(built.proto.SerializeToString(), note=note).proto


def _record_in(proto: ModelProto) -> str | None:
    return next((entry.value for entry in proto.metadata_props if entry.key == RECORD_KEY), None)


def _with_names(expected: ModelProto, file: ModelProto) -> ModelProto:
    """`expected` on the file's weights: those that are not stored as float32 are cast first, under another name."""
    values = _makers(file)
    cast = {node.input[0]: node.output[0] for node in file.graph.node
            if node.op_type == "Cast" and node.input[0] not in values and node.input[0] != INPUT}
    for node in expected.graph.node:
        node.input[:] = [cast.get(name, name) for name in node.input]
    return expected


def _pool_as(expected: ModelProto, file: ModelProto) -> None:
    """A file of an older version has one GlobalAveragePool where two means are written now: the same function."""
    makers, right = _makers(file), _makers(expected)
    for node in expected.graph.node:
        old, part = makers.get(node.output[0]), right.get(node.input[0]) if node.input else None
        if part is not None and part.name.endswith(PARTIAL_SUFFIX) and old is not None \
                and old.op_type == "GlobalAveragePool":
            node.op_type = old.op_type
            del node.attribute[:], node.input[1:]
            node.input[0] = part.input[0]


def _makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _attributes(node: NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString() for attribute in node.attribute}


def _differ(node: NodeProto, right: NodeProto) -> bool:
    return node.op_type != right.op_type or _attributes(node) != _attributes(right) or \
        list(node.input) != list(right.input)


def _between(node: NodeProto, right: NodeProto, makers: dict[str, NodeProto], known: dict[str, NodeProto]) -> list[str]:
    """The operators that lead to a node and stand in no graph of ours, itself among them if another is called for."""
    found: list[str] = []
    waiting, seen = [node], set(right.input)
    missing = another = node.op_type != right.op_type and node.op_type not in _GATES + _POOLS
    while waiting:
        each = waiting.pop()
        if each is not node or another:
            if each.op_type == right.op_type and each.name == right.name:
                missing = False
                continue  # the layer itself, whose map goes on from here
            found.append(each.op_type)
        for name in each.input:
            if name in makers and name not in known and name not in seen:
                seen.add(name)
                waiting.append(makers[name])
    return [operator for operator in found if operator != "Constant"] + [_MISSING] * missing


def _cause(node: NodeProto, right: NodeProto, between: list[str], makers: dict[str, NodeProto]) -> str:
    if right.output[0].startswith(_FRONT) and right.op_type in _PIXELS | {"Constant": ""}:
        names = " ".join((*right.output, *(set(node.input) ^ set(right.input))))
        return "color_order" if "gather" in names else "normalization"
    if between:
        if set(between) <= _CASTS:
            return "precision"
        if INPUT in right.input:
            return next((_PIXELS[operator] for operator in between if operator in _PIXELS), "unknown")
        return "unknown"
    if node.op_type != right.op_type:
        return _another_operator(node.op_type, right)
    if _attributes(node) == _attributes(right):
        return _other_inputs(node, right, makers)
    if node.op_type == "Conv":
        mine, theirs = _attributes(node), _attributes(right)
        wrong = {name for name in mine | theirs if mine.get(name) != theirs.get(name)}
        groups = next((a.i for a in right.attribute if a.name == "group"), 1)
        return "depthwise_padding" if groups > 1 and wrong <= {"pads", "auto_pad"} else "unknown"
    return _CAUSES.get(node.op_type, "unknown")


def _another_operator(operator: str, right: NodeProto) -> str:
    if operator in _GATES and right.op_type in _GATES and right.output[0].endswith(".gate"):
        return "se_gate"
    if operator in _POOLS and right.op_type in _POOLS:
        return "stem_pool"
    return "upsample_mode" if {operator, right.op_type} == {"Resize", "Upsample"} else "unknown"


def _other_inputs(node: NodeProto, right: NodeProto, makers: dict[str, NodeProto]) -> str:
    if len(node.input) < len(right.input):
        return "missing_bias" if "Conv" in node.op_type else "unknown"
    if node.op_type == "Concat":
        return "concat_order"
    # Where a layer's map comes from is the network's structure, which has no name.
    other = [name for i, name in enumerate(node.input) if list(right.input[i:i + 1]) != [name]]
    weights = all(name not in makers or makers[name].op_type in _OF_WEIGHTS for name in other)
    return "swapped_tensors" if weights else "unknown"
