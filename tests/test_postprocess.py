"""Boxes out: each project's rule against boxes that the project itself made, and what tells the rules apart."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.postprocess import RULES, boxes_from_map, default_boxes
from dbnet.sample import Detection

#: The golden boxes come from OpenCV 4.14. Earlier versions fill polygons otherwise, which moves the scores of the two
#: rules that fill: by less than this on the golden maps.
SAME_FILL = tuple(int(part) for part in cv2.__version__.split(".")[:2]) >= (4, 14)
FILL_TOLERANCE = 0.03
MAPS = ("a", "b", "c", "dense", "curved", "levels")
#: MMOCR starts quads from polygons, and neither rounds nor clips: it has tests of its own (test_postprocess_rules.py).
ROUNDING = ("mhliao", "mindocr", "paddle")
#: OpenCV's rule has no polygons.
PAIRS = [pair for pair in product(sorted(RULES), ("quad", "poly")) if pair != ("opencv", "poly")]


def read_map(path: Path) -> np.ndarray:
    return (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 65535).astype(np.float32)


def rectangle(height: int = 64, width: int = 96, *, value: float = 0.9) -> np.ndarray:
    """A map with one upright text of 40 x 16 pixels, x 20..59, y 24..39."""
    probability = np.zeros((height, width), np.float32)
    probability[24:40, 20:60] = value
    return probability


# The projects' own boxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box_type", ["quad", "poly"])
@pytest.mark.parametrize("rule", ["mindocr", "mhliao", "paddle"])
@pytest.mark.parametrize("name", MAPS)
def test_golden_boxes(need, name, rule, box_type):
    golden = json.loads(need("golden/boxes.json").read_text())["maps"][name][f"{rule}/{box_type}"]
    ratio = default_boxes(rule, box_type).unclip_ratio  # MhLiao/DB's polygons grow by 2.0
    found = boxes_from_map(read_map(need(f"golden/map_{name}.png")), rule, box_type, unclip_ratio=ratio)
    exact = rule == "mindocr" or SAME_FILL
    if golden["scores"] is None:  # Paddle's procedure returns none
        golden_scores = [None] * len(golden["polygons"])
    else:
        golden_scores = golden["scores"]
    if exact:
        assert len(found) == len(golden["polygons"])
    expected = {key(polygon): score for polygon, score in zip(golden["polygons"], golden_scores, strict=True)}
    got = {key(detection.polygon.tolist()): detection.score for detection in found}
    for polygon in expected.keys() - got.keys():
        score = expected[polygon]
        assert not exact and score is not None and score < 0.6 + FILL_TOLERANCE, f"not found: {polygon}"
    for polygon in got.keys() - expected.keys():
        assert not exact and got[polygon] < 0.6 + FILL_TOLERANCE, f"found too much: {polygon}"
    for polygon in got.keys() & expected.keys():
        if expected[polygon] is not None:
            assert got[polygon] == pytest.approx(expected[polygon], abs=1e-6 if exact else FILL_TOLERANCE)


def key(polygon: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(point) for point in polygon)


def test_golden_order(need):
    """Boxes come in OpenCV's order of contours: protocols that match greedily depend on it."""
    golden = json.loads(need("golden/boxes.json").read_text())["maps"]["dense"]["mindocr/quad"]
    found = boxes_from_map(read_map(need("golden/map_dense.png")), "mindocr")
    assert [d.polygon.tolist() for d in found] == golden["polygons"]
    np.testing.assert_allclose([d.score for d in found], golden["scores"], atol=1e-6)


# What tells the rules apart -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "found"), [("mindocr", 1), ("mhliao", 0), ("paddle", 0)])
def test_a_pixel_at_the_threshold(rule, found):
    probability = rectangle(value=0.3)
    assert len(boxes_from_map(probability, rule, box_thresh=0.2)) == found
    assert len(boxes_from_map(probability, rule, box_thresh=0.2, binary_thresh=0.29)) == 1


