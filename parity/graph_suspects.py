"""Nodes of an ONNX file that are not what its weights and record call for, each kind mended apart."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto

from parity.lab import OnnxLab, onnx_of_weights

#: Operator -> the cause that a wrong one of its attributes has.
_CAUSES = {"MaxPool": "stem_pool", "BatchNormalization": "bn_eps", "Resize": "upsample_mode",
           "Upsample": "upsample_mode", "Concat": "concat_order", "Cast": "precision", "HardSigmoid": "se_gate"}


def by_graph(file: ModelProto, expected: ModelProto) -> Iterator[tuple[str, str, ModelProto]]:
    """(cause, in words, the file's graph mended of it) for every kind of node that differs from the node of the same
    name in the graph that is written for the file's weights and record."""
    right = {node.output[0]: node for node in expected.graph.node}
    wrong: dict[str, list[int]] = {}
    for i, node in enumerate(file.graph.node):
        match = right.get(node.output[0])
        if match is not None and match.op_type == node.op_type and _differ(node, match):
            wrong.setdefault(_cause(node), []).append(i)
    for cause, places in wrong.items():
        mended = ModelProto()
        mended.CopyFrom(file)
        for i in places:
            mended.graph.node[i].CopyFrom(right[file.graph.node[i].output[0]])
        names = [file.graph.node[i].output[0] for i in places]
        more = f" and {len(names) - 1} more" if names[1:] else ""
        yield cause, f"{file.graph.node[places[0]].op_type} {names[0]}{more}: not as its record says", mended


def _differ(node: NodeProto, right: NodeProto) -> bool:
    mine, theirs = ({a.name: a.SerializeToString() for a in each.attribute} for each in (node, right))
    return mine != theirs or list(node.input) != list(right.input)


def _cause(node: NodeProto) -> str:
    if node.op_type == "Conv":
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        return "depthwise_padding" if groups > 1 else "missing_bias" if len(node.input) < 3 else "unknown"
    return _CAUSES.get(node.op_type, "unknown")


def mended_labs(lab: OnnxLab) -> Iterator[tuple[str, str, OnnxLab]]:
    """The same, ready to run."""
    if lab.network is not None:
        for cause, what, mended in by_graph(lab.proto, onnx_of_weights(lab.network).proto):
            yield cause, what, OnnxLab(mended.SerializeToString())
