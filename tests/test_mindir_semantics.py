"""What a .mindir's graph computes: read from MindSpore's own exports, and from such with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from converters.graph_reading import GraphReading
from converters.mindir_semantics import read_semantics
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import SPECS, ModelSpec
from tests.mindir_scenes import changed, exported, schema

R18, MV3 = SPECS["dbnet_resnet18"], SPECS["dbnet_mobilenetv3"]
#: A change to a parsed model.
Change = Callable[[Any], None]


@pytest.fixture(scope="module", autouse=True)
def _mindspore() -> None:
    pytest.importorskip("mindspore")


@cache
def graph_of(spec: ModelSpec, side: int | None = 64) -> bytes:
    """A real export without its weights."""
    def drop_weights(proto: Any) -> None:
        for one in proto.graph.parameter:
            one.ClearField("raw_data")

    # The small one is converted too, in other tests.
    content = exported(spec, side) if spec == MV3 else exported.__wrapped__(spec, side)
    return changed(content, drop_weights)


def read(content: bytes, spec: ModelSpec = R18) -> GraphReading:
    return read_semantics(memoryview(content), spec, {p.name: p.name for p in parameters(spec)}, "x.mindir")


def refusal(content: bytes, spec: ModelSpec = R18) -> str:
    with pytest.raises(DbnetError) as caught:
        read(content, spec)
    assert str(caught.value).startswith("x.mindir: ") and "\n" not in str(caught.value)
    return str(caught.value)


# Finding one's way in a model that MindSpore has written --------------------------------------------------------------


def nodes(proto: Any, operator: str) -> list[Any]:
    """The nodes with that operator, in order."""
    return [one for one in proto.graph.node if one.op_type.startswith(f"REF::{operator}:")]


def maker(proto: Any, kernel: str) -> Any:
    """The convolution with that kernel."""
    loaded = next(one.output[0] for one in nodes(proto, "Load") if one.input[0].endswith(f":{kernel}"))
    return next(one for one in proto.graph.node if loaded in one.input and "Conv2D" in one.op_type)


def of_its_own(proto: Any, one: Any) -> Any:
    """The primitive of a node, which it then shares with no other."""
    primitive = proto.primitives.add()
    primitive.CopyFrom(next(p for p in proto.primitives if p.name == one.op_type.removeprefix("REF::")))
    primitive.name = f"own{len(proto.primitives)}"
    one.op_type = f"REF::{primitive.name}"
    return primitive


def attribute(primitive: Any, name: str) -> Any:
    return next(one for one in primitive.attribute if one.name == name)


def numbers(primitive: Any, name: str, values: tuple[int, ...]) -> None:
    for one, value in zip(attribute(primitive, name).values, values, strict=True):
        one.ints[:] = [value]


def constant(proto: Any, name: str, **fields: Any) -> str:
    """A new constant's name."""
    one = schema().NodeProto(name=name, op_type="Constant", output=[name])
    one.attribute.add(name="value", **fields)
    proto.graph.node.insert(0, one)
    return name


# What the graph says --------------------------------------------------------------------------------------------------


def test_the_originals():
    assert read(graph_of(R18)) == GraphReading({"norm_eps": 1e-5, "stem_pool": "same"}, [])
    assert read(graph_of(MV3), MV3).semantics == {
        "norm_eps": 1e-5, "se_gate": "sigmoid", "depthwise_padding": "same"}


def norms(proto: Any) -> list[Any]:
    return nodes(proto, "BatchNorm")


def all_eps(proto: Any) -> None:
    name = constant(proto, "eps", f=1e-3, type=1)
    for one in norms(proto):
        one.input[6] = name


def aligned(proto: Any) -> None:
    name = constant(proto, "yes", i=1, type=9)
    for one in nodes(proto, "ResizeNearestNeighbor"):
        one.input[2] = name


def training(proto: Any) -> None:
    name = constant(proto, "yes", i=1, type=9)
    for one in norms(proto):
        one.input[5] = name


def hard_gates(proto: Any) -> None:
    primitive = of_its_own(proto, nodes(proto, "Sigmoid")[0])
    primitive.op_type = "HSigmoid"
    for one in nodes(proto, "Sigmoid")[:-1]:
        one.op_type = f"REF::{primitive.name}"


@pytest.mark.parametrize(("spec", "change", "semantics", "note"), [
    (R18, all_eps, {"norm_eps": 1e-3, "stem_pool": "same"}, ""),
    (R18, aligned, {"norm_eps": 1e-5, "stem_pool": "same", "upsampling": "align_corners"}, ""),
    (R18, training, {"norm_eps": 1e-5, "stem_pool": "same"}, "training mode"),
    (MV3, hard_gates, {"norm_eps": 1e-5, "se_gate": "hard_sigmoid", "depthwise_padding": "same"}, ""),
], ids=["eps", "aligned", "training", "gates"])
def test_what_is_changed_is_said(spec, change, semantics, note):
    reading = read(changed(graph_of(spec), change), spec)
    assert reading.semantics == semantics
    assert (note in " ".join(reading.notes)) if note else not reading.notes


