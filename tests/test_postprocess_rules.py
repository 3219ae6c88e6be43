"""Every box rule against a plain statement of it, one contour after another with cv2, shapely and pyclipper alone.

The projects' own code is compared by benchmarks/postprocess.py, where it is installed; this says the same for
everybody, and for the rules without golden boxes (MMOCR, PaddleOCR's slow score and dilation).
"""

from __future__ import annotations

import cv2
import numpy as np
import pyclipper
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from dbnet import box_growing, box_rectangles
from dbnet.postprocess import boxes_from_map

EPSILON = {"mindocr": 0.005, "mhliao": 0.002, "paddle": 0.002, "mmocr": 0.01}
CASES = [("mindocr", "quad", {}), ("mindocr", "poly", {}), ("mhliao", "quad", {}), ("mhliao", "poly", {}),
         ("paddle", "quad", {}), ("paddle", "poly", {}), ("mmocr", "quad", {}), ("mmocr", "poly", {}),
         ("paddle", "quad", {"score_mode": "slow"}), ("paddle", "quad", {"dilation": True}),
         ("paddle", "quad", {"score_mode": "slow", "dilation": True}),
         ("paddle", "poly", {"score_mode": "slow", "dilation": True})]


def draw(seed: int, height: int = 224, width: int = 320) -> np.ndarray:
    """A map of rotated rectangles, curved bands, blobs, noise, all ones with holes, or many small texts."""
    rng = np.random.default_rng(seed)
    probability = np.zeros((height, width), np.float32)

    def rectangle(largest: float) -> None:
        box = ((rng.uniform(0, width), rng.uniform(0, height)), tuple(rng.uniform(2, largest, 2)), rng.uniform(-90, 90))
        corners = cv2.boxPoints(tuple(value if isinstance(value, tuple) else float(value) for value in box))
        cv2.fillPoly(probability, [corners.astype(np.int32)], float(rng.uniform(0.3, 1)))

    kind = seed % 6
    for _ in range((25, 0, 0, 0, 8, 140)[kind]):
        rectangle(16 if kind == 5 else 70)
    if kind in (1, 4):
        for _ in range(6):
            centre, axes = (int(rng.uniform(0, width)), int(rng.uniform(0, height))), rng.integers(8, 90, 2).tolist()
            cv2.ellipse(probability, centre, axes, 0, 0, float(rng.uniform(40, 340)), 0.8, int(rng.integers(2, 14)))
    if kind == 2:
        noise = cv2.GaussianBlur(rng.normal(0.3, 1.5, (height, width)), (0, 0), float(rng.uniform(0.6, 5)))
        probability = np.clip(noise * 2, 0, 1).astype(np.float32)
    if kind == 3:
        probability = np.where(rng.random((height, width)) < 0.002, 0, rng.uniform(0.3, 1)).astype(np.float32)
    if rng.random() < 0.5:
        probability = cv2.GaussianBlur(probability, (0, 0), 1.2)
    return np.clip(probability, 0, 1)


