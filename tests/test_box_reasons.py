"""Why a box is not the same in two maps: the pixels, scores and sizes that decided."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from dbnet.postprocess import boxes_from_map, default_boxes
from dbnet.sample import Detection
from evaluation import box_reasons
from evaluation.box_pairs import overlap, pair_boxes
from evaluation.box_reasons import MOST, MOST_PIXELS, OneSide, differences
from evaluation.compare_maps import Boxes, ImageComparison, MapComparison
from parity.boxes import NEAR, compare_boxes

MINDOCR, PADDLE = default_boxes("mindocr"), default_boxes("paddle")
#: Keeps most boxes, so that there is something to explain.
LOW = 0.4


def page(*texts, background=0.0):
    """A map of rectangles, (x, y, width, height, probability)."""
    probability = np.full((100, 160), background, np.float32)
    for x, y, width, height, value in texts:
        probability[y:y + height, x:x + width] = value
    return probability


def side(probability, rule=PADDLE, covered=None, original=None):
    covered = covered or probability.shape
    boxes = boxes_from_map(probability, **asdict(rule), resized_size=covered, original_size=original or covered)
    return OneSide(probability, covered, rule, boxes)


def between(a, b, most=MOST):
    return differences(a, b, pair_boxes(a.boxes, b.boxes), most)


def changed(probability, *pixels):
    """pixels: (x, y, value)."""
    changed = probability.copy()
    for x, y, value in pixels:
        changed[y, x] = value
    return changed


WORD = page((30, 40, 40, 12, 0.9))
TWO = page((30, 40, 20, 12, 0.9), (52, 40, 20, 12, 0.9))
ONE = changed(TWO, *((x, y, 0.9) for x in (50, 51) for y in range(40, 52)))


@pytest.mark.parametrize(("a", "b", "expected"), [
    (WORD, changed(WORD, (70, 45, 0.31)), [
        ("moved", "pixels", "1 pixel is text in one map only, (70, 45): 0.0000 in A, 0.3100 in B, binary_thresh 0.3")]),
    (WORD, page(), [("lost", "pixels", "480 pixels are text in one map only, such as")]),
    (page(), WORD, [("invented", "pixels", "480 pixels are")]),
    (WORD, page((30, 40, 40, 2, 0.9)), [("lost", "size", "too small for a box in B, 1.0 x 39.0 pixels")]),
    (page((30, 40, 40, 2, 0.9)), WORD, [("invented", "size", "too small for a box in A, 1.0 x 39.0")]),
    (page((30, 40, 40, 12, 0.61)), page((30, 40, 40, 12, 0.59)), [
        ("lost", "score", "score 0.6100 in A, 0.5900 in B, box_thresh 0.6")]),
    (page((30, 40, 40, 12, 0.59999)), page((30, 40, 40, 12, 0.60001)), [
        ("invented", "score", "score 0.59999 in A, 0.60001 in B, box_thresh 0.6")]),
    (TWO, ONE, [("invented", "pixels", "in 2 parts in A: 24 pixels"),
                *[("lost", "pixels", "part of a larger box in B: 24 pixels")] * 2]),
    (ONE, TWO, [*[("invented", "pixels", "part of a larger box in A")] * 2, ("lost", "pixels", "in 2 parts in B")]),
    (WORD, WORD, []), (page(), page(), []),
])
def test_what_decided(a, b, expected):
    found = between(side(a), side(b))
    told = sorted((one.kind, one.decided_by, one.why) for one in found)
    assert [row[:2] for row in told] == [row[:2] for row in expected], told
    assert all(why.startswith(start) for (*_, why), (*_, start) in zip(told, expected, strict=True)), told


@pytest.mark.parametrize("rule", [MINDOCR, PADDLE, replace(PADDLE, dilation=True)])
def test_a_pixel_on_the_threshold_is_text_for_some(rule):
    """MindOCR's rule takes a pixel of exactly 0.3 for text, the others do not."""
    at = np.float32(rule.binary_thresh)
    found = between(side(WORD, rule), side(changed(WORD, (70, 45, at)), rule))
    assert [one.decided_by for one in found] == ["pixels"] * (rule.rule == "mindocr")
    above = np.nextafter(at, np.float32(1))
    [one] = between(side(WORD, rule), side(changed(WORD, (70, 45, above)), rule))
    assert one.decided_by == "pixels" and one.pixels == (box_reasons.Pixel(70, 45, 0.0, float(above)),)
    assert f"{above:.9f}" in one.why or f"{above:.8f}" in one.why  # enough digits to see that it is above


