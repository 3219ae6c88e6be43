"""Folders, zips and files that labels and results come in: encodings, names that clash, damage and bombs."""

from __future__ import annotations

import contextlib
import os
import struct
import time
import zipfile

import pytest

from dbnet.datasets import archive
from dbnet.datasets.labels import FORMATS, read_labels
from dbnet.errors import DbnetError
from tests.test_labels import QUAD, write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = f"{QUAD},café{end}{QUAD},###{end}".encode(encoding)
    (sample,) = read_labels(write(tmp_path, {"gt_img_1.txt": text}), "icdar2015").samples
    assert sample.texts == ["caf\ufffd" if encoding == "latin-1" else "café", "###"]


def test_utf16_without_a_mark_is_no_number(tmp_path):
    with pytest.raises(DbnetError, match=r"gt_img_1\.txt, line 1: .*must be numbers"):
        read_labels(write(tmp_path, {"gt_img_1.txt": f"{QUAD},word".encode("utf-16-le")}))


def test_zips_with_folders(tmp_path):
    path = write(tmp_path / "gt.zip", {"a/b/gt_img_1.txt": f"{QUAD},a", "c\\gt_img_2.txt": f"{QUAD},b",
                                       "__MACOSX/a/b/gt_img_1.txt": "x", "a/.gt_img_3.txt": "x", "a/img_1.jpg": "x"})
    assert [sample.name for sample in read_labels(path).samples] == ["img_1", "img_2"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a/gt_img_1.txt", "b/gt_img_1.txt"), ("gt_img_1.txt", "gt_img_1.txt")])
def test_two_entries_of_one_name(tmp_path, names):
    path = tmp_path / "gt.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name in names:
            target.writestr(name, "")
    with pytest.raises(DbnetError, match=r"gt\.zip: holds gt_img_1.txt twice"):
        read_labels(path)


def test_encrypted_zip(tmp_path):
    path = write(tmp_path / "gt.zip", {"gt_img_1.txt": f"{QUAD},word"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(DbnetError, match=r"gt\.zip: cannot be read .*(encrypted|password)"):
        read_labels(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "gt.zip", "w", method) as target:
        target.writestr("gt_img_1.txt", "")
    with pytest.raises(DbnetError, match="zip it with deflate"):
        read_labels(tmp_path / "gt.zip")


def test_zip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL", 10_000)
    monkeypatch.setattr(archive, "MAX_BYTES", 1_000)
    many = write(tmp_path / "many.zip", {f"gt_img_{i}.txt": " " * 900 for i in range(12)})
    with pytest.raises(DbnetError, match=r"many\.zip: 10800 bytes, more than 10000"):
        read_labels(many)
    large = write(tmp_path / "large.zip", {"gt_img_1.txt": " " * 1001})
    with pytest.raises(DbnetError, match=r"large\.zip: gt_img_1\.txt: 1001 bytes, more than 1000"):
        read_labels(large)
    data = bytearray(large.read_bytes())  # a size that lies: what is read ends where it says, and the checksum fails
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 10)
    large.write_bytes(data)
    with pytest.raises(DbnetError, match="cannot be read"):
        read_labels(large)
    (tmp_path / "gt.txt").write_text(" " * 10_001)
    with pytest.raises(DbnetError, match=r"gt\.txt: 10001 bytes"):
        read_labels(tmp_path / "gt.txt")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "gt.txt")
    with pytest.raises(DbnetError, match=r"gt\.txt: is no regular file"):
        read_labels(tmp_path / "gt.txt")


@pytest.mark.parametrize("name", ["gt.zip", "gt.tar.gz", "gt.txt", "gt"])
def test_missing_files(tmp_path, name):
    with pytest.raises(DbnetError, match=r"cannot be read .*No such file.*; give a folder or a zip of \.txt or \.gt"):
        read_labels(tmp_path / name)


LONG = 100_000


HARD = {
    "line ends": "\n" * LONG, "blanks": " " * LONG, "a long number": "1" * LONG + "x", "commas": "," * LONG,
    "a record begins": "x: [[" + " " * LONG, "a record of line ends": "x: [[1]]" + "\n" * LONG + "]]" * 1000,
    "brackets": "x: [[1]], y: [[1]], ornt: [], transcriptions: [" + "] " * LONG, "quotes": '"' * LONG,
    "quotes and blanks": "1,2,3,4,5,6," + '" ' * LONG, "records": "x: [[1]], y: [[1]]\n" * (LONG // 10),
    "tabs": "a\t[" * LONG,
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_no_form_takes_the_square_of_the_text(tmp_path, text):
    """A zip of a few kilobytes may hold megabytes of it; squared, that is hours."""
    path = write(tmp_path, {"gt_img_1.txt": text})
    began = time.perf_counter()
    for dataset in (None, *FORMATS):
        with contextlib.suppress(DbnetError):
            read_labels(path, dataset)
    assert time.perf_counter() - began < 5
