"""SynthText's preprocessing against MindOCR's rule written out."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from dbnet.datasets import synthtext, synthtext_convert
from tests.mat_scenes import Writer, cell_row
from tests.synthtext_scenes import (
    IMAGES,
    as_mindocr_reads,
    assert_same,
    draw_set,
    expected,
    split_words,
    write,
)
from tests.test_synthtext_boxes import diamonds, plainly


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """So that a few images make several parts."""
    monkeypatch.setattr(synthtext_convert, "AT_ONCE", 7)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("synthtext")
    return folder, draw_set(folder)


# The result -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_as_mindocr_does_it(drawn, tmp_path, compress):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells, compress)
    summary = synthtext.convert(labels, folder, tmp_path / "gt_processed.mat")
    assert_same(as_mindocr_reads(tmp_path / "gt_processed.mat"), expected(cells, folder))
    before, after = loadmat(str(labels)), loadmat(str(tmp_path / "gt_processed.mat"))
    assert {name: value.shape for name, value in after.items() if name[0] != "_"} == dict.fromkeys(cells, (1, IMAGES))
    for a, b in zip(before["charBB"][0], after["charBB"][0], strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert summary.sha256 == hashlib.sha256((tmp_path / "gt_processed.mat").read_bytes()).hexdigest()
    assert (summary.images, summary.kept_images) == (IMAGES, IMAGES)
    assert summary.kept_words == sum(len(words) for _, _, words in expected(cells, folder))


def test_the_hash_is_the_same_for_every_run_and_worker_count(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)
    hashes = {synthtext.convert(labels, folder, tmp_path / "a.mat", workers=workers, force=True).sha256
              for workers in (1, 2, 5, None, 1)}
    assert len(hashes) == 1


def test_big_endian_labels(drawn, tmp_path):
    folder, cells = drawn
    writer = Writer(">")
    rows = {"charBB": [writer.numbers(box) for box in cells["charBB"][0]],
            "wordBB": [writer.numbers(box) for box in cells["wordBB"][0]],
            "imnames": [writer.text([name], "uint16") for name in cells["imnames"][0]],
            "txt": [writer.text(texts.tolist(), "uint8") for texts in cells["txt"][0]]}
    (tmp_path / "gt.mat").write_bytes(writer.file(*(writer.cells(row, name) for name, row in rows.items())))
    synthtext.convert(tmp_path / "gt.mat", folder, tmp_path / "a.mat")
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), expected(cells, folder))
    found = loadmat(str(tmp_path / "a.mat"))["charBB"][0]
    assert all(np.array_equal(a, b) for a, b in zip(found, cells["charBB"][0], strict=True))


@pytest.mark.parametrize("compress", [False, True])
def test_images_that_are_missing_or_no_images(drawn, tmp_path, compress):
    folder, cells = drawn
    for path in sorted(folder.rglob("*.jpg")):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        os.link(path, tmp_path / path.relative_to(folder))
    gone = [0, 12, 13, 39]
    for i in gone:
        (tmp_path / cells["imnames"][0, i]).unlink()
    (tmp_path / cells["imnames"][0, 20]).unlink()
    (tmp_path / cells["imnames"][0, 20]).write_bytes(b"\xff\xd8 no picture")
    summary = synthtext.convert(write(tmp_path / "gt.mat", cells, compress), tmp_path, tmp_path / "a.mat")
    kept = [i for i in range(IMAGES) if i not in (*gone, 20)]
    left = {name: row[:, kept] for name, row in cells.items()}
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), expected(left, folder))
    found = loadmat(str(tmp_path / "a.mat"))["charBB"][0]
    assert all(np.array_equal(a, b) for a, b in zip(found, left["charBB"][0], strict=True))
    assert [fault.entry - 1 for fault in summary.faults.of("missing")] == gone
    assert [str(fault) for fault in summary.faults.of("unreadable")] == [
        f"{cells['imnames'][0, 20]}: left out: no image that can be read"]
    assert summary.kept_images == IMAGES - 5
    assert synthtext.convert(tmp_path / "gt.mat", tmp_path, tmp_path / "a.mat", workers=3, force=True
                             ).sha256 == summary.sha256


def test_every_repair_is_counted_and_listed(drawn, tmp_path):
    folder, cells = drawn
    labels = write(tmp_path / "gt.mat", cells)
    summary = synthtext.convert(labels, folder, tmp_path / "a.mat")
    faults = list(summary.faults)
    assert summary.counts == {kind: sum(fault.kind == kind for fault in faults) for kind in summary.counts}
    assert set(summary.counts) >= {"reordered", "clipped", "invalid", "outside", "whole", "count", "no words"}
    assert [fault.entry for fault in faults] == sorted(fault.entry for fault in faults)
    assert [(fault.entry, fault.detail) for fault in summary.faults.of("count")] == [
        (i + 1, f"{loaded} boxes and {words} words; what has no partner is dropped")
        for i, (loaded, words) in enumerate((cells["wordBB"][0, i].size // 8,
                                             len(split_words(cells["txt"][0, i]))) for i in range(IMAGES))
        if loaded != words]
    empty = [i + 1 for i, (_, _, words) in enumerate(expected(cells, folder)) if not words]
    assert [fault.entry for fault in summary.faults.of("no words")] == empty
    assert {8, 9} <= set(empty)
    dropped = sum(summary.counts.get(kind, 0) for kind in ("invalid", "outside", "flat", "whole"))
    pairs = sum(min(row.size // 8, len(split_words(texts)))
                for row, texts in zip(cells["wordBB"][0], cells["txt"][0], strict=True))
    assert summary.kept_words == pairs - dropped
    assert str(summary.faults.of("whole")[0]) == "2/img_10.jpg, word 1: dropped: the whole image"
    assert summary.faults[-1] == faults[-1] and list(summary.faults[2:4]) == faults[2:4]
    checked = synthtext.check(labels, folder)
    assert list(checked.faults) == faults and checked.kept_words == summary.kept_words
    assert checked.sha256 == summary.sha256


def test_what_is_converted_stays_as_it_is(drawn, tmp_path):
    folder, cells = drawn
    synthtext.convert(write(tmp_path / "gt.mat", cells), folder, tmp_path / "a.mat")
    again = synthtext.convert(tmp_path / "a.mat", folder, tmp_path / "b.mat")
    assert not set(again.counts) & {"invalid", "outside", "flat", "whole", "count", "clipped", "missing"}
    assert [words for _, _, words in as_mindocr_reads(tmp_path / "b.mat")] == [
        words for _, _, words in as_mindocr_reads(tmp_path / "a.mat")]


def test_without_images_only_zero_is_an_edge(drawn, tmp_path):
    _, cells = drawn
    summary = synthtext.convert(write(tmp_path / "gt.mat", cells), None, tmp_path / "a.mat")
    assert "sizes are not known" in summary.notes[0]
    wanted = []
    for name, boxes, rows in zip(cells["imnames"][0], cells["wordBB"][0], cells["txt"][0], strict=True):
        words = split_words(rows)
        kept = [(plainly(quad, 10**6 + 1, 10**6 + 1), word)
                for quad, word in zip(boxes.transpose().reshape(-1, 4, 2), words)]  # noqa: B905
        wanted.append((name, np.array([q for q, _ in kept if q is not None]).reshape(-1, 4, 2),
                       [word for q, word in kept if q is not None]))
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), wanted)


def test_words_of_any_alphabet_and_length(drawn, tmp_path):
    """MindOCR's converter stops at the first letter that is not ASCII."""
    folder, cells = drawn
    rows = [["é", "日本 x"], ["😀"], ["ab"], ["abcd"], ["abcde f"]]
    boxes = [np.tile(np.float32([[1, 5, 5, 1], [1, 1, 5, 5]])[..., None], (1, 1, len(" ".join(row).split())))
             for row in rows]
    few = {"wordBB": cell_row(boxes), "txt": cell_row([np.array(row) for row in rows]),
           "imnames": cells["imnames"][:, :5]}
    synthtext.convert(write(tmp_path / "gt.mat", few), folder, tmp_path / "a.mat")
    wanted = [" ".join(row).split() for row in rows]
    assert [words for _, _, words in as_mindocr_reads(tmp_path / "a.mat")] == wanted
    assert [sample.texts for sample in synthtext.load(tmp_path / "a.mat", folder)] == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_are_sorted_in_the_precision_that_they_have(drawn, tmp_path, dtype):
    folder, cells = drawn
    quads = diamonds(300).astype(dtype)
    few = {"wordBB": cell_row([quads.transpose(2, 1, 0)]), "txt": cell_row([np.array(["x"] * 300)]),
           "imnames": cells["imnames"][:, :1]}
    synthtext.convert(write(tmp_path / "gt.mat", few), folder, tmp_path / "a.mat")
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), expected(few, folder))
    samples = synthtext.load(tmp_path / "gt.mat", folder)
    assert np.array_equal(samples[0].polygons, quads)


