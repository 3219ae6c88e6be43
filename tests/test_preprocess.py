"""Pixels in: every resize rule against the project's own arithmetic, written out here on single pixels and sizes."""

from __future__ import annotations

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.preprocess import prepare, read_image
from dbnet.spec import (
    MHLIAO_PIXELS,
    MINDOCR_PIXELS,
    MINDOCR_PP_PIXELS,
    MMOCR_PIXELS,
    PADDLE_PIXELS,
    PADDLE_PP_PIXELS,
    PixelFormat,
)

RULES = {"mindocr": MINDOCR_PIXELS, "mindocr++": MINDOCR_PP_PIXELS, "paddle": PADDLE_PIXELS, "mhliao": MHLIAO_PIXELS,
         "mmocr": MMOCR_PIXELS}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "image", "resized", "tensor"), [
    ("mindocr", (720, 1280), (736, 1280), (736, 1280)),
    ("mindocr", (97, 31), (736, 1280), (736, 1280)),
    ("mindocr++", (720, 1280), (1152, 2048), (1152, 2048)),
    ("mindocr++", (1000, 1000), (1152, 1152), (1152, 2048)),
    ("mindocr++", (768, 1024), (1152, 1536), (1152, 2048)),
    ("mindocr++", (1000, 700), (1152, 800), (1152, 2048)),   # 806 is rounded to the nearest multiple of 32
    ("mindocr++", (100, 3000), (64, 2048), (1152, 2048)),    # 68 is rounded down
    ("mindocr++", (1000, 1854), (1088, 2048), (1152, 2048)), # 1104.6 -> 1104 -> 34.5 strides -> 34
    ("paddle", (501, 752), (736, 1088), (736, 1088)),        # 1104.7 -> 1104 -> 34
    ("paddle", (720, 1280), (736, 1312), (736, 1312)),       # 1308.4 -> 1308 -> 40.9 -> 41 strides
    ("paddle", (1280, 720), (1312, 736), (1312, 736)),
    ("paddle", (736, 1280), (736, 1280), (736, 1280)),
    ("paddle", (800, 1200), (800, 1216), (800, 1216)),       # 37.5 strides: Python rounds half to even
    ("paddle", (752, 752), (768, 768), (768, 768)),          # 23.5 -> 24
    ("paddle", (784, 784), (768, 768), (768, 768)),          # 24.5 -> 24
    ("paddle", (7, 11), (736, 1152), (736, 1152)),
    ("mhliao", (720, 1280), (736, 1312), (736, 1312)),
    ("mhliao", (1280, 720), (1312, 736), (1312, 736)),
    ("mhliao", (1000, 1001), (736, 768), (736, 768)),        # 736.7 is rounded up
    ("mhliao", (1472, 1472), (736, 736), (736, 736)),
    ("mmocr", (720, 1280), (736, 1308), (736, 1312)),        # 1308.4
    ("mmocr", (1280, 720), (1308, 736), (1312, 736)),        # the longer and the shorter side, whichever they are
    ("mmocr", (500, 1500), (444, 1333), (448, 1344)),        # the longer side decides; 444.3
    ("mmocr", (11, 7), (1157, 736), (1184, 736)),            # 1156.57 + 0.5
])
def test_sizes(rule, image, resized, tensor):
    prepared = prepare(noise(*image), RULES[rule])
    assert prepared.original_size == image
    assert prepared.resized_size == resized
    assert prepared.tensor.shape == (1, 3, *tensor)
    assert prepared.tensor.dtype == np.float32
    assert prepared.tensor.flags.c_contiguous


def test_real_images_get_the_size_of_paddles_own_maps(need):
    for name in ("img_2", "img_7", "img_10"):
        image = read_image(need(f"data/icdar2015/test/images/{name}.jpg"))
        golden = cv2.imread(str(need(f"golden/db_mv3_icdar15/{name}.probability.png")), cv2.IMREAD_UNCHANGED)
        assert prepare(image, PADDLE_PIXELS).tensor.shape[2:] == golden.shape == (736, 1312)


@settings(max_examples=40)
@given(st.integers(1, 1500), st.integers(1, 1500), st.sampled_from(sorted(RULES)))
def test_every_image_becomes_a_multiple_of_32(height, width, rule):
    if max(height, width) > 4 * min(height, width):
        width = height
    prepared = prepare(np.zeros((height, width, 3), np.uint8), RULES[rule])
    assert not any(side % 32 for side in prepared.tensor.shape[2:])
    assert all(small <= large for small, large in zip(prepared.resized_size, prepared.tensor.shape[2:], strict=True))


