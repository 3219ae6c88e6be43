"""SynthText's preprocessing: labels, paths and damage that must end in one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from dbnet.datasets import synthtext, synthtext_convert
from dbnet.errors import DbnetError
from tests.mat_scenes import Writer, cell_row
from tests.synthtext_scenes import IMAGES, as_mindocr_reads, draw_set, write


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """So that a few images make several parts."""
    monkeypatch.setattr(synthtext_convert, "AT_ONCE", 7)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("synthtext")
    return folder, draw_set(folder)


def one_line(call, *arguments, **options) -> str:
    with pytest.raises(DbnetError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(cells: dict[str, np.ndarray], name: str, entry: int, value: object) -> dict[str, np.ndarray]:
    rows = {key: row.copy() for key, row in cells.items()}
    rows[name][0, entry] = value
    return rows


@pytest.mark.parametrize(("change", "told"), [
    (lambda cells: {key: row for key, row in cells.items() if key != "txt"}, "no txt, only charBB, wordBB, imnames"),
    (lambda cells: {"polygt": cells["txt"]}, "holds no imnames and no wordBB and no txt, only polygt"),
    (lambda cells: {**cells, "wordBB": cells["wordBB"][:, 1:]}, "'wordBB': has 39 entries, and imnames 40"),
    (lambda cells: {**cells, "charBB": cells["charBB"][:, 1:]}, "'charBB': has 39 entries"),
    (lambda cells: {**cells, "txt": np.zeros((1, IMAGES))}, "'txt': is not one row of cells"),
    (lambda cells: {name: row.reshape(2, -1) for name, row in cells.items()}, "2 x 20"),
    (lambda cells: {name: row[:, :0] for name, row in cells.items()}, "holds no images|is not one row"),
    (lambda cells: changed(cells, "wordBB", 30, np.zeros((2, 5, 3))), "'wordBB', entry 31: 2 x 5 x 3"),
    (lambda cells: changed(cells, "wordBB", 30, np.zeros((4, 2))), "entry 31: 4 x 2"),
    (lambda cells: changed(cells, "wordBB", 30, np.zeros((2, 4, 3, 2))), "entry 31: 2 x 4 x 3 x 2"),
    (lambda cells: changed(cells, "wordBB", 30, np.array(["ab"])), "entry 31: 1 x 2 of class 4"),
    (lambda cells: changed(cells, "txt", 30, np.ones((1, 3))), "'txt', entry 31: is not a text"),
    (lambda cells: changed(cells, "imnames", 30, "/etc/passwd"), "'imnames', entry 31: '/etc/passwd' is no image"),
    (lambda cells: changed(cells, "imnames", 30, "1/../../secret.jpg"), "entry 31: '1/../../secret.jpg' is no image"),
    (lambda cells: changed(cells, "imnames", 30, np.array(["a.jpg", "b.jpg"])), "entry 31: '' is no image"),
    (lambda cells: changed(cells, "imnames", 30, ""), "entry 31: '' is no image"),
])
@pytest.mark.parametrize("compress", [False, True])
def test_labels_that_are_refused(drawn, tmp_path, change, told, compress):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", change(cells), compress)
    message = one_line(synthtext.convert, labels, folder, tmp_path / "a.mat")
    assert re.search(told, message)
    assert os.listdir(tmp_path) == ["gt.mat"]


def test_damaged_characters_are_not_copied(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells, compress=True)
    data = bytearray(labels.read_bytes())
    data[1000] ^= 64  # charBB comes first and is the largest
    labels.write_bytes(data)
    assert "'charBB'" in one_line(synthtext.convert, labels, folder, tmp_path / "a.mat")
    assert os.listdir(tmp_path) == ["gt.mat"]


def test_paths_that_are_refused(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)
    convert = synthtext.convert
    assert "is a folder; give the gt.mat in it" in one_line(convert, tmp_path, folder, tmp_path / "a.mat")
    assert "cannot be read" in one_line(convert, tmp_path / "absent.mat", folder, tmp_path / "a.mat")
    assert "no such folder" in one_line(convert, labels, tmp_path / "absent", tmp_path / "a.mat")
    assert "no such folder" in one_line(convert, labels, labels, tmp_path / "a.mat")
    (tmp_path / "empty").mkdir()
    assert "none of the 40 images" in one_line(convert, labels, tmp_path / "empty", tmp_path / "a.mat")
    (tmp_path / "empty/below").symlink_to(folder)
    assert f"it is in {tmp_path}/empty/below" in one_line(convert, labels, tmp_path / "empty", tmp_path / "a.mat")
    assert "workers must be" in one_line(convert, labels, folder, tmp_path / "a.mat", workers=0)
    assert "no such folder" in one_line(convert, labels, folder, tmp_path / "deep/a.mat")
    assert "stay a .mat file" in one_line(convert, labels, folder, tmp_path / "a.txt")
    (tmp_path / "empty/b.mat").mkdir()
    assert "is a folder" in one_line(convert, labels, folder, tmp_path / "empty/b.mat", force=True)
    assert sorted(os.listdir(tmp_path)) == ["empty", "gt.mat"]


def test_files_that_are_not_replaced(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)
    convert = synthtext.convert
    os.link(labels, tmp_path / "same.mat")
    (tmp_path / "photo.mat").write_bytes(b"\xff\xd8 a photograph")
    (tmp_path / "old.mat").write_bytes(Writer().header())
    before = labels.read_bytes()
    assert "exists already; add --force" in one_line(convert, labels, folder, tmp_path / "old.mat")
    for name in ("gt.mat", "same.mat"):
        assert "is the source itself" in one_line(convert, labels, folder, tmp_path / name, force=True)
    assert "is no .mat file" in one_line(convert, labels, folder, tmp_path / "photo.mat", force=True)
    assert labels.read_bytes() == before
    convert(labels, folder, tmp_path / "old.mat", force=True)
    assert len(as_mindocr_reads(tmp_path / "old.mat")) == IMAGES


def test_a_stop_leaves_nothing_behind(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)

    def stop(done: int, _total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthtext.convert(labels, folder, tmp_path / "a.mat", progress=stop)
    assert os.listdir(tmp_path) == ["gt.mat"]


def test_a_full_disk_leaves_nothing_behind(drawn, tmp_path, monkeypatch):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)
    (tmp_path / "a.mat").write_bytes(Writer().header())

    def full(stream, *_others) -> None:
        stream.write(b"something")
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(synthtext, "write_labels", full)
    assert "the disk is full" in one_line(synthtext.convert, labels, folder, tmp_path / "a.mat", force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.mat", "gt.mat"]
    assert (tmp_path / "a.mat").read_bytes() == Writer().header()


def small_file(compress: bool) -> bytes:
    stream = io.BytesIO()
    boxes = np.float32(np.random.default_rng(0).uniform(0, 30, (2, 4, 2)))
    savemat(stream, {"wordBB": cell_row([boxes, boxes[..., 0]]), "imnames": cell_row(["1/a.jpg", "1/b.jpg"]),
                     "txt": cell_row([np.array(["ab c"]), np.array(["d"])]), "charBB": cell_row([boxes, boxes])},
            do_compression=compress)
    return stream.getvalue()


SMALL = [small_file(False), small_file(True)]


CHANGES = st.lists(st.tuples(st.integers(128, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


@given(st.sampled_from(SMALL), CHANGES)
@settings(max_examples=150)
def test_damage_is_told_or_harmless(tmp_path_factory, data, changes):
    folder = tmp_path_factory.mktemp("damaged")
    spoilt = bytearray(data)
    for at, value in changes:
        spoilt[at % len(data)] = value
    (folder / "gt.mat").write_bytes(spoilt)
    with contextlib.suppress(DbnetError):
        synthtext.convert(folder / "gt.mat", None, folder / "a.mat")
        as_mindocr_reads(folder / "a.mat")
        list(synthtext.load(folder / "a.mat", folder))
