"""The box rule `opencv` against OpenCV's real DB API: the same quads and scores, bit for bit, in OpenCV 4 and 5."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.export import read_source
from dbnet.box_opencv import _pushed_out
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.portable import copy_modules
from dbnet.postprocess import boxes_from_map, boxes_of_any_opencv, default_boxes
from dbnet.preprocess import prepare
from dbnet.spec import MINDOCR_PIXELS, OPENCV_BOXES, BoxRule, PixelFormat
from evaluation.delivery import opencv
from evaluation.delivery.settings import ExportSettings
from evaluation.opencv_db import _model, db_api_boxes
from evaluation.runners import open_runner
from tests.opencv_maps import image_of, map_network, map_of
from tests.runtimes import runtime

#: What the network of `opencv_maps` takes.
BYTES = PixelFormat("BGR", (0, 0, 0), (1, 1, 1), "stretch", (96, 160))
USUAL = BoxRule("opencv", "quad", 0.3, 0.6, 1.5, 1000)
#: In an interpreter with OpenCV and NumPy alone: both sides there.
BOTH_SIDES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import cv2
import numpy as np
from dbnet.box_contours import text_contours
from dbnet.box_opencv import quads_of_opencv
from dbnet.spec import BoxRule, PixelFormat
from evaluation.opencv_db import db_api_boxes
case = np.load(sys.argv[2])
rule = BoxRule(*json.loads(str(case["rule"])))
pixels = PixelFormat(*json.loads(str(case["pixels"])))
theirs = db_api_boxes(sys.argv[3], case["image"], pixels, rule)
contours = text_contours(case["map"], rule.binary_thresh, False)[1][:rule.max_candidates]
shape = case["map"].shape
ours = list(quads_of_opencv(case["map"], contours, rule.box_thresh, rule.unclip_ratio, shape, case["image"].shape[:2]))
print(json.dumps([cv2.__version__, *([[quad.tolist(), score] for quad, score in side] for side in (theirs, ours))]))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "map.onnx"
    path.write_bytes(map_network())
    return path


def both(network, image, size, rule):
    """OpenCV's quads with scores, and ours, of an image stretched to `size`."""
    theirs = db_api_boxes(network, image, replace(BYTES, size=size), rule)
    ours = boxes_from_map(map_of(image, size), **asdict(rule), original_size=image.shape[:2])
    return [(q.tolist(), s) for q, s in theirs], [(d.polygon.tolist(), d.score) for d in ours]


@pytest.mark.parametrize("name", ["a", "b", "c", "dense", "curved", "levels"])
def test_golden_maps(shared, network, name):
    image = image_of(cv2.imread(str(shared / f"golden/map_{name}.png"), cv2.IMREAD_UNCHANGED) / 65535)
    count = 0
    for size in (image.shape[:2], (384, 1280), (1120, 1696)):  # the map, half as high, larger
        for rule in (OPENCV_BOXES, BoxRule("opencv", "quad", 0.3, 0.6, 1.5, 1000),
                     BoxRule("opencv", "quad", 0.2, 0.1, 3.0, 20)):
            theirs, ours = both(network, image, size, rule)
            assert ours == theirs
            count += len(theirs)
    assert count > 10


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(8, 400), st.integers(8, 400)), st.floats(0.01, 0.95),
       st.floats(0, 1), st.floats(0.1, 5), st.sampled_from([1, 5, 200]))
def test_any_map(network, seed, size, binary, box, ratio, most):
    """Blobs of all forms, and images of any shape: far smaller than the map, far larger, of another aspect."""
    rng = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(rng.normal(0.3, 1.5, size).astype(np.float32), (0, 0), 3)
    rule = BoxRule("opencv", "quad", binary, box, ratio, most)
    theirs, ours = both(network, image_of(np.clip(blobs, 0, 1)), (96, 160), rule)
    assert ours == theirs


@pytest.mark.parametrize("angle", [0, 1, 30, 44, 45, 46, 59, 60, 61, 89, 90, 120, 150])
def test_turned_texts(network, angle):
    """Which corner comes first depends on the angle; OpenCV expects no text steeper than 60 degrees."""
    map_ = np.zeros((320, 320), np.float32)
    cv2.fillPoly(map_, [cv2.boxPoints(((160.0, 150.0), (180.0, 40.0), float(angle))).astype(np.int32)], 0.9)
    for size in ((320, 320), (160, 320)):
        theirs, ours = both(network, image_of(map_), size, OPENCV_BOXES)
        assert ours == theirs and len(ours) == 1