def first_eps(proto: Any) -> None:
    norms(proto)[0].input[6] = constant(proto, "eps", f=1e-3, type=1)


def negative_eps(proto: Any) -> None:
    norms(proto)[-1].input[6] = constant(proto, "eps", f=-1.0, type=1)


def pooled(**values: Any) -> Change:
    def change(proto: Any) -> None:
        primitive = next(one for one in proto.primitives if one.op_type == "MaxPool")
        primitive.op_type = values.get("op", "MaxPool")
        attribute(primitive, "pad_mode").s = values.get("pad_mode", b"SAME")
        numbers(primitive, "kernel_size", (1, 1, values.get("side", 3), 3))
    return change


def convolved(kernel: str, name: str, values: tuple[int, ...]) -> Change:
    def change(proto: Any) -> None:
        numbers(of_its_own(proto, maker(proto, kernel)), name, values)
    return change


def joined(*order: int) -> Change:
    def change(proto: Any) -> None:
        source = nodes(proto, "Concat")[0].input[0]
        tuple_ = next(one for one in nodes(proto, "MakeTuple") if one.output[0] == source)
        tuple_.input[:] = [tuple_.input[i] for i in order]
    return change


def activation(operator: str, last: bool = False) -> Change:
    def change(proto: Any) -> None:
        of_its_own(proto, nodes(proto, "ReLU")[-1 if last else 0]).op_type = operator
    return change


def no_sigmoid(proto: Any) -> None:
    nodes(proto, "Depend")[-1].input[0] = nodes(proto, "Sigmoid")[-1].input[0]


def other_shortcut(proto: Any) -> None:
    adds = nodes(proto, "Add")
    adds[1].input[1] = adds[0].input[1]


def exchanged_kernels(proto: Any) -> None:
    a, b = (next(one for one in nodes(proto, "Load") if one.input[0].endswith(f":backbone.layer1.{i}.conv1.weight"))
            for i in (0, 1))
    a.input[0], b.input[0] = b.input[0], a.input[0]


def other_neck_map(proto: Any) -> None:
    maker(proto, "neck.unify_channels.1.weight").input[0] = maker(proto, "backbone.layer2.1.conv1.weight").input[0]


def bilinear(proto: Any) -> None:
    of_its_own(proto, nodes(proto, "ResizeNearestNeighbor")[0]).op_type = "ResizeBilinear"


def gate_of(operator: str) -> Change:
    def change(proto: Any) -> None:
        of_its_own(proto, nodes(proto, "Sigmoid")[0]).op_type = operator
    return change


def depthwise(mode: bytes, pads: tuple[int, ...]) -> Change:
    def change(proto: Any) -> None:
        primitive = of_its_own(proto, maker(proto, "backbone.features.4.layers.3.weight"))
        attribute(primitive, "pad_mode").s = mode
        numbers(primitive, "pad_list", pads)
    return change


@pytest.mark.parametrize(("spec", "change", "told"), [
    (R18, first_eps, "norm_eps 0.001, others have 1e-05"),
    (R18, negative_eps, "epsilon -1.0"),
    (R18, pooled(pad_mode=b"VALID"), "padding none"),
    (R18, pooled(side=2), "sides (2, 3)"),
    (R18, pooled(op="AvgPool"), "averages"),
    (R18, convolved("backbone.conv1.weight", "stride", (1, 1, 1, 1)), "backbone.conv1 has stride (1, 1)"),
    (R18, convolved("backbone.conv1.weight", "pad_list", (2, 3, 2, 3)), "backbone.conv1 pads (2, 3, 2, 3)"),
    (R18, convolved("neck.out.2.weight", "dilation", (1, 1, 2, 2)), "neck.out.2 has stride (1, 1), dilation (2, 2)"),
    (R18, convolved("head.segm.3.weight", "stride", (1, 1, 4, 4)), "head.segm.3 does not double"),
    (R18, joined(3, 2, 1, 0), "in the order p2, p3, p4, p5"),
    (R18, joined(0, 2, 1, 3), "in the order p5, p3, p4, p2"),
    (R18, joined(0, 1, 1, 3), "expected"),
    (R18, activation("LeakyReLU"), "behind backbone.bn1 stands leaky ReLU, not ReLU"),
    (R18, activation("HSwish", True), "behind head.segm.4 stands hard swish, not ReLU"),
    (R18, no_sigmoid, "no sigmoid"),
    (R18, other_shortcut, "takes another map"),
    (R18, exchanged_kernels, "where backbone.layer1.1.conv1 is expected stands backbone.layer1.0.conv1.weight"),
    (R18, other_neck_map, "takes another map"),
    (R18, bilinear, "ResizeBilinear"),
    (MV3, gate_of("Tanh"), "gate of backbone.features.6.layers.6 is tanh"),
    (MV3, gate_of("HSigmoid"), "se_gate hard_sigmoid, others have sigmoid"),
    (MV3, depthwise(b"valid", (0, 0, 0, 0)), "neither symmetric nor same"),
    (MV3, depthwise(b"pad", (1, 1, 1, 1)), "depthwise_padding symmetric, others have same"),
])
def test_what_no_spec_can_say_is_refused(spec, change, told):
    assert told in refusal(changed(graph_of(spec), change), spec)


