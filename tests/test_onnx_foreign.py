"""Other people's .onnx files, read by their graphs: torch's exports, and our own graphs without names or record."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from converters import onnx_file
from converters.load import LoadedModel, SourceOptions, load_model
from converters.onnx_foreign import DEFAULT_EPS
from converters.onnx_proof import prove
from converters.weights import same_bits
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_weights
from dbnet.spec import MHLIAO_PIXELS, MINDOCR_PIXELS, MMOCR_PIXELS, PADDLE_PIXELS, SPECS, ModelSpec
from tests.foreign_onnx import as_constants, saved, scrambled

MV3 = replace(SPECS["db_mv3_paddle"], neck_channels=32)
MV3_SE, V3 = replace(SPECS["dbnet_mobilenetv3"], neck_channels=64), SPECS["db_mv3_ppocrv3"]
R18 = replace(SPECS["dbnet_resnet18"], neck_channels=32)
SILENT = ("step_function", "k")


@lru_cache(maxsize=4)
def _written(spec: ModelSpec, options: tuple[tuple[str, Any], ...]) -> bytes:
    stream = BytesIO()
    onnx_file.write(stream, seeded_weights(spec), spec, None, **dict(options))
    return stream.getvalue()


def ours(spec: ModelSpec, **options: Any) -> onnx.ModelProto:
    """Our own graph of a spec, without a record."""
    options.setdefault("form", "delivery")
    return onnx.load_from_string(_written(spec, tuple(options.items())))


def load(model: onnx.ModelProto, folder: Path, **options: Any) -> LoadedModel:
    return load_model(saved(model, folder / "x.onnx"), SourceOptions(**options))


def assert_read(model: LoadedModel, spec: ModelSpec, weights: dict[str, np.ndarray] | None = None) -> None:
    """All that decides numbers is the spec's; with `weights`, every tensor has their bits."""
    said, wanted = model.record.spec.relevant_semantics(), spec.relevant_semantics()
    for name in SILENT:
        said.pop(name), wanted.pop(name)
    assert said == wanted
    if weights is not None:
        assert {name for name in weights if not name.startswith("head.thresh.")} <= set(model.weights)
        assert all(same_bits(array, weights[name]) for name, array in model.weights.items())


# Semantics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "options"), [
    (replace(R18, first_shortcut="projection", stem_pool="symmetric", norm_eps=1e-3), {"form": "archive", "opset": 11}),
    (replace(R18, deformable="modulated"), {"deformable": "native", "opset": 19}),
    pytest.param(replace(R18, deformable="modulated", neck="rsefpn"), {}, marks=pytest.mark.long),
    pytest.param(SPECS["dbnetpp_resnet50_deformable"], {"form": "archive"}, marks=pytest.mark.long),
    pytest.param(SPECS["dbpp_resnet50_paddle"], {"opset": 11}, marks=pytest.mark.long),
    pytest.param(SPECS["dbnet_resnet50"], {"data_shape": (96, 64)}, marks=pytest.mark.long),
    (replace(MV3, fusion="asf", neck_channels=64, norm_eps=1e-3), {"opset": 18, "form": "archive", "stages": True}),
    (replace(MV3, fusion="asf_spatial", neck_channels=64, upsampling="rounded"), {"data_shape": (96, 64)}),
    (replace(MV3_SE, se_gate="hard_sigmoid"), {"opset": 20}),
    (replace(MV3_SE, se_gate="hard_sigmoid_0.2", depthwise_padding="symmetric"), {"form": "archive"}),
    (replace(V3, upsampling="align_corners", neck_gate="hard_sigmoid"), {"opset": 11}),
    (replace(V3, upsampling="rounded", neck_gate="sigmoid", se_gate="sigmoid"), {"opset": 22}),
    (replace(MV3, upsampling="align_corners"), {}),
    (replace(V3, neck_channels=16), {}),  # a squeeze of one channel has the shape of a depthwise kernel
    (replace(MV3, fusion="asf", neck_channels=16), {}),
])
def test_semantics_are_read_from_the_graph(spec, options, tmp_path):
    weights = seeded_weights(spec)
    model = load(scrambled(ours(spec, **options)), tmp_path)
    assert_read(model, spec, weights)
    assert model.bare and model.graph_read and model.foreign is not None and model.foreign.folded == 0


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(gate=st.sampled_from(["none", "sigmoid", "hard_sigmoid", "hard_sigmoid_0.2"]), opset=st.integers(11, 22),
       padding=st.sampled_from(["same", "symmetric"]), neck=st.sampled_from(["dbfpn", "rsefpn"]),
       places=st.sampled_from(["floor", "align_corners", "rounded"]), width=st.sampled_from([16, 32, 48, 80]),
       form=st.sampled_from(["archive", "delivery"]), size=st.sampled_from([None, (64, 64), (32, 96)]),
       moved=st.booleans())
