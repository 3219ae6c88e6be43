"""Polygons put right: what encloses something is kept and mended, what does not is dropped, and all of it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets.repair import KINDS, LEAST_AREA, Repair, counted, fits, mend, mend_labels, mend_text, signed_area
from dbnet.sample import Sample

SIZE = (100, 200)  # height, width
SQUARE = [[10, 10], [50, 10], [50, 40], [10, 40]]
ARC = [[10, 40], [30, 20], [50, 20], [70, 40], [70, 60], [50, 40], [30, 40], [10, 60]]


def kinds(mended):
    return [kind for kind, _ in mended.steps]


@pytest.mark.parametrize("points", [SQUARE, ARC, [[0, 0], [200, 0], [200, 100], [0, 100]], [[0, 0], [9, 0], [5, 9]],
                                    [[1.25, 2.5], [9.75, 2.5], [5, 9]]])
def test_a_sound_polygon_is_left_alone(points):
    mended = mend(np.array(points), SIZE)
    np.testing.assert_array_equal(mended.polygon, points)
    assert (mended.steps, mended.ignore) == ([], False)


@pytest.mark.parametrize(("points", "expected", "kind"), [
    (SQUARE[:1] + SQUARE[:0:-1], SQUARE, "reversed"),
    (ARC[:1] + ARC[:0:-1], ARC, "reversed"),
    # A bow tie: two corners the wrong way round, and either orientation of the rest.
    ([[10, 10], [50, 10], [10, 40], [50, 40]], SQUARE, "reordered"),
    ([[10, 10], [50, 40], [50, 10], [10, 40]], SQUARE, "reordered"),
    # A curved text with both edges written from the left to the right.
    (ARC[:4] + ARC[:3:-1], ARC, "reordered"),
    # A loop in a corner.
    ([[10, 10], [90, 10], [90, 50], [10, 50], [12, 52], [12, 48]], [[10, 10], [90, 10], [90, 50], [12, 50], [12, 48]],
     "untangled"),
    ([[-5, -5], [50, -5], [50, 40], [-5, 40]], [[0, 0], [50, 0], [50, 40], [0, 40]], "clipped"),
    ([[150, 50], [230, 50], [230, 90], [150, 90]], [[150, 50], [200, 50], [200, 90], [150, 90]], "clipped"),
    ([[10, 10], [1e5, 10], [1e5, 40], [10, 40]], [[10, 10], [200, 10], [200, 40], [10, 40]], "clipped"),
])
def test_what_is_repaired(points, expected, kind):
    mended = mend(np.array(points, np.float64), SIZE)
    assert kinds(mended) == [kind]
    assert not mended.ignore
    assert shapely.equals(shapely.Polygon(mended.polygon), shapely.Polygon(expected))
    assert signed_area(mended.polygon) > 0
    np.testing.assert_array_equal(mended.polygon[0], np.clip(points[0], 0, (200, 100)))


@pytest.mark.parametrize(("points", "why"), [
    ([[5, 5]], "1 different point:"), ([[5, 5], [9, 9]], "2 different points: 5,5 9,9"),
    ([[5, 5], [9, 9], [9, 9], [5, 5]], "2 different points"),
    ([[5, 5], [9, 9], [13, 13], [7, 7]], "less than 0.5 square pixels: 5,5 9,9"),
    ([[5, 5], [5.5, 5], [5.5, 5.5], [5, 5.5]], "less than 0.5 square pixels"),
    ([[5, 5], [np.nan, 5], [9, 9]], "no number"), ([[5, 5], [np.inf, 5], [9, 9]], "no number"),
    ([[300, 10], [350, 10], [350, 40]], "outside of 200 x 100 pixels"), ([[-9, -9], [-1, -9], [-1, -1]], "outside of"),
    ([[200, 10], [250, 10], [250, 40], [200, 40]], "outside of"),
])
def test_what_encloses_nothing_is_dropped(points, why):
    mended = mend(np.array(points, np.float64), SIZE)
    assert mended.polygon is None
    [(kind, detail)] = mended.steps
    assert kind == "dropped"
    assert why in detail


def test_beyond_repair_is_ignored_not_dropped():
    star = [[100, 5], [130, 90], [40, 35], [160, 35], [70, 90]]
    mended = mend(np.array(star), SIZE)
    assert kinds(mended) == ["ignored"]
    assert mended.ignore
    assert shapely.Polygon(mended.polygon).equals(shapely.MultiPoint(star).convex_hull)


def test_several_steps_are_all_told():
    mended = mend(np.array([[-10, -10], [-10, 40], [50, 40], [50, -10]]), SIZE)
    assert kinds(mended) == ["reversed", "clipped"]
    assert mended.steps[1][1] == "10 pixels beyond 200 x 100"


def test_without_a_size_nothing_is_clipped():
    far = [[-10, -10], [500, -10], [500, 900]]
    np.testing.assert_array_equal(mend(np.array(far)).polygon, far)


@pytest.mark.parametrize(("points", "size", "hull"), [
    ([[10, 60], [10, 130], [110, 130], [110, 20], [130, 20], [130, 150], [-10, 150], [-10, 60]], SIZE,
     [[0, 60], [110, 20], [130, 20], [130, 100], [0, 100]]),
    ([[-10, 0], [50, 0], [50, 10], [-5, 20], [50, 30], [50, 40], [-10, 40]], (720, 1280),
     [[0, 0], [50, 0], [50, 40], [0, 40]]),
])
def test_a_curved_text_that_leaves_the_image_and_comes_back_is_ignored(points, size, hull):
    """Half of it would be learnt as the whole text, and the other half as background."""
    mended = mend(np.array(points), size)
    [(kind, detail)] = mended.steps
    assert (kind, mended.ignore) == ("ignored", True)
    assert "in several parts, " in detail
    assert f" beyond {size[1]} x {size[0]}: " in detail
    assert shapely.Polygon(mended.polygon).equals(shapely.Polygon(hull))
    sample = Sample(Path("a"), [np.array(points, np.float64)], np.array([False]), ["word"])
    assert mend_labels("a.jpg", sample, size)[0].texts == ["###"]


def test_a_small_part_that_is_cut_off_does_not_count():
    hook = [[10, 20], [190, 20], [190, 104], [186, 104], [186, 98], [184, 98], [184, 104], [10, 104]]
    mended = mend(np.array(hook), SIZE)
    assert (kinds(mended), mended.ignore) == (["clipped"], False)


@pytest.mark.parametrize(("points", "expected"), [
    ([[10, 10], [50, 10], [40, 40], [40, 40]], [[10, 10], [50, 10], [40, 40]]),
    ([*SQUARE, SQUARE[0]], SQUARE), ([SQUARE[0], *SQUARE, SQUARE[3], SQUARE[3]], SQUARE),
])
def test_a_point_that_is_said_twice_in_a_row(points, expected):
    mended = mend(np.array(points), SIZE)
    np.testing.assert_array_equal(mended.polygon, expected)
    assert (mended.steps, mended.ignore) == ([], False)


coordinate = st.one_of(st.integers(-30, 130), st.floats(-30, 130), st.integers(0, 3), st.floats(-1e6, 1e6),
                       st.just(float("nan")))
polygons = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=9).map(lambda p: np.array(p, np.float64))
sizes = st.none() | st.tuples(st.integers(1, 110), st.integers(1, 110))


@given(polygons, sizes)
def test_what_comes_out_is_sound_and_stays_as_it_is(points, size):
    before = points.copy()
    mended = mend(points, size)
    np.testing.assert_array_equal(points, before)
    if mended.polygon is None:
        assert kinds(mended)[-1] == "dropped"
        return
    assert shapely.Polygon(mended.polygon).is_valid
    assert signed_area(mended.polygon) >= LEAST_AREA
    if size is not None:
        assert mended.polygon.min() >= 0
        assert (mended.polygon <= (size[1], size[0])).all()
    again = mend(mended.polygon, size)
    np.testing.assert_array_equal(again.polygon, mended.polygon)
    assert again.steps == []


@given(st.integers(3, 12), st.floats(0, 3), st.booleans())
def test_a_star_shaped_polygon_keeps_its_area(number, turn, backwards):
    angles = turn + np.linspace(0, 2 * np.pi, number, endpoint=False)
    points = np.round(50 + 30 * np.stack([np.cos(angles), np.sin(angles)], 1), 2)
    mended = mend(points[::-1] if backwards else points, (100, 100))
    assert kinds(mended) == ["reversed"] * backwards
    assert signed_area(mended.polygon) == pytest.approx(abs(signed_area(points)))


# Texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "ignore", "said", "kind"), [
    ("word", False, "word", None), ("", False, "", None), ("日本語", False, "日本語", None),
    ("word", True, "###", None), ("#", True, "###", None), ("*", True, "###", None), ("caf\ufffd", True, "###", None),
    ("*", False, "* ", "marked text"), ("###", False, "### ", "marked text"),
    ("caf\ufffd", False, "caf\ufffd", "encoding"), ("a\ud800b", False, "a?b", "encoding"),
])
def test_texts(text, ignore, said, kind):
    found, steps = mend_text(text, ignore)
    assert found == said
    assert [step[0] for step in steps] == ([kind] if kind else [])


def test_a_whole_image():
    sample = Sample(Path("a.jpg"), [np.array(points, np.float64) for points in (
        SQUARE, [[5, 5], [9, 9], [9, 9]], [[-5, 0], [9, 0], [9, 9]], SQUARE)], np.array([False, False, True, False]),
        ["one", "two", "three", "*"])
    mended, kept, repairs = mend_labels("a.jpg", sample, SIZE)
    assert kept == [0, 2, 3]
    assert mended.texts == ["one", "###", "* "]
    assert mended.ignore.tolist() == [False, True, False]
    assert [(repair.image, repair.index, repair.kind) for repair in repairs] == [
        ("a.jpg", 1, "dropped"), ("a.jpg", 2, "clipped"), ("a.jpg", 3, "marked text")]
    assert counted(repairs) == {"clipped": 1, "dropped": 1, "marked text": 1}


def test_what_is_beyond_repair_becomes_do_not_care():
    star = np.array([[100, 5], [130, 90], [40, 35], [160, 35], [70, 90]], np.float64)
    mended, _, repairs = mend_labels("a.jpg", Sample(Path("a"), [star], np.array([False]), ["word"]), SIZE)
    assert (mended.texts, mended.ignore.tolist()) == (["###"], [True])
    assert [repair.kind for repair in repairs] == ["ignored"]


def test_an_image_without_texts():
    mended, kept, repairs = mend_labels("a.jpg", Sample(Path("a"), [], np.zeros(0, bool), []), SIZE)
    assert (mended.polygons, mended.ignore.shape, mended.ignore.dtype, kept, repairs) == ([], (0,), bool, [], [])


def test_every_kind_has_an_effect_and_a_meaning():
    assert {effect for effect, _ in KINDS.values()} == {"noted", "repaired", "left out"}
    assert Repair("a", None, "missing image", "").effect == "left out"


@pytest.mark.parametrize(("points", "fitting"), [
    (SQUARE, True), ([[-2, 0], [202, 0], [202, 102]], True), ([[-3, 0], [9, 0], [9, 9]], False),
    ([[0, 0], [150, 0], [0, 150]], False),
])
def test_fits(points, fitting):
    assert fits([np.array(SQUARE), np.array(points)], SIZE) is fitting