def test_what_sets_it_apart():
    """One rectangle of 40 x 16: larger than Clipper's by the corners, not clipped, and in the API's order."""
    map_ = np.zeros((64, 96), np.float32)
    map_[0:16, 20:60] = 0.9
    [found] = boxes_from_map(map_, "opencv", unclip_ratio=1.5)
    distance = 39 * 15 * 1.5 / (2 * (39 + 15))
    left, top, right, bottom = (round(value) for value in (20 - distance, -distance, 59 + distance, 15 + distance))
    assert found.polygon.tolist() == [[left, bottom], [left, top], [right, top], [right, bottom]]
    assert top < 0
    [clipped] = boxes_from_map(map_, "mhliao", unclip_ratio=1.5)
    assert clipped.polygon.min() == 0


def test_defaults_are_the_classes_own(network):
    model = cv2.dnn.TextDetectionModel_DB(cv2.dnn.readNetFromONNX(str(network)))
    found = default_boxes("opencv")
    assert [found.binary_thresh, found.box_thresh, found.unclip_ratio] == pytest.approx(
        [model.getBinaryThreshold(), model.getPolygonThreshold(), model.getUnclipRatio()])
    assert model.getMaxCandidates() == 0  # all of them
    map_ = np.zeros((640, 960), np.float32)
    for y in range(16, 640, 32):
        for x in range(16, 960, 32):
            map_[y:y + 8, x:x + 12] = 0.9
    theirs = db_api_boxes(network, image_of(map_), replace(BYTES, size=map_.shape), found)
    model.setInputParams(1.0, map_.shape[::-1])
    untold, _ = model.detect(image_of(map_))
    assert len(boxes_from_map(map_, **asdict(found))) == len(theirs) == len(untold) == 600


def test_corners_that_fall_together_give_no_box():
    assert _pushed_out(np.array([[3, 5], [3, 5], [9, 5], [9, 5]], np.float32), 1.5) is None
    assert _pushed_out(np.full((4, 2), 7, np.float32), 1.5) is None


def test_an_image_much_smaller_than_its_map(network):
    """There OpenCV's corners fall on one pixel and go to INT_MIN; neither side tells of such a box."""
    map_ = np.zeros((12, 20), np.float32)
    map_[2:4, 2:18] = map_[8:10, 3:5] = 0.99
    theirs, ours = both(network, image_of(map_), (320, 480), BoxRule("opencv", "quad", 0.3, 0.1, 1.5, 100))
    assert ours == theirs
    assert np.abs([quad for quad, _ in ours]).max(initial=0) < 1000