def test_any_combination(gate, opset, padding, neck, places, width, form, size, moved, tmp_path):
    spec = replace(SPECS["db_mv3_paddle"], se_gate=gate, depthwise_padding=padding, neck=neck, upsampling=places,
                   neck_channels=width)
    model = scrambled(ours(spec, form=form, opset=opset, data_shape=size), opset)
    assert_read(load(as_constants(model) if moved else model, tmp_path), spec, seeded_weights(spec))


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(("axes", "read"), [
    (([2], [3]), True), (([-1], [-2]), True), (([3], [2]), True), (([2, 3],), True), (([-2, -1],), True), (None, True),
    (([3],), False), (([3], [3]), False), (([2], [-2]), False), (([1], [3], [2]), False)])
def test_the_mean_of_a_map_in_all_its_spellings(axes, read, opset, tmp_path):
    model = ours(MV3_SE, form="archive", opset=opset)
    for node in [node for node in model.graph.node if node.name.endswith(".mean")]:
        [part] = [each for each in model.graph.node if each.output[0] == node.input[0]]
        value, nodes = part.input[0], []
        for i, along in enumerate(axes or ()):
            name = f"{node.output[0]}.{i}" if i + 1 < len(axes) else node.output[0]
            if opset < 18:
                nodes.append(helper.make_node("ReduceMean", [value], [name], axes=along, keepdims=1))
            else:
                given = helper.make_tensor("", onnx.TensorProto.INT64, [len(along)], along)
                nodes += [helper.make_node("Constant", [], [f"{name}.to"], value=given),
                          helper.make_node("ReduceMean", [value, f"{name}.to"], [name], keepdims=1)]
            value = name
        at = list(model.graph.node).index(part)
        both = [*model.graph.node[:at], *(nodes or [helper.make_node("GlobalAveragePool", [value], node.output)]),
                *(each for each in model.graph.node[at + 1:] if each is not node and each != node)]
        del model.graph.node[:]
        model.graph.node.extend(both)
    if read:
        assert_read(load(scrambled(model), tmp_path), MV3_SE, seeded_weights(MV3_SE))
    else:
        with pytest.raises(DbnetError):
            load(scrambled(model), tmp_path)


def test_the_numbers_of_a_folded_batch_norm_are_exact():
    for eps in (DEFAULT_EPS, 1e-3, 2e-5, 1e-6):
        variance = np.float32(1 - eps)
        assert np.float32(variance + np.float32(eps)) == 1
        assert np.float32(1 / np.sqrt(np.float64(variance) + eps)) == 1