def other_scale(proto: Any) -> None:
    first = nodes(proto, "StridedSlice")[0]
    for i, channel in ((1, 1), (2, 2)):
        values = [schema().AttributeProto(ints=[number], type=7) for number in (0, channel)]
        first.input[i] = constant(proto, f"place{i}", values=values, type=20)


def mean_over_rows(proto: Any) -> None:
    name = constant(proto, "rows", i=2, type=7)
    for one in nodes(proto, "ReduceMean"):
        one.input[1] = name


def other_offsets(proto: Any) -> None:
    numbers(of_its_own(proto, maker(proto, "backbone.layer3.0.conv2_offset.weight")), "stride", (1, 1, 2, 2))


@pytest.mark.long
@pytest.mark.parametrize(("name", "change", "told"), [
    ("dbnetpp_resnet50", other_scale, "weighs map 0 by the channels from 1 to 2"),
    ("dbnetpp_resnet50", mean_over_rows, "before neck.fuse.spat_att is over the axes (2,), not (1,)"),
    ("dbnet_resnet50_deformable", other_offsets, "offsets strided, others have mhliao"),
    ("db_mv3_ppocrv3", mean_over_rows, "is over the axes (2,), not (2, 3)"),
])
def test_what_no_spec_can_say_of_other_networks(name, change, told):
    assert told in refusal(changed(graph_of(SPECS[name]), change), SPECS[name])


def unknown(proto: Any, operator: str, index: int) -> None:
    of_its_own(proto, nodes(proto, operator)[index]).op_type = "Custom"


def several_outputs(proto: Any) -> None:
    proto.graph.output.add(name=proto.graph.output[0].name)


def channels_last(proto: Any) -> None:
    attribute(of_its_own(proto, maker(proto, "backbone.conv1.weight")), "format").s = b"NHWC"


def followed(proto: Any) -> None:
    """A ReLU behind the probability map."""
    last, relu = nodes(proto, "Depend")[-1], nodes(proto, "ReLU")[0].op_type
    proto.graph.node.add(name="z", op_type=relu, input=[last.output[0]], output=["z"])
    proto.graph.output[0].name = "z"


@pytest.mark.parametrize(("change", "semantics", "told"), [
    (lambda proto: unknown(proto, "ReLU", 0), {"norm_eps": 1e-5, "stem_pool": "same"}, "every field was read before"),
    (lambda proto: unknown(proto, "MaxPool", 0), {"norm_eps": 1e-5}, "the record tells stem_pool"),
    (pooled(pad_mode=b"1"), {"norm_eps": 1e-5}, "the record tells stem_pool"),
    (lambda proto: unknown(proto, "Sigmoid", -1), {}, "the record tells stem_pool, norm_eps"),
    (several_outputs, {}, "it has 2 outputs"),
    (channels_last, {"norm_eps": 1e-5, "stem_pool": "same"}, "backbone.conv1 has the layout NHWC"),
    (followed, {"norm_eps": 1e-5, "stem_pool": "same"}, "what follows the probability map"),
], ids=["at its end", "pool", "padding", "sigmoid", "outputs", "layout", "followed"])
def test_what_is_not_read_is_told(change, semantics, told):
    reading = read(changed(graph_of(R18), change))
    assert reading.semantics == semantics and told in " ".join(reading.notes)


def test_an_operator_that_is_in_it_twice():
    twice = changed(graph_of(R18), lambda proto: proto.primitives.append(proto.primitives[0]))
    assert "is in it twice" in refusal(twice)


def test_a_file_cut_behind_its_graph_lacks_its_operators():
    assert "it lacks the operator" in refusal(changed(graph_of(R18), lambda proto: proto.ClearField("primitives")))


