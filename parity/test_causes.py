"""Faults put in on purpose must be found in files: the stage, whose error it is, and the name of the cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

import converters
from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.seeded import seeded_weights
from dbnet.spec import MHLIAO_PIXELS, SPECS
from parity.cases import CASES, RUNNERS, SUFFIX, marked
from parity.models import compare_models
from parity.staged import open_staged
from parity.test_sabotage import SABOTAGE

PICTURE = draw(3, 128, 192)[0]
#: What each of the faults is called, and the layer that it is seen in first.
NAMED = {
    "gamma and beta swapped": ("swapped_tensors", "backbone.layer2.0.bn1"),
    "variances of two layers swapped": ("swapped_tensors", "backbone.features.14.layers.1"),
    "kernel rows and columns swapped": ("transposed_kernel", "p3"),
    "square kernel transposed": ("transposed_kernel", "backbone.layer4.1.conv2"),
    "transposed convolution transposed": ("transposed_kernel", "head.segm.3"),
    "epsilon of torchvision": ("bn_eps", "backbone.bn1"), "epsilon ten times larger": ("bn_eps", "backbone.bn1"),
    "stem pool of the originals": ("stem_pool", "backbone.max_pool"),
    "depthwise padding of Paddle": ("depthwise_padding", "backbone.features.4.layers.3"),
    "gate of torch": ("se_gate", "backbone.features.6.layers.6.gate"),
    "gate of old Paddle for torch's": ("se_gate", "backbone.features.6.layers.6.gate"),
    "concatenation reversed": ("concat_order", "head.segm.0"),
    "attention left out": ("unknown", "neck.fuse.chan_att.2"),
    "scales in another order": ("swapped_tensors", "neck.fuse.scale_att.0"),
    "offsets in x before those in y": ("swapped_tensors", "backbone.layer3.1.conv2_offset"),
    "masks before offsets": ("swapped_tensors", "backbone.layer2.0.conv2_offset"),
    "offsets computed with the stride": ("swapped_tensors", "backbone.layer2.0.conv2_offset"),
    "last bias dropped": ("missing_bias", "logits"),
}
#: Those of small networks, in the default run.
QUICK = ("variances of two layers swapped", "depthwise padding of Paddle", "gate of torch")


def written(folder: Path, name: str, spec, weights) -> Path:
    converters.save_weights(weights, folder / name, spec=spec)
    return folder / name


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long)
                                  for name in NAMED])
def test_faults_have_names(name, tmp_path, available):
    available("torch", "onnxruntime")
    case, fields, change, stage = SABOTAGE[name]
    spec = CASES[case]
    sound = written(tmp_path, "sound.pth", spec, seeded_weights(spec, 11))
    unsound = written(tmp_path, "unsound.pth", replace(spec, **fields), change(seeded_weights(spec, 11)))
    found = compare_models(open_staged(sound), open_staged(unsound), [PICTURE])
    assert (found.verdict, found.first, found.cause, found.layer) == ("different", stage, *NAMED[name])
    assert stage in found.own
    if found.cause != "unknown":
        assert found.causes[-1].explained and found.causes[0].before > found.causes[-1].residual


def test_every_fault_is_in_the_table():
    assert set(NAMED) == set(SABOTAGE)


MOBILE = SPECS["dbnet_mobilenetv3"]


def rounded(weights, kind):
    return {name: array.astype(kind) for name, array in weights.items()}


def quantised(array):
    """Kernels as integers of 8 bits, with one step for each channel."""
    if array.ndim < 4:
        return array
    step = np.abs(array).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
    return np.round(array / step) * step


def changed_stem(weights, change):
    name = "backbone.features.0.weight"
    return {**weights, name: np.ascontiguousarray(change(weights[name]))}


#: name -> (change of the weights, change of the spec's fields, first divergence, causes)
OTHERS = {
    "float16": (lambda w: rounded(w, np.float16), {}, "c2", ["precision"]),
    "bfloat16": (lambda w: rounded(w, ml_dtypes.bfloat16), {}, "c2", ["precision"]),
    "colours in the stem": (lambda w: changed_stem(w, lambda k: k[:, ::-1]), {}, "c2", ["color_order"]),
    "scale in the stem": (lambda w: changed_stem(w, lambda k: k * np.float32([0.9, 1.1, 1.2])[:, None, None]), {},
                          "c2", ["normalization"]),
    "step function": (dict, {"step_function": "mindocr"}, "binary", ["step_function"]),
    "amplifying factor": (dict, {"k": 30.0}, "binary", ["step_function"]),
    "two faults": (lambda w: changed_stem(w, lambda k: k[:, ::-1]), {"depthwise_padding": "symmetric"}, "c2",
                   ["color_order", "depthwise_padding"]),
    "pixels' colours": (dict, {"pixels": replace(MOBILE.pixels, colour="BGR")}, "pixels", ["color_order"]),
    "pixels' mean": (dict, {"pixels": replace(MOBILE.pixels, mean=(0.0, 0.0, 0.0))}, "pixels", ["normalization"]),
    "pixels": (dict, {"pixels": MHLIAO_PIXELS}, "pixels", ["resize_rule", "color_order", "normalization"]),
    "other weights": (lambda w: seeded_weights(MOBILE, 12), {}, "c2", []),
    "another order of three colours": (lambda w: changed_stem(w, lambda k: k[:, [1, 2, 0]]), {}, "c2", ["color_order"]),
    "colours and scale in the stem": (lambda w: changed_stem(w, lambda k: k[:, ::-1] / np.float32(255)), {}, "c2",
                                      ["color_order", "normalization"]),
    "colours of half the digits": (lambda w: rounded(changed_stem(w, lambda k: k[:, ::-1]), np.float16), {}, "c2",
                                   ["color_order", "precision"]),
    "8 bits, and padding": (lambda w: {name: quantised(array) for name, array in w.items()},
                            {"depthwise_padding": "symmetric"}, "c2", ["depthwise_padding", "precision"]),
    "float16 and epsilon": (lambda w: rounded(w, np.float16), {"norm_eps": 1e-3}, "c2", ["bn_eps", "precision"]),
    "one epoch more": (lambda w: {name: array + np.float32(1e-3) * seeded_weights(MOBILE, 12)[name]
                                  for name, array in w.items()}, {}, "c2", []),
    "pixels' colours, and padding": (dict, {"pixels": replace(MOBILE.pixels, colour="BGR"),
                                            "depthwise_padding": "symmetric"}, "pixels",
                                     ["color_order", "depthwise_padding"]),
    "another upsampling": (dict, {"upsampling": "align_corners"}, "fused", ["upsample_mode"]),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "pixels" else pytest.mark.long)
                                  for name in OTHERS])
def test_other_faults(name, tmp_path, available):
    available("torch", "onnxruntime")
    change, fields, first, causes = OTHERS[name]
    sound = written(tmp_path, "sound.pth", MOBILE, seeded_weights(MOBILE, 11))
    unsound = written(tmp_path, "unsound.pth", replace(MOBILE, **fields), change(seeded_weights(MOBILE, 11)))
    found = compare_models(open_staged(sound), open_staged(unsound), [PICTURE])
    assert (found.verdict, found.first) == ("different", first)
    assert sorted(cause.cause for cause in found.causes) == sorted(causes)
    assert found.cause == (found.causes[0].cause if causes else "unknown")


# Graphs that are not what their record says ---------------------------------------------------------------------------


def attribute(operator, name, value):
    def edit(model):
        for node in model.graph.node:
            for each in node.attribute if node.op_type == operator else ():
                if each.name == name:
                    each.CopyFrom(onnx.helper.make_attribute(name, value))
    return edit


def joined_otherwise(model):
    for node in model.graph.node:
        if node.op_type == "Concat":
            node.input[:] = list(node.input)[::-1]


def another_gate(model):
    for node in model.graph.node:
        if node.output[0].endswith(".gate"):
            node.op_type = "HardSigmoid"


def without_biases(model):
    next(node for node in model.graph.node if node.output[0] == "head.segm.3").input.pop()


def crossed(model):
    node = next(node for node in model.graph.node if node.output[0] == "backbone.features.12.layers.4")
    node.input[1], node.input[2] = node.input[2], node.input[1]


def not_numbers(model):
    node = next(node for node in model.graph.node if node.output[0] == "backbone.features.12.layers.4")
    node.input[3], node.input[4] = node.input[4], node.input[3]  # some means are negative


def in_half(model):
    for node in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        value, node.output[0] = node.output[0], f"{node.output[0]}.wide"
        place = list(model.graph.node).index(node) + 1
        half = onnx.helper.make_node("Cast", [node.output[0]], [f"{value}.half"], to=onnx.TensorProto.FLOAT16)
        model.graph.node.insert(place, half)
        model.graph.node.insert(place + 1, onnx.helper.make_node("Cast", half.output, [value], to=1))


def before_the_stem(operator, values, **attributes):
    def edit(model):
        for node in model.graph.node:
            node.input[:] = ["image.changed" if name == "image" else name for name in node.input]
        constant = onnx.numpy_helper.from_array(np.array(values))
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["image.by"], value=constant))
        model.graph.node.insert(1, onnx.helper.make_node(operator, ["image", "image.by"], ["image.changed"],
                                                         **attributes))
    return edit


#: name -> (change of the graph, first divergence, cause)
GRAPHS = {
    "epsilon": (attribute("BatchNormalization", "epsilon", 1e-3), "c2", "bn_eps"),
    "stem pool": (attribute("MaxPool", "pads", [1, 1, 1, 1]), "c2", "stem_pool"),
    "joined otherwise": (joined_otherwise, "fused", "concat_order"),
    "bilinear": (lambda model: [attribute("Resize", "mode", "linear")(model), attribute(
        "Resize", "coordinate_transformation_mode", "half_pixel")(model)], "p2", "upsample_mode"),
    "no bias": (without_biases, "logits", "missing_bias"),
}
#: The same for MobileNetV3.
MOBILE_GRAPHS = {
    "another gate": (another_gate, "c3", "se_gate"),
    "crossed weights": (crossed, "c4", "swapped_tensors"),
    "not numbers": (not_numbers, "c4", "swapped_tensors"),
    "maps of half the digits": (in_half, "c2", "precision"),
    "colours before the stem": (before_the_stem("Gather", [2, 1, 0], axis=1), "c2", "color_order"),
    "scale before the stem": (before_the_stem("Mul", [np.float32(1 / 255)]), "c2", "normalization"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "another gate" else pytest.mark.long)
                                  for name in [*GRAPHS, *MOBILE_GRAPHS]])
def test_faults_in_graphs(name, tmp_path, available):
    available("torch", "onnxruntime")
    edit, first, cause = {**GRAPHS, **MOBILE_GRAPHS}[name]
    spec = SPECS["dbnet_resnet18"] if name in GRAPHS else MOBILE
    sound = written(tmp_path, "sound.pth", spec, seeded_weights(spec, 11))
    unsound = written(tmp_path, "unsound.onnx", spec, seeded_weights(spec, 11))
    model = onnx.load(unsound)
    edit(model)
    onnx.save(model, unsound)
    found = compare_models(open_staged(sound), open_staged(unsound), [PICTURE])
    assert (found.verdict, found.first, found.cause) == ("different", first, cause)
    assert found.causes[0].explained
    if cause in ("se_gate", "stem_pool"):  # the other way round: nobody knows which of the two is right
        found = compare_models(open_staged(unsound), open_staged(sound), [PICTURE])
        assert (found.first, found.cause, found.causes[0].what[:16]) == (first, cause, "of the reference")


@pytest.mark.long
def test_faults_in_graph_and_weights(tmp_path, available):
    available("torch", "onnxruntime")
    sound = written(tmp_path, "sound.pth", MOBILE, seeded_weights(MOBILE, 11))
    unsound = written(tmp_path, "unsound.onnx", MOBILE, rounded(seeded_weights(MOBILE, 11), np.float16))
    model = onnx.load(unsound)
    attribute("BatchNormalization", "epsilon", 1e-3)(model)
    onnx.save(model, unsound)
    found = compare_models(open_staged(sound), open_staged(unsound), [PICTURE])
    assert (found.first, [cause.cause for cause in found.causes]) == ("c2", ["bn_eps", "precision"])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "first", "cause"), [
    (lambda w: {**w, "head.segm.0.weight": np.concatenate(np.split(w["head.segm.0.weight"], 4, 1)[::-1], 1)},
     "logits", "concat_order"),
    (lambda w: changed_stem(w, lambda k: k[..., ::-1]), "c2", "transposed_kernel"), (dict, None, None)])
def test_faults_in_exports_of_others(change, first, cause, tmp_path, available):
    """Norms are folded into the kernels there, and the graph names no stage."""
    available("torch", "onnxruntime")
    from io import BytesIO

    import torch

    from torch_reference.runner import TorchRunner
    weights, stream = seeded_weights(MOBILE, 11), BytesIO()
    net = TorchRunner(MOBILE, change(weights), device="cpu").net
    torch.onnx.export(net, torch.zeros(1, 3, 64, 64), stream, opset_version=17, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {2: "h", 3: "w"}, "y": {2: "h", 3: "w"}}, dynamo=False)
    (tmp_path / "unsound.onnx").write_bytes(stream.getvalue())
    sound = open_staged(written(tmp_path, "sound.pth", MOBILE, weights))
    unsound = open_staged(tmp_path / "unsound.onnx", options=SourceOptions(pixels="mindocr"))
    found = compare_models(sound, unsound, [PICTURE])
    assert (found.first, found.cause) == (first, cause)
    assert any("its graph does not name its stages" in note for note in found.notes)


# Honest pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", marked(CASES, [case for case in CASES if case != "db_mv3_paddle"]))
def test_honest_pairs_are_not_accused(case, runner, tmp_path, available):
    available(runner, "torch", "onnxruntime")
    spec = CASES[case]
    reference = written(tmp_path, "reference.pth", spec, seeded_weights(spec, 11))
    candidate = tmp_path / f"candidate{SUFFIX[runner]}"
    converters.convert(reference, candidate)
    found = compare_models(open_staged(reference), open_staged(candidate, runner, "cpu"), [PICTURE])
    assert found.verdict == ("same" if runner == "torch" else "within tolerance"), found.to_dict()
    assert (found.first, found.cause, found.causes, found.own) == (None, None, [], [])
    assert all(row.isolated is not None for row in found.rows if row.stage not in ("threshold", "binary"))


def test_other_networks_are_compared_as_far_as_they_go(tmp_path, available):
    available("torch", "onnxruntime")
    names = ("db_mv3_paddle", "dbnet_mobilenetv3")
    paths = [written(tmp_path, f"{name}.pth", SPECS[name], seeded_weights(SPECS[name], 11)) for name in names]
    found = compare_models(*map(open_staged, paths), [PICTURE])
    assert found.verdict == "different" and found.first == "pixels"
    assert [row.stage for row in found.rows if row.comparison is None] == ["pixels", "p2", "p3", "p4", "p5", "fused"]
