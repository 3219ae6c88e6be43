"""Foreign .onnx files run as they are: every form of input and output, logits or not, sizes that are fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from converters.load import SourceOptions
from converters.onnx_outline import Node, Outline
from dbnet.errors import DbnetError
from dbnet.pixel_formats import FAMILIES, OpaqueSpec, pixel_choice
from dbnet.seeded import seeded_images
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS
from evaluation.detect import detect
from evaluation.onnx_maps import holds_logits
from evaluation.opaque import OpaqueRunner
from evaluation.runners import open_runner
from tests import detecting
from tests.opaque_models import GAIN, LEVEL, detector, logits_of, opened, photo, probability_of

pytest.importorskip("onnxruntime")


# What runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["n1hw", "nhw", "hw", "nhw1"])
@pytest.mark.parametrize("end", ["sigmoid", "logits", "bias", "composed", "scaled"])
def test_every_form_of_map_gives_the_probability(end, form, tmp_path):
    runner = opened(detector(tmp_path / "m.onnx", end=end, form=form))
    images = seeded_images(2, 64, 96)
    found = runner.run(images)
    assert list(found) == ["probability"]
    assert found["probability"].dtype == np.float32 and found["probability"].shape == (2, 1, 64, 96)
    assert np.allclose(found["probability"], probability_of(images), atol=2e-6)
    assert isinstance(runner, OpaqueRunner) and runner.spec.sigmoid == (end in ("logits", "bias", "scaled"))
    told = {"sigmoid": [], "logits": ["holds logits, for it comes from Conv"], "bias": ["holds logits, for it comes"],
            "composed": ["taken to hold probabilities"], "scaled": ["taken to hold logits"]}[end]
    assert [next(text for text in told if text in note) for note in runner.notes[1:]] == told
    assert runner.environment() | {"output": "out", "sigmoid": runner.spec.sigmoid} == runner.environment()


def test_logits_are_told_by_the_graph_and_not_by_an_image(tmp_path):
    """Where every logit lies in [0, 1]."""
    runner = opened(detector(tmp_path / "m.onnx", end="logits"))
    images = np.full((1, 3, 64, 64), LEVEL + 0.5 / GAIN, np.float32)
    assert 0 < logits_of(images).min() <= logits_of(images).max() < 1
    assert np.allclose(runner.run(images)["probability"], probability_of(images), atol=1e-6)


@pytest.mark.parametrize(("operators", "logits"), [
    (["Conv"], True), (["Conv", "Add"], True), (["ConvTranspose", "Add", "Squeeze", "Cast"], True),
    (["Sigmoid", "Identity", "Resize"], False), (["Conv", "Sigmoid"], False), (["Sigmoid", "Conv"], True),
    (["Sigmoid", "Add"], None), (["Conv", "Mul"], None), (["Softmax", "Slice"], False), (["Heard.Conv"], None),
    ([], None),
])
@pytest.mark.parametrize("values", [(0.2, 0.8), (-3.0, 0.5)])
def test_what_the_operators_say_goes_before_the_values(values, operators, logits):
    names = ["image", *(f"{i}" for i in range(len(operators)))]
    nodes = [Node("", operator, (names[i], f"constant{i}"), (names[i + 1],)) for i, operator in enumerate(operators)]
    found, why = holds_logits(Outline(nodes=nodes), names[-1], np.array(values, np.float32))
    assert found == (values[0] < 0 if logits is None else logits)
    assert ("is taken to hold" in why) == (logits is None)


@pytest.mark.parametrize(("shape", "element", "tolerance"), [
    (("n", 3, "h", "w"), "FLOAT16", 2e-3), (("n", 3, "h", "w"), "DOUBLE", 2e-6), ((1, 3, "h", "w"), "FLOAT", 2e-6),
    ((1, "h", "w", 3), "FLOAT", 2e-6), (("n", 64, 96, 3), "FLOAT", 2e-6), ((1, 3, 64, 96), "FLOAT", 2e-6),
    ((None, None, None, None), "FLOAT", 2e-6)])
def test_every_form_of_input(shape, element, tolerance, tmp_path):
    images = seeded_images(2, 64, 96)
    runner = opened(detector(tmp_path / "m.onnx", shape=shape, element=element))
    assert np.allclose(runner.run(images)["probability"], probability_of(images), atol=tolerance)


def test_boxes_threads_and_settings(tmp_path):
    path = detector(tmp_path / "m.onnx", end="logits")
    plain, many = opened(path), opened(path, concurrent=True, threads=2)
    assert (plain.at_once, many.at_once, plain.name, plain.device) == (1, 2, "onnxruntime", "cpu")
    assert plain.digest == many.digest and len(plain.digest) == 64
    found = [[d.polygon.tolist() for d in detect(runner, photo(), runner.spec.pixels, runner.spec.boxes)]
             for runner in (plain, many)]
    assert found[0] == found[1] and len(found[0]) == 2
    assert plain.spec == OpaqueSpec(replace(MHLIAO_PIXELS, mean=(128.0,) * 3, size=(64, 64)), MHLIAO_BOXES, "out", True)
    assert plain.spec.semantics() == {"output": "out", "sigmoid": True}


@pytest.mark.parametrize(("output", "more", "expected"), [
    ("maps", ["thresh"], "maps"), ("probability", ["binary", "threshold"], "probability"),
    ("binary", ["thresh", "thresh_binary"], "binary"), ("a", ["b"], None)])
def test_which_output_is_the_map(output, more, expected, tmp_path):
    path, images = detector(tmp_path / "m.onnx", output=output, more=more), seeded_images(1, 64, 64)
    if expected is None:
        with pytest.raises(DbnetError, match="a, b could each be the probability map; say which: --map-output a"):
            opened(path)
    else:
        runner = opened(path)
        assert np.allclose(runner.run(images)["probability"], probability_of(images), atol=2e-6)
        assert f"the probability map is taken to be {expected}" in runner.notes[1]
    said = opened(path, options=SourceOptions(output=more[0]))
    assert np.allclose(said.run(images)["probability"], 1 - probability_of(images), atol=2e-6)
    with pytest.raises(DbnetError, match=f"no output 'x'; choose from {output}"):
        opened(path, options=SourceOptions(output="x"))


def test_an_output_of_another_shape_is_left_aside(tmp_path):
    path = detector(tmp_path / "m.onnx", output="map")
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["map"], ["score"], axes=[2, 3]))
    model.graph.node.append(onnx.helper.make_node("Cast", ["map"], ["bitmap"], to=onnx.TensorProto.BOOL))
    for name, kind in (("score", onnx.TensorProto.FLOAT), ("bitmap", onnx.TensorProto.BOOL)):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    onnx.save(model, path)
    assert opened(path).spec.output == "map"


# Sizes that are fixed -------------------------------------------------------------------------------------------------


def test_a_fixed_size_is_taken_where_the_resize_rule_gives_one_size(tmp_path):
    path = detector(tmp_path / "m.onnx", shape=(1, 3, 64, 96))
    for family, way in (("mindocr", "stretched"), ("mindocr_pp", "padded")):
        runner = opened(path, family)
        assert runner.spec.pixels == replace(FAMILIES[family][0], size=(64, 96))
        assert any(f"images are {way} to 64 x 96, the size that the file takes" in note for note in runner.notes)
        assert detect(runner, photo(), runner.spec.pixels, runner.spec.boxes) is not None
    half = detector(tmp_path / "half.onnx", shape=(1, 3, 64, "w"))
    assert opened(half, "mindocr").spec.pixels.size == (64, 1280)


@pytest.mark.parametrize("pixels", ["mhliao", "paddle", "mindocr,size=96"])
def test_other_sizes_are_refused_with_what_to_say(pixels, tmp_path):
    runner = opened(detector(tmp_path / "m.onnx", shape=(1, 3, 64, 96)), pixels)
    assert runner.spec.pixels == pixel_choice(pixels).of(runner.spec).pixels
    with pytest.raises(DbnetError, match=r"takes images of shape \(any, 3, 64, 96\) only.*in --pixels how.*"
                                         "resize=stretch,size=64x96, or resize=keep_ratio_pad"):
        detect(runner, photo(), runner.spec.pixels, runner.spec.boxes)
    assert runner.run(seeded_images(1, 64, 96))


def test_our_own_file_of_one_size_too(tmp_path):
    from converters.export import export
    detecting.write_model(tmp_path / "m.safetensors")
    export(tmp_path / "m.safetensors", tmp_path / "m.onnx", data_shape=(64, 96))
    runner = open_runner(tmp_path / "m.onnx", pixels="mindocr")
    assert runner.spec.pixels.size == (64, 96) and "stretched to 64 x 96" in runner.notes[1]
    assert runner.spec.name == "dbnet_mobilenetv3"
    found = open_runner(tmp_path / "m.onnx")
    assert found.spec.pixels == detecting.SPEC.pixels
    with pytest.raises(DbnetError, match="resize=stretch,size=64x96"):
        detect(found, photo(300, 200), found.spec.pixels, found.spec.boxes)
