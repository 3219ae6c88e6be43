"""The maps that a network is trained towards, against the published rule written out text by text, edge by edge."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pyclipper
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from dbnet import targets
from dbnet.targets import make_targets

SIZE = (120, 160)
TOLERANCE = 1e-5


# The rule, slowly -----------------------------------------------------------------------------------------------------


def grown(polygon, distance):
    clipper = pyclipper.PyclipperOffset()
    clipper.AddPath(polygon.tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(part, np.int32) for part in clipper.Execute(distance)[:1]]


def edge_distance(xs, ys, a, b):
    """From its line where the pixel sees the edge under an obtuse angle, else from the nearer end."""
    to_a, to_b = np.hypot(xs - a[0], ys - a[1]), np.hypot(xs - b[0], ys - b[1])
    obtuse = (xs - a[0]) * (xs - b[0]) + (ys - a[1]) * (ys - b[1]) < 0
    length = np.hypot(*(b - a))
    if length == 0:
        return to_a
    line = np.abs((xs - a[0]) * (b[1] - a[1]) - (ys - a[1]) * (b[0] - a[0])) / length
    return np.where(obtuse, line, np.minimum(to_a, to_b))


def reference(polygons, ignore, height, width, shrink=0.4, size=8, low=0.3, high=0.7, border=None):
    binary_map, mask, band, thresh_mask = (np.full((height, width), value) for value in (0.0, 1.0, 0.0, 0.0))
    ys, xs = np.mgrid[:height, :width].astype(float)
    for polygon, is_ignored in zip(polygons, ignore, strict=True):
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not len(points) or not np.isfinite(points).all():
            continue
        small = (min(np.ptp(points, axis=0)) < size or len(points) < 3 or np.abs(points).max() >= 2**14
                 or np.ptp(points, axis=0).max() == 0)
        shape = None if small else shapely.Polygon(points)
        shrunken = [] if is_ignored or shape is None else grown(points, -(1 - shrink**2) * shape.area / shape.length)
        if not shrunken:
            cv2.fillPoly(mask, [np.clip(points, -2**14, 2**14).astype(np.int32)], 0)
            continue
        cv2.fillPoly(binary_map, shrunken, 1)
        reach = (1 - (border or shrink)**2) * shape.area / shape.length
        outer = grown(points, reach)
        cv2.fillPoly(thresh_mask, outer, 1)
        if not outer or reach == 0:
            continue
        near = np.min([edge_distance(xs, ys, a, b) for a, b in zip(points, np.roll(points, 1, axis=0), strict=True)],
                      axis=0)
        value = 1 - np.minimum(near / reach, 1)
        x, y, w, h = cv2.boundingRect(outer[0])
        value[(xs < x) | (xs >= x + w) | (ys < y) | (ys >= y + h)] = 0
        band = np.maximum(band, value)
    return binary_map, mask, band * (high - low) + low, thresh_mask


def check(polygons, ignore=None, size=SIZE, **settings):
    """Both agree; returns the maps."""
    ignore = [False] * len(polygons) if ignore is None else ignore
    names = {"shrink_ratio": "shrink", "min_text_size": "size", "thresh_min": "low", "thresh_max": "high",
             "border_shrink_ratio": "border"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = make_targets(polygons, ignore, *size, **settings)
    wanted = reference(polygons, ignore, *size, **{names[name]: value for name, value in settings.items()})
    for name, ours, theirs in zip(maps._fields, maps, wanted, strict=True):
        assert ours.dtype == np.float32 and ours.shape == size and ours.flags.writeable, name
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=name)
    return maps


def turned(centre, width, height, degrees):
    turn = np.deg2rad(degrees)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    return corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + centre


def bow(rng, points=14):
    """A curved word."""
    angles = rng.uniform(0, 6.28) + np.linspace(0, rng.uniform(0.5, 2.5), points // 2)
    radius, height = rng.uniform(20, 50), rng.uniform(10, 24)
    outer, inner = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * r for r in (radius + height, radius))
    word = np.concatenate([outer, inner[::-1]])
    return word - word.mean(axis=0) + rng.uniform(30, 120, 2)


# Examples -------------------------------------------------------------------------------------------------------------

SHAPES = {
    "upright": [[20, 30], [90, 30], [90, 60], [20, 60]],
    "counterclockwise": [[20, 30], [20, 60], [90, 60], [90, 30]],
    "whole pixels askew": [[30, 20], [60, 60], [44, 72], [14, 32]],  # pixels lie on the circles around its edges
    "half pixels": [[20.5, 30.5], [90.5, 32], [88, 60.25], [19, 57.75]],
    "thin": [[5, 5], [150, 110], [149, 112], [4, 7]],
    "needle": [[5, 5], [150, 110], [149.4, 110.6]],
    "triangle": [[20, 20], [100, 25], [40, 90]],
    "with a notch": [[20, 20], [100, 20], [100, 80], [60, 30], [20, 80]],
    "waist that shrinking cuts": [[10, 20], [60, 50], [110, 20], [110, 90], [60, 56], [10, 90]],
    "over the border": [[-30, -20], [50, -10], [60, 40], [-25, 35]],
    "over every border": [[-30, -20], [200, -10], [190, 140], [-25, 135]],
    "just outside": [[-60, 20], [-12, 20], [-12, 50], [-60, 50]],  # only its band is in the picture
    "outside": [[-90, 20], [-50, 20], [-50, 50], [-90, 50]],
    "beyond the far corner": [[300, 300], [360, 300], [360, 330], [300, 330]],
    "repeated points": [[20, 30], [20, 30], [90, 30], [90, 60], [90, 60], [90, 60], [20, 60]],
    "closed": [[20, 30], [90, 30], [90, 60], [20, 60], [20, 30]],
    "points on its edges": [[20, 30], [40, 30], [55, 30], [90, 30], [90, 60], [20, 60], [20, 45]],
    "crossing itself": [[20, 20], [100, 70], [100, 20], [20, 60]],
    "figure eight": [[20, 20], [80, 80], [80, 20], [20, 80]],
    "as large as the image": [[0, 0], [159, 0], [159, 119], [0, 119]],
    "small": [[50, 50], [59, 50], [59, 58], [50, 58]],
    "too small": [[50, 50], [90, 50], [90, 57], [50, 57]],
    "shrinks to nothing": [[40, 40], [90, 40], [90, 41], [40.5, 41], [40.5, 60]],
    "line": [[20, 20], [60, 60], [100, 100]],
    "one point": [[20, 20]],
    "one point, four times": [[20, 20]] * 4,
    "two points": [[20, 20], [60, 60]],
    "no points": np.zeros((0, 2)),
    "nothing": [],
    "not a number": [[20, 30], [np.nan, 30], [90, 60], [20, 60]],
    "infinite": [[20, 30], [np.inf, 30], [90, 60], [20, 60]],
    "infinite both ways": [[20, 30], [np.inf, 30], [-np.inf, 60], [20, 60]],
    "far away": [[20, 30], [1e9, 30], [1e9, 60], [20, 60]],
    "farther than numbers reach": [[20, 30], [1e300, 30], [1e308, 60], [20, -1e308]],
}


@pytest.mark.parametrize("is_ignored", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_of_one_text(name: str, is_ignored: bool) -> None:
    check([np.array(SHAPES[name], float)], [is_ignored])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
def test_types_of_points(kind: type) -> None:
    check([np.array(SHAPES["whole pixels askew"], kind), np.array(SHAPES["upright"], kind)])


def test_lists_of_points() -> None:
    check([SHAPES["whole pixels askew"], SHAPES["upright"]])


def test_all_at_once() -> None:
    polygons = [np.array(shape, float) for shape in SHAPES.values()]
    maps = check(polygons, [i % 5 == 0 for i in range(len(polygons))])
    assert maps.binary_map.any() and not maps.mask.all() and maps.thresh_map.max() > 0.69


def test_texts_that_touch_and_overlap() -> None:
    check([turned((60 + 20 * i, 50 + 4 * i), 40, 16, 15) for i in range(4)])


@pytest.mark.parametrize("settings", [
    {"shrink_ratio": 0.55, "border_shrink_ratio": 0.4}, {"shrink_ratio": 0.4, "border_shrink_ratio": 0.4},
    {"shrink_ratio": 0.9}, {"shrink_ratio": 0.0}, {"shrink_ratio": 1.0, "border_shrink_ratio": 0.4},
    {"min_text_size": 0}, {"min_text_size": 30}, {"thresh_min": 0.0, "thresh_max": 1.0},
    {"thresh_min": 0.5, "thresh_max": 0.5}])
def test_settings(settings: dict[str, float]) -> None:
    rng = np.random.default_rng(4)
    shapes = [np.array(SHAPES[name], float) for name in ("upright", "thin", "small", "line", "one point, four times")]
    check([*shapes, bow(rng), bow(rng)], [False] * 7, **settings)


@pytest.mark.parametrize("seed", range(12))
def test_quads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quads = [turned(rng.uniform(-10, 170, 2), rng.uniform(5, 90), rng.uniform(5, 40), rng.uniform(0, 360))
             for _ in range(8)]
    quads = [quad + rng.normal(0, 2, (4, 2)) for quad in quads]
    if seed % 3 == 0:
        quads = [np.round(quad) for quad in quads]
    check(quads, rng.random(8) < 0.2)


@pytest.mark.parametrize("seed", range(6))
def test_curved_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check([bow(rng, points) for points in (6, 14, 14, 30)], border_shrink_ratio=0.4, shrink_ratio=0.55)


def test_a_long_thin_text_askew_keeps_its_digits() -> None:
    """Its band is 1 px wide: float32 would be 3e-5 off."""
    text = np.array([[10.25, 10.5], [1900.75, 900.25], [1899.75, 902.25], [9.25, 12.5]])
    maps = check([text], size=(920, 1920))
    assert (maps.thresh_map > 0.5).any()


def test_a_text_larger_than_what_is_computed_at_once() -> None:
    check([turned((400, 300), 900, 500, 20)], size=(600, 800))


def test_of_no_text() -> None:
    maps = check([], [])
    assert [float(values.min()) for values in maps] == [0, 1, np.float32(0.3), 0]
    assert [float(values.max()) for values in maps] == [0, 1, np.float32(0.3), 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 160), (120, 1), (3, 5)])
def test_narrow_images(size: tuple[int, int]) -> None:
    check([np.array(SHAPES["upright"], float), np.array(SHAPES["over every border"], float)], size=size)


def test_as_many_flags_as_texts() -> None:
    with pytest.raises(ValueError, match="2 polygons"):
        make_targets([np.array(SHAPES["upright"])] * 2, [False], *SIZE)


def test_the_texts_are_left_alone() -> None:
    polygon, flags = np.array(SHAPES["over the border"], float), np.array([False])
    polygon.flags.writeable = flags.flags.writeable = False
    check([polygon], flags)


def test_masks_in_bytes_say_the_same() -> None:
    texts = [np.array(SHAPES[name], float) for name in ("upright", "too small", "triangle")]
    floats = make_targets(texts, [False] * 3, *SIZE)
    small = make_targets(texts, [False] * 3, *SIZE, mask_type=np.uint8)
    for name, ours, other in zip(floats._fields, small, floats, strict=True):
        assert ours.dtype == (np.float32 if name == "thresh_map" else np.uint8)
        np.testing.assert_array_equal(ours, other)


# Properties -----------------------------------------------------------------------------------------------------------

#: Eighths of a pixel: sums of them are exact.
numbers = st.integers(0, 110 * 8).map(lambda eighths: eighths / 8)
outlines = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9).map(lambda points: np.array(points, float))
texts = st.lists(st.tuples(outlines, st.booleans()), max_size=5)


@given(texts)
def test_any_outlines(found: list[tuple[np.ndarray, bool]]) -> None:
    maps = check([polygon for polygon, _ in found], [is_ignored for _, is_ignored in found])
    for values in (maps.binary_map, maps.mask, maps.thresh_mask):
        assert np.isin(values, (0, 1)).all()
    assert maps.thresh_map.min() >= np.float32(0.3) and maps.thresh_map.max() <= np.float32(0.7)


@given(st.lists(st.lists(st.tuples(st.floats(), st.floats()), max_size=6), max_size=3), st.booleans())
def test_no_outline_stops_a_run(found: list[list[tuple[float, float]]], is_ignored: bool) -> None:
    maps = make_targets([np.array(points, float).reshape(-1, 2) for points in found], [is_ignored] * len(found), 40, 30)
    assert all(np.isfinite(values).all() for values in maps)


@given(texts, st.randoms())
def test_the_order_of_texts_does_not_matter(found, random) -> None:
    other = random.sample(found, len(found))
    first, second = (make_targets([polygon for polygon, _ in order], [flag for _, flag in order], *SIZE)
                     for order in (found, other))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@given(texts, st.integers(0, 200), st.integers(0, 200))
def test_moved_by_whole_pixels(found, right: int, down: int) -> None:
    # Where an outline crosses itself, the crossings' last bits depend on the place.
    found = [text for text in found if len(text[0]) < 3 or shapely.Polygon(text[0]).is_valid]
    flags = [flag for _, flag in found]
    still, moved = (make_targets([polygon + by for polygon, _ in found], flags, 300 + y, 300 + x)
                    for x, y, by in ((0, 0, (80, 80)), (right, down, (80 + right, 80 + down))))
    for ours, theirs in zip(still, moved, strict=True):
        np.testing.assert_allclose(theirs[down:, right:], ours, rtol=0, atol=1e-6)


@given(outlines.filter(lambda polygon: len(polygon) > 2))
def test_area_and_perimeter_to_the_last_bit(polygon: np.ndarray) -> None:
    """A last bit can move a corner that Clipper truncates by a whole pixel."""
    polygon = polygon * 0.7123
    shape = shapely.Polygon(polygon)
    assert targets._measures(polygon.tolist()) == (shape.area, shape.length)
