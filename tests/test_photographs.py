"""Images as two models see them: turned or as stored, GIFs, and shapes that one of them refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from dbnet.datasets.drawn import draw
from dbnet.spec import MHLIAO_PIXELS, MINDOCR_PIXELS
from evaluation.compare_maps import Boxes, Found, ImageComparison
from parity.gallery import Gallery
from parity.models import ModelComparison, _compare_pixels
from parity.photographs import Photograph

#: Height and width as stored.
SIZE = (64, 96)
GRID = replace(MINDOCR_PIXELS, resize="grid")


def written(path, orientation=1):
    """A drawn picture in a file with that EXIF orientation (6: it is to be turned clockwise, 3: upside down)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(draw(1, *SIZE)[0][..., ::-1]))
    image.save(path, **({} if path.suffix == ".gif" else {"exif": exif}))
    return path


def compared(right, wrong, *photographs):
    result = ModelComparison("same", [])
    sides = (SimpleNamespace(pixels=pixels, runner=None, model=None) for pixels in (right, wrong))
    _compare_pixels(*sides, photographs, result)
    return result


@pytest.mark.parametrize(("orientation", "shape"), [(1, SIZE), (3, SIZE), (6, SIZE[::-1])])
def test_a_photograph_is_turned_for_those_who_turn_it(orientation, shape, tmp_path):
    photograph = Photograph.read(written(tmp_path / "a.png", orientation))
    assert photograph.seen_by(GRID).shape[:2] == shape and photograph.is_upright == (orientation == 1)
    assert photograph.seen_by(replace(GRID, ignore_orientation=True)).shape[:2] == SIZE
    result = compared(GRID, replace(GRID, ignore_orientation=True), photograph)
    [row] = result.rows
    assert row.passed == (orientation == 1)
    if row.passed:
        assert "differ in ignore_orientation" in result.notes[0] and not result.causes
        return
    [cause] = result.causes
    assert (cause.cause, cause.residual, cause.explained) == ("resize_rule", 0.0, True)
    assert "ignore_orientation is True" in cause.what and not result.notes
    assert ("64 x 96 px" in row.why) == (orientation == 6)


@pytest.mark.parametrize("more", [False, True])
def test_a_picture_of_an_absurd_shape_is_one_that_cannot_be_compared(more):
    """Told in its row where there is no other picture."""
    wide = Photograph.of(np.zeros((1, 3000, 3), np.uint8))
    result = compared(GRID, MHLIAO_PIXELS, wide, *([Photograph.of(draw(1, 736, 1280)[0])] if more else []))
    [row] = result.rows
    assert not row.passed and ("more than 67108864 pixels; crop it" in row.why) == (not more)
    assert [cause.cause for cause in result.causes] == ["resize_rule", "color_order", "normalization"]
    assert result.causes[-1].residual == 0 and (result.causes[0].before == math.inf) == (not more)


@pytest.mark.parametrize(("name", "orientation", "ignored", "shape"), [
    ("a.gif", 1, False, SIZE), ("a.png", 6, False, SIZE[::-1]), ("a.png", 6, True, SIZE), ("a.png", 1, True, SIZE)])
def test_the_page_shows_an_image_as_a_sees_it(name, orientation, ignored, shape, tmp_path):
    gallery = Gallery(True, ignored)
    found = Found(np.full(shape, 0.75, np.float32), [], shape)
    image = ImageComparison(name, 0.5, 0.1, (shape, shape), Boxes(), 0)
    gallery.observe(image, written(tmp_path / name, orientation), found, found)
    [picture] = gallery.pictures()
    sheet = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape[1] == shape[1] and sheet.shape[0] > shape[0]
    (tmp_path / name).unlink()
    assert gallery.pictures() == []