def test_maps_joined_the_other_way_round(tmp_path):
    model = ours(MV3)
    node = next(node for node in model.graph.node if node.op_type == "Concat" and len(node.input) == 4)
    node.input[:] = list(node.input)[::-1]
    found = load(scrambled(model), tmp_path)
    kernel = seeded_weights(MV3)["head.segm.0.weight"]
    blocks = np.split(kernel, 4, axis=1)
    assert same_bits(found.weights["head.segm.0.weight"], np.ascontiguousarray(np.concatenate(blocks[::-1], 1)))
    assert (found.record.origin, found.record.spec.pixels) == ("mmocr", MMOCR_PIXELS)
    assert any("p2, p3, p4, p5" in note for note in found.notes)
    assert max(prove(found).random, prove(found).picture) < 1e-6


def test_a_resize_that_rounds(tmp_path):
    model = ours(MV3, opset=12)
    for node in (node for node in model.graph.node if node.op_type == "Resize"):
        kept = [a for a in node.attribute if a.name != "nearest_mode"]  # as Paddle2ONNX wrote PP-OCRv2
        del node.attribute[:]
        node.attribute.extend(kept)
    found = load(model, tmp_path)
    assert found.record.spec.upsampling == "rounded"
    assert any("rounds" in note for note in found.notes)
    assert max(prove(found).random, prove(found).picture) < 1e-6
    assert load(model, tmp_path, semantics={"upsampling": "floor"}).record.spec.upsampling == "floor"


# Spellings ------------------------------------------------------------------------------------------------------------


class Pieces:
    """Rewrites nodes as older exporters write them."""

    def __init__(self, model: onnx.ModelProto):
        self.graph, self.nodes, self.count = model.graph, list[onnx.NodeProto](), 0

    def const(self, values: Any, kind: int = onnx.TensorProto.FLOAT) -> str:
        self.count += 1
        array = np.asarray(values)
        value = helper.make_tensor("", kind, array.shape, array.reshape(-1))
        self.nodes.append(helper.make_node("Constant", [], [f"const{self.count}"], value=value))
        return f"const{self.count}"

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        self.count += 1
        out = out or f"piece{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [out], **attributes))
        return out

    def rewrite(self, rules: dict[str, Any]) -> None:
        for node in list(self.graph.node):
            if node.op_type not in rules or not rules[node.op_type](self, node):
                self.nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)


def swish(p: Pieces, node: onnx.NodeProto) -> bool:
    """x relu6(x + 3) / 6, as Paddle2ONNX writes it; every second one as x clip(x / 6 + 0.5, 0, 1)."""
    x, out = node.input[0], node.output[0]
    if p.count % 2:
        six = p.add("Clip", p.add("Add", x, p.const(3.0)), p.const(0.0), p.const(6.0))
        p.add("Div", p.add("Mul", x, six), p.const(6.0), out=out)
    else:
        gate = p.add("Add", p.add("Div", x, p.const(6.0)), p.const(0.5))
        p.add("Mul", p.add("Min", p.add("Max", gate, p.const(0.0)), p.const(1.0)), x, out=out)
    return True


def gate(p: Pieces, node: onnx.NodeProto) -> bool:
    slope = next(a.f for a in node.attribute if a.name == "alpha")
    x = p.add("Add", p.add("Mul", p.const(6 * slope), node.input[0]), p.const([3.0]))
    p.add("Div", p.add("Clip", x, p.const(0.0), p.const(6.0)), p.const(6.0), out=node.output[0])
    return True


def biased(p: Pieces, node: onnx.NodeProto) -> bool:
    """A bias behind its convolution, reshaped first."""
    if len(node.input) < 3:
        return False
    bias, out = node.input.pop(), node.output[0]
    node.output[0] = f"{out}.plain"
    p.nodes.append(node)
    p.add("Add", p.add("Reshape", bias, p.const([1, -1, 1, 1], onnx.TensorProto.INT64)), node.output[0], out=out)
    return True


