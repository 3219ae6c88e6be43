"""What is no network built here is refused in one line that says where it parts from one; damaged files likewise."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from converters.inspect import inspect
from converters.load import SourceOptions, load_model
from converters.onnx_foreign import read_foreign
from dbnet.errors import DbnetError, UnknownNetworkError
from evaluation.runners import open_runner
from tests.detecting import dbnet
from tests.foreign_onnx import replaced, saved, scrambled
from tests.test_onnx_foreign import MV3, R18, V3, ours

Change = Callable[[onnx.GraphProto], None]


def node_of(graph: onnx.GraphProto, operator: str, place: int = 0) -> onnx.NodeProto:
    return [node for node in graph.node if node.op_type == operator][place]


def given_attribute(operator: str, place: int = 0, **attributes: object) -> Change:
    """Another value for attributes of a node."""
    def change(graph: onnx.GraphProto) -> None:
        node = node_of(graph, operator, place)
        kept = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])
    return change


def another(operator: str, name: str, place: int = 0) -> Change:
    def change(graph: onnx.GraphProto) -> None:
        node_of(graph, operator, place).op_type = name
    return change


def one_block_more(graph: onnx.GraphProto) -> None:
    """As a ResNet-34 has them: c5 goes through its last block once more."""
    names = [node.output[0] for node in graph.node]
    begin, end = names.index("backbone.layer4.1.conv1"), names.index("c5")
    for node in list(graph.node)[end + 1:]:
        node.input[:] = ["c5.more" if name == "c5" else name for name in node.input]
    inside = set(names[begin:end + 1])
    into = "backbone.layer4.0.relu"
    for node in list(graph.node)[begin:end + 1]:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = ["c5" if name == into else f"{name}.more" if name in inside else name for name in copy.input]
        copy.output[0] += ".more"
        graph.node.append(copy)


def with_softmax(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Softmax", [graph.output[0].name], ["classes"]))
    graph.output[0].name = "classes"


def biased(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.output[0] == "neck.unify_channels.2")
    graph.initializer.append(numpy_helper.from_array(np.ones(32, np.float32), "bias"))
    node.input.append("bias")


@pytest.mark.parametrize(("spec", "change", "told"), [
    (R18, given_attribute("MaxPool", pads=[0, 0, 0, 0]), r"MaxPool backbone\.max_pool pools \(3, 3\) with stride 2"),
    (R18, one_block_more, "layer4.0.conv1 stride 2 .*; has it more blocks than a resnet18"),
    (R18, given_attribute("Conv", 3, dilations=[2, 2]), "has stride 1, pads .* and dilation 2"),
    (MV3, another("Relu", "LeakyRelu"), "is a LeakyRelu, where"),
    (MV3, given_attribute("Resize", mode="linear"), "enlarges by linear, which is not built here"),
    (MV3, given_attribute("Resize", nearest_mode="ceil"), "enlarges by asymmetric ceil"),
    (MV3, given_attribute("Concat", axis=2), "a Concat of another kind, where the map of four scales"),
    (MV3, biased, r"has a bias, neck\.unify_channels\.2 has none"),
    (MV3, with_softmax, "looks like a classifier or a recogniser.*ends with Softmax"),
    (MV3, another("Sigmoid", "QuantizeLinear"), "it is quantised"),
    (MV3, given_attribute("Conv", 2, pads=[0, 0, 0, 0]), r"pads \(0, 0, 0, 0\)"),
    (V3, given_attribute("HardSigmoid", -1, alpha=0.3), "hard sigmoid of slope 0.3, here they have 1/6 or 0.2"),
])
def test_another_network_is_refused_with_the_place(spec, change, told, tmp_path):
    model = ours(spec)
    change(model.graph)
    for i, tensor in enumerate(model.graph.initializer):  # names say nothing any more
        new = f"t{i}"
        for node in model.graph.node:
            node.input[:] = [new if name == tensor.name else name for name in node.input]
        tensor.name = new
    path = saved(model, tmp_path / "x.onnx")
    with pytest.raises(UnknownNetworkError, match=told) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: fits no known network by its graph: ")
    assert "\n" not in str(caught.value)
    found = inspect(path)
    assert found["spec"] is None and any("by its graph" in note for note in found["notes"])


def test_names_alone_are_taken_where_the_graph_is_not_understood(tmp_path):
    model = ours(MV3)
    given_attribute("Resize", mode="linear")(model.graph)
    found = load_model(saved(model, tmp_path / "x.onnx"))
    assert found.foreign is None and found.unread is not None and "linear" in found.unread
    assert any("graph was not understood" in note and "linear" in note for note in found.notes)
    from converters.convert import convert
    with pytest.raises(DbnetError, match="was not understood"):
        convert(tmp_path / "x.onnx", tmp_path / "y.pth")


def test_names_alone_are_never_called_the_same(tmp_path, monkeypatch, capsys):
    """Every tensor is there, under its name; the graph computes something else with them."""
    model = ours(MV3)
    saved(model, tmp_path / "a.onnx")
    another("Relu", "LeakyRelu")(model.graph)
    saved(model, tmp_path / "b.onnx")
    for files, unread in (("aa", []), ("ab", ["b"]), ("ba", ["a"]), ("bb", ["a", "b"])):
        paths = [tmp_path / f"{name}.onnx" for name in files]
        dbnet(monkeypatch, "compare", *paths, "--weights", code=1 if unread else 0)
        said = capsys.readouterr().out
        assert ("and the same semantics" in said) != bool(unread)
        for side in unread:
            assert f"graph: that of {side.upper()} was not read" in said and "LeakyRelu" in said
        dbnet(monkeypatch, "compare", *paths, "--weights", "--json", "-", code=1 if unread else 0)
        found = json.loads(capsys.readouterr().out)
        assert found["same"] == (not unread) and list(found["unread"]) == unread and not found["different"]


def test_a_graph_that_is_not_read_runs_as_it_is_or_not_at_all(tmp_path):
    model = ours(MV3)
    another("Relu", "LeakyRelu")(model.graph)
    path = saved(model, tmp_path / "x.onnx")
    for runner in ("torch", "mindspore"):
        with pytest.raises(DbnetError, match=rf"LeakyRelu.*in ONNX Runtime only, by its own graph, not in {runner}"):
            open_runner(path, runner, stages=("probability",))
    with pytest.raises(DbnetError, match="by its own graph only: leave out --set"):
        open_runner(path, stages=("probability",), options=SourceOptions(semantics={"k": 40}))
    pytest.importorskip("onnxruntime")
    assert open_runner(path, stages=("probability",)).name == "onnxruntime"
    with pytest.raises(DbnetError, match="has no output c2"):  # which our own graph of these weights has
        open_runner(path, stages=("c2", "probability"))


def whole_numbers(operator: str, place: int, dtype: type) -> Change:
    """An input that is a weight, rounded to another type, which onnx's reference evaluator takes."""
    def change(graph: onnx.GraphProto) -> None:
        name = node_of(graph, operator).input[place]
        tensor = next(t for t in graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), name))
    return change


