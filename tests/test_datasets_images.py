"""Image files of every kind: what is told of them, and which a detector cannot read."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dbnet.datasets.image_facts import first_frame, inspect_image
from dbnet.errors import DbnetError
from dbnet.preprocess import read_image

H, W = 60, 80
NOISE = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)


def encoded(form: str, image: Image.Image | None = None, **settings) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(NOISE) if image is None else image).save(stream, form, **settings)
    return stream.getvalue()


def oriented(orientation: int, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(form, exif=exif)


def frames(form: str) -> bytes:
    return encoded(form, save_all=True, append_images=[Image.fromarray(NOISE[::-1].copy())])


def deep(shape) -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 65535, shape, np.uint16))[1].tobytes()


JPEG, PNG = encoded("JPEG"), encoded("PNG")


@pytest.mark.parametrize(("name", "data", "notes"), [
    ("a.jpg", JPEG, []), ("a.png", PNG, []), ("a.bmp", encoded("BMP"), []), ("a.webp", encoded("WEBP"), []),
    ("a.tif", encoded("TIFF"), []), ("a.jpg", oriented(1), []),
    ("a.png", deep((H, W)), [("pixels", "16 bits or more, grey")]),
    ("a.png", deep((H, W, 3)), [("pixels", "16 bits or more")]),
    ("a.jpg", encoded("JPEG", Image.fromarray(NOISE).convert("L")), [("pixels", "grey")]),
    ("a.png", encoded("PNG", Image.fromarray(NOISE).convert("RGBA")), [("pixels", "transparent")]),
    ("a.png", encoded("PNG", Image.fromarray(NOISE).convert("LA")), [("pixels", "grey, transparent")]),
    ("a.png", encoded("PNG", Image.fromarray(NOISE).convert("1")), [("pixels", "grey")]),
    ("a.png", encoded("PNG", Image.fromarray(NOISE).convert("P")), []),
    ("a.jpg", encoded("JPEG", Image.fromarray(NOISE).convert("CMYK")), [("pixels", "CMYK")]),
    ("a.tif", frames("TIFF"), [("frames", "TIFF with more than one")]),
    ("a.jpg", PNG, [("suffix", "is a PNG")]), ("a.PNG", JPEG, [("suffix", "is a JPEG")]),
])
def test_what_opencv_reads(tmp_path, name, data, notes):
    (tmp_path / name).write_bytes(data)
    facts = inspect_image(tmp_path / name)
    assert (facts.size, facts.damage, facts.opencv, facts.orientation) == ((H, W), None, True, 1)
    assert list(facts.notes) == notes
    assert read_image(tmp_path / name).shape == (H, W, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation, form):
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(oriented(orientation, form))
    facts = inspect_image(path)
    assert (facts.size, facts.orientation) == ((H, W), orientation)
    assert read_image(path).shape[:2] == facts.shown_size


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none(tmp_path, orientation):
    (tmp_path / "a.jpg").write_bytes(oriented(orientation))
    assert inspect_image(tmp_path / "a.jpg").orientation == 1


@pytest.mark.parametrize("data", [frames("GIF"), encoded("GIF")], ids=["several frames", "one"])
def test_gif(tmp_path, data):
    (tmp_path / "a.gif").write_bytes(data)
    facts = inspect_image(tmp_path / "a.gif")
    assert (facts.size, facts.damage, facts.opencv) == ((H, W), None, False)
    assert [kind for kind, _ in facts.notes] == (["frames"] if data == frames("GIF") else [])
    frame = first_frame(tmp_path / "a.gif")
    assert frame.dtype == np.uint8
    # The palette moves colours a little; the second frame is the first upside down, which is far from it.
    assert np.abs(frame[..., ::-1].astype(int) - NOISE).mean() < 30


@pytest.mark.parametrize(("name", "data"), [
    ("a.jpg", b""), ("a.jpg", b"<html>not found</html>"), ("a.jpg", JPEG[:len(JPEG) // 2]), ("a.jpg", JPEG[:200]),
    ("a.jpg", JPEG[:3]), ("a.jpg", JPEG[:-2]), ("a.png", PNG[:len(PNG) // 2]), ("a.png", PNG[:20]), ("a.png", PNG[:8]),
    ("a.bmp", encoded("BMP")[:4000]), ("a.gif", encoded("GIF")[:20]),
    ("a.webp", encoded("WEBP")[:500]), ("a.jpg", b"version https://git-lfs.github.com/spec/v1\n"),
])
def test_damage(tmp_path, name, data, capfd):
    (tmp_path / name).write_bytes(data)
    assert inspect_image(tmp_path / name).damage
    assert capfd.readouterr() == ("", "")


def test_damage_that_only_opencv_finds(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG[:300] + b"\0" * 100 + PNG[400:])
    assert inspect_image(tmp_path / "a.png").damage


def test_more_pixels_than_opencv_takes(tmp_path):
    """A bomb: the header claims 1.6 billion pixels."""
    header = bytearray(encoded("BMP"))
    header[18:26] = (40_000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(header)
    assert inspect_image(tmp_path / "a.bmp").damage == "is too large for OpenCV"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("cut", range(2, 400, 23))
def test_a_file_cut_anywhere_is_told(tmp_path, cut):
    for name, data in (("a.jpg", JPEG), ("a.png", PNG), ("a.gif", frames("GIF")), ("a.tif", encoded("TIFF"))):
        (tmp_path / name).write_bytes(data[:cut])
        assert inspect_image(tmp_path / name).damage


@pytest.mark.parametrize(("shape", "noted"), [((1, 1), True), ((9, 300), True), ((10, 10), False),
                                              ((1, 20_000), True), ((3, 10_000), True)])
def test_sizes(tmp_path, shape, noted):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*shape, 3), np.uint8))
    facts = inspect_image(tmp_path / "a.png")
    assert (facts.size, facts.damage, facts.opencv) == (shape, None, True)
    assert [kind for kind, _ in facts.notes] == ["size"] * noted


def test_an_image_of_20000_pixels_squared_is_not_unfolded(tmp_path, monkeypatch):
    """400 million pixels: as grey bytes 0.4 GB, in colours 1.2 GB."""
    for suffix in ("png", "jpg"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.zeros((20_000, 20_000), np.uint8))
    decode, sizes = cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda *a: sizes.append((image := decode(*a)).size) or image)
    for suffix in ("png", "jpg"):
        facts = inspect_image(tmp_path / f"a.{suffix}")
        assert (facts.size, facts.damage, facts.opencv) == ((20_000, 20_000), None, True)
        assert ("size", "20000 x 20000 pixels") in facts.notes
    assert sizes == [2500 * 2500]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DbnetError, match="cannot be read"):
        inspect_image(tmp_path / "a.jpg")