# Values ---------------------------------------------------------------------------------------------------------------


def constant(bgr: tuple[int, int, int]) -> np.ndarray:
    return np.full((64, 64, 3), bgr, np.uint8)


def f32(value: float) -> np.float32:
    return np.float32(value)


@pytest.mark.parametrize("bgr", [(0, 0, 0), (255, 255, 255), (10, 200, 77), (1, 2, 3)])
def test_values_are_the_projects_own_to_the_last_bit(bgr):
    rgb, imagenet = bgr[::-1], ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
    small = {"size": (64, 64)}
    expected = {
        "mindocr": [(f32(v) - f32(255 * m)) / f32(255 * s) for v, (m, s) in zip(rgb, imagenet, strict=True)],
        "paddle": [(f32(v) * f32(1 / 255) - f32(m)) / f32(s) for v, (m, s) in zip(bgr, imagenet, strict=True)],
        "mhliao": [f32(v - m) / f32(255)
                   for v, m in zip(bgr, (122.67891434, 116.66876762, 104.00698793), strict=True)],
    }
    for rule, values in expected.items():
        tensor = prepare(constant(bgr), replace(RULES[rule], **small)).tensor
        assert tensor.shape == (1, 3, 64, 64)
        for channel, value in zip(tensor[0], values, strict=True):
            assert np.all(channel == value), rule


def plainly(image: np.ndarray, pixels: PixelFormat, resized: tuple[int, int]) -> np.ndarray:
    """The projects' arithmetic on whole images, step by step as they write it, (1, 3, h, w)."""
    image = image[:, :, ::-1] if pixels.colour == "RGB" else image
    image = image.astype(np.float32) if pixels.resize == "short_side" else np.ascontiguousarray(image)
    image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    if pixels.resize == "fit_pad_after":  # the pixels first, the padding when they are numbers
        numbers = (image.astype(np.float32) - np.float32(pixels.mean)) / np.float32(pixels.std)
        sides = [-side % 32 for side in resized]
        return np.pad(numbers.transpose(2, 0, 1), ((0, 0), (0, sides[0]), (0, sides[1])))[np.newaxis]
    if pixels.resize == "keep_ratio_pad":
        padded = np.zeros((*pixels.size, 3), np.uint8)
        padded[:resized[0], :resized[1]] = image
        image = padded
    mean, std = np.array(pixels.mean), np.array(pixels.std)
    if pixels.resize == "short_side":
        image = (image - mean).astype(np.float32) / std.astype(np.float32)
    elif pixels.resize == "short_side_min":
        image = (image.astype(np.float32) * np.float32(1 / 255) - (mean / 255).astype(np.float32))
        image = image / (std / 255).astype(np.float32)
    else:
        image = (image.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)
    return image.transpose(2, 0, 1)[np.newaxis]


@settings(max_examples=60)
@given(st.data())
def test_every_pixel_is_the_projects_own_to_the_last_bit(data):
    image = noise(*data.draw(st.tuples(*[st.integers(16, 300)] * 2).filter(lambda s: max(s) < 5 * min(s))))
    if data.draw(st.booleans()):
        image = cv2.GaussianBlur(image, (0, 0), 2)[:, ::-1]  # not contiguous either
    numbers = st.tuples(*[st.floats(0.01, 300)] * 3)
    rule, colour = data.draw(st.sampled_from(sorted(RULES))), data.draw(st.sampled_from(["RGB", "BGR"]))
    size = data.draw(st.tuples(*[st.sampled_from([32, 96, 160, 224])] * 2))
    pixels = replace(RULES[rule], colour=colour, size=size)
    if data.draw(st.booleans()):
        pixels = replace(pixels, mean=data.draw(numbers), std=data.draw(numbers))
    prepared = prepare(image, pixels)
    assert prepared.tensor.flags.c_contiguous
    expected = plainly(image, pixels, prepared.resized_size)
    assert expected.dtype == prepared.tensor.dtype
    assert expected.tobytes() == prepared.tensor.tobytes()