def trained(graph: onnx.GraphProto) -> None:
    """As exporters wrote training mode before opset 14."""
    node_of(graph, "BatchNormalization").output.extend(["mean", "variance"])


@pytest.mark.parametrize(("change", "opset", "told"), [
    (whole_numbers("Conv", 1, np.int32), 17, "the weights of Conv .* are int32"),
    (whole_numbers("Conv", 1, np.bool_), 17, "the weights of Conv .* are bool"),
    (whole_numbers("BatchNormalization", 3, np.int64), 17, "the weights of BatchNormalization .* are int64"),
    (given_attribute("BatchNormalization", training_mode=1), 17, "training mode.*evaluation mode .*model.eval"),
    (trained, 11, "training mode.*evaluation mode"),
    (given_attribute("BatchNormalization", epsilon=0.0), 17, "the epsilon of BatchNormalization .* is 0, where"),
    (given_attribute("BatchNormalization", -1, epsilon=-1e-5), 17, "is -1e-05, where"),
    (given_attribute("BatchNormalization", epsilon=float("inf")), 17, "is inf, where"),
    (given_attribute("BatchNormalization", epsilon=1e30), 17, r"x\.onnx: norm_eps cannot be 1e\+30"),
])
def test_layers_that_no_weights_can_say(change, opset, told, tmp_path):
    """Neither by the graph nor by names that fit; what runs a graph as it is may still do so if they do not."""
    model = ours(MV3, form="archive", opset=opset)
    if told.endswith(r"1e\+30"):
        for place in range(len([node for node in model.graph.node if node.op_type == "BatchNormalization"])):
            given_attribute("BatchNormalization", place, epsilon=1e30)(model.graph)
    change(model.graph)
    path = saved(model, tmp_path / "x.onnx")
    with pytest.raises(DbnetError, match=told) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, UnknownNetworkError) == ("the weights" in told)  # whose names then fit nothing
    with pytest.raises(UnknownNetworkError, match=told):
        load_model(saved(scrambled(model), path))


