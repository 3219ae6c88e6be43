"""Whose pixels a model takes: by name, by what a foreign file says, by our record; and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from converters.load import SourceOptions, load_model
from converters.onnx_foreign import ForeignModel
from converters.onnx_outline import family_of, read_outline
from dbnet.errors import DbnetError
from dbnet.pixel_formats import FAMILIES, OpaqueSpec, pixel_choice
from dbnet.record import Record
from dbnet.seeded import seeded_images
from dbnet.spec import MHLIAO_BOXES, MHLIAO_PIXELS, MINDOCR_PIXELS, PADDLE_BOXES, PADDLE_PIXELS, SPECS
from evaluation.detect import detect
from evaluation.opaque import OpaqueRunner
from evaluation.runners import FRAMEWORKS, open_runner
from tests import detecting
from tests.opaque_models import detector, logits_of, opened

pytest.importorskip("onnxruntime")


# Pixels by name -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "changes"), [
    ("paddle", {}), ("PADDLE , size = 64x96", {"size": (64, 96)}), ("paddle,size=640", {"size": (640, 640)}),
    ("paddle,colour=rgb,mean=0/1.5/2,std=1/1/255,resize=stretch,ignore_orientation=true",
     {"colour": "RGB", "mean": (0.0, 1.5, 2.0), "std": (1.0, 1.0, 255.0), "resize": "stretch",
      "ignore_orientation": True}),
])
def test_pixels_by_name(text, changes):
    own = OpaqueSpec(MINDOCR_PIXELS, MHLIAO_BOXES, "x", False)
    assert pixel_choice(text).of(own) == OpaqueSpec(replace(PADDLE_PIXELS, **changes), PADDLE_BOXES, "x", False)


def test_details_alone_change_the_models_own_pixels():
    found = pixel_choice("size=64x96").of(SPECS["dbnet_resnet50"])
    assert found == replace(SPECS["dbnet_resnet50"], pixels=replace(MINDOCR_PIXELS, size=(64, 96)))


@pytest.mark.parametrize(("text", "message"), [
    ("", "write NAME"), ("paddel", "one of mindocr, mindocr_pp"), ("paddle,", "write NAME"), ("paddle,mhliao", "write"),
    ("paddle,scale=2", "keys are colour, mean"), ("paddle,size=64,size=96", "size twice"),
    ("paddle,size=64x", "size cannot be '64x'"), ("paddle,size=0", "size cannot"), ("paddle,size=1x2x3", "size cannot"),
    ("paddle,size=99999", "pixels from 1 to"), ("paddle,size=²", "size cannot"),
    ("mindocr,size=100", "multiples of 32"), ("mhliao,size=100", "multiples of 32"),
    ("paddle,mean=1/2", "three numbers"), ("paddle,mean=a/b/c", "three numbers"),
    ("paddle,mean=nan/1/2", "three numbers"), ("paddle,std=0.229/0.224/0.225", "multiply by 255"),
    ("paddle,mean=0.485/0.456/0.406", "multiply by 255"), ("paddle,std=1/0/1", "0 or less"),
    ("paddle,resize=best", "choose from stretch"), ("paddle,colour=grey", "choose from RGB, BGR"),
])
def test_pixels_that_are_none(text, message):
    with pytest.raises(DbnetError, match=message):
        pixel_choice(text)
    with pytest.raises(DbnetError, match=message):
        open_runner("nowhere.onnx", pixels=text)


# Whose pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "family"), [
    ({"producer": "PaddlePaddle"}, "paddle"), ({"graph": "Model from PaddlePaddle."}, "paddle"),
    ({"output": "sigmoid_0.tmp_0"}, "paddle"), ({"output": "fetch_name_0"}, "paddle"),
    ({"output": "save_infer_model/scale_0.tmp_1"}, "paddle"), ({"kernel": "decoder.binarize.0.weight"}, "mhliao"),
    ({"kernel": "model.module.decoder.in5.weight"}, "mhliao"), ({"kernel": "det_head.binarize.0.weight"}, "mmocr"),
    ({"kernel": "bbox_head.threshold.0.weight"}, "mmocr"), ({"domains": ["mmdeploy"]}, "mmocr"),
    ({"kernel": "head.segm.0.weight"}, "mindocr"), ({"kernel": "head.binarize.conv1.weight"}, "paddle"),
    ({"producer": "pytorch", "output": "output"}, None), ({"output": "probability"}, None),
    ({"producer": "PaddlePaddle", "kernel": "decoder.binarize.0.weight"}, None),
])
def test_whose_pixels(settings, family, tmp_path):
    path = detector(tmp_path / "m.onnx", **settings)
    found = family_of(read_outline(path))
    assert (found and found[0]) == family
    if family is None:
        with pytest.raises(DbnetError, match=r"m\.onnx.*--pixels NAME, NAME one of mindocr, mindocr_pp, paddle, "):
            open_runner(path)
        return
    runner = open_runner(path)
    assert (runner.spec.pixels, runner.spec.boxes) == FAMILIES[family]
    assert any(f"pixels are taken to be {family}'s, for" in note and "--pixels says" in note for note in runner.notes)
    said = open_runner(path, pixels="mindocr_pp,size=64")
    assert said.spec.pixels == replace(FAMILIES["mindocr_pp"][0], size=(64, 64))
    assert not any("taken to be" in note for note in said.notes)
    detailed = open_runner(path, pixels="colour=RGB")
    assert detailed.spec.pixels == replace(FAMILIES[family][0], colour="RGB")


def test_what_nothing_tells_is_taken_from_the_caller(tmp_path):
    path = detector(tmp_path / "m.onnx")
    assert open_runner(path, otherwise=SPECS["dbnet_resnet50"]).spec.pixels == MINDOCR_PIXELS
    recognised = detector(tmp_path / "p.onnx", producer="PaddlePaddle")
    assert open_runner(recognised, otherwise=SPECS["dbnet_resnet50"]).spec.pixels == PADDLE_PIXELS
    with pytest.raises(DbnetError, match="--pixels NAME, NAME one of mindocr"):
        open_runner(path)
    with pytest.raises(DbnetError, match="a NAME is missing in --pixels size=64: write NAME,size=64, NAME one of"):
        open_runner(path, pixels="size=64")


# Our own networks, without their record -------------------------------------------------------------------------------


def without_record(path, target, rename=False):
    model = onnx.load(path)
    del model.metadata_props[:]
    if rename:
        names = {tensor.name: f"t{i}" for i, tensor in enumerate(model.graph.initializer)}
        for tensor in model.graph.initializer:
            tensor.name = names[tensor.name]
        for node in model.graph.node:
            node.name = ""
            node.input[:] = [names.get(name, name) for name in node.input]
        model.producer_name = model.graph.name = "somebody"
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("rename", [False, True])
def test_the_same_boxes_without_the_record(rename, tmp_path):
    own = detecting.write_model(tmp_path / "own.onnx")
    bare = without_record(own, tmp_path / "bare.onnx", rename)
    options = {} if not rename else {"options": SourceOptions()}
    first, second = open_runner(own), open_runner(bare, pixels="paddle,size=192", stages=("probability",), **options)
    assert first.spec.pixels == second.spec.pixels == detecting.SPEC.pixels
    image = cv2.imread(str(detecting.write_image(tmp_path / "a.png", 1)))
    found = [detect(runner, image, detecting.SPEC.pixels, detecting.SPEC.boxes) for runner in (first, second)]
    assert len(found[0]) > 2
    assert [(d.score, d.polygon.tolist()) for d in found[0]] == [(d.score, d.polygon.tolist()) for d in found[1]]


def test_a_graph_that_is_read_gives_output_channel_and_stages(tmp_path):
    """As in PaddleOCR's training: one output with probability, threshold and binary map. Inner stages come from the
    weights that were read.
    """
    own = detecting.write_model(tmp_path / "own.onnx")
    bare = without_record(own, tmp_path / "bare.onnx", rename=True)
    model = onnx.load(bare)
    [logits] = [node.input[0] for node in model.graph.node if node.output[0] == "probability"]
    kept = [node for node in model.graph.node if node.output[0] != "probability"]
    del model.graph.node[:], model.graph.output[1:]
    model.graph.node.extend(kept)
    model.graph.output[0].name = logits
    onnx.save(model, bare)
    images = seeded_images(1, 64, 96)
    first, second = open_runner(own, stages=("probability",)), open_runner(bare, pixels="paddle")
    assert isinstance(second, OpaqueRunner) and second.spec.backbone == "mobilenetv3"
    assert any("holds logits: a sigmoid is applied" in note for note in second.notes)
    assert np.allclose(first.run(images)["probability"], second.run(images)["probability"], atol=1e-6)
    inner = [open_runner(path, "onnxruntime", stages=("c5", "probability"), pixels="paddle").run(images)
             for path in (own, bare)]
    assert np.allclose(inner[0]["c5"], inner[1]["c5"], atol=1e-4)


def test_a_channel_of_an_output(tmp_path):
    """PaddleOCR's exports of a training's network join probability, threshold and binary map."""
    path = detector(tmp_path / "m.onnx", end="logits")
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Neg", ["out"], ["other"]))
    model.graph.node.append(onnx.helper.make_node("Concat", ["other", "out"], ["maps"], axis=1))
    model.graph.output[0].name = "maps"
    onnx.save(model, path)
    with pytest.raises(DbnetError, match=r"maps has the shape .* not one value for each pixel"):
        opened(path)
    spec, images = OpaqueSpec(MHLIAO_PIXELS, MHLIAO_BOXES, "", False), seeded_images(1, 64, 96)
    for channel, sign in ((0, -1), (1, 1)):
        read = ForeignModel(Record(SPECS["dbnet_resnet18"], "mhliao"), {}, "maps", channel, True, (None, None))
        runner = OpaqueRunner(path, read_outline(path), spec, SourceOptions(), read=read)
        expected = 1 / (1 + np.exp(-sign * logits_of(images)))
        assert np.allclose(runner.run(images)["probability"], expected, atol=2e-6)


def squared(path):
    """Another graph than that of its weights: the map's square, under another name."""
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Mul", ["probability", "probability"], ["output"]))
    model.graph.output[0].name = "output"
    onnx.save(model, path)