def normed(p: Pieces, node: onnx.NodeProto) -> bool:
    """(x - mean) / sqrt(variance + eps) gamma + beta."""
    x, gamma, beta, mean, variance = node.input
    shape = p.const([1, -1, 1, 1], onnx.TensorProto.INT64)
    gamma, beta, mean, variance = (p.add("Reshape", name, shape) for name in (gamma, beta, mean, variance))
    x = p.add("Div", p.add("Sub", x, mean), p.add("Sqrt", p.add("Add", variance, p.const(1e-5))))
    p.add("Add", p.add("Mul", gamma, x), beta, out=node.output[0])
    return True


def passed(p: Pieces, node: onnx.NodeProto) -> bool:
    """A ReLU as a Clip without an upper end, an Identity and a Dropout behind it."""
    x = p.add("Clip", node.input[0], p.const(0.0))
    p.add("Dropout", p.add("Identity", x), out=node.output[0])
    return True


def sized(p: Pieces, node: onnx.NodeProto) -> bool:
    """A Resize by the size that a graph computes."""
    x, factor = node.input[0], next(n for n in p.graph.node if n.output[0] == node.input[2])
    times = onnx.numpy_helper.to_array(factor.attribute[0].t)[2]
    shape, whole = p.add("Shape", x), onnx.TensorProto.INT64
    cut = [p.add("Slice", shape, *(p.const([value], whole) for value in (begin, begin + 2, 0))) for begin in (0, 2)]
    sides = p.add("Mul", p.add("Cast", cut[1], to=1), p.const([float(times)] * 2))
    sizes = p.add("Concat", cut[0], p.add("Cast", p.add("Floor", sides), to=7), axis=0)
    p.add("Resize", x, "", "", sizes, out=node.output[0], mode="nearest", nearest_mode="floor",
          coordinate_transformation_mode="asymmetric")
    return True


@pytest.mark.parametrize(("spec", "rules", "exact"), [
    (MV3, {"HardSwish": swish, "Resize": sized}, True),
    (replace(V3, se_gate="hard_sigmoid"), {"HardSigmoid": gate, "HardSwish": swish, "Conv": biased,
                                           "ConvTranspose": biased}, True),
    (MV3, {"Relu": passed, "BatchNormalization": normed}, False),
], ids=["swish and sizes", "gates and biases", "batch norms"])
def test_layers_in_pieces_are_one(spec, rules, exact, tmp_path):
    model = ours(spec, opset=14)
    Pieces(model).rewrite(rules)
    found = load(scrambled(model), tmp_path)
    assert_read(found, spec, seeded_weights(spec) if exact else None)
    proof = prove(found)
    assert proof is not None and max(proof.random, proof.picture) < 2e-6


def test_mindspores_transposed_convolutions_are_repaired(tmp_path):
    model = ours(MV3, opset=11)
    for node in (node for node in model.graph.node if node.op_type == "ConvTranspose"):
        kept = [a for a in node.attribute if a.name != "pads"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_LOWER"),
                               helper.make_attribute("output_shape", [1, 8, 48, 80])])
    model.producer_name = "MindSpore"
    found = load(scrambled(model), tmp_path)
    assert_read(found, MV3, seeded_weights(MV3))
    assert (found.record.origin, found.record.spec.pixels) == ("mindocr", MINDOCR_PIXELS)
    assert any("repaired" in note and "2 transposed" in note for note in found.notes)
    assert max(prove(found).random, prove(found).picture) < 1e-6


# Whose it is ----------------------------------------------------------------------------------------------------------


def test_whose_pixels_it_takes(tmp_path):
    def pixels(model, **options):
        found = load(model, tmp_path, **options)
        return found.record.origin, found.record.spec.pixels, [note for note in found.notes if "pixels" in note]

    nameless = scrambled(ours(MV3))
    origin, taken, (note,) = pixels(nameless)
    assert (origin, taken) == ("paddle", PADDLE_PIXELS) and "nothing in the file tells" in note and "--pixels" in note
    assert pixels(nameless, dialect="mindocr_enhance")[:2] == ("mindocr_enhance", MINDOCR_PIXELS)
    assert pixels(nameless, pixels="mhliao")[1] == MHLIAO_PIXELS
    nameless.producer_name = "PaddlePaddle"
    assert "Paddle2ONNX" in pixels(nameless)[2][0]
    assert pixels(scrambled(ours(MV3_SE)))[:2] == ("mindocr", MINDOCR_PIXELS)  # MindOCR's paddings