def without_squeezing(graph: onnx.GraphProto) -> None:
    """RSEFPN's first sum is one of other things."""
    node = next(node for node in graph.node if node.output[0] == "neck.ins_conv.3")
    node.input[:] = ["c5", "c5"]


def fused_without_parameters(graph: onnx.GraphProto) -> None:
    node = node_of(graph, "Conv", 4)
    node.op_type, node.domain = "FusedConv", "com.microsoft"
    node.attribute.append(helper.make_attribute("activation", "HardSigmoid"))


@pytest.mark.parametrize(("spec", "change", "told"), [
    (replace(V3, neck_channels=16), without_squeezing, "is a Add, where neck.ins_conv.3.in_conv is a Conv"),
    (replace(MV3, neck_channels=16), fused_without_parameters, "is a com.microsoft.FusedConv, where"),
    (V3, given_attribute("HardSigmoid", -1, alpha="steep"), "is a HardSigmoid of another kind"),
])
def test_odd_nodes_are_another_network(spec, change, told, tmp_path):
    model = ours(spec)
    change(model.graph)
    with pytest.raises(UnknownNetworkError, match=told):
        load_model(saved(scrambled(model), tmp_path / "x.onnx"))


def sides_by(number: float) -> list[onnx.NodeProto]:
    """The image's sides beside a number that is no side."""
    return [helper.make_node("Shape", ["image"], ["s"]),
            helper.make_node("Constant", [], ["n"], value=helper.make_tensor("", 1, [1], [number])),
            helper.make_node("Concat", ["s", "n"], ["sn"], axis=0)]


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_numbers_that_are_no_size(number, tmp_path):
    model = scrambled(ours(MV3))
    model.graph.node.extend(sides_by(number))
    assert load_model(saved(model, tmp_path / "x.onnx")).record.spec.name == MV3.name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("divisor", [np.zeros(1, np.float32), np.full((1, 8, 1, 1), 1e-40, np.float32)])
def test_numbers_beyond_float32_are_one_line_and_no_warning(divisor, tmp_path):
    model = ours(MV3, form="archive")
    node = node_of(model.graph, "BatchNormalization", -1)
    model.graph.initializer.append(numpy_helper.from_array(divisor, "divisor"))
    out, node.output[0] = node.output[0], "before"
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place + 1, helper.make_node("Div", ["before", "divisor"], [out]))
    with pytest.raises(DbnetError):
        load_model(saved(scrambled(model), tmp_path / "x.onnx"))


# Damaged --------------------------------------------------------------------------------------------------------------


def circle(graph: onnx.GraphProto) -> None:
    node_of(graph, "Relu").input[0] = node_of(graph, "Relu", -1).output[0]


