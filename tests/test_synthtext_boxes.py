"""SynthText's boxes, all at once, against the rule written out box by box with shapely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from dbnet.datasets.synthtext_boxes import (
    CLIPPED,
    DROPPED,
    FLAT,
    INVALID,
    OUTSIDE,
    REORDERED,
    TURNED,
    WHOLE,
    repair,
)


def plainly(quad: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """One box by the rule that `dbnet.datasets.synthtext_boxes` states; None if it is left out."""
    if not np.isfinite(quad).all():
        return None
    size = np.array([width, height]) - 1
    border = box(0, 0, *size)
    around = quad - quad.mean(0)
    quad = quad[np.argsort((np.arctan2(around[:, 1], around[:, 0]) + np.pi) % (2 * np.pi))]
    if not Polygon(quad).is_valid or not Polygon(quad).intersects(border):
        return None
    quad = np.clip(quad, 0, size)
    return quad if Polygon(quad).is_valid and not Polygon(quad).equals(border) else None


def assert_same_as_plainly(quads: np.ndarray, width: int, height: int) -> np.ndarray:
    """quads: (K, 4, 2) float32 or float64. Returns what happened to each."""
    single = np.full(len(quads), quads.dtype == np.float32)
    found, what = repair(quads.astype(np.float64), single, np.tile([width - 1.0, height - 1.0], (len(quads), 1)))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = [plainly(quad, width, height) for quad in quads]
    for i, wanted in enumerate(expected):
        assert (what[i] & DROPPED == 0) == (wanted is not None), (quads[i].tolist(), int(what[i]))
        if wanted is not None:
            assert np.array_equal(found[i], wanted), quads[i].tolist()
            assert wanted.dtype == found.dtype
        else:
            assert what[i] in (INVALID, OUTSIDE, FLAT, WHOLE)
    return what


COORDINATES = st.one_of(st.sampled_from([0.0, 1.0, 5.0, 9.0, 19.0, 20.0, -1.0, -5.0, 30.0]),
                        st.floats(-40, 60, width=32), st.integers(-3, 25).map(float))


@given(st.lists(st.lists(COORDINATES, min_size=8, max_size=8), min_size=1, max_size=20), st.booleans(),
       st.sampled_from([(20, 10), (20, 20), (1, 1), (1, 20), (2, 2)]))
@settings(max_examples=300)
def test_any_corners(numbers, single, size):
    """Small integers make crossings, lines, points, corners that touch, and equal angles."""
    assert_same_as_plainly(np.array(numbers, np.float32 if single else np.float64).reshape(-1, 4, 2), *size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_many_boxes_in_all_states(dtype, seed):
    rng = np.random.default_rng(seed)
    rectangles = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(1, 40, (3000, 1, 2))
    quads = rectangles + rng.uniform((-20, -20), (140, 100), (3000, 1, 2)) + rng.normal(0, 2, (3000, 4, 2))
    quads = np.take_along_axis(quads, rng.permuted(np.tile(np.arange(4), (3000, 1)), axis=1)[..., None], axis=1)
    quads[::50, 2:] = quads[::50, :2]
    quads[1::100] = [[0, 0], [119, 0], [119, 79], [0, 79]]
    quads[2::100, 0] = np.nan
    quads[3::100, 1] = np.inf
    quads[4::100, :, 0] = quads[4::100, :1, 0]
    what = assert_same_as_plainly(quads.astype(dtype), 120, 80)
    for bit in (TURNED, REORDERED, CLIPPED, INVALID, OUTSIDE, FLAT, WHOLE):
        assert np.count_nonzero(what & bit) >= (1 if bit == FLAT else 20), bit


def diamonds(count: int) -> np.ndarray:
    """(count, 4, 2) float32. Whether the left corner lies above the middle is a matter of the last bit."""
    rng = np.random.default_rng(0)
    middle, half = rng.uniform(30, 60, (count, 1, 2)), rng.uniform(2, 20, (count, 2))
    return np.float32(middle + np.array([[-1, 0], [0, -1], [1, 0], [0, 1]]) * half[:, np.newaxis])


def test_the_precision_of_the_labels_decides():
    quads = diamonds(300)
    assert_same_as_plainly(quads, 100, 100)
    wide = np.float64(quads)
    assert not np.array_equal(*(repair(wide, np.full(300, single), np.full((300, 2), 99.0))[0]
                                for single in (False, True)))


SQUARE = [[10, 10], [30, 10], [30, 20], [10, 20]]


@pytest.mark.parametrize(("quad", "happened"), [
    (SQUARE, 0),
    ([SQUARE[i] for i in (1, 2, 3, 0)], TURNED),
    ([SQUARE[i] for i in (0, 2, 1, 3)], REORDERED),
    (SQUARE[::-1], REORDERED),
    ([[-10, 10], [30, 10], [30, 20], [-10, 20]], CLIPPED),
    ([[30, 10], [30, 20], [-10, 20], [-10, 10]], CLIPPED | TURNED),
    ([[10, 10], [30, 10], [10, 10], [30, 10]], INVALID),
    ([[np.nan, 10], [30, 10], [30, 20], [10, 20]], INVALID),
    ([[200, 10], [230, 10], [230, 20], [200, 20]], OUTSIDE),
    ([[99, 10], [130, 10], [130, 20], [99, 20]], FLAT),  # it shares only the last column's line with the image
    ([[-5, -5], [105, -5], [105, 55], [-5, 55]], WHOLE),
    ([[0, 0], [99, 0], [99, 49], [0, 49]], WHOLE),
])
def test_what_happened(quad, happened):
    assert assert_same_as_plainly(np.array([quad], np.float64), 100, 50).tolist() == [happened]


def test_no_boxes():
    quads, what = repair(np.empty((0, 4, 2)), np.empty(0, bool), np.empty((0, 2)))
    assert quads.shape == (0, 4, 2) and what.shape == (0,)
