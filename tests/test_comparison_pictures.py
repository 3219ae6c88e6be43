"""The pictures of a comparison: what they show is where it was put."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dbnet.sample import Detection
from evaluation.comparison_report import PICTURED, heat_map, side_by_side, worst_images
from evaluation.comparison_report.pictures import EXAMPLES, HEAT, OF_A, OF_B, OF_BOTH, WIDTH
from tests.comparison_data import different, image_row, same

SQUARE = np.array([[20, 20], [100, 20], [100, 60], [20, 60]], np.float64)


def decoded(picture) -> np.ndarray:
    """(H, W, 3) uint8 BGR."""
    image = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def count_near(image, colour) -> int:
    return int((np.abs(image.astype(int) - colour).max(axis=-1) < 60).sum())


def brightest(image) -> tuple[int, int]:
    """The middle (y, x) of the lightest pixels."""
    light = image.astype(int).sum(axis=-1)
    return tuple(np.argwhere(light == light.max()).mean(axis=0).round().astype(int))


@pytest.mark.parametrize(("shape", "at", "middle"), [
    ((20, 30), (5, 12), (5 * 21 + 10, 12 * 21 + 10)),
    ((4, 20, 30), (3, 5, 12), (5 * 21 + 10, 12 * 21 + 10)),
    ((2, 4, 20, 30), (1, 3, 5, 12), (5 * 21 + 10, 12 * 21 + 10)),
    ((1, 1, 1300, 2000), (0, 0, 1299, 1999), (324, 499)),
])
def test_an_error_shines_where_it_is(shape, at, middle):
    """A single cell, also in a map that is too large for every cell to have a pixel."""
    a = np.random.default_rng(1).random(shape).astype(np.float32)
    b = a.copy()
    b[at] += 0.5
    picture = heat_map(a, b, "c2")
    assert brightest(decoded(picture)) == middle
    assert max(decoded(picture).shape) <= HEAT and decoded(picture).astype(int).sum(axis=-1).max() > 550
    assert picture.top == pytest.approx(0.5, abs=1e-6)
    assert f"{shape[-1]} x {shape[-2]} cells" in picture.caption
    assert f"x {at[-1]}, y {at[-2]}" in picture.caption


def test_of_several_images_the_worst_is_shown():
    a, b = np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 8, 8))
    b[0, 1, 1, 1], b[1, 2, 6, 6] = 1.0, 2.0
    assert "x 6, y 6" in heat_map(a, b, "c2").caption


@pytest.mark.parametrize(("a", "b"), [
    (np.zeros((2, 2)), np.zeros((2, 2))), (np.zeros((2, 2)), np.zeros((2, 3))), (np.zeros(4), np.ones(4)),
    (np.zeros((0, 4)), np.zeros((0, 4)))])
def test_nothing_to_show(a, b):
    assert heat_map(a, b, "c2") is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_the_worst(value):
    a = np.zeros((1, 1, 10, 10), np.float32)
    b = a.copy()
    b[0, 0, 3, 4], b[0, 0, 8, 8] = value, 0.25
    picture = heat_map(a, b, "c2")
    assert "x 4, y 3" in picture.caption and "1 values are NaN or infinite" in picture.caption
    assert heat_map(a, np.full_like(a, value), "c2").top is None


@settings(max_examples=30)
@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=6),
                     elements=st.floats(width=32)))
def test_any_two_maps(a):
    picture = heat_map(a, np.zeros_like(a), "c2")
    assert (picture is None) == (a.ndim < 2 or not a.any())
    assert picture is None or decoded(picture).size


def pictured(boxes_a, boxes_b, size=(200, 300), map_size=(200, 300), **others):
    image = np.full((*size, 3), 128, np.uint8)
    empty = np.zeros(map_size, np.float32)
    return side_by_side(image, empty, boxes_a, empty, boxes_b, **others)


@pytest.mark.parametrize(("a", "b", "seen"), [
    ([SQUARE], [], (True, False, False)), ([], [SQUARE], (False, True, False)),
    ([SQUARE], [SQUARE.copy()], (False, False, True)), ([SQUARE], [SQUARE + 50], (True, True, False)),
    ([], [], (False, False, False))])
def test_boxes_have_the_colour_of_who_found_them(a, b, seen):
    picture = pictured(a, b, name="img_1.jpg")
    image = decoded(picture)[:200]  # the maps below show each model's own in its colour
    assert tuple(count_near(image, colour) > 100 for colour in (OF_A, OF_B, OF_BOTH)) == seen
    assert (picture.image, picture.title) == ("img_1.jpg", "img_1.jpg")
    assert f"{len(a)} and {len(b)}" in picture.caption


def test_boxes_lie_where_they_were_found():
    image = decoded(pictured([Detection(SQUARE, 0.9)], []))[:200]
    near = np.argwhere(np.abs(image.astype(int) - OF_A).max(axis=-1) < 60)
    assert near.min(axis=0) == pytest.approx([20, 20], abs=2) and near.max(axis=0) == pytest.approx([60, 100], abs=2)


@pytest.mark.parametrize(("size", "map_size"), [
    ((720, 1280), (736, 1280)), ((3000, 200), (512, 64)), ((5, 4000), (1, 1)), ((2, 2), (64, 64)),
    ((4000, 5), (64, 64))])
def test_pictures_of_any_size(size, map_size):
    picture = pictured([SQUARE], [SQUARE * 0.5], size, map_size)
    assert max(decoded(picture).shape) <= 2 * WIDTH
    assert len(picture.content) < 300_000


def test_padding_of_a_map_is_not_shown():
    """The map is twice as wide as the image's part of it, and says text at that part's right end."""
    image = np.zeros((100, 100, 3), np.uint8)
    probability = np.zeros((100, 200), np.float32)
    probability[:, 80:100] = 1
    picture = decoded(side_by_side(image, probability, [], probability, [], covered=((100, 100), (100, 100))))
    below = picture[108:].astype(int).sum(axis=-1)
    assert below[:, 40:45].mean() > 600 and below[25:, 2:30].mean() < 60


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_polygons_and_maps_of_anything(broken):
    image = np.zeros((60, 80, 3), np.uint8)
    probability = np.full((60, 80), broken, np.float32)
    side_by_side(image, probability, [np.full((4, 2), broken)], probability, [np.zeros((0, 2)), np.ones((1, 2))])


def test_the_worst_images_come_first():
    data = different()
    alike = same()["images"]["img_1.jpg"]
    data["images"] = {"same": alike, "moved": image_row(lost=0), "lost": image_row(lost=3),
                      "far": image_row(lost=0, max_shift=99.0), "map": {**alike, "max_abs": 0.3}}
    assert worst_images(data) == ["lost", "far", "moved", "map"]
    assert worst_images(data, 2) == ["lost", "far"]


def test_examples_where_no_image_differs():
    data = same()
    row = data["images"]["img_1.jpg"]
    data["images"] = {f"{i}": {**row, "max_abs": i * 1e-6} for i in range(20)}
    assert worst_images(data) == ["19", "18", "17"] and EXAMPLES == 3
    data["images"] = {f"{i}": {**row, "max_abs": 0.5} for i in range(20)}
    assert len(worst_images(data)) == PICTURED
    assert worst_images({}) == []