def nothing_gives(graph: onnx.GraphProto) -> None:
    node_of(graph, "Relu").input[0] = "nobody"


def twice(graph: onnx.GraphProto) -> None:
    graph.node.append(node_of(graph, "Relu"))


def no_input(graph: onnx.GraphProto) -> None:
    del graph.input[:]
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 32, 32), np.float32), "image"))


def two_inputs(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("other", 1, [1]))


def infinite(graph: onnx.GraphProto) -> None:
    tensor = graph.initializer[0]
    tensor.raw_data = b"\xff" * len(tensor.raw_data)


@pytest.mark.parametrize(("change", "told"), [
    (circle, "take each other's outputs in a circle"),
    (nothing_gives, "takes nobody, which nothing in the graph gives"),
    (twice, "is computed twice"), (no_input, "takes 0 inputs, not one image"), (two_inputs, "takes 2 inputs"),
    (infinite, "NaN or Inf in 1 tensors"),
])
def test_a_damaged_graph_is_one_line(change, told, tmp_path):
    model = scrambled(ours(MV3))
    change(model.graph)
    with pytest.raises(DbnetError, match=told):
        load_model(saved(model, tmp_path / "x.onnx"))


def test_external_data_is_not_followed(tmp_path):
    model = scrambled(ours(MV3))
    (tmp_path / "secret").write_bytes(bytes(64))
    value = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="secret")
    body = helper.make_graph([helper.make_node("Constant", [], ["z"], value=value)], "body", [], [
        helper.make_tensor_value_info("z", 1, [1])])
    model.graph.node.append(helper.make_node("If", ["image"], ["never"], then_branch=body, else_branch=body))
    with pytest.raises(DbnetError, match="external data"):
        load_model(saved(model, tmp_path / "x.onnx"))


@pytest.mark.parametrize("make", [
    lambda c: [helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(60)],
    lambda c: [helper.make_node("Mul", [f"d{i}", f"d{i}"], [f"d{i + 1}"]) for i in range(2000)],
    lambda c: [helper.make_node("ConstantOfShape", ["size"], ["d1"]),
               helper.make_node("Range", ["z", "size", "o"], ["d2"])],
    lambda c: [helper.make_node("Shape", ["image"], ["s0"]), *(
        helper.make_node("Mul", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(500))],
    lambda c: [helper.make_node("Expand", ["d0", "size"], ["d1"]), helper.make_node("Pow", ["size", "size"], ["d2"])],
], ids=["doubling", "long", "huge", "squares", "powers"])
def test_constants_that_would_fill_memory_are_not_computed(make, tmp_path):
    model = scrambled(ours(MV3))
    for name, values in (("d0", np.ones(1000, np.float32)), ("size", np.array([1 << 40])), ("z", np.array(0)),
                         ("o", np.array(1))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.node.extend(make(None))
    begin = time.process_time()
    assert load_model(saved(model, tmp_path / "x.onnx")).record.spec.name == MV3.name
    assert time.process_time() - begin < 2


@cache
def small_file() -> tuple[bytes, int]:
    """A nameless file, and up to which byte its nodes go."""
    model = scrambled(ours(replace(MV3, neck_channels=16)))
    return model.SerializeToString(), sum(node.ByteSize() for node in model.graph.node)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_a_mutated_graph_loads_or_is_one_line(data, tmp_path):
    """Bytes of the nodes only: what a tensor holds is anybody's."""
    whole, size = small_file()
    content = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, size), min_size=1, max_size=4)):  # they come first
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with contextlib.suppress(DbnetError):
        read_foreign(path)


def test_an_untouched_file_is_not_changed_by_reading(tmp_path):
    model = scrambled(ours(MV3))
    replaced(model, model.graph.initializer[0].name, numpy_helper.to_array(model.graph.initializer[0]))
    path = saved(model, tmp_path / "x.onnx")
    before = path.read_bytes()
    load_model(path)
    assert path.read_bytes() == before and io.BytesIO(before).getvalue() == before
