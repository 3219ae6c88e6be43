"""Our own ONNX graphs with more ends: every stage or layer as an output, and stages computed from given maps.

The values of our graphs bear the stages' and the modules' names (`converters.onnx_graph`), so that a file can be looked
into without another graph in its place. Needs onnx.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from converters.onnx_layers import PARTIAL_SUFFIX
from dbnet.errors import DbnetError
from dbnet.spec import STAGES

#: After the name of a value before it is rounded (`converters.onnx_half`).
EXACT_SUFFIX = ".exact"
#: Before the name of a stage whose map is given.
GIVEN = "given."


def stages_within(model: ModelProto) -> tuple[str, ...]:
    """The stages that a graph computes under their names, in order."""
    values = {name for node in model.graph.node for name in node.output}
    return tuple(stage for stage in STAGES if stage in values)


def with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of `model` with exactly these values as outputs, of any type and shape."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def with_given_stages(model: ModelProto, layers: bool = False, half: Collection[str] = ()) -> ModelProto:
    """A copy whose stages are computed from inputs `given.c2`, `given.c3`, ..., not from each other.

    layers: the output of every module is an output too (`layers_of` names them). half: the stages that the graph
    computes in float16, which are given so. Raises DbnetError if the graph does
    not have all stages under their names.
    """
    within = stages_within(model)
    if within != STAGES:
        missing = ", ".join(stage for stage in STAGES if stage not in within)
        raise DbnetError(f"the graph has no values named {missing}; only files written here have all stages")
    copy = with_outputs(model, [*STAGES, *(layers_of(model) if layers else ())])
    used = set()
    for node in copy.graph.node:
        for i, name in enumerate(node.input):
            if name in STAGES:
                node.input[i] = GIVEN + name
                used.add(name)
    copy.graph.input.extend(helper.make_tensor_value_info(GIVEN + stage, TensorProto.FLOAT16 if stage in half else
                                                          TensorProto.FLOAT, None)
                            for stage in STAGES if stage in used)
    return copy


def layers_of(model: ModelProto) -> list[str]:
    """What the nodes compute, in order, as far as it may be a layer's map; no stages. In half precision as it is after
    rounding.
    """
    silent = {"Constant", "Cast", "Shape", "Reshape", "Identity"}
    values = [node.output[0].removesuffix(EXACT_SUFFIX) for node in model.graph.node
              if node.op_type not in silent and not node.name.endswith((".kept", PARTIAL_SUFFIX))]
    return [value for value in values if value not in STAGES]


def parse(data: bytes) -> ModelProto:
    """A model from its bytes. Raises DbnetError."""
    try:
        return onnx.load_from_string(data)
    except DecodeError as error:
        raise DbnetError(f"the graph cannot be read: {error}") from error


def behind(model: ModelProto, stage: str) -> set[str]:
    """The values that a stage is computed from, back to other stages and the image; itself among them."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        name = waiting.pop()
        if name not in found and name in makers and (name not in STAGES or name == stage):
            found.add(name)
            waiting += makers[name].input
    return found