def test_scores_of_a_hollow_text():
    """Two words that touch at a corner fill half of their rectangle: only MindOCR leaves the background out."""
    probability = np.zeros((96, 96), np.float32)
    probability[20:48, 20:48] = probability[47:76, 47:76] = 0.9
    probability[20:48, 48:76] = 0.2
    scores = {rule: boxes_from_map(probability, rule, box_thresh=0.1)[0].score for rule in RULES}
    assert scores["mindocr"] == pytest.approx(0.9, abs=1e-6)
    assert scores["mhliao"] == scores["paddle"] == pytest.approx(0.55, abs=0.1)
    polygon_scores = {rule: boxes_from_map(probability, rule, "poly", box_thresh=0.1)[0].score
                      for rule, box_type in PAIRS if box_type == "poly"}
    assert polygon_scores["paddle"] > scores["paddle"] + 0.2


@pytest.mark.parametrize(("rule", "box_type", "ratio"), [
    ("mindocr", "quad", 1.5), ("mhliao", "quad", 1.5), ("paddle", "quad", 1.5), ("mmocr", "quad", 1.5),
    ("mindocr", "poly", 1.5), ("mhliao", "poly", 2.0), ("paddle", "poly", 1.5), ("mmocr", "poly", 1.5),
])
def test_growing(rule, box_type, ratio):
    """The rectangle spans 39 x 15 between its outermost pixels and grows by area * ratio / perimeter on each side."""
    (found,) = boxes_from_map(rectangle(), rule, box_type, unclip_ratio=ratio)
    low, high = found.polygon.min(axis=0), found.polygon.max(axis=0)
    distance = 39 * 15 * ratio / (2 * (39 + 15))
    np.testing.assert_allclose(low, (20 - distance, 24 - distance), atol=1)
    np.testing.assert_allclose(high, (59 + distance, 39 + distance), atol=1)
    assert len(found.polygon) == 4 if box_type == "quad" else len(found.polygon) > 4
    (more,) = boxes_from_map(rectangle(height=96, width=120), rule, box_type, unclip_ratio=ratio + 1)
    assert more.polygon.max() > found.polygon.max()


@pytest.mark.parametrize(("rule", "limit"), [("mindocr", (95, 63)), ("mhliao", (96, 64)), ("paddle", (96, 64))])
@pytest.mark.parametrize("box_type", ["quad", "poly"])
def test_clipping(rule, limit, box_type):
    probability = np.full((64, 96), 0.9, np.float32)
    (found,) = boxes_from_map(probability, rule, box_type)
    assert tuple(found.polygon.max(axis=0)) == limit
    assert tuple(found.polygon.min(axis=0)) == (0, 0)


@pytest.mark.parametrize("rule", ROUNDING)
@pytest.mark.parametrize("box_type", ["quad", "poly"])
def test_back_to_the_original_image(rule, box_type):
    """A map of which the left half shows an image of 640 x 480 pixels."""
    (here,) = boxes_from_map(rectangle(64, 192), rule, box_type)
    (there,) = boxes_from_map(rectangle(64, 192), rule, box_type, resized_size=(64, 96), original_size=(640, 480))
    assert there.score == here.score
    if box_type == "poly":  # rounded from the same whole pixels
        limit = np.float32([479, 639] if rule == "mindocr" else [480, 640])
        np.testing.assert_array_equal(there.polygon, np.clip(here.polygon * np.float32([5, 10]), 0, limit))
    np.testing.assert_allclose(there.polygon, here.polygon * (5, 10), atol=5)
    assert np.all(there.polygon == np.round(there.polygon))


def test_rounding_is_half_to_even():
    """12.5 becomes 12: Python's and NumPy's rounding, not the one taught in schools."""
    probability = np.zeros((96, 96), np.float32)
    probability[28:69, 28:69] = 0.9  # 40 pixels between the centres, grown by exactly 40 * 0.8 / 4 = 8
    for rule in ROUNDING:
        (found,) = boxes_from_map(probability, rule, unclip_ratio=0.8, original_size=(60, 60))
        assert (found.polygon.min(), found.polygon.max()) == (12, 48), rule  # 20 -> 12.5, 76 -> 47.5