def test_the_nearest_pixels_with_both_values():
    """In pixels of the map, those inside before those around; outlines are in pixels of the image."""
    b = changed(WORD, *((x, 45, 0.0) for x in range(64, 70)), (120, 20, 0.9), (71, 70, 0.9))
    b[40:52, 69] = 0.1
    [one] = between(side(WORD, original=(200, 320)), side(b, original=(200, 320)))
    assert one.kind == "moved" and len(one.pixels) == MOST_PIXELS
    assert all(pixel.a == np.float32(0.9) and pixel.b < 0.3 and 64 <= pixel.x < 70 for pixel in one.pixels)
    assert "17 pixels" in one.why  # neither of those far away
    assert one.a[:, 0].max() > 140 and one.shift >= 2
    told = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert told["a"] == one.a.tolist() and told["pixels"][0] == {"x": one.pixels[0].x, "y": one.pixels[0].y,
                                                               "a": one.pixels[0].a, "b": one.pixels[0].b}
    assert list(told) == ["kind", "a", "b", "score_a", "score_b", "shift", "decided_by", "why", "pixels"]


def test_what_is_near_a_box_that_leans():
    """Not what lies within its bounds; and what lies in it comes first, whatever the probabilities."""
    a = page()
    cv2.fillPoly(a, [np.array([[20, 20], [26, 14], [86, 74], [80, 80]], np.int32)], 0.9)
    b = changed(a, (80, 20, 0.95), (30, 75, 0.95))
    end = (a > 0) & (np.add.outer(np.arange(100), np.arange(160)) > 150)
    b[end] = 0.29
    outline = side(a).boxes[0].polygon
    outside = next((x, 45) for x in range(45, 0, -1) if cv2.pointPolygonTest(outline, (x, 45), True) < -1.5)
    [one] = [one for one in between(side(a), side(changed(b, (*outside, 0.99)))) if one.kind == "moved"]
    assert one.why.startswith(f"{end.sum() + 1} pixels") and all(end[pixel.y, pixel.x] for pixel in one.pixels)


def test_the_score_of_the_box_that_was_dropped():
    a, b = (page((30, 40, 40, 12, value)) for value in (0.75, 0.5))
    [one] = between(side(a), side(b))
    assert (one.kind, one.b, one.pixels) == ("lost", None, ()) and one.score_a == pytest.approx(0.75)
    assert one.score_b == pytest.approx(0.5) and one.from_threshold == pytest.approx(0.15)
    [one] = between(side(b), side(a))
    assert (one.kind, one.a) == ("invented", None) and (one.score_a, one.score_b) == pytest.approx((0.5, 0.75))


@pytest.mark.parametrize(("a", "b", "decided", "why"), [
    (side(WORD), side(WORD, replace(PADDLE, unclip_ratio=2.0)), "rule",
     "under the box rule of A the map of B gives the same box: unclip_ratio 1.5 in A, 2.0 in B"),
    (side(WORD), side(WORD, replace(PADDLE, box_thresh=0.95)), "rule",
     "under the box rule of A the map of B gives the same box: box_thresh 0.6 in A, 0.95 in B"),
    (side(WORD, replace(PADDLE, box_thresh=0.95)), side(WORD), "rule", "under the box rule of B the map of A gives"),
    (side(WORD), side(page((30, 40, 40, 12, 0.5)), replace(PADDLE, unclip_ratio=2.0)), "score", "score 0.9000 in A"),
    (side(WORD), side(changed(WORD, (70, 45, 0.9)), replace(PADDLE, unclip_ratio=1.6)), "pixels", "1 pixel is text"),
])
def test_two_rules(a, b, decided, why):
    [one] = between(a, b)
    assert one.decided_by == decided and one.why.startswith(why), one


def test_maps_of_two_sizes():
    assert not between(side(WORD), side(np.pad(WORD, ((0, 28), (0, 0)))))  # what is the same needs no reason
    [one] = between(side(WORD), side(np.pad(page(), ((0, 28), (0, 0)))))
    assert (one.decided_by, one.pixels) == (None, ()) and "the maps have two sizes, 100 x 160 and 128 x 160" in one.why


