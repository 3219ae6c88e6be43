"""Polygons: area, smallest rectangle, growing, overlap."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from dbnet.geometry import area, areas, intersection_areas, offset, unclip_distances

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
FIGURE_EIGHT = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float)

coordinates = st.integers(0, 400)
sides = st.integers(8, 200)
quads = st.tuples(coordinates, coordinates, sides, sides, st.floats(-90, 90)).map(
    lambda r: cv2.boxPoints(((float(r[0]), float(r[1])), (float(r[2]), float(r[3])), r[4])))


@pytest.mark.parametrize(("polygon", "expected"), [
    (SQUARE, 100), (SQUARE[::-1], 100), (FIGURE_EIGHT, 0), (SQUARE[:3], 50), (SQUARE + 1e5, 100),
    ([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]], 10),
])
def test_area(polygon, expected):
    assert area(np.array(polygon, float)) == expected


@given(quads, st.floats(0.5, 3.0))
def test_unclip_grows_by_area_times_ratio_over_perimeter(quad, ratio):
    quad = np.trunc(quad)
    assume(min(np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1)) > 4)
    perimeter = sum(math.dist(a, b) for a, b in zip(quad, np.roll(quad, -1, axis=0), strict=True))
    distance = area(quad) * ratio / perimeter
    (grown,) = offset(quad, *unclip_distances([quad], ratio))
    exact = area(quad) + perimeter * distance + math.pi * distance**2  # rounded corners make one full circle
    assert area(grown) == pytest.approx(exact, rel=0.02, abs=3 * (perimeter + 2 * math.pi * distance))


def test_offset_shrinks_cuts_and_vanishes():
    (small,) = offset(SQUARE, -2)
    assert area(small) == 36
    assert offset(SQUARE, -6) == []
    waist = np.array([[0, 0], [40, 0], [42, 18], [80, 18], [82, 0], [120, 0], [120, 40], [82, 40], [80, 22], [42, 22],
                      [40, 40], [0, 40]])
    assert len(offset(waist, -4)) == 2
    assert len(offset(waist, 4)) == 1


def test_unclip_of_a_single_point_is_nothing():
    assert offset(np.zeros((4, 2)), *unclip_distances([np.zeros((4, 2))], 1.5)) == []


@given(st.lists(quads, max_size=5), st.floats(0.1, 5))
def test_unclip_distances_are_the_same_one_by_one(polygons, ratio):
    """To the last bit, in an array and in a list, among polygons with more corners too."""
    single = [shapely.Polygon(polygon).area * ratio / shapely.Polygon(polygon).length for polygon in polygons]
    assert unclip_distances(np.array(polygons).reshape(-1, 4, 2), ratio).tolist() == single
    mixed = [polygon for quad in polygons for polygon in (quad, np.vstack([quad[:3], quad[2] + 1, quad[3]]))]
    assert unclip_distances(mixed, ratio).tolist()[::2] == single


@given(st.lists(quads, max_size=4), st.lists(quads, max_size=4))
def test_intersections_are_symmetric_and_within_both(first, second):
    one, other = intersection_areas(first, second), intersection_areas(second, first)
    assert one.shape == (len(first), len(second))
    np.testing.assert_allclose(one, other.T, rtol=1e-9, atol=1e-5)
    assert np.all((one >= 0) & (one <= np.minimum.outer(areas(first), areas(second)) * (1 + 1e-9)))
    if first:
        np.testing.assert_allclose(np.diag(intersection_areas(first, first)), areas(first), rtol=1e-6)


@pytest.mark.parametrize(("a", "b", "shared"), [
    (SQUARE, SQUARE + (5, 0), 50), (SQUARE, SQUARE[::-1], 100), (SQUARE, SQUARE + (10, 0), 0),
    (SQUARE, SQUARE + (50, 0), 0), (SQUARE, FIGURE_EIGHT, 50), (FIGURE_EIGHT, FIGURE_EIGHT, 50),
    (SQUARE, np.array([[3, 3], [3, 3], [3, 3], [3, 3]], float), 0),
    (SQUARE, np.array([[0, 0], [5, 5], [9, 9], [2, 2]], float), 0),
])
def test_intersection_areas(a, b, shared):
    assert intersection_areas([a], [b])[0, 0] == pytest.approx(shared)


def test_a_covered_twice_part_counts_by_the_even_odd_rule():
    """A pentagram's middle is wound twice, so it is outside: what the official scripts' polygon library computes."""
    angles = np.radians(90 + 144 * np.arange(5))
    star = np.c_[np.cos(angles), np.sin(angles)] * 100
    tip = 100**2 * 0.5 * math.sin(math.radians(36))  # triangle from the centre to a tip and to an inner corner ...
    inner = math.sin(math.radians(18)) / math.sin(math.radians(54))  # ... which is this much nearer to the centre
    covered = 10 * tip * inner - 5 * 0.5 * (100 * inner) ** 2 * math.sin(math.radians(72))
    assert intersection_areas([star], [SQUARE * 100 - 500])[0, 0] == pytest.approx(covered)


def test_nothing_against_something():
    assert areas([]).shape == (0,)
    assert intersection_areas([], [SQUARE]).shape == (0, 1)
    assert intersection_areas([SQUARE], []).shape == (1, 0)