def test_a_word_with_a_nul_in_it_stays_one_word(drawn, tmp_path):
    """Readers take NULs at the end of a row for padding."""
    folder, cells = drawn
    box = np.tile(np.float32([[1, 5, 5, 1], [1, 1, 5, 5]])[..., None], (1, 1, 3))
    writer = Writer()  # SciPy writes a blank instead
    (tmp_path / "gt.mat").write_bytes(writer.file(
        writer.cells([writer.numbers(box)], "wordBB"), writer.cells([writer.text(["\0 a\0b c"])], "txt"),
        writer.cells([writer.text([cells["imnames"][0, 0]])], "imnames")))
    synthtext.convert(tmp_path / "gt.mat", folder, tmp_path / "a.mat")
    assert as_mindocr_reads(tmp_path / "a.mat")[0][2] == ["\ufffd", "a\ufffdb", "c"]


def test_labels_without_characters(drawn, tmp_path):
    folder, cells = drawn
    few = {name: row for name, row in cells.items() if name != "charBB"}
    summary = synthtext.convert(write(tmp_path / "gt.mat", few), folder, tmp_path / "a.mat")
    assert summary.notes == ("the labels hold no charBB, and so does the result",)
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), expected(cells, folder))


def test_a_column_of_cells_becomes_a_row(drawn, tmp_path):
    folder, cells = drawn
    summary = synthtext.convert(write(tmp_path / "gt.mat", {name: row.T for name, row in cells.items()}), folder,
                                tmp_path / "a.mat")
    assert_same(as_mindocr_reads(tmp_path / "a.mat"), expected(cells, folder))
    assert loadmat(str(tmp_path / "a.mat"))["charBB"].shape == (1, IMAGES)
    assert summary.images == IMAGES