@pytest.mark.parametrize("pixels", [PADDLE_PP_PIXELS, replace(PADDLE_PIXELS, resize="stretch")])
def test_paddles_stretched_pixels_differ_in_the_last_bits_only(pixels):
    """They take MindOCR's way, see `prepare`."""
    pixels, image = replace(pixels, size=(64, 96)), noise(64, 96)
    mean, std = (np.float32(np.array(values) / 255) for values in (pixels.mean, pixels.std))
    theirs = ((image.astype(np.float32) * np.float32(1 / 255) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(prepare(image, pixels).tensor[0], theirs, rtol=0, atol=2e-6)


def test_padding_is_black_before_normalisation():
    prepared = prepare(constant((255, 255, 255)), replace(MINDOCR_PP_PIXELS, size=(64, 128)))
    assert prepared.resized_size == (64, 64)
    black = prepare(constant((0, 0, 0)), replace(MINDOCR_PIXELS, size=(64, 64))).tensor
    np.testing.assert_array_equal(prepared.tensor[..., 64:], black)
    assert np.all(prepared.tensor[..., :64] > 0)


def test_only_mhliao_resizes_floats():
    """Half way between 0 and 1: 8-bit resizing rounds, float resizing does not."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = 1
    halved = prepare(image, replace(MHLIAO_PIXELS, size=(32, 32))).tensor
    whole = prepare(image, replace(MINDOCR_PIXELS, size=(32, 32))).tensor
    assert np.all(halved[0, 0] == f32(0.5 - 122.67891434) / f32(255))
    assert set(np.unique(whole[0, 0])) <= {(f32(v) - f32(255 * 0.485)) / f32(255 * 0.229) for v in (0, 1)}


def test_the_image_is_not_changed():
    image = noise(50, 60)
    before = image.copy()
    for pixels in RULES.values():
        prepare(image, pixels)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("pixels", "size", "message"), [
    (replace(MINDOCR_PIXELS, size=(700, 1280)), (10, 10), "multiples of 32"),
    (replace(MINDOCR_PIXELS, size=(0, 0)), (10, 10), "multiples of 32"),
    (replace(MINDOCR_PIXELS, size=(2**15, 2**15)), (10, 10), "more than"),
    (PADDLE_PIXELS, (3, 3000), "more than"),
    (MHLIAO_PIXELS, (3, 3000), "more than"),
    (MMOCR_PIXELS, (1, 5000), "1 x 5000 pixels has too extreme an aspect ratio.*would become 0 x 1333; crop it"),
    (MMOCR_PIXELS, (5000, 1), "5000 x 1 pixels has too extreme an aspect ratio"),
    (replace(MMOCR_PIXELS, size=(0, 0)), (10, 10), "multiples of 32"),
    (replace(PADDLE_PIXELS, std=(1.0, 0.0, 1.0)), (10, 10), "divides by zero"),
])
def test_unusable_pixel_formats(pixels, size, message):
    with pytest.raises(DbnetError, match=message):
        prepare(np.zeros((*size, 3), np.uint8), pixels)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32),
                                   np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 4), np.uint8)])
def test_only_bgr_images(image):
    with pytest.raises(ValueError, match="an image is"):
        prepare(image, PADDLE_PIXELS)


# Files ----------------------------------------------------------------------------------------------------------------


def test_read_image_with_a_name_in_chinese_and_spaces(tmp_path):
    image = noise(8, 9)
    path = tmp_path / "图 像 é.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit"])
def test_other_pixel_types_become_bgr(tmp_path, kind):
    image = noise(8, 9)
    stored = {"grey": image[..., 0], "alpha": np.dstack([image, image[..., 0]]),
              "16 bit": image.astype(np.uint16) * 257}[kind]
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    expected = np.repeat(image[..., :1], 3, axis=2) if kind == "grey" else image
    np.testing.assert_array_equal(read_image(path), expected)


def test_exif_orientation_is_applied(tmp_path):
    """6: the camera was turned, and the stored picture has to be turned clockwise."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    turned = read_image(path)
    assert turned.shape == (32, 16, 3)
    assert turned[4].mean() < 20
    assert turned[-4].mean() > 235


@pytest.mark.parametrize("content", [None, b"", b"<html>not found</html>", b"\xff\xd8\xff\xe0\0\x10JFIF", "folder"])
def test_what_is_no_image_is_one_line(tmp_path, content):
    path = tmp_path / "img_1.jpg"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DbnetError, match=r"img_1\.jpg: .*; give a") as error:
        read_image(path)
    assert "\n" not in str(error.value)
