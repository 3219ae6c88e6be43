"""`dbnet compare A B --images`: maps and boxes of two models of any format on the same images."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest

from dbnet.sample import Detection
from evaluation import box_reasons, compare_maps
from evaluation.compare_maps import Boxes, MapComparison, compare_boxes
from tests import detecting
from tests.opaque_models import BRIGHT, LOOSE, detector

pytest.importorskip("onnxruntime")


def box(x, y, width=40, height=20, score=0.9):
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    return Detection(np.array(corners, np.float64), score)


@pytest.mark.parametrize(("a", "b", "expected"), [
    ([], [], Boxes()), ([box(0, 0)], [box(0, 0, score=0.7)], Boxes(1, 1, 1)),
    ([box(0, 0), box(0, 100)], [box(0, 100), box(0, 0)], Boxes(2, 2, 2)),  # another order is none
    ([box(0, 0)], [box(3, 0)], Boxes(1, 1, 0, 1, 3.0)), ([box(0, 0)], [box(0, 0, 40, 25)], Boxes(1, 1, 0, 1, 5.0)),
    ([box(0, 0)], [box(30, 0)], Boxes(1, 1, 0, 0, 0.0, 1, 1)), ([box(0, 0)], [], Boxes(1, 0, 0, 0, 0.0, 1, 0)),
    ([], [box(0, 0)], Boxes(0, 1, 0, 0, 0.0, 0, 1)),
    ([box(0, 0)], [box(0, 0), box(0, 0)], Boxes(1, 2, 1, 0, 0.0, 0, 1)),  # a twin is paired once
    ([box(0, 0), box(0, 6)], [box(0, 1)], Boxes(2, 1, 0, 1, 1.0, 1, 0)),  # the nearest moved, the other is lost
])
def test_what_became_of_the_boxes(a, b, expected):
    assert compare_boxes(a, b) == expected
    back = compare_boxes(b, a)
    assert (back.identical, back.moved, back.lost, back.invented) == (
        expected.identical, expected.moved, expected.invented, expected.lost)


def test_sums():
    assert Boxes(1, 2, 1, 0, 0.0, 0, 1) + Boxes(3, 3, 1, 2, 4.5) == Boxes(4, 5, 2, 2, 4.5, 0, 1)


def test_the_same_model_in_two_formats(tmp_path, photos, dbnet):
    pytest.importorskip("torch")
    a, b = (detecting.write_model(tmp_path / name) for name in ("a.onnx", "b.pth"))
    report = tmp_path / "r.json"
    said = dbnet("compare", a, b, "--images", photos, "--no-stages", "--json", report)
    assert "A: a.onnx: dbnet_mobilenetv3 on onnxruntime" in said.out
    assert "B: b.pth: dbnet_mobilenetv3 on torch" in said.out
    assert "within tolerance: " in said.out and "same: " not in said.out
    found = json.loads(report.read_text())
    assert (found["verdict"], found["failed"]) == ("within tolerance", [])
    boxes = found["boxes"]
    assert boxes["a"] == boxes["b"] == boxes["identical"] > 5 and not boxes["moved"] + boxes["lost"] + boxes["invented"]
    [stage] = found["maps"]
    assert found["stages"] == [] and found["cause"] is None
    assert stage["stage"] == "probability" and stage["passed"] and 0 < stage["max_abs"] <= stage["tolerance"] == 1e-4
    assert stage["max_abs"] == max(image["max_abs"] for image in found["images"].values())
    assert list(found["images"]) == ["img_1.png", "img_2.png", "img_3.png"]
    assert found["a"]["runner"] == "onnxruntime" and found["b"]["environment"]["framework"] == "torch"


def test_models_that_differ(tmp_path, photos, dbnet):
    a, b = detector(tmp_path / "a.onnx"), detector(tmp_path / "b.onnx", end="composed", more=["thresh"])
    common = ("compare", a, b, "--images", photos, "--no-stages", "--pixels", BRIGHT, *LOOSE)
    assert "within tolerance: 2 boxes" in dbnet(*common).out
    assert "different: " in dbnet(*common, "--map-output", "thresh", code=1).out  # of b only: a leaves no choice
    said = dbnet(*common, "--map-output", "nobody", code=3)
    assert "b.onnx: has no output 'nobody'; choose from out, thresh" in said.err
    said = dbnet("compare", a, a, *common[3:], "--map-output", "nobody", code=3)
    assert "a.onnx: has no output 'nobody'; choose from out" in said.err
    c = detector(tmp_path / "c.onnx", end="scaled", kernel="decoder.binarize.0.weight")
    found = json.loads(dbnet("compare", a, c, *common[3:], "--json", "-").out)
    assert found["verdict"] == "within tolerance"
    model = onnx.load(a)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([-1.2], np.float32), "bias"))  # every pixel is brighter
    onnx.save(model, c)
    said = dbnet("compare", a, c, "--images", photos, "--pixels", BRIGHT, *LOOSE, code=1)
    assert "different: " in said.out and "3 of 3 images differ" in said.out
    found = json.loads(dbnet("compare", a, c, "--images", photos, "--pixels", BRIGHT, *LOOSE, "--json", "-",
                             code=1).out)
    assert found["verdict"] == "different" and not found["maps"][0]["passed"]
    assert found["maps"][0]["max_abs"] == pytest.approx(0.1, abs=0.05)


def test_a_choice_goes_to_the_model_that_has_it(tmp_path, photos, dbnet):
    """Of a detector whose network is not known, and a model of ours."""
    foreign = detector(tmp_path / "a.onnx", more=["second"])
    own = detecting.write_model(tmp_path / "b.onnx")
    common = ("--images", photos, "--limit", "1", "--pixels", BRIGHT, "--json", "-")
    choices = ("--map-output", "second", "--spec", "dbnet_mobilenetv3")
    for pair in ((foreign, own), (own, foreign)):
        dbnet("compare", *pair, *common, code=3)  # out or second?
        found = json.loads(dbnet("compare", *pair, *common, *choices, code=1).out)
        sides = {found[side]["spec"]: found[side] for side in "ab"}
        assert sides["opaque"]["semantics"]["output"] == "second" and "dbnet_mobilenetv3" in sides
    said = dbnet("compare", foreign, foreign, *common, *choices, code=3)
    assert "fits no known network" in said.err and said.err.count("\n") == 1
    said = dbnet("compare", own, own, *common, *choices[:2], code=3)
    assert "b.onnx: has no output 'second'" in said.err and said.err.count("\n") == 1


def test_pixels_of_two_kinds(tmp_path, photos, dbnet):
    """Each model gets its own; maps of two sizes are not compared, boxes are."""
    a = detector(tmp_path / "a.onnx", kernel="decoder.binarize.0.weight")
    b = detector(tmp_path / "b.onnx", shape=(1, 3, 192, 320), kernel="head.segm.0.weight")
    said = dbnet("compare", a, b, "--images", photos, "--limit", "1", code=1)
    assert "1 of 1 images have maps of two sizes" in said.out and "B: images are stretched to 192 x 320" in said.err
    found = json.loads(dbnet("compare", a, b, "--images", photos, "--limit", "1", "--json", "-", code=1).out)
    assert found["maps"][0] == {"stage": "probability", "max_abs": None, "mean_abs": None, "tolerance": 1e-4,
                                  "passed": False, "other_sizes": 1, "not_finite": 0, "at_least": False}


def test_reasons_are_looked_for_where_they_are_told(photos, monkeypatch):
    """With room for four of all, those are the four worst of everything, and of few others anybody asks why."""
    def noise(runner, tensor):
        rng = np.random.default_rng([*runner.seed, tensor.shape[2]])
        return cv2.resize(rng.random((tensor.shape[2] // 8, tensor.shape[3] // 8), np.float32), tensor.shape[:1:-1])

    def compared(most):
        asked.clear()
        monkeypatch.setattr(compare_maps, "MOST", most)
        result = compare_maps.compare_maps(*sides, [(path.name, str(path)) for path in sorted(photos.iterdir())])
        return [(row["image"], row["why"]) for row in result.to_dict()["boxes"]["differences"]]

    asked, explained = [], box_reasons._explained
    monkeypatch.setattr(box_reasons, "_explained", lambda *given: asked.append(given) or explained(*given))
    monkeypatch.setattr(compare_maps, "probability_map", noise)
    rule = replace(detecting.SPEC.boxes, box_thresh=0.1)
    sides = [compare_maps.Side(SimpleNamespace(spec=detecting.SPEC, seed=[seed]), rule) for seed in (0, 1)]
    everything, in_all = compared(1000), len(asked)
    assert compared(4) == everything[:4] and len(asked) < in_all - 4 and len({name for name, _ in everything}) == 3


def test_images_that_fail(tmp_path, photos, dbnet):
    a = detector(tmp_path / "a.onnx")
    (photos / "broken.png").write_bytes(b"\x89PNG")
    common = ("compare", a, a, "--images", photos, "--pixels", BRIGHT)
    said = dbnet(*common, "--json", tmp_path / "r.json", code=3)
    assert "failed: " in said.err and "broken.png" in said.err and "the same on 3 images, but 1 failed" in said.err
    found = json.loads((tmp_path / "r.json").read_text())
    assert len(found["failed"]) == 1 and found["verdict"] is None  # not all is known
    assert "same: " in dbnet("compare", a, a, "--images", photos / "img_*.png", "--pixels", BRIGHT).out
    said = dbnet("compare", a, a, "--images", photos / "broken.png", "--no-stages", "--pixels", BRIGHT, code=3)
    assert "nothing could be compared: 1 images failed" in said.err
    assert not MapComparison(failed=["x"]).same
    found = json.loads(dbnet("compare", a, a, "--images", photos / "broken.png", "--no-stages", "--pixels", BRIGHT,
                             "--json", "-", code=3).out)
    assert (found["verdict"], found["images"], found["maps"], found["boxes"]) == (None, {}, None, None)
    said = dbnet("compare", a, a, "--images", tmp_path / "nowhere", "--pixels", BRIGHT, code=3)
    assert "no such file or folder" in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("--weights", "--images", "x"), "give --weights or --images"),
    (("--weights", "--limit", "2"), "--limit means nothing with --weights"),
    (("--weights", "--pixels", "paddle"), "--pixels means nothing with --weights"),
    (("--weights", "--box-thresh", "0.5"), "--box-thresh means nothing with --weights"),
    (("--images", "x", "--limit", "0"), "0 is not in the range"),
    (("--images", "x", "--box-rule", "mindocr", "--dilation"), "--dilation means nothing"),
])
def test_wrong_usage(arguments, message, tmp_path, dbnet):
    assert message in dbnet("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", *arguments, code=2).err
