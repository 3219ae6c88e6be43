"""The random steps before training: texts move with their pixels, and nothing depends on anything but the generator."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dbnet import augment as module
from dbnet.augment import Augmentation, augment

#: Nothing happens but the crop, and that is the whole image.
STILL = Augmentation(brightness=0, saturation=0, flip_p=0, rotate_p=0, scale_p=0, crop_p=0, crop_size=(160, 160))
QUAD = np.array([[30, 40], [110, 52], [106, 80], [26, 70]], float)
BEHIND = ("scale", "crop", "flip", "rotate")


def scene(size: tuple[int, int] = (120, 160), quad: np.ndarray = QUAD) -> np.ndarray:
    """Black, the quad is white; (H, W, 3) uint8. Points count from the corner of the first pixel: 4 times as fine,
    then averaged."""
    fine = np.zeros((size[0] * 4, size[1] * 4), np.uint8)
    cv2.fillPoly(fine, [np.round(quad * 4).astype(np.int32)], 255)
    return np.repeat(cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA)[:, :, np.newaxis], 3, axis=2)


def covers(pixels: np.ndarray, quad: np.ndarray) -> bool:
    """Whether what is bright in the picture is the quad, within a pixel and what enlarging has blurred."""
    fine = np.zeros(pixels.shape[:2], np.uint8)
    cv2.fillPoly(fine, [np.round(quad * 16).astype(np.int32) - 8], 1, shift=4)
    bright, kernel = (pixels[:, :, 0] > 127).astype(np.uint8), np.ones((5, 5), np.uint8)
    return bool((cv2.erode(fine, kernel) <= bright).all() and (bright <= cv2.dilate(fine, kernel)).all())


def drawn(settings: Augmentation, seed: int, size: tuple[int, int] = (120, 160), quad: np.ndarray = QUAD):
    return augment(scene(size, quad), [quad], np.array([False]), settings, np.random.default_rng(seed))


# Geometry -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [
    {}, {"flip_p": 1}, {"rotate_p": 1, "rotate": (30, 30)}, {"rotate_p": 1, "rotate": (-75, -75)},
    {"rotate_p": 1, "rotate": (90, 90), "expand_canvas": True},
    {"rotate_p": 1, "rotate": (37, 37), "expand_canvas": True}, {"scale_p": 1, "scale": (0.5, 0.5)},
    {"scale_p": 1, "scale": (2.7, 2.7)}, {"crop_p": 1}, {"crop_p": 1, "flip_p": 1},
    {"flip_p": 0.5, "rotate_p": 1, "rotate": (-20, 20), "scale_p": 1, "crop_p": 1},
    {"flip_p": 0.5, "rotate_p": 1, "rotate": (-20, 20), "scale_p": 1, "crop_p": 1, "expand_canvas": True},
    {"flip_p": 1, "rotate_p": 1, "rotate": (-10, 10), "scale_p": 1, "crop_p": 1, "order": BEHIND},
    {"flip_p": 1, "crop_p": 1, "order": ("rotate", "scale", "crop", "flip")},
    {"flip_p": 1, "rotate_p": 1, "rotate": (15, 15), "order": ("rotate", "flip", "scale", "crop")},
], ids=str)
@pytest.mark.parametrize("size", [(120, 160), (160, 120), (301, 200)], ids=str)
def test_texts_move_with_their_pixels(steps, size) -> None:
    for seed in range(4):
        crop = drawn(replace(STILL, **steps), seed, size)
        assert crop.image.shape == (160, 160, 3) and crop.image.dtype == np.uint8
        [quad] = crop.polygons
        assert covers(crop.image, quad), f"seed {seed}"


def test_nothing_happens_to_an_image_of_the_crop_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    crop = augment(image, [QUAD], np.array([False]), STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(crop.image, image[:, :, ::-1])
    np.testing.assert_array_equal(crop.polygons[0], QUAD)


def test_a_flip_is_exact() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    for order in (module.ORDER, BEHIND):
        crop = augment(image, [QUAD], np.array([False]), replace(STILL, flip_p=1, order=order),
                       np.random.default_rng(0))
        np.testing.assert_array_equal(crop.image, image[:, ::-1, ::-1])
        np.testing.assert_array_equal(crop.polygons[0], QUAD * (-1, 1) + (160, 0))


def test_positive_angles_turn_counterclockwise() -> None:
    crop = drawn(replace(STILL, rotate_p=1, rotate=(90, 90)), 0, (160, 160))
    np.testing.assert_allclose(crop.polygons[0], np.stack([QUAD[:, 1], 160 - QUAD[:, 0]], axis=1), atol=1e-9)


def test_steps_are_taken_in_their_order() -> None:
    """To the left by a flip, then a quarter turn; or turned first."""
    point = np.array([[150, 20], [151, 20], [151, 21]], float)
    settings = replace(STILL, flip_p=1, rotate_p=1, rotate=(90, 90))
    for order, wanted in ((module.ORDER, (20, 150)), (("rotate", "flip", "scale", "crop"), (140, 10)),
                          (BEHIND, (20, 150))):
        crop = augment(np.zeros((160, 160, 3), np.uint8), [point], np.array([True]), replace(settings, order=order),
                       np.random.default_rng(0))
        np.testing.assert_allclose(crop.polygons[0][0], wanted, atol=1e-9)


def test_an_expanded_canvas_keeps_the_corners() -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    whole = np.array([[0, 0], [200, 0], [200, 100], [0, 100]], float)
    turned = replace(STILL, rotate_p=1, rotate=(45, 45))
    kept, cut = (augment(image, [whole], np.array([False]), replace(turned, expand_canvas=expand),
                         np.random.default_rng(0)) for expand in (True, False))
    assert kept.polygons[0].min() == pytest.approx(0) and kept.polygons[0].max() == pytest.approx(160)
    assert cut.polygons[0].min() < -10
    assert (kept.image > 127).mean() == pytest.approx(20000 / (300 / np.sqrt(2)) ** 2, abs=0.01)


def test_what_does_not_fill_the_crop_is_padded_with_black_to_the_right_and_below() -> None:
    for size, part in (((80, 160), np.s_[80:]), ((160, 80), np.s_[:, 80:])):
        grey = np.full((*size, 3), 200, np.uint8)
        image = augment(grey, [], np.zeros(0, bool), STILL, np.random.default_rng(0)).image
        assert not image[part].any() and image.sum() == 200 * 3 * 80 * 160


def test_the_margins_of_an_enlarged_image_are_not_shaded() -> None:
    image = augment(np.full((40, 40, 3), 200, np.uint8), [], np.zeros(0, bool), replace(STILL, scale_p=1),
                    np.random.default_rng(0)).image
    assert (image == 200).all()


def test_black_is_seen_beyond_a_crop_that_is_turned() -> None:
    """Not what lies around the crop: texts there may be cut."""
    image = np.full((300, 300, 3), 255, np.uint8)
    crop = augment(image, [QUAD], np.array([False]), replace(
        STILL, crop_p=1, rotate_p=1, rotate=(10, 10), order=BEHIND), np.random.default_rng(2))
    assert not crop.image[0, 0].any() and not crop.image[-1, -1].any()


@pytest.mark.parametrize(("limits", "low", "high"), [
    (None, 0.5, 3.0), ((100, 200), 100 / 120, 200 / 160), ((10, 9000), 0.5, 3.0), ((200, 100), 100 / 120, 200 / 160),
    ((600, 700), 5.0, 3.0), ((30, 40), 0.5, 0.25)])
def test_limits_of_a_scaled_image(limits, low, high) -> None:
    """MindOCR draws from the narrowed range, and takes its ends as they come where the limits are beyond the range."""
    settings = replace(STILL, scale_p=1, size_limits=limits)
    factors = []
    for seed in range(300):
        rng, size = np.random.default_rng(seed), np.array([160.0, 120.0])
        _, canvas = module._moves(("scale",), module._draw(settings, rng), settings, size)
        factors.append(canvas[0] / 160)
    low, high = sorted((low, high))
    assert low <= min(factors) < low + 0.03 * (high - low)
    assert high - 0.03 * (high - low) < max(factors) <= high
    still = replace(settings, scale_p=0)
    _, canvas = module._moves(("scale",), module._draw(still, np.random.default_rng(0)), still, np.array([160.0, 120]))
    assert canvas.tolist() == [160, 120]


def test_limits_are_of_the_image_that_is_scaled() -> None:
    """One that stands on its side, on an expanded canvas."""
    settings = replace(STILL, scale_p=1, size_limits=(50, 60), rotate_p=1, rotate=(90, 90), expand_canvas=True,
                       scale=(0.1, 9))
    for seed in range(20):
        drawn = module._draw(settings, np.random.default_rng(seed))
        _, canvas = module._moves(("rotate", "scale"), drawn, settings, np.array([120.0, 100.0]))
        assert 49.99 <= canvas.min() <= canvas.max() <= 60.01


# Crops ----------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.lists(st.tuples(st.floats(-20, 300), st.floats(-20, 200), st.floats(3, 80),
                                                 st.floats(3, 40)), min_size=1, max_size=6))
def test_a_crop_cuts_no_text(seed: int, boxes) -> None:
    """Every text lies in it or beside it, and one in it; or it is the whole image."""
    texts = [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]) for x, y, w, h in boxes]
    start, stop = module._crop(texts, np.zeros(len(texts), bool), np.array([300.0, 200]), replace(STILL, crop_p=1),
                               np.random.default_rng(seed))
    lies_in = [(text >= start).all() and (text <= stop).all() for text in texts]
    lies_beside = [(text.max(axis=0) <= start).any() or (text.min(axis=0) >= stop).any() for text in texts]
    if (*start, *stop) != (0, 0, 300, 200):
        assert any(lies_in) and all(a or b for a, b in zip(lies_in, lies_beside, strict=True))


def test_free_pixels() -> None:
    """Those that a text covers are taken from its rounded first to its rounded last one."""
    assert module._free(np.array([3.4, -9, 8.6]), np.array([4.6, 0.2, 99]), 12).tolist() == [1, 2, 6, 7, 8]
    assert module._free(np.array([-20.0, 30]), np.array([-10.0, 40]), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.6])
def test_no_crop_is_smaller_than_it_may_be(ratio: float) -> None:
    settings = replace(STILL, crop_p=1, min_crop_ratio=ratio)
    sides = np.array([np.subtract(*module._crop([QUAD], np.array([False]), np.array([160.0, 120.0]), settings,
                                                np.random.default_rng(seed))[::-1]) for seed in range(200)])
    assert (sides >= np.maximum(np.ceil(np.array([160, 120]) * ratio), 1)).all()
    assert ratio == 0.6 or (sides < (160, 120)).any()


def test_a_crop_may_cut_texts_that_nobody_cares_about() -> None:
    texts = [QUAD, QUAD[:, ::-1] + (60, 0)]
    found = [augment(np.zeros((160, 160, 3), np.uint8), texts, np.array([False, True]), replace(STILL, crop_p=1),
                     np.random.default_rng(seed)) for seed in range(40)]
    assert any((polygon < 0).any() for crop in found for polygon, flag in zip(crop.polygons, crop.ignore, strict=True)
               if flag)


@pytest.mark.parametrize(("texts", "flags"), [
    ([], []), ([QUAD], [True]), ([QUAD * 40 - 2000], [False]), ([QUAD * 3 - 120], [False]),
    ([np.zeros((0, 2))], [False]), ([QUAD[:2]], [False]), ([QUAD * (np.nan, 1)], [False]), ([QUAD * np.inf], [True]),
], ids=["none", "ignored", "larger than the image", "over its border", "no points", "two points", "nan", "inf"])
@pytest.mark.parametrize("size", [(120, 160), (1, 1), (1, 900), (700, 2), (160, 160)], ids=str)
def test_without_a_text_to_cut_around(texts, flags, size) -> None:
    for order in (module.ORDER, BEHIND):
        crop = augment(np.full((*size, 3), 99, np.uint8), texts, np.array(flags, bool), replace(
            Augmentation(), crop_size=(160, 160), order=order, scale_p=float(order is module.ORDER)),
            np.random.default_rng(1))
        assert crop.image.shape == (160, 160, 3) and crop.image.any()
        assert len(crop.polygons) == len(crop.ignore) <= 1
        assert all(np.isfinite(polygon).all() for polygon in crop.polygons)


def test_a_longer_image_than_opencv_moves() -> None:
    image = np.full((3, 40000, 3), 200, np.uint8)
    text = np.array([[20000, 0], [20100, 0], [20100, 3], [20000, 3]], float)
    crop = augment(image, [text], np.array([False]), STILL, np.random.default_rng(0))
    assert crop.image[0].min() > 150 and crop.polygons[0][0, 0] == pytest.approx(80)


def test_texts_that_are_out_of_sight_are_left_out_and_slivers_are_not_cared_about() -> None:
    texts = [QUAD, QUAD - (200, 0), np.array([[159.9, 20], [190, 20], [190, 24], [159.9, 24]]),
             np.array([[150, 20], [190, 20], [190, 30], [150, 30.0]])]
    crop = augment(np.zeros((160, 160, 3), np.uint8), texts, np.zeros(4, bool), STILL, np.random.default_rng(0))
    assert [polygon[0, 0] for polygon in crop.polygons] == [30, 159.9, 150]
    assert crop.ignore.tolist() == [False, True, False]


# Chance ---------------------------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_crop() -> None:
    one, same, other = (drawn(replace(Augmentation(), crop_size=(96, 128)), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.polygons[0], same.polygons[0])
    assert not np.array_equal(one.image, other.image)


def test_a_step_that_is_left_out_changes_no_other() -> None:
    steps = [module._draw(replace(Augmentation(), **left), np.random.default_rng(5))
             for left in ({}, {"flip_p": 0}, {"rotate_p": 0}, {"scale_p": 0})]
    assert len({(step.brightness, step.saturation) for step in steps}) == 1
    assert steps[2].angle == 0 and steps[3].factor == 1
    assert {step.factor for step in steps[:3]} == {steps[0].factor} and steps[3].angle == steps[0].angle


def test_how_often_and_how_far() -> None:
    """MindOCR draws the factors and the angle uniformly, the angle in whole degrees with both ends."""
    rng = np.random.default_rng(0)
    steps = [module._draw(replace(Augmentation(), rotate_p=0.75, scale_p=0.25), rng) for _ in range(4000)]
    turned, scaled = [step.angle for step in steps if step.angle], [step.factor for step in steps if step.factor != 1]
    assert np.mean([step.flips for step in steps]) == pytest.approx(0.5, abs=0.03)
    assert len(turned) / 4000 == pytest.approx(0.75 * 20 / 21, abs=0.03) and len(scaled) / 4000 == pytest.approx(
        0.25, abs=0.03)
    assert set(turned) == set(range(-10, 11)) - {0}
    for values, low, high in (([step.brightness for step in steps], 0.8745, 1.1255),
                              ([step.saturation for step in steps], 0.5, 1.5), (scaled, 0.5, 3.0)):
        assert low <= min(values) < low + 0.01 * high and high * 0.99 < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, rel=0.06)


def test_crops_are_drawn_as_in_mindocr() -> None:
    """Each side from two of the pixels that no text covers; here written out with NumPy's choice, as there."""
    low, high, size = QUAD.min(axis=0), QUAD.max(axis=0), (160, 120)
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    chosen = replace(STILL, crop_p=1)
    ours = np.array([np.concatenate(module._crop([QUAD], np.array([False]), np.array(size, float), chosen, rng))
                     for _ in range(3000)])
    theirs: list[tuple[float, ...]] = []
    while len(theirs) < 3000:
        ends = []
        for axis in (0, 1):
            covered = np.zeros(size[axis], bool)
            covered[round(low[axis]):round(high[axis]) + 1] = True
            ends.append(np.sort(other.choice(np.flatnonzero(~covered), size=2)))
        (left, right), (top, bottom) = ends
        if (right - left >= 16 and bottom - top >= 12 and left < high[0] and right > low[0] and top < high[1]
                and bottom > low[1]):
            theirs.append((left, top, right, bottom))
    is_whole = (ours == (0, 0, *size)).all(axis=1)
    assert is_whole.mean() < 0.2  # ten tries do not always find one
    np.testing.assert_allclose(np.quantile(ours[~is_whole], [0.25, 0.5, 0.75], axis=0),
                               np.quantile(theirs, [0.25, 0.5, 0.75], axis=0), atol=4)


# Colour ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bright", [0.8745, 0.95, 1.0, 1.06, 1.1255])
@pytest.mark.parametrize("saturated", [0.5, 0.9, 1.0, 1.2, 1.5])
def test_colours_are_those_of_pillow(bright: float, saturated: float) -> None:
    rng = np.random.default_rng(0)
    rgb = np.concatenate([rng.integers(0, 256, (40, 40, 3), np.uint8), rng.integers(200, 256, (40, 40, 3), np.uint8)])
    wanted = ImageEnhance.Color(ImageEnhance.Brightness(Image.fromarray(rgb)).enhance(bright)).enhance(saturated)
    ours = module._coloured(np.ascontiguousarray(rgb[:, :, ::-1]), module._Drawn(bright, saturated, False, 0, 1))
    assert np.abs(ours.astype(int) - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize(("wrong", "why"), [
    ({"order": ("flip", "crop")}, "an order of"), ({"order": ("flip",) * 4}, "an order of"),
    ({"order": ("crop", "flip", "rotate", "scale")}, "behind the crop"),
    ({"order": BEHIND, "expand_canvas": True}, "behind the crop")])
def test_orders_that_make_no_sense(wrong, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(Augmentation(), **wrong)
