"""The folder of results: nobody's files are lost by a slip, nothing is half there, old results do not mix with new."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dbnet.errors import DbnetError
from dbnet.sample import Detection
from evaluation.detecting_files import KINDS, Outcome, Writer, whole_pixels
from evaluation.detecting_inputs import MARKER
from evaluation.detecting_output import MAGIC, Growing, OutputFolder, Zip, check_apart, check_folder
from evaluation.result_json import read_json, read_label_file
from evaluation.result_lines import parse_lines

BOX = Detection(np.array([[1, 2], [30, 4], [29, 20], [0, 18]], np.float32), 0.1 + 0.2)
TEXTS = tuple(kind for kind in KINDS if kind not in ("pictures", "crops"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MARKER}


def write(folder: Path, names: list[str], kinds=TEXTS, detections=(BOX,), stopped=None) -> Writer:
    writer = Writer(OutputFolder(folder), kinds, names, ".jpg", {"settings": {}})
    for index, name in enumerate(names):
        writer.image(index, f"photos/{name}", Outcome(list(detections), (40, 50), 7, b"picture", [b"crop"]))
    writer.close(["photos/x.jpg: broken"], len(names) + 1, stopped)
    return writer


# Whose folder it is ---------------------------------------------------------------------------------------------------


def test_a_new_an_empty_and_our_own_folder_are_taken(tmp_path):
    for folder in (tmp_path / "new" / "below", tmp_path):
        check_folder(folder, force=False)
    (tmp_path / ".hidden").touch()
    check_folder(tmp_path, force=False)
    write(tmp_path, ["a.jpg"])
    check_folder(tmp_path, force=False)


@pytest.mark.parametrize("make", [
    lambda folder: (folder / "thesis.txt").touch(),
    lambda folder: [(folder / "thesis.txt").touch(), (folder / MARKER).write_text("something else\n")],
    lambda folder: (folder / "detections.json").touch(),
])
def test_others_files_are_refused_without_force(tmp_path, make):
    make(tmp_path)
    with pytest.raises(DbnetError, match="--force"):
        check_folder(tmp_path, force=False)
    check_folder(tmp_path, force=True)


@pytest.mark.parametrize(("path", "make"), [
    ("file", lambda path: path.touch()),
    ("file/below", lambda path: path.parent.touch()),
    ("out", lambda path: (path / "detections.json").mkdir(parents=True)),
    ("out", lambda path: [path.mkdir(), (path / "pictures").touch()]),
])
def test_what_cannot_be_written_is_told_before_anything_is_done(tmp_path, path, make):
    make(tmp_path / path)
    with pytest.raises(DbnetError, match="--out"):
        check_folder(tmp_path / path, force=True)


def test_images_in_the_place_of_results_are_refused(tmp_path):
    (tmp_path / "out/pictures").mkdir(parents=True)
    (tmp_path / "out/pictures/a.jpg").touch()
    os.symlink("out/pictures", tmp_path / "link")
    for file in ("out/pictures/a.jpg", "link/a.jpg", "out/crops/../pictures/a.jpg"):
        with pytest.raises(DbnetError, match="lies in the output folder"):
            check_apart(tmp_path / "out", [str(tmp_path / file)])
    check_apart(tmp_path / "out", [str(tmp_path / "out/a.jpg"), str(tmp_path / "a.jpg")])


def test_a_second_run_replaces_the_first_and_nothing_else(tmp_path):
    write(tmp_path, ["a/1.jpg", "b/2.jpg", "b/1.jpg"], [*KINDS])
    assert {"submit/a/res_1.txt", "pictures/b/2.jpg", "crops/b/1_0.jpg"} <= set(content(tmp_path))
    own = {"pictures/b/mine.png": b"mine", "notes.txt": b"notes"}
    for name, data in own.items():
        (tmp_path / name).write_bytes(data)
    write(tmp_path, ["c.jpg"], [*KINDS])
    assert set(content(tmp_path)) - set(own) == {"detections.json", "det_results.txt", "submit.zip", "submit/res_c.txt",
                                                 "pictures/c.jpg", "crops/c_0.jpg"}
    assert {name: content(tmp_path)[name] for name in own} == own
    assert not (tmp_path / "submit/a").exists()


def test_only_the_kinds_that_are_written_are_replaced(tmp_path):
    """And what stays is still ours: a later run that writes it replaces it."""
    write(tmp_path, ["a.jpg", "b.jpg"], KINDS)
    before = content(tmp_path)
    writer = write(tmp_path, ["c.jpg"], ["json"])
    after = content(tmp_path)
    assert {**before, "detections.json": after["detections.json"]} == after != before
    [note] = writer.notes
    assert all(name in note for name in ("submit/", "submit.zip", "det_results.txt", "pictures/", "crops/"))
    assert "detections.json" not in note
    assert write(tmp_path, ["d.jpg"], KINDS).notes == []
    assert {Path(name).name for name in content(tmp_path)} == {
        "detections.json", "det_results.txt", "submit.zip", "res_d.txt", "d.jpg", "d_0.jpg"}


@pytest.mark.parametrize("end", [lambda writer: writer.close(["a.jpg: broken"], 1), Writer.abandon])
def test_a_run_that_finds_nothing_takes_nothing_away(tmp_path, end):
    write(tmp_path, ["a.jpg", "b.jpg"], KINDS)
    before, listed = content(tmp_path), (tmp_path / MARKER).read_text()
    writer = Writer(OutputFolder(tmp_path), ["json", "mindocr", "zip"], ["a.jpg"], ".jpg", {})
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith(".")} == before
    end(writer)
    assert content(tmp_path) == before
    assert sorted(set((tmp_path / MARKER).read_text().splitlines())) == sorted(set(listed.splitlines()))
    report = tmp_path / "mine.json"
    Writer(OutputFolder(tmp_path), ["json", "txt"], ["a.jpg"], ".jpg", {}, Growing(report)).close(["a.jpg: x"], 1)
    assert json.loads(report.read_text())["failed"] == ["a.jpg: x"]
    report.unlink()
    assert content(tmp_path) == before
    write(tmp_path, ["c.jpg"], KINDS)
    assert "pictures/a.jpg" not in content(tmp_path)


def test_a_run_that_finds_nothing_and_replaces_nothing_says_so_in_its_json(tmp_path):
    write(tmp_path, ["a.jpg"], ["pictures"])
    Writer(OutputFolder(tmp_path), ["json"], ["a.jpg"], ".jpg", {}).close(["a.jpg: broken"], 1)
    assert json.loads((tmp_path / "detections.json").read_text())["failed"] == ["a.jpg: broken"]
    assert "pictures/a.jpg" in content(tmp_path)
    for name in ("pictures/a.jpg", "detections.json"):  # by hand
        (tmp_path / name).unlink()
    writer = Writer(OutputFolder(tmp_path), ["json"], ["a.jpg"], ".jpg", {})
    writer.close(["a.jpg: broken"], 1)
    assert (writer.notes, list(content(tmp_path))) == ([], ["detections.json"])


def test_a_disk_that_is_full_at_the_first_image_leaves_a_whole_list(tmp_path, monkeypatch):
    write(tmp_path, ["a.jpg"], KINDS)
    writer = Writer(OutputFolder(tmp_path), [*KINDS], ["b.jpg"], ".jpg", {})

    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="No space"):
            writer.image(0, "b.jpg", Outcome([BOX], (40, 50), 7, b"picture"))
    writer.close([], 1, "the disk is full")
    assert json.loads((tmp_path / "detections.json").read_text())["stopped"] == "the disk is full"
    listed = set(map(json.loads, (tmp_path / MARKER).read_text().splitlines()[1:]))
    assert set(content(tmp_path)) <= listed
    write(tmp_path, ["c.jpg"], ["json"])
    assert set(content(tmp_path)) == {"detections.json", "det_results.txt", "submit.zip"}


def test_a_run_that_is_killed_leaves_a_list_of_everything(tmp_path):
    write(tmp_path, ["a.jpg"], KINDS)
    for begun in (False, True):
        writer = Writer(OutputFolder(tmp_path), KINDS, ["b.jpg"], ".jpg", {})
        if begun:
            writer.image(0, "b.jpg", Outcome([BOX], (40, 50), 7, b"picture", [b"crop"]))
        writer._folder.release()
        writer._folder = None
    write(tmp_path, ["c.jpg"], KINDS)
    assert {Path(name).name for name in content(tmp_path)} == {
        "detections.json", "det_results.txt", "submit.zip", "res_c.txt", "c.jpg", "c_0.jpg"}


@pytest.mark.parametrize("line", ['"../precious"', '"precious"', '"/tmp/precious"', '"pictures/../../precious"', "{}",
                                  '"pictures/precious"', '"link/precious"', '"submit/link/precious"', "[1", '"\\u0000"',
                                  '"submit/\\u0000"', '"pictures"', '"detections.json/x"'])
def test_a_forged_list_removes_nothing_of_others(tmp_path, line):
    out = tmp_path / "out"
    (out / "submit").mkdir(parents=True)
    for place in (tmp_path, out, tmp_path / "elsewhere"):
        place.mkdir(exist_ok=True)
        (place / "precious").write_text("precious")
    for link in ("pictures", "link", "submit/link"):
        os.symlink(tmp_path / "elsewhere", out / link)
    (out / MARKER).write_bytes(MAGIC + line.encode() + b"\n")
    folder = OutputFolder(out)
    folder.replace([path.parts[0] for path in folder.earlier])
    folder.release()
    assert all((place / "precious").exists() for place in (tmp_path, out, tmp_path / "elsewhere"))


def test_a_marker_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").mkdir()
    os.symlink("../precious", tmp_path / "out" / MARKER)
    with pytest.raises(OSError, match="symbolic"):
        OutputFolder(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "precious"


def test_two_runs_at_once_are_refused(tmp_path):
    first = OutputFolder(tmp_path)
    with pytest.raises(DbnetError, match="another run"):
        OutputFolder(tmp_path)
    first.release()
    OutputFolder(tmp_path).release()


# Whole or not there ---------------------------------------------------------------------------------------------------


def full(monkeypatch, room: list[int]) -> None:
    """A disk with so many bytes of room."""
    real = os.write

    def limited(handle, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(handle, bytes(data)[:room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", limited)


def test_a_growing_file_has_whole_pieces_only(tmp_path, monkeypatch):
    growing = Growing(tmp_path / "a")
    growing.append(b"one")
    with monkeypatch.context() as patch:
        full(patch, [2])
        with pytest.raises(OSError, match="No space"):
            growing.append(b"two")
    for more, expected in ((b"", b"one"), (b"three", b"onethree")):
        growing.append(more)
        assert content(tmp_path) == {".dbnet-part-a": expected}
    growing.close()
    assert content(tmp_path) == {"a": b"onethree"}


def test_what_is_abandoned_leaves_nothing(tmp_path):
    growing, archive = Growing(tmp_path / "a"), Zip(tmp_path / "b.zip")
    growing.append(b"one")
    archive.add("c", b"text")
    for file in (growing, archive):
        file.abandon()
        file.abandon()
    assert content(tmp_path) == {}


def test_a_picture_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    folder = OutputFolder(tmp_path)
    folder.put("pictures/a.jpg", b"old")

    def fail(self, data):
        with self.open("wb") as stream:
            stream.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        folder.put("pictures/a.jpg", b"new")
    monkeypatch.undo()
    folder.release()
    assert content(tmp_path) == {"pictures/a.jpg": b"old"}


def test_one_file_that_fails_at_the_end_takes_no_other_with_it(tmp_path, monkeypatch):
    writer = Writer(OutputFolder(tmp_path), TEXTS, ["a.jpg"], ".jpg", {})
    writer.image(0, "a.jpg", Outcome([BOX], (40, 50)))
    with monkeypatch.context() as patch:
        full(patch, [0])
        with pytest.raises(OSError, match="No space"):
            writer.close([], 1)
    assert set(content(tmp_path)) == {"det_results.txt", "submit.zip", "submit/res_a.txt"}
    OutputFolder(tmp_path).release()


# What is in it --------------------------------------------------------------------------------------------------------


def test_every_form_reads_back_the_same(tmp_path):
    write(tmp_path, ["img_1.jpg", "below/img_2.jpg"], KINDS)
    files = {name: data.decode() for name, data in content(tmp_path).items() if name != "submit.zip"}
    assert files["submit/res_img_1.txt"] == "1,2,30,4,29,20,0,18\r\n"
    assert files["det_results.txt"].splitlines() == [f"img_{i}.jpg\t[[[1, 2], [30, 4], [29, 20], [0, 18]]]"
                                                     for i in (1, 2)]
    with zipfile.ZipFile(tmp_path / "submit.zip") as archive:
        assert archive.namelist() == ["res_img_1.txt", "res_img_2.txt"]
        assert archive.read("res_img_2.txt").decode() == files["submit/res_img_2.txt"]
    for found, score in ((read_json(files["detections.json"], ""), BOX.score), (read_label_file(
            files["det_results.txt"], ""), 1)):
        assert list(found) == ["img_1", "img_2"]
        for [detection] in found.values():
            assert np.array_equal(detection.polygon, BOX.polygon)
            assert detection.score == score
    report = json.loads(files["detections.json"])
    assert report["images"]["below/img_2.jpg"] == {
        "file": "photos/below/img_2.jpg", "width": 50, "height": 40, "crc32": 7, "picture": "pictures/below/img_2.jpg",
        "detections": [{"polygon": BOX.polygon.tolist(), "score": BOX.score, "crop": "crops/below/img_2_0.jpg"}]}
    assert (report["failed"], report["asked"], report["complete"], report["stopped"]) == (
        ["photos/x.jpg: broken"], 3, True, None)


def test_a_run_that_was_stopped_says_so(tmp_path):
    write(tmp_path, [], stopped="interrupted")
    report = json.loads((tmp_path / "detections.json").read_text())
    assert (report["images"], report["complete"], report["stopped"]) == ({}, False, "interrupted")


@pytest.mark.parametrize("names", [["a/1.jpg", "b/1.jpg"], ["1.jpg", "1.png"]])
def test_names_that_a_submission_cannot_tell_apart(tmp_path, names):
    writer = write(tmp_path, names)
    assert names[0] in writer.notes[0] and names[1] in writer.notes[0]
    found = content(tmp_path)
    assert "submit.zip" not in found and "zip" not in writer.kinds
    assert len([name for name in found if name.startswith("submit/")]) == 2
    assert [line.split("\t")[0] for line in found["det_results.txt"].decode().splitlines()] == names
    assert list(json.loads(found["detections.json"])["images"]) == names


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9 1.jpg")
    write(tmp_path, [name], KINDS)
    assert content(tmp_path)["det_results.txt"].startswith(b"caf\xe9 1.jpg\t")
    assert list(json.loads((tmp_path / "detections.json").read_bytes())["images"]) == [name]
    with zipfile.ZipFile(tmp_path / "submit.zip") as archive:
        assert archive.namelist() == ["res_caf\ufffd 1.txt"]
    write(tmp_path, ["b.jpg"], KINDS)
    assert {Path(name).name for name in content(tmp_path)} == {
        "detections.json", "det_results.txt", "submit.zip", "res_b.txt", "b.jpg", "b_0.jpg"}


@given(hnp.arrays(np.float32, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-50, 5000, width=32)))
def test_whole_pixels_are_near_clockwise_and_read_back(polygon):
    points = whole_pixels(polygon)
    assert sorted(map(tuple, points.tolist())) == sorted(map(tuple, np.rint(polygon).astype(int).tolist()))
    assert np.array_equal(points[0], np.rint(polygon[0]))
    x, y = points.T
    assert sum((np.roll(x, -1) - x) * (np.roll(y, -1) + y)) <= 0
    line = ",".join(map(str, points.ravel().tolist()))
    [back] = parse_lines(line, "", "icdar2015" if len(points) == 4 else "totaltext")
    assert np.array_equal(back.polygon, points)


def test_the_descriptors_are_given_back(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        write(tmp_path, ["a.jpg"])
        with contextlib.suppress(OSError):
            Writer(OutputFolder(tmp_path), KINDS, ["a.jpg"], ".jpg", {}).abandon()
    assert len(os.listdir("/proc/self/fd")) == before
