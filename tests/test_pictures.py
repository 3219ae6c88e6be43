"""Pictures of results, texts cut out of them, GIF, and how large an image says it is."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dbnet import drawing
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.image_header import pixels_of, size_of
from dbnet.sample import Detection
from evaluation import pictures
from evaluation.pipeline import View


def file_of(image: np.ndarray, suffix: str, *settings: int) -> bytes:
    return cv2.imencode(suffix, image, list(settings))[1].tobytes()


def gif_of(*images: np.ndarray) -> bytes:
    frames, stream = [Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])) for image in images], io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


# Drawing --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.25, 4), st.integers(0, 2**32 - 1))
def test_the_tint_changes_where_the_map_says_text_and_nothing_else(height, width, scale, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    probability = np.where(rng.random(size) < 0.3, rng.random(size), 0).astype(np.float32)
    before = image.copy()
    drawing.tint(image, probability)
    level = cv2.resize(cv2.convertScaleAbs(probability, alpha=255), (width, height))
    colours = cv2.applyColorMap(level, cv2.COLORMAP_PLASMA)
    expected = np.where((level >= 0.1 * 255)[..., None], cv2.addWeighted(before, 0.5, colours, 0.5, 0), before)
    if probability.max() >= 0.11:  # else nothing is shown, whatever was between two pixels
        assert np.array_equal(image, expected)
    elif probability.max() < 0.09:
        assert np.array_equal(image, before)


def test_a_picture_has_the_boxes_and_the_map_or_the_boxes_only():
    image, polygons = draw(1, 200, 320)
    found = [Detection(polygon.astype(np.float32), 0.9) for polygon in polygons]
    probability = np.zeros((400, 640), np.float32)
    probability[300:320, 30:60] = 1
    with_map, without = (cv2.imdecode(array(pictures.picture(View(image.copy(), probability), found, overlay, ".png")),
                                      cv2.IMREAD_COLOR) for overlay in (True, False))
    lines = np.zeros((200, 320), np.uint8)
    cv2.polylines(lines, [np.round(polygon).astype(np.int32) for polygon in polygons], True, 1, 2)
    assert (without[lines > 0] == drawing.OUTLINE).all()
    assert np.array_equal(without[lines == 0], image[lines == 0])
    different = np.argwhere((with_map != without).any(axis=2) & (lines == 0))
    assert len(different) > 50
    assert different.min(axis=0).tolist() >= [149, 14]
    assert different.max(axis=0).tolist() <= [161, 31]


@pytest.mark.parametrize(("shape", "most"), [((6000, 7000), 2**25), ((1, 70_000), 65_000), ((70_000, 3), 65_000)])
def test_a_large_image_is_shown_smaller_and_its_boxes_with_it(shape, most):
    image = np.zeros((*shape, 3), np.uint8)
    small, scale = drawing.shown(image)
    height, width = small.shape[:2]
    assert min(height, width) >= 1
    assert height * width <= most or max(height, width) <= most
    assert max(height, width) == pytest.approx(max(shape) * scale, abs=1)
    box = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * (shape[1] - 1, shape[0] - 1)
    found = [Detection(box.astype(np.float32), 0.9)]
    data = pictures.picture(View(image, np.zeros((8, 8), np.float32)), found, True, ".jpg")
    picture = cv2.imdecode(array(data), cv2.IMREAD_COLOR)
    assert picture.shape == small.shape
    assert picture[-1, -1, 1] > 128  # its corner is where the image's is


@pytest.mark.parametrize("angle", [0, 7, 40, 90, 135, -80])
def test_a_text_is_cut_out_upright(angle):
    """A rectangle with a red left end and a blue right end; running downwards it is turned to the left."""
    image = np.full((300, 300, 3), 255, np.uint8)
    image[140:160, 100:200] = 0
    image[140:160, 100:110], image[140:160, 190:200] = (0, 0, 255), (255, 0, 0)
    turn = cv2.getRotationMatrix2D((150, 150), -angle, 1)
    image = cv2.warpAffine(image, turn, (300, 300), borderValue=(255, 255, 255))
    corners = np.array([[100, 140], [200, 140], [200, 160], [100, 160]], np.float32)
    crop = drawing.cut_out(image, cv2.transform(corners[None], turn)[0])
    assert crop.shape == (20, 100, 3)
    left, middle, right = (crop[10, x].astype(int) for x in (4, 50, 95))
    assert middle.max() < 60
    assert left[2] > 180 > left[0]
    assert right[0] > 180 > right[2]


def test_a_tall_text_is_turned_to_the_left():
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:20, 40:50] = 255  # its top
    crop = drawing.cut_out(image, np.array([[40, 10], [50, 10], [50, 60], [40, 60]], np.float32))
    assert crop.shape == (10, 50, 3)
    assert crop[5, 3].min() > 200 and crop[5, 40].max() < 50


@given(st.lists(st.tuples(st.integers(-20, 120), st.integers(-20, 120)), min_size=3, max_size=9))
def test_anything_can_be_cut_out(points):
    """Polygons, also without area or beyond the image."""
    crop = drawing.cut_out(np.zeros((100, 90, 3), np.uint8), np.array(points, np.float32))
    assert crop.dtype == np.uint8 and crop.ndim == 3 and min(crop.shape[:2]) >= 1
    assert drawing.encoded(crop, ".jpg")


def test_what_no_file_can_hold_is_one_line():
    with pytest.raises(DbnetError, match=r"70000.*\.jpg"):
        drawing.encoded(np.zeros((1, 70_000, 3), np.uint8), ".jpg")


# Reading --------------------------------------------------------------------------------------------------------------


def decoded(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return pictures.decode(array(data), path)


def test_the_first_frame_of_a_gif(tmp_path):
    first, second = np.full((40, 60, 3), (200, 30, 90), np.uint8), np.zeros((40, 60, 3), np.uint8)
    image = decoded(tmp_path / "a.gif", gif_of(first, second))
    assert image.flags["C_CONTIGUOUS"]
    assert np.abs(image.astype(int) - first).max() <= 8  # a palette of 256 colours


@pytest.mark.parametrize("data", [b"GIF89a", b"GIF89a" + b"\xff" * 90, b"GIF89a" + b"\x10\0\x10\0" + b"\0" * 90,
                                  "cut"], ids=["begin", "huge", "nothing", "cut"])
def test_a_bad_gif_is_one_line(data, tmp_path):
    data = gif_of(draw(1)[0])[:3000] if data == "cut" else data
    with pytest.raises(DbnetError, match=r"/a\.gif: .*PNG"):
        decoded(tmp_path / "a.gif", data)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff", "progressive", "exif"])
@pytest.mark.parametrize("shape", [(1, 1), (31, 700), (700, 31)])
def test_headers_tell_the_size(suffix, shape):
    image = np.zeros((*shape, 3), np.uint8)
    if suffix == ".gif":
        data = gif_of(image)
    elif suffix == "exif":
        exif, stream = Image.Exif(), io.BytesIO()
        exif[0x0112], exif[0x010F] = 6, "maker" * 5000
        Image.fromarray(image).save(stream, "JPEG", exif=exif)
        data = stream.getvalue()
    else:
        progressive = suffix == "progressive"
        data = file_of(image, ".jpg" if progressive else suffix, *([cv2.IMWRITE_JPEG_PROGRESSIVE, 1] * progressive))
    assert size_of(data) == shape
    assert pixels_of(array(data)) == shape[0] * shape[1]


@given(st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tiff"]), st.data())
def test_no_header_is_believed_to_be_whole(suffix, data):
    content = bytearray(file_of(np.zeros((9, 9, 3), np.uint8), suffix))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    size = size_of(bytes(content[:data.draw(st.integers(0, len(content)))]))
    assert size is None or (len(size) == 2 and min(size) >= 0)
