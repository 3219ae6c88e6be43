"""ICDAR 2015: layouts, label lines, and everything that can be wrong with them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets import archive
from dbnet.datasets.archive import natural_order, read_texts
from dbnet.datasets.icdar2015 import load, parse_labels
from dbnet.errors import DbnetError

LINE = "10,20,110,22,109,52,9,50,word"
LABELS = {f"gt_img_{i}.txt": f"\ufeff{LINE}{i}\r\n1,2,3,2,3,4,1,4,###\r\n" for i in (1, 2, 10)}


def make(folder: Path, images=("img_1.jpg", "img_2.jpg", "img_10.jpg"), labels="gt", texts=None) -> Path:
    """A data set whose images are empty files: `load` does not open them."""
    (folder / "images").mkdir(parents=True)
    for image in images:
        (folder / "images" / image).touch()
    texts = LABELS if texts is None else texts
    if labels.endswith(".zip"):
        with zipfile.ZipFile(folder / labels, "w", zipfile.ZIP_DEFLATED) as target:
            for name, text in texts.items():
                target.writestr(name, text)
    elif labels:
        (folder / labels).mkdir()
        for name, text in texts.items():
            (folder / labels / name).write_bytes(text.encode())
    return folder


# Layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "test"])
@pytest.mark.parametrize("labels", ["gt", "gt.zip", "Challenge4_Test_Task1_GT.zip"])
def test_layouts(tmp_path, below, labels):
    make(tmp_path / "data" / below, labels=labels)
    samples = load(tmp_path / "data")
    assert [sample.name for sample in samples] == ["img_1.jpg", "img_2.jpg", "img_10.jpg"]
    for sample, number in zip(samples, (1, 2, 10), strict=True):
        assert sample.image.is_file()
        assert sample.texts == [f"word{number}", "###"]
        assert sample.ignore.tolist() == [False, True]
        np.testing.assert_array_equal(sample.polygons[0], [[10, 20], [110, 22], [109, 52], [9, 50]])
        assert sample.polygons[0].dtype == np.float64


def test_only_images_that_exist_count(tmp_path):
    make(tmp_path, images=("img_10.JPG", "Thumbs.db", "._img_2.jpg", "notes.txt"))
    (tmp_path / "images" / "img_1.jpg").mkdir()
    assert [sample.name for sample in load(tmp_path)] == ["img_10.JPG"]


def test_a_zip_with_folders_and_hidden_files(tmp_path):
    texts = {f"gt/{name}": text for name, text in LABELS.items()}
    texts |= {"__MACOSX/gt/._gt_img_1.txt": "\0\1", "gt/.hidden.txt": "x", "readme.md": "x", "gt/": ""}
    make(tmp_path, labels="gt.zip", texts=texts)
    assert len(load(tmp_path)) == 3
    assert not (tmp_path / "gt").exists()


def test_real_data(need):
    samples = load(need("data/icdar2015"))
    assert [sample.name for sample in samples] == [f"img_{i}.jpg" for i in range(1, 201)]
    texts = read_texts(need("data/icdar2015/test/gt.zip"))
    assert len(texts) == 500
    everything = [parse_labels(text, name, Path(name)) for name, text in texts.items()]
    assert sum(len(sample.texts) for sample in everything) == 5230
    assert sum(np.sum(~sample.ignore) for sample in everything) == 2077
    assert len(load(need("data/icdar2015/train"))) == 1000


@pytest.mark.parametrize(("build", "message"), [
    (lambda d: d / "nowhere", "nowhere: is no folder; ICDAR 2015 is looked for as images/ beside gt/ or gt.zip"),
    (lambda d: d, "neither images/ nor test/images/"),
    (lambda d: make(d, images=()), "no images"),
    (lambda d: make(d, images=("img_1.gif",)), "no images"),
    (lambda d: make(d, labels=""), "no labels; put the labels beside images/"),
    (lambda d: make(d, images=("img_1.jpg", "img_7.jpg")), r"no gt_img_7.txt for the image .*img_7.jpg"),
    (lambda d: make(d, texts={"gt_img_1.txt": LINE, "gt_img_2.txt": f"{LINE}\n\n1,2,3,4\n", "gt_img_10.txt": ""}),
     r"gt_img_2\.txt, line 3: 4 fields"),
])
def test_wrong_folders(tmp_path, build, message):
    with pytest.raises(DbnetError, match=message) as error:
        load(build(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_two_label_zips(tmp_path):
    make(tmp_path, labels="train_gt.zip")
    (tmp_path / "test_gt.zip").touch()
    with pytest.raises(DbnetError, match=r"several label zips \(test_gt.zip, train_gt.zip\)"):
        load(tmp_path)


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "text"), [
    (LINE, "word"), (f"{LINE},with,commas", "word,with,commas"), ("1,2,3,4,5,6,7,8,", ""),
    ("1,2,3,4,5,6,7,8,###", "###"), ("1,2,3,4,5,6,7,8, ###", " ###"),
    ('1,2,3,4,5,6,7,8,"a ""b"', 'a ""b'), (r'1,2,3,4,5,6,7,8,"a \"b\" \\"', 'a "b" \\'),
    ("-3,2.5,3, 4 ,5,6,7,8,a\u2028b", "a\u2028b"), ("1,2,3,4,5,6,7,8,日本語", "日本語"),
])
def test_lines(line, text):
    sample = parse_labels(f"{line}\r\n", "gt.txt", Path("img.jpg"))
    assert sample.texts == [text]
    assert sample.ignore.tolist() == [text == "###"]


def test_coordinates():
    (polygon,) = parse_labels("-3,2.5,3, 4 ,5,6,7,8,x", "", Path()).polygons
    np.testing.assert_array_equal(polygon, [[-3, 2.5], [3, 4], [5, 6], [7, 8]])


def test_no_text_at_all():
    sample = parse_labels("\r\n  \n", "", Path())
    assert (sample.polygons, sample.texts) == ([], [])
    assert sample.ignore.shape == (0,)
    assert sample.ignore.dtype == bool


@pytest.mark.parametrize("line", ["1,2,3,4,5,6,7,8", "hello", "1,2,3,4,5,6,7,x,word", "1,2,3,4,5,6,,8,word",
                                  "1,2,3,4,5,6,7,nan,word", "1,2,3,4,5,6,7,1e999,word", "1,2,3,4,5,6,7,99999999,word",
                                  "1,2,3,4,5,6,7,1_0,word", "1;2;3;4;5;6;7;8;word", "\0" * 50])
def test_malformed_lines_name_file_and_number(line):
    with pytest.raises(DbnetError, match=r"^gt_img_4\.txt, line 3: ") as error:
        parse_labels(f"{LINE}\n\n{line}\n{LINE}", "gt_img_4.txt", Path())
    assert len(str(error.value)) < 250


@given(st.text())
def test_any_text_is_labels_or_one_line(text):
    try:
        sample = parse_labels(text, "gt.txt", Path())
    except DbnetError as error:
        assert str(error).startswith("gt.txt, line ")  # noqa: PT017 (both outcomes are right)
    else:
        assert len(sample.polygons) == len(sample.texts) == len(sample.ignore)


# Archives -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\3\4" + bytes(30)])
def test_what_is_no_zip(tmp_path, content):
    path = tmp_path / "gt.zip"
    path.write_bytes(content)
    with pytest.raises(DbnetError, match=r"gt\.zip: cannot be read .*; give a folder or a zip"):
        read_texts(path)


def test_a_damaged_zip(tmp_path):
    make(tmp_path, labels="gt.zip", texts={name: text * 50 for name, text in LABELS.items()})
    data = bytearray((tmp_path / "gt.zip").read_bytes())
    data[60:80] = bytes(20)
    (tmp_path / "gt.zip").write_bytes(data)
    with pytest.raises(DbnetError, match=r"gt\.zip: cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("labels", ["gt", "gt.zip"])
def test_a_text_file_that_is_too_large_is_not_read(tmp_path, labels):
    """Zeros deflate a thousandfold: a small zip can hold gigabytes."""
    make(tmp_path, labels=labels, texts=LABELS | {"gt_img_9.txt": "0" * (archive.MAX_BYTES + 1)})
    with pytest.raises(DbnetError, match=r"gt_img_9\.txt: \d+ bytes, more than"):
        load(tmp_path)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "gt_img_1.txt").write_bytes(LINE.encode() + b"\xe9\xff")
    assert read_texts(tmp_path) == {"gt_img_1.txt": f"{LINE}\ufffd\ufffd"}


def test_natural_order():
    names = ["b1", "a", "img_10.jpg", "img_2.jpg", "img_2a.jpg", "7", "img_.jpg", "img_" + "9" * 5000 + ".jpg"]
    assert sorted(names, key=natural_order) == [
        "7", "a", "b1", "img_2.jpg", "img_2a.jpg", "img_10.jpg", "img_" + "9" * 5000 + ".jpg", "img_.jpg"]