def test_the_image_lies_at_two_sizes_in_the_maps():
    a, b = side(WORD, covered=(90, 150)), side(WORD, original=(90, 150))
    [one] = between(a, b)
    assert one.decided_by is None and "the image has two sizes in the maps, 90 x 150 and 100 x 160" in one.why


def test_more_texts_than_are_looked_at():
    """OpenCV traces from below: the upper text is not reached."""
    rule = replace(PADDLE, max_candidates=1)
    a = page((30, 20, 40, 12, 0.9))
    [lost] = [one for one in between(side(a, rule), side(page((30, 20, 40, 12, 0.9), (30, 80, 40, 12, 0.9)), rule))
              if one.kind == "lost"]
    assert lost.decided_by == "max_candidates" and lost.why == ("B has 2 texts, of which max_candidates, 1, are looked "
                                                                "at")


# Properties -----------------------------------------------------------------------------------------------------------


def scene(rng):
    probability = np.zeros((120, 160), np.float32)
    for _ in range(7):
        centre = float(rng.integers(5, 155)), float(rng.integers(5, 115))
        size = float(rng.integers(4, 50)), float(rng.integers(1, 14))
        corners = cv2.boxPoints((centre, size, float(rng.integers(0, 180))))
        cv2.fillPoly(probability, [corners.astype(np.int32)], float(rng.uniform(0.5, 0.95)))
    return cv2.GaussianBlur(probability, (5, 5), 1)


def other(rng, probability):
    how = rng.integers(3)
    if how == 0:
        return np.clip(probability + rng.normal(0, rng.choice([0.02, 0.1]), probability.shape), 0, 1).astype(np.float32)
    if how == 1:
        return np.clip(probability * np.float32(rng.uniform(0.9, 1.1)), 0, 1)
    count = rng.integers(1, 400)
    pixels = zip(*(rng.integers(0, size, count) for size in probability.shape[::-1]), rng.uniform(0, 1, count),
                 strict=True)
    return changed(probability, *pixels)


RULES = [*(default_boxes(name, box_type) for name in ("mindocr", "mhliao", "paddle", "mmocr")
           for box_type in ("quad", "poly")), replace(PADDLE, dilation=True, score_mode="slow")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.rule}-{rule.box_type}-{rule.score_mode}")
def test_the_pixels_decide(rule, monkeypatch):
    """With B's values at the pixels that are said to decide, the map of A gives the outline of B."""
    monkeypatch.setattr(box_reasons, "MOST_PIXELS", 10 ** 6)
    rule, seen = replace(rule, box_thresh=LOW), Counter()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        a = scene(rng)
        b = other(rng, a)
        for one in between(side(a, rule), side(b, rule)):
            seen[one.decided_by] += 1
            assert one.decided_by is not None and "\n" not in one.why
            mixed = changed(a, *((pixel.x, pixel.y, pixel.b) for pixel in one.pixels))
            assert all(a[pixel.y, pixel.x] == np.float32(pixel.a) for pixel in one.pixels)
            outlines = [box.polygon for box in side(mixed, replace(rule, box_thresh=0.0)).boxes]
            if one.b is not None:
                assert any(np.array_equal(one.b, outline) for outline in outlines), (seed, one)
            elif one.decided_by != "score":
                assert not any(np.array_equal(one.a, outline) for outline in outlines), (seed, one)
    assert seen["pixels"] > 5