def plain_boxes(
    probability, rule, box_type, binary_thresh=0.3, box_thresh=0.6, unclip_ratio=1.5, max_candidates=1000, *,
    score_mode="fast", dilation=False, original_size=None,
):
    """[(polygon, score)], as the projects say it."""
    height, width = probability.shape
    limit = np.float32(binary_thresh)
    bitmap = (probability >= limit if rule == "mindocr" else probability > limit).astype(np.uint8)
    if dilation:
        padded = np.pad(bitmap, ((1, 0), (1, 0)))
        bitmap = padded[1:, 1:] | padded[:-1, 1:] | padded[1:, :-1] | padded[:-1, :-1]
    contours = cv2.findContours(bitmap * 255, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    found = []
    for contour in contours[:max_candidates + 1 if rule == "mmocr" else max_candidates]:
        if box_type == "quad" and rule != "mmocr":
            outline, side = mini_box(contour)
            if side < 3:
                continue
        else:
            outline = cv2.approxPolyDP(contour, EPSILON[rule] * cv2.arcLength(contour, True), True).reshape(-1, 2)
            if len(outline) < 4:
                continue
        if rule == "mindocr":
            x, y, w, h = cv2.boundingRect(contour)
            score = cv2.mean(probability[y:y + h, x:x + w], bitmap[y:y + h, x:x + w])[0]
        else:
            slow = score_mode == "slow" and box_type == "quad"
            score = mean_inside(probability, contour.reshape(-1, 2) if slow else outline)
        if score < box_thresh:
            continue
        polygon = grown(outline, rule, box_type, unclip_ratio)
        if polygon is not None:
            found.append((placed(polygon, rule, (height, width), original_size or (height, width)), score))
    return found


def mini_box(points):
    rectangle = cv2.minAreaRect(points)
    corners = sorted(cv2.boxPoints(rectangle), key=lambda corner: corner[0])
    (top_left, bottom_left), (top_right, bottom_right) = (
        pair if pair[1][1] > pair[0][1] else pair[::-1] for pair in (corners[:2], corners[2:]))
    return np.array([top_left, top_right, bottom_right, bottom_left]), min(rectangle[1])


def mean_inside(probability, outline):
    height, width = probability.shape
    left, top = (int(np.clip(np.floor(value), 0, side - 1)) for value, side in
                 zip(outline.min(axis=0), (width, height), strict=True))
    right, bottom = (int(np.clip(np.ceil(value), 0, side - 1)) for value, side in
                     zip(outline.max(axis=0), (width, height), strict=True))
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    moved = outline.copy()
    moved[:, 0] -= left
    moved[:, 1] -= top
    cv2.fillPoly(mask, [moved.astype(np.int32)], 1)
    return cv2.mean(probability[top:bottom + 1, left:right + 1], mask)[0]


def grown(outline, rule, box_type, ratio):
    shape = shapely.Polygon(outline)
    clipper = pyclipper.PyclipperOffset()
    clipper.AddPath(outline, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    parts = clipper.Execute(shape.area * ratio / shape.length)
    if rule == "mmocr":
        if len({len(part) for part in parts}) != 1:
            return None
        points = np.array(parts[0], np.float32)
        if box_type == "poly":
            return points if len(points) >= 4 else None
        rectangle = cv2.minAreaRect(points)
        return cv2.boxPoints(rectangle) if min(rectangle[1]) >= 5 else None
    if len(parts) != 1:
        return None
    points = np.array(parts[0], np.int32)
    corners, side = mini_box(points)
    if side < 5:
        return None
    return points if box_type == "poly" else corners


def placed(polygon, rule, size, original):
    (height, width), (new_height, new_width) = size, original
    if rule == "mmocr":
        return polygon * (1 / np.array([width / new_width, height / new_height]))
    if rule == "mindocr":
        scale = np.array([width / new_width, height / new_height], np.float32)
        return np.clip(np.round(polygon / scale), 0, np.array([new_width - 1, new_height - 1], np.float32))
    kind = polygon.dtype if polygon.dtype == np.float32 else np.float64
    new = np.array([new_width, new_height], kind)
    return np.clip(np.round(polygon.astype(kind) / np.array([width, height], kind) * new), 0, new)


def assert_same(found, expected, exact):
    assert len(found) == len(expected)
    for detection, (polygon, score) in zip(found, expected, strict=True):
        np.testing.assert_allclose(detection.polygon, polygon, rtol=0 if exact else 1e-6, atol=0)
        assert detection.score == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(("rule", "box_type", "choices"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_every_rule(seed, rule, box_type, choices):
    probability = draw(seed)
    expected = plain_boxes(probability, rule, box_type, box_thresh=0.2, **choices)
    assert_same(boxes_from_map(probability, rule, box_type, box_thresh=0.2, **choices), expected, rule != "mmocr")
    assert expected or seed == 3  # all ones with holes: one text, which falls apart when it grows


@given(st.integers(0, 2**32 - 1), st.sampled_from(CASES), st.sampled_from([0.0, 0.3, 0.6]),
       st.sampled_from([0.3, 1.0, 1.5, 2.0, 4.0]), st.sampled_from([3, 50, 1000]),
       st.tuples(st.integers(20, 900), st.integers(20, 900)), st.booleans())
@example(5, CASES[0], 0.3, 1.5, 1000, (224, 320), True)
def test_every_rule_on_any_map(seed, case, box_thresh, ratio, limit, original_size, in_numpy):
    rule, box_type, choices = case
    probability = draw(seed)
    settings = {"box_thresh": box_thresh, "unclip_ratio": ratio, "max_candidates": limit,
                "original_size": original_size, **choices}
    with pytest.MonkeyPatch.context() as patch:
        for module in (box_growing, box_rectangles):
            patch.setattr(module, "FEW", 0 if in_numpy else 10**9)
        found = boxes_from_map(probability, rule, box_type, **settings)
    assert_same(found, plain_boxes(probability, rule, box_type, **settings), rule != "mmocr")


def test_dilation_joins_what_is_one_pixel_apart():
    probability = np.zeros((40, 80), np.float32)
    probability[10:26, 10:40] = probability[10:26, 41:70] = 0.9
    assert len(boxes_from_map(probability, "paddle")) == 2
    (joined,) = boxes_from_map(probability, "paddle", dilation=True)
    assert joined.score < 0.9  # the gap is no text, but lies inside


def test_the_slow_score_follows_the_contour():
    """Two words that touch at a corner fill half of their rectangle."""
    probability = np.zeros((96, 96), np.float32)
    probability[20:48, 20:48] = probability[47:76, 47:76] = 0.9
    (fast,) = boxes_from_map(probability, "paddle", box_thresh=0.1)
    (slow,) = boxes_from_map(probability, "paddle", box_thresh=0.1, score_mode="slow")
    assert fast.score < 0.6 < 0.85 < slow.score
    np.testing.assert_array_equal(fast.polygon, slow.polygon)


def test_what_mmocr_does_otherwise():
    """Neither rounded nor clipped; one more candidate; quads from polygons, so none from a triangle."""
    probability = np.zeros((64, 256), np.float32)
    for i in range(4):
        probability[0:20, 64 * i:64 * i + 40] = 0.9
    assert len(boxes_from_map(probability, "mmocr", max_candidates=2)) == 3
    found = boxes_from_map(probability, "mmocr", original_size=(100, 300))
    assert len(found) == 4
    assert min(detection.polygon.min() for detection in found) < 0
    assert any(np.any(detection.polygon != np.round(detection.polygon)) for detection in found)
    triangle = np.zeros((96, 96), np.float32)
    cv2.fillPoly(triangle, [np.array([[10, 10], [80, 10], [10, 80]], np.int32)], 0.9)
    assert boxes_from_map(triangle, "mmocr", box_thresh=0.1) == []