# What is dropped ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ROUNDING)
@pytest.mark.parametrize(("thickness", "unclip_ratio", "found"), [
    (3, 1.5, 0),    # 2 pixels between the centres
    (3, 3.0, 0),    # although it would grow to 7
    (4, 1.5, 1),
    (4, 0.01, 0),   # large enough, but it does not grow to 5
    (6, 0.01, 1),
])
def test_thin_texts(rule, thickness, unclip_ratio, found):
    probability = np.zeros((64, 96), np.float32)
    probability[20:20 + thickness, 20:70] = 0.9
    assert len(boxes_from_map(probability, rule, unclip_ratio=unclip_ratio)) == found


@pytest.mark.parametrize("rule", ROUNDING)
def test_a_polygon_that_grows_together_is_dropped(rule):
    """A ring with a gap: grown, it closes around a hole, and that is no polygon any more."""
    probability = np.zeros((160, 160), np.float32)
    cv2.ellipse(probability, (80, 80), (50, 50), 0, 10, 350, 0.9, 10)
    assert boxes_from_map(probability, rule, "poly", unclip_ratio=2.0) == []
    assert len(boxes_from_map(probability, rule, "poly", unclip_ratio=0.2)) == 1
    assert len(boxes_from_map(probability, rule, "quad", box_thresh=0.1)) == 1


@pytest.mark.parametrize("rule", ROUNDING)
def test_a_triangle_is_no_polygon(rule):
    probability = np.zeros((96, 96), np.float32)
    cv2.fillPoly(probability, [np.array([[10, 10], [80, 10], [10, 80]], np.int32)], 0.9)
    assert boxes_from_map(probability, rule, "poly", box_thresh=0.1) == []
    assert len(boxes_from_map(probability, rule, "quad", box_thresh=0.1)) == 1


@pytest.mark.parametrize("rule", ROUNDING)
def test_box_threshold_and_candidates(rule):
    probability = np.zeros((64, 256), np.float32)
    for i, value in enumerate((0.4, 0.5, 0.7, 0.8)):
        probability[20:40, 64 * i + 10:64 * i + 50] = value
    assert [round(d.score, 4) for d in boxes_from_map(probability, rule)] == pytest.approx([0.8, 0.7])
    assert len(boxes_from_map(probability, rule, box_thresh=0.45)) == 3
    # OpenCV gives the last contour first; candidates are counted before they are scored
    assert [round(d.score, 4) for d in boxes_from_map(probability, rule, max_candidates=1)] == pytest.approx([0.8])


@pytest.mark.parametrize(("rule", "box_type"), PAIRS)
def test_nothing_and_single_pixels(rule, box_type):
    probability = np.zeros((64, 64), np.float32)
    assert boxes_from_map(probability, rule, box_type) == []
    probability[::4, ::4] = 1
    probability[1, :] = 1
    assert boxes_from_map(probability, rule, box_type) == []


# Any map --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(PAIRS), st.tuples(st.integers(8, 900), st.integers(8, 900)),
       st.floats(0, 1))
def test_boxes_of_any_map(seed, pair, size, box_thresh):
    rule, box_type = pair
    rng = np.random.default_rng(seed)
    probability = np.clip(cv2.GaussianBlur(rng.normal(0.3, 1.5, (96, 128)).astype(np.float32), (0, 0), 3), 0, 1)
    before = probability.copy()
    found = boxes_from_map(probability, rule, box_type, box_thresh=box_thresh, original_size=size)
    np.testing.assert_array_equal(probability, before)
    for detection in found:
        assert isinstance(detection, Detection)
        assert (np.float32(box_thresh) if rule == "opencv" else box_thresh) <= detection.score <= 1
        assert detection.polygon.dtype == np.float32
        assert detection.polygon.shape[0] == 4 if box_type == "quad" else detection.polygon.shape[0] >= 3
        if rule == "mmocr":
            continue
        assert np.all(detection.polygon == np.round(detection.polygon))
        assert rule == "opencv" or np.all((detection.polygon >= 0) & (detection.polygon <= size[::-1]))