@pytest.mark.parametrize("seed", range(5))
def test_every_difference_has_a_place(seed):
    """As many as are counted, the worst first, and the same with A and B exchanged."""
    rng = np.random.default_rng(seed)
    a = scene(rng)
    rule = replace(PADDLE, box_thresh=LOW)
    a, b = side(a, rule), side(np.clip(a + rng.normal(0, 0.05, a.shape), 0, 1).astype(np.float32), rule)
    found, pairs = between(a, b), pair_boxes(a.boxes, b.boxes)
    assert Counter(one.kind for one in found) == {name: len(part) for name, part in (
        ("moved", pairs.moved), ("lost", pairs.lost), ("invented", pairs.invented)) if part}
    assert [one.rank for one in found] == sorted((one.rank for one in found), reverse=True)
    swap = {"lost": "invented", "invented": "lost", "moved": "moved"}
    back = between(b, a)
    assert {(one.kind, one.decided_by, len(one.pixels)) for one in found} == {
        (swap[one.kind], one.decided_by, len(one.pixels)) for one in back}
    assert len(between(a, b, 1)) == 1
    for above in (found[0].rank, found[len(found) // 2].rank, (False, -1.0)):
        some = differences(a, b, pairs, above=above)
        assert [one.why for one in some] == [one.why for one in found if one.rank > above]


# Pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_pairs_one_by_one(seed):
    """As by looking at every pair: the same corners first, then whatever overlaps most."""
    rng = np.random.default_rng(seed)
    a, b = ([Detection(np.float32([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]), 0.9)
             for x, y, w, h in np.hstack([rng.integers(0, 5, (7, 2)), rng.integers(8, 12, (7, 2))])] for _ in range(2))
    a, b = a + a[:1], b + [Detection(box.polygon.copy(), 0.5) for box in a[:2]]
    pairs = pair_boxes(a, b)
    left_a, left_b = list(range(len(a))), list(range(len(b)))
    same = []
    for i in list(left_a):
        j = next((j for j in left_b if np.array_equal(a[i].polygon, b[j].polygon)), None)
        if j is not None:
            left_a.remove(i)
            left_b.remove(j)
            same.append((i, j))
    assert pairs.identical == same and same
    moved = []
    while left_a and left_b:
        iou = overlap([a[i].polygon for i in left_a], [b[j].polygon for j in left_b])
        if iou.max() <= 0.5:
            break
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        moved.append((left_a.pop(i), left_b.pop(j)))
    assert [(i, j) for i, j, _ in pairs.moved] == moved and moved
    assert (pairs.lost, pairs.invented) == (left_a, left_b)


# Who uses it ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "unmatched", "unexplained"), [
    ((70, 45, 0.3 + NEAR / 2), 2, 2),  # from 0: not near in both
    ((70, 45, 0.2), 0, 0), ((29, 40, 0.9), 2, 2),
])
def test_what_parity_calls_explained(change, unmatched, unexplained):
    found = compare_boxes(WORD, changed(WORD, change), PADDLE)
    assert (found.unmatched, found.unexplained) == (unmatched, unexplained)


@pytest.mark.parametrize("near", [NEAR / 2, NEAR * 2])
def test_what_parity_calls_near(near):
    a = changed(WORD, (70, 45, 0.3 - near))
    found = compare_boxes(a, changed(a, (70, 45, 0.3 + near)), PADDLE)
    assert found.unmatched == 2 and found.unexplained == (0 if near < NEAR else 2)
    assert len(found.explained) == 2 - found.unexplained
    a, b = (page((30, 40, 40, 12, 0.6 + way * near)) for way in (1, -1))
    found = compare_boxes(a, b, PADDLE)
    assert (found.boxes, found.unmatched, found.unexplained) == ((1, 0), 1, 0 if near < NEAR else 1)
    assert compare_boxes(a, a, PADDLE).same


def test_parity_looks_at_every_box():
    """Not at the worst only."""
    tall = np.zeros((2400, 60), np.float32)
    for y in range(10, 2390, 18):
        tall[y:y + 8, 10:40] = 0.9
    b = tall.copy()
    b[:, 39] = 0
    found = compare_boxes(tall, b, PADDLE)
    assert found.unmatched == found.unexplained == 2 * found.boxes[0] > 2 * MOST


def test_the_report_lists_the_worst():
    """Of all images, the worst first, by image; counts are of all."""
    a = page(*((10 + 30 * i, 10, 20, 8, 0.9) for i in range(4)))
    gone, slid = page(*((10 + 30 * i, 10, 20, 8, 0.9) for i in range(1, 4))), changed(a, (30, 12, 0.9))
    images = [ImageComparison(f"{name}.png", 0.9, 0.1, ((1, 1), (1, 1)), Boxes(), 0, between(side(a), side(b)))
              for name, b in (("slid", slid), ("gone", gone))]
    told = MapComparison(images * 60).to_dict()["boxes"]["differences"]
    assert len(told) == MOST and [row["image"] for row in told] == ["gone.png"] * 60 + ["slid.png"] * 40
    assert told[0]["kind"] == "lost" and told[-1]["kind"] == "moved" and told[-1]["pixels"][0]["x"] == 30
    json.dumps(told, allow_nan=False)