def test_an_image_that_comes_twice(drawn, tmp_path):
    folder, cells = drawn
    double = {name: np.concatenate([row, row[:, 11:13]], axis=1) for name, row in cells.items()}
    summary = synthtext.convert(write(tmp_path / "gt.mat", double), folder, tmp_path / "a.mat")
    assert [(fault.entry, fault.image) for fault in summary.faults.of("twice")] == [
        (IMAGES + 1, cells["imnames"][0, 11]), (IMAGES + 2, cells["imnames"][0, 12])]
    assert summary.kept_images == IMAGES + 2


def test_progress_comes_to_the_end(drawn, tmp_path):
    folder, cells = drawn
    seen: list[tuple[int, int]] = []
    synthtext.check(write(tmp_path / "gt.mat", cells), folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, IMAGES) for done in (7, 14, 21, 28, 35, 40)]


# Samples --------------------------------------------------------------------------------------------------------------


def test_samples(drawn, tmp_path):
    folder, cells = drawn
    synthtext.convert(write(tmp_path / "gt.mat", cells, compress=True), folder, tmp_path / "a.mat")
    samples = synthtext.load(tmp_path / "a.mat", folder)
    wanted = expected(cells, folder)
    assert len(samples) == len(list(samples)) == IMAGES
    for sample, (name, boxes, words) in zip(samples, wanted, strict=True):
        assert sample.image == folder / name and sample.texts == words
        assert len(sample.polygons) == len(boxes) == len(sample.ignore) and not sample.ignore.any()
        assert all(polygon.dtype == np.float64 and np.array_equal(polygon, quad)
                   for polygon, quad in zip(sample.polygons, boxes, strict=True))
    assert samples[-1].name == samples[IMAGES - 1].name and len(samples[5:9]) == 4
    with pytest.raises(IndexError):
        samples[IMAGES]
    assert copy.deepcopy(samples)[3].texts == samples[3].texts  # as another process gets them


def test_samples_of_labels_that_were_not_converted(drawn, tmp_path):
    folder, cells = drawn
    samples = synthtext.load(write(tmp_path / "gt.mat", cells), folder)
    assert [len(sample.polygons) for sample in samples] == [len(sample.texts) for sample in samples]
    assert np.array_equal(samples[3].polygons[0], cells["wordBB"][0, 3].T)  # a single word, 2 x 4
    assert len(samples[5].polygons) == cells["wordBB"][0, 5].shape[2] - 2
    assert samples[7].polygons == []