def flat(one: Any, target: Any) -> str:
    """A tuple's values into `target`, and its form, as MindSpore 1 wrote it."""
    form = "Tuple["
    for value in one.values:
        if value.values:
            form += flat(value, target)
        else:
            target.ints.extend(value.ints)
            form += f"value{len(target.ints) - 1},"
    return form + "],"


def as_mindspore_1(proto: Any) -> None:
    """Operators and attributes in the nodes, tuples flat, what a batch norm is given as attributes."""
    primitives = {one.name: one for one in proto.primitives}
    constants = {one.output[0]: one.attribute[0] for one in proto.graph.node if one.op_type == "Constant"}
    older = {"TupleGetItem": "tuple_getitem", "MakeTuple": "make_tuple", "Add": "TensorAdd", "Depend": "depend"}
    for one in proto.graph.node:
        if one.op_type == "Constant":
            continue
        primitive = primitives[one.op_type.removeprefix("REF::")]
        one.op_type = older.get(primitive.op_type, primitive.op_type)
        one.attribute.extend(primitive.attribute)
        given = {"BatchNorm": {"is_training": 5, "epsilon": 6}, "Concat": {"axis": 1},
                 "ResizeNearestNeighbor": {"align_corners": 2}}.get(primitive.op_type, {})
        for name, i in given.items():
            one.attribute.add().CopyFrom(constants[one.input[i]])
            one.attribute[-1].name = name
        if given:
            del one.input[min(given.values()):]
    for one in (attribute for node_ in proto.graph.node for attribute in node_.attribute):
        if one.values:
            form = "scalar:" + flat(one, one)
            one.ClearField("values")
            one.ref_attr_name, one.type = form, 13
    proto.ClearField("primitives")


@pytest.mark.parametrize(("spec", "semantics"), [
    (R18, {"stem_pool": "same"}), (MV3, {"se_gate": "sigmoid", "depthwise_padding": "same"}),
    pytest.param(replace(R18, stem_pool="symmetric"), {"stem_pool": "symmetric"}, marks=pytest.mark.long)])
def test_files_of_mindspore_1(spec, semantics):
    content = changed(graph_of(spec), as_mindspore_1)
    assert b"REF::" not in content and b"scalar:Tuple[" in content
    assert read(content, spec) == GraphReading({"norm_eps": 1e-5, **semantics}, [])


# Other networks -------------------------------------------------------------------------------------------------------

VARIANTS = [
    (replace(R18, stem_pool="symmetric"), {"stem_pool": "symmetric"}),
    (replace(SPECS["db_mv3_ppocrv3"], upsampling="align_corners"),
     {"upsampling": "align_corners", "neck_gate": "hard_sigmoid_0.2", "depthwise_padding": "symmetric"}),
    (replace(SPECS["db_mv3_ppocrv3"], neck_gate="hard_sigmoid", upsampling="rounded"),
     {"upsampling": "rounded", "neck_gate": "hard_sigmoid", "depthwise_padding": "symmetric"}),
    (replace(SPECS["db_mv3_paddle"], upsampling="rounded", norm_eps=1e-3),
     {"upsampling": "rounded", "norm_eps": 1e-3, "depthwise_padding": "symmetric"}),
    (replace(MV3, se_gate="hard_sigmoid_0.2", depthwise_padding="symmetric"),
     {"se_gate": "hard_sigmoid_0.2", "depthwise_padding": "symmetric"}),
    (replace(MV3, se_gate="hard_sigmoid"), {"se_gate": "hard_sigmoid", "depthwise_padding": "same"}),
    (SPECS["dbnetpp_resnet50"], {"stem_pool": "same"}),
    (SPECS["dbnet_resnet18_deformable"], {"stem_pool": "symmetric"}),
    (SPECS["dbnet_resnet50_deformable"], {"stem_pool": "symmetric", "offsets": "mhliao"}),
    (SPECS["dbpp_resnet50_paddle"], {"stem_pool": "symmetric", "offsets": "strided"}),
    (SPECS["db_resnet18_paddle"], {"stem_pool": "symmetric"}),
]


@pytest.mark.long
@pytest.mark.parametrize(("spec", "semantics", "side"), [(*row, (64, None)[i % 2]) for i, row in enumerate(VARIANTS)],
                         ids=[f"{i}-{row[0].name}" for i, row in enumerate(VARIANTS)])
def test_every_network(spec, semantics, side):
    """Read with the defaults of its name, as a file without a record is."""
    reading = read(graph_of(spec, side), SPECS[spec.name])
    assert reading.semantics == {"norm_eps": 1e-5, **semantics}
    assert [note for note in reading.notes if "deformable" not in note] == []