def test_names_of_a_project_keep_the_training_branch(tmp_path):
    spec = SPECS["dbnet_resnet18"]
    from converters.check import weight_map
    names = {e.parameter.name: f"model.module.{e.foreign}" for e in weight_map("mhliao", spec).entries}
    model = ours(replace(spec, stem_pool="symmetric"), form="archive")
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    found = load(model, tmp_path)
    assert (found.dialect, found.record.origin, found.subset) == ("mhliao", "mhliao", "complete")
    assert (found.record.spec.stem_pool, found.record.spec.pixels) == ("symmetric", MHLIAO_PIXELS)
    assert len(found.weights) == len(names)


# Outputs and types ----------------------------------------------------------------------------------------------------


def squeezed(graph: onnx.GraphProto) -> None:
    """(N, H, W), as mmdeploy gives it, and another output before it."""
    node = next(node for node in graph.node if node.op_type == "Sigmoid" and node.output[0] == graph.output[0].name)
    node.output[0] = "map"
    axes = helper.make_tensor("", 7, [1], [1])
    graph.node.extend([helper.make_node("Constant", [], ["one"], value=axes),
                       helper.make_node("Squeeze", ["map", "one"], ["boxes"])])
    graph.output[0].CopyFrom(helper.make_tensor_value_info("boxes", 1, ["n", "h", "w"]))


def without_sigmoid(graph: onnx.GraphProto) -> None:
    """MMOCR's head: the sigmoid comes later."""
    node = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    node.op_type = "Identity"


@pytest.mark.parametrize(("change", "logits"), [(squeezed, False), (without_sigmoid, True)])
def test_other_outputs(change, logits, tmp_path):
    model = ours(MV3)
    change(model.graph)
    found = load(scrambled(model), tmp_path)
    assert found.foreign is not None and found.foreign.logits == logits
    assert_read(found, MV3, seeded_weights(MV3))
    proof = prove(found)
    assert proof is not None and max(proof.random, proof.picture) < 1e-6


def test_short_types_stay_where_names_tell_them(tmp_path):
    stream = BytesIO()
    onnx_file.write(stream, seeded_weights(MV3, dtype="float16"), MV3, None)
    model = onnx.load_from_string(stream.getvalue())
    by_name = load(model, tmp_path)
    assert {array.dtype.name for array in by_name.weights.values()} == {"float16"} and by_name.subset == "complete"
    (tmp_path / "other").mkdir()  # the tensors are views of the first file
    by_graph = load(scrambled(model), tmp_path / "other")
    assert {array.dtype.name for array in by_graph.weights.values()} == {"float32"}
    assert all(np.array_equal(array, by_name.weights[name]) for name, array in by_graph.weights.items())


def test_what_the_user_says_of_a_graph(tmp_path):
    path = saved(scrambled(ours(MV3)), tmp_path / "x.onnx")
    changed = load_model(path, SourceOptions(semantics={"depthwise_padding": "same"}))
    assert changed.record.spec.depthwise_padding == "same"
    assert any("you say depthwise_padding=same, its graph computes symmetric" in note for note in changed.notes)
    for options, told in ((SourceOptions(spec="dbnet_resnet18"), "its graph is db_mv3_paddle, you say dbnet_resnet18"),
                          (SourceOptions(semantics={"stem_pool": "same"}), "changes nothing"),
                          (SourceOptions(semantics={"se_gate": "sigmoid"}), "need other tensors"),
                          (SourceOptions(dialect="nobody"), "unknown dialect")):
        with pytest.raises(DbnetError, match=told):
            load_model(path, options)