# Exported files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(root):
    """A really trained network."""
    return next((root / "dbnet/embedded").glob("*.safetensors"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, embedded):
    model, _ = read_source(embedded, None)
    return opencv.write(model, tmp_path_factory.mktemp("text") / "text.onnx", ExportSettings("opencv", (480, 736)))


def test_an_exported_file_gives_the_boxes_of_its_source(exported, embedded):
    """Source: our graph in ONNX Runtime and the rule; exported: nothing but OpenCV from pixels to boxes."""
    source = open_runner(embedded, "onnxruntime", stages=("probability",))
    count = 0
    for i in range(3):
        image, _ = draw(1000 + i, 600, 900, words=5)
        ready = prepare(image, exported.spec.pixels)
        map_ = source.run(ready.tensor)["probability"][0, 0]
        ours = boxes_from_map(map_, **asdict(USUAL), original_size=image.shape[:2])
        theirs = db_api_boxes(exported.path, image, exported.spec.pixels, USUAL)
        assert [quad.tolist() for quad, _ in theirs] == [found.polygon.tolist() for found in ours]
        assert [score for _, score in theirs] == pytest.approx([found.score for found in ours], abs=1e-4)
        count += len(ours)
    assert count > 5


def test_what_the_page_shows(exported, root, monkeypatch):
    """docs/evaluation.md: the API as a user writes it."""
    page = (root / "docs/evaluation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [code] = [block for block in blocks if "TextDetectionModel_DB" in block]
    monkeypatch.chdir(exported.path.parent)
    image, _ = draw(1000, 600, 900, words=5)
    cv2.imwrite("photo.png", image)
    names: dict[str, object] = {}
    exec(code.replace("(1280, 736)", "(736, 480)").replace("photo.jpg", "photo.png"), names)
    expected = db_api_boxes(exported.path, image, exported.spec.pixels, USUAL)
    assert [np.asarray(quad).tolist() for quad in names["quads"]] == [quad.tolist() for quad, _ in expected]
    assert len(expected) > 1


@pytest.mark.parametrize("pixels", [
    MINDOCR_PIXELS, replace(MINDOCR_PIXELS, colour="BGR", std=(50.0, 60.0, 70.0)),
    replace(MINDOCR_PIXELS, resize="keep_ratio", size=(96, 320)), replace(MINDOCR_PIXELS, resize="limit_max")])
def test_opencv_makes_our_pixels(network, pixels):
    """Mean and scale by channel, in the order of the network: seen through maps that weigh the channels apart."""
    image, _ = draw(5, 200, 300, words=3)
    ready = prepare(image, pixels)
    [map_] = _model(str(network), ready.tensor.shape[2:], pixels, OPENCV_BOXES).predict(image)
    weights = np.array([65536, 256, 1], np.float32) / np.float32(2**24)
    np.testing.assert_allclose(map_, np.tensordot(weights, ready.tensor[0], 1), atol=1e-8)


@pytest.mark.parametrize(("resize", "side"), [("keep_ratio_pad", 192), ("fit_pad_after", 190)])
def test_padded_images_come_back_in_their_own_pixels(network, resize, side):
    map_ = np.zeros((100, 100), np.float32)
    map_[40:60, 20:80] = 0.99
    pixels = replace(BYTES, resize=resize, size=(side, 256))
    rule = replace(OPENCV_BOXES, unclip_ratio=0.1)
    [(quad, score)] = db_api_boxes(network, image_of(map_), pixels, rule)
    assert np.abs(quad.min(axis=0) - [20, 40]).max() < 3 and np.abs(quad.max(axis=0) - [80, 60]).max() < 3
    ready = prepare(image_of(map_), pixels)
    assert ready.tensor.shape[2:] != ready.resized_size == (side, side)
    seen = map_of(ready.tensor[0].transpose(1, 2, 0).astype(np.uint8), ready.tensor.shape[2:])
    [found] = boxes_from_map(seen, **asdict(rule), resized_size=ready.resized_size, original_size=(100, 100))
    assert (found.polygon.tolist(), found.score) == (quad.tolist(), score)


def test_what_opencv_refuses_is_one_line(tmp_path, capfd):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(DbnetError, match=r"does not detect with it: .*--target opencv"):
        db_api_boxes(tmp_path / "a.onnx", np.zeros((64, 64, 3), np.uint8), BYTES, OPENCV_BOXES)
    assert capfd.readouterr().err == ""


def test_in_opencv_5(tmp_path, network, shared):
    python = runtime("opencv-5")
    copy_modules(tmp_path / "ours", ["dbnet.box_contours", "dbnet.box_opencv", "evaluation.opencv_db"],
                 ["numpy", "cv2"])
    for name, size in (("dense", (736, 1280)), ("a", (1120, 1696)), ("curved", (384, 1280))):
        image = image_of(cv2.imread(str(shared / f"golden/map_{name}.png"), cv2.IMREAD_UNCHANGED) / 65535)
        np.savez(tmp_path / "case.npz", image=image, map=map_of(image, size),
                 rule=json.dumps(list(asdict(OPENCV_BOXES).values())),
                 pixels=json.dumps(list(asdict(replace(BYTES, size=size)).values())))
        done = subprocess.run([python, "-c", BOTH_SIDES, tmp_path / "ours", tmp_path / "case.npz", network],
                              capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        version, theirs, ours = json.loads(done.stdout)
        assert version.startswith("5.") and ours == theirs and ours


@pytest.mark.parametrize(("rows", "certain", "possible"), [(2, 0, 0), (3, 0, 1), (5, 1, 1)])
@pytest.mark.parametrize("upright", [False, True])
def test_a_text_that_is_too_small_for_some_versions_only(rows, certain, possible, upright):
    """The map is stretched twofold across the text, so a side of 2 px counts as 2 or 4, as its rectangle is named."""
    probability = np.zeros((96, 160), np.float32)
    probability[40:40 + rows, 20:80] = 1
    size = {"resized_size": (96, 160), "original_size": (192, 160)}
    if upright:
        probability, size = probability.T.copy(), {"resized_size": (160, 96), "original_size": (160, 192)}
    found = {each: boxes_of_any_opencv(probability, USUAL, certain=each, **size) for each in (True, False)}
    assert (len(found[True]), len(found[False])) == (certain, possible)
    usual = [d.polygon.tolist() for d in boxes_from_map(probability, **asdict(USUAL), **size)]
    assert usual in [[d.polygon.tolist() for d in each] for each in found.values()]