def test_a_file_with_known_names_runs_by_its_own_graph(tmp_path):
    """The weights are those of a network; the graph gives another map, under another name."""
    path = without_record(detecting.write_model(tmp_path / "own.onnx"), tmp_path / "bare.onnx")
    squared(path)
    images = seeded_images(1, 64, 64)
    own = open_runner(tmp_path / "own.onnx", stages=("probability",)).run(images)["probability"]
    found = open_runner(path, stages=("probability",), pixels="paddle")
    assert found.spec.name == "dbnet_mobilenetv3"
    assert np.allclose(found.run(images)["probability"], own ** 2, atol=1e-7)
    with pytest.raises(DbnetError, match="no output"):
        open_runner(path, stages=("c2", "probability"))


def test_a_file_of_ours_that_a_tool_has_rewritten_keeps_its_pixels(tmp_path):
    """onnx-simplifier folds batch norms and renames, and leaves metadata alone."""
    own = detecting.write_model(tmp_path / "own.onnx")
    record = onnx.load(own).metadata_props
    bare = without_record(own, tmp_path / "bare.onnx", rename=True)
    squared(bare)
    model = onnx.load(bare)
    model.metadata_props.extend(record)
    onnx.save(model, bare)
    runner = open_runner(bare, stages=("probability",))
    assert (runner.spec.pixels, runner.spec.boxes) == (detecting.SPEC.pixels, detecting.SPEC.boxes)
    assert any("not compared with the record's digest" in note for note in runner.notes)


# What a record or a dialect says is overruled -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_pixels_of_any_model(name, tmp_path):
    pytest.importorskip(name)
    path = detecting.write_model(tmp_path / "m.safetensors")
    runner = open_runner(path, name, stages=("probability",), pixels="mhliao,size=64")
    assert (runner.spec.pixels, runner.spec.boxes) == (replace(MHLIAO_PIXELS, size=(64, 64)), MHLIAO_BOXES)
    assert runner.notes == ["pixels and box rule as you say, mhliao,size=64, not the model's own"]
    model = load_model(path, SourceOptions(pixels="size=64"))
    assert model.record.spec == replace(detecting.SPEC, pixels=replace(detecting.SPEC.pixels, size=(64, 64)))
    assert "pixels as you say, size=64, not the file's own" in model.notes
