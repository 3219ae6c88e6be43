"""Sizes of images by their first bytes, against Pillow, which decides in MindOCR's converter."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from PIL import Image

from dbnet.datasets.synthtext_sizes import FOUND, MISSING, UNREADABLE, read_sizes

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8))


def exif(orientation: int) -> bytes:
    held = Image.Exif()
    held[0x0112] = orientation
    return held.tobytes()


@pytest.mark.parametrize(("suffix", "options"), [
    ("jpg", {}),
    ("jpg", {"progressive": True}),
    ("jpg", {"icc_profile": bytes(3000)}),
    ("jpg", {"icc_profile": bytes(400_000)}),
    ("jpg", {"exif": exif(6)}),
    ("jpg", {"comment": b"\xff\xc0" * 300}),
    ("png", {}), ("gif", {}), ("bmp", {}), ("webp", {}), ("tiff", {}),
])
def test_as_pillow_reads_it(tmp_path, suffix, options):
    path = tmp_path / f"picture.{suffix}"
    PICTURE.save(path, **options)
    (tmp_path / "named.jpg").write_bytes(path.read_bytes())  # the content decides, not the name
    sizes, states = read_sizes(str(tmp_path), [path.name, "named.jpg"])
    assert states.tolist() == [FOUND, FOUND]
    assert sizes.tolist() == [list(Image.open(path).size)] * 2 == [[53, 37]] * 2


def test_grey_and_deep_images(tmp_path):
    PICTURE.convert("L").save(tmp_path / "grey.jpg")
    Image.fromarray(np.full((9, 5), 60_000, np.uint16)).save(tmp_path / "deep.png")
    sizes, states = read_sizes(str(tmp_path), ["grey.jpg", "deep.png"])
    assert sizes.tolist() == [[53, 37], [5, 9]] and not states.any()


def test_filling_between_segments(tmp_path):
    PICTURE.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[:2] + b"\xff\xff\xff" + data[2:])
    assert read_sizes(str(tmp_path), ["b.jpg"])[0].tolist() == [[53, 37]]


def test_tables_before_the_frame(tmp_path):
    PICTURE.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    start = data.index(b"\xff\xc4")
    table = data[start:start + 2 + struct.unpack_from(">H", data, start + 2)[0]]
    (tmp_path / "b.jpg").write_bytes(data[:2] + table + data[2:])
    assert list(Image.open(tmp_path / "b.jpg").size) == read_sizes(str(tmp_path), ["b.jpg"])[0].tolist()[0] == [53, 37]


def test_what_is_no_image(tmp_path):
    PICTURE.save(tmp_path / "good.jpg")
    good = (tmp_path / "good.jpg").read_bytes()
    start = good.index(b"\xff\xc0")
    files = {"empty.jpg": b"", "short.jpg": good[:40], "text.jpg": b"what this text begins with is no image" * 100,
             "flat.jpg": good[:start + 5] + struct.pack(">HH", 0, 53) + good[start + 9:],
             "loop.jpg": b"\xff\xd8" + b"\xff\xe0\0\0" * 10_000, "start.png": b"\x89PNG\r\n\x1a\n"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [*files, "folder.jpg", "pipe.jpg", "nul\0.jpg", "absent.jpg", "good.jpg/below.jpg", "good.jpg"]
    _, states = read_sizes(str(tmp_path), names)
    assert states.tolist() == [UNREADABLE] * (len(files) + 3) + [MISSING, MISSING, FOUND]
