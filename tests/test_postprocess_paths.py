"""What is computed for all texts at once, against OpenCV and pyclipper asked text by text: the same bits."""

from __future__ import annotations

import math
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dbnet import box_growing, box_rectangles
from dbnet.box_contours import text_contours
from dbnet.box_growing import NOTHING, hulls_of_grown
from dbnet.box_rectangles import box_points, clockwise, smallest_rectangles
from dbnet.errors import DbnetError
from dbnet.geometry import offset, unclip_distances

angles = st.one_of(st.floats(-90, 90), st.sampled_from([0.0, 90.0, 45.0, -45.0, 30.0, 60.0]))
sides = st.one_of(st.floats(3, 300), st.integers(3, 60).map(float))
places = st.one_of(st.floats(-50, 2000), st.integers(-50, 2000).map(float))
rectangles = st.lists(st.tuples(places, places, sides, sides, angles), min_size=1, max_size=12).map(
    lambda rows: np.array(rows, np.float32))
polygons = st.lists(hnp.arrays(np.int32, st.tuples(st.integers(4, 9), st.just(2)), elements=st.integers(-20, 300)),
                    max_size=8)
ratios = st.sampled_from([0.05, 0.3, 1.0, 1.5, 2.0, 7.0])


@contextmanager
def in_numpy():
    """However few there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_growing, "FEW", 0)
        patch.setattr(box_rectangles, "FEW", 0)
        yield


def as_opencv(row: np.ndarray) -> tuple:
    x, y, width, height, angle = row.tolist()
    return (x, y), (width, height), angle


@given(rectangles)
def test_box_points(rows):
    np.testing.assert_array_equal(box_points(rows), [cv2.boxPoints(as_opencv(row)) for row in rows])


def test_box_points_on_an_opencv_that_computes_otherwise(monkeypatch):
    rows = np.array([[50, 40, 30, 20, 33], [5, 4, 3, 2, 90]], np.float32)
    expected = box_points(rows)
    monkeypatch.setattr(box_rectangles, "_opencv_mirrors", lambda: None)
    np.testing.assert_array_equal(box_points(rows), expected)
    assert box_points(rows[:0]).shape == (0, 4, 2)


@given(st.lists(hnp.arrays(np.int32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 200)),
                max_size=8))
def test_smallest_rectangles(point_sets):
    one_by_one = smallest_rectangles(point_sets)
    with in_numpy():
        together = smallest_rectangles(point_sets)
    for corners, shorter in (one_by_one, together):
        assert corners.shape == (len(point_sets), 4, 2) and corners.dtype == shorter.dtype == np.float32
        for points, found, side in zip(point_sets, corners, shorter, strict=True):
            rectangle = cv2.minAreaRect(points)
            np.testing.assert_array_equal(found, cv2.boxPoints(rectangle))
            assert side == min(rectangle[1])


@pytest.mark.parametrize("expected", [
    [(2, 1), (9, 1), (9, 5), (2, 5)],
    [(5, 0), (10, 5), (5, 10), (0, 5)],   # on its tip
    [(0, 4), (8, 0), (10, 4), (2, 8)],
])
def test_clockwise_from_the_top_left(expected):
    (corners,), (side,) = smallest_rectangles([np.array(expected, np.int32)])
    found = clockwise(corners[np.newaxis])[0]
    assert any(np.allclose(found, np.roll(expected, k, axis=0), atol=1e-4) for k in range(4))
    assert cv2.contourArea(found, oriented=True) > 0  # clockwise, as y points down
    shorter = min(math.dist(expected[0], expected[1]), math.dist(expected[1], expected[2]))
    assert side == pytest.approx(shorter, abs=1e-4)


@given(rectangles)
def test_clockwise_is_what_the_projects_do(rows):
    """The upper one of the two leftmost corners, the upper and the lower of the others, the lower of the leftmost."""
    boxes = box_points(rows)
    with in_numpy():
        together = clockwise(boxes)
    np.testing.assert_array_equal(clockwise(boxes), together)
    for corners, ordered in zip(boxes.tolist(), together.tolist(), strict=True):
        by_x = sorted(corners, key=lambda corner: corner[0])
        left, right = (pair if pair[1][1] > pair[0][1] else pair[::-1] for pair in (by_x[:2], by_x[2:]))
        assert ordered == [left[0], right[0], right[1], left[1]]


# Growing --------------------------------------------------------------------------------------------------------------


def assert_same_rectangles(outlines, ratio):
    """As cv2.minAreaRect sees them, in both number types that the projects hand to it."""
    with in_numpy():
        hulls = hulls_of_grown(outlines, ratio)
    for outline, hull in zip(outlines, hulls, strict=True):
        parts = offset(outline, *unclip_distances([outline], ratio))
        if len(parts) != 1:
            assert not len(hull)
            continue
        for kind in (np.int32, np.float32):
            assert cv2.minAreaRect(hull.astype(kind)) == cv2.minAreaRect(parts[0].astype(kind))


@given(rectangles, ratios)
def test_grown_rectangles(rows, ratio):
    assert_same_rectangles(clockwise(box_points(rows)), ratio)


@given(polygons, ratios)
@example([np.array([(1, -4), (-4, -4), (-4, 0), (0, -4), (-4, -4), (-4, 0)], np.int32)], 7.0)  # winds twice
def test_grown_polygons(outlines, ratio):
    """Any: convex or not, either way round, crossing themselves, with points twice."""
    assert_same_rectangles(outlines, ratio)


@given(polygons, ratios)
def test_grown_convex_polygons(outlines, ratio):
    hulls = [cv2.convexHull(outline)[:, 0] for outline in outlines]
    assert_same_rectangles([hull[::-1] if i % 2 else hull for i, hull in enumerate(hulls) if len(hull) > 2], ratio)


def test_most_quads_do_not_need_pyclipper(monkeypatch):
    """Else the page of a thousand texts would be slow, and the tests above would compare pyclipper with itself."""
    rng = np.random.default_rng(0)
    rows = np.c_[rng.uniform(0, 2000, (500, 2)), rng.uniform(8, 60, (500, 2)), rng.uniform(-90, 90, 500)]
    calls = []
    monkeypatch.setattr(box_growing, "offset", lambda *arguments: calls.append(arguments) or [])
    assert len(hulls_of_grown(clockwise(box_points(rows.astype(np.float32))), 1.5)) == 500
    assert len(calls) < 25


def test_nothing_to_grow():
    assert hulls_of_grown(np.zeros((0, 4, 2)), 1.5) == hulls_of_grown([], 1.5) == []
    same = np.full((4, 2), 7.0)
    assert_same_rectangles(np.array([same, same + [[0, 0], [9, 0], [9, 9], [0, 9]]]), 1.5)
    assert NOTHING.shape == (0, 2)


# Contours -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_blank_rows_do_not_matter(seed, at_threshold, dilation):
    """Only the rows between the first and the last text are traced: the same contours in the same order."""
    rng = np.random.default_rng(seed)
    probability = np.zeros((60, 40), np.float32)
    first, last = sorted(rng.integers(0, 61, 2).tolist())
    probability[first:last] = np.round(rng.random((last - first, 40)) * 10) / 10
    limit = np.float32(0.7)
    expected = (probability >= limit if at_threshold else probability > limit).astype(np.uint8)
    if dilation:
        expected = cv2.dilate(expected, np.ones((2, 2), np.uint8))
    bitmap, contours = text_contours(probability, 0.7, at_threshold, dilation)
    np.testing.assert_array_equal(bitmap, expected)
    whole = cv2.findContours(expected, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    assert [contour.tolist() for contour in contours] == [contour.tolist() for contour in whole]


@pytest.mark.parametrize("value", [-1e-30, 1.000002, float("inf"), -float("inf"), float("nan"), -float("nan")])
def test_a_single_value_that_is_no_probability(value):
    probability = np.zeros((5, 7), np.float32)
    probability[4, 6] = value
    with pytest.raises(DbnetError, match="probability map holds values"):
        text_contours(probability, 0.3, True)
