"""`dbnet data` as people use it: what is written, printed and returned."""

from __future__ import annotations

import hashlib
import json
import os
import re

import cv2
import numpy as np
import pytest

from dbnet.__main__ import main
from dbnet.datasets.prepared import load_prepared
from tests.test_datasets_images import frames, oriented
from tests.test_datasets_sources import LABEL, QUAD, below, icdar, mlt, tree


@pytest.fixture
def run(monkeypatch, capsys):
    """run("data", ...) -> (exit code, standard output, standard error), through `main`."""
    def call(*arguments, code=0):
        monkeypatch.setattr("sys.argv", ["dbnet", "data", *map(str, arguments)])
        monkeypatch.setenv("DBNET_TRACEBACK", "1")
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = stop.code or 0
        done = capsys.readouterr()
        assert found == code, done
        assert "Traceback" not in done.err
        return done
    return call


@pytest.fixture
def small(tmp_path):
    """Three images of 80 x 40 pixels with two labels each."""
    return tree(tmp_path, {**{f"images/img_{i}.jpg": None for i in (1, 2, 10)}, **below("gt", icdar(1, 2, 10))})


# convert --------------------------------------------------------------------------------------------------------------


def test_convert(run, small):
    out = small / "det_gt.txt"
    done = run("convert", "icdar2015", "--images", small / "images", "--labels", small / "gt", "--out", out)
    points = [[10, 10], [50, 10], [50, 30], [10, 30]]
    labels = json.dumps([{"transcription": "a,b", "points": points}, {"transcription": "###", "points": points}])
    assert out.read_bytes() == "".join(f"img_{i}.jpg\t{labels}\n" for i in (1, 2, 10)).encode()
    assert "icdar2015: 3 images, 6 texts: 3 readable, 3 ignored" in done.out
    assert hashlib.sha256(out.read_bytes()).hexdigest() in done.out
    assert f"wrote {out}" in done.out
    assert done.err == ""
    assert [sample.name for sample in load_prepared(out, small / "images")] == ["img_1.jpg", "img_2.jpg", "img_10.jpg"]


@pytest.mark.parametrize("arguments", [
    ["--dataset_name=ic15", "--task=det", "--image_dir={d}/images", "--label_dir={d}/gt", "--output_path={d}/out.txt"],
    ["--dataset_name", "ic15", "--task", "det", "--image_dir", "{d}/images", "--label_path", "{d}/gt", "--output_path",
     "{d}/out.txt", "--path_mode", "relative"],
    ["-d", "ic15", "-t", "det", "-i", "{d}/images", "-l", "{d}/gt", "-o", "{d}/out.txt"],
])
def test_the_words_of_mindocrs_converter(run, small, arguments):
    run("convert", *(argument.format(d=small) for argument in arguments))
    assert (small / "out.txt").read_text().count("\n") == 3


def test_json(run, small):
    out = small / "det_gt.txt"
    (small / "images" / "img_2.jpg").unlink()
    done = run("convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", out, "--json", "-")
    report = json.loads(done.out)
    assert report["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert report["written"] == report["read"] == {"images": 2, "texts": 4, "readable": 2}
    assert (report["dataset"], report["complete"], report["official_counts"]) == ("icdar2015", False, None)
    assert report["counts"] == {"missing image": 1}
    assert report["repairs"] == [{"image": "img_2.jpg", "index": None, "kind": "missing image", "effect": "left out",
                                  "detail": f"not in {small / 'images'}"}]


def test_the_same_bytes_on_every_run_and_worker_count(run, tmp_path):
    rng = np.random.default_rng(1)
    files = {}
    for i in range(30):
        points = rng.integers(-20, 120, (6, 8))
        files[f"gt/gt_img_{i}.txt"] = "".join(f"{','.join(map(str, p))},w{j}\n" for j, p in enumerate(points))
        files[f"images/img_{i}.png"] = None
    tree(tmp_path, files)
    reports = []
    for workers in (None, 1, 2, 7):
        out = tmp_path / f"out_{workers}.txt"
        extra = [] if workers is None else ["--workers", workers]
        done = run("convert", "icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt", "-o", out, *extra,
                   "--json", "-")
        report = json.loads(done.out)
        assert report.pop("out") == str(out)
        reports.append((report, out.read_bytes()))
    assert all(report == reports[0] for report in reports[1:])
    assert set(reports[0][0]["counts"]) >= {"reversed", "reordered", "clipped", "dropped"}


def test_the_hash_does_not_depend_on_where_the_images_lie(run, small, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    tree(other, {"data/deep/img_1.jpg": None, "data/img_2.jpg": None, "data/img_10.jpg": None,
                 "gt.zip": icdar(1, 2, 10)})
    first = run("check", "icdar2015", "-i", small / "images", "-l", small / "gt", "--json", "-")
    second = run("convert", "ic15", "-i", other / "data", "-l", other / "gt.zip", "-o", other / "a.txt", "--json", "-")
    alone = run("check", "icdar2015", "-l", other / "gt.zip", "--json", "-")
    again = run("check", other / "a.txt", "-i", other / "data", "--json", "-")
    assert len({json.loads(done.out)["sha256"] for done in (first, second, alone, again)}) == 1


def test_mending_once_is_enough(run, small):
    tree(small, {"gt/gt_img_1.txt": "-5,-5,50,-5,50,30,-5,30,clip\n10,10,50,30,50,10,10,30,tie\n5,5,5,5,5,5,5,5,dot\n"
                                    "10,10,10,30,50,30,50,10,back\n10,10,50,10,50,30,10,30,*\n"})
    out = small / "a.txt"
    done = run("convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", out, "--list")
    for line in ("img_1.jpg text 0: clipped: 5 pixels beyond 80 x 40", "img_1.jpg text 1: reordered: 4 points",
                 "img_1.jpg text 2: dropped: 1 different point: 5,5", "img_1.jpg text 3: reversed: 4 points",
                 "img_1.jpg text 4: marked text: '*' became '* '"):
        assert line in done.out
    assert re.search(r"clipped +1 +repaired +outline reached beyond the image", done.out)
    done = run("check", out, "-i", small / "images", "--json", "-")
    assert json.loads(done.out)["counts"] == {}
    run("convert", "prepared", "-i", small / "images", "-l", out, "-o", small / "b.txt")
    assert (small / "b.txt").read_bytes() == out.read_bytes()


def test_without_images(run, small):
    done = run("convert", "icdar2015", "--labels", small / "gt", "--out", small / "a.txt")
    assert "note: the labels alone" in done.err
    assert (small / "a.txt").read_text().startswith("img_1.jpg\t")


def test_root_and_split(run, tmp_path):
    tree(tmp_path, {"test/images/img_1.jpg": None, **below("test/gt", icdar(1)),
                    "train/images/img_7.jpg": None, **below("train/gt", icdar(7))})
    run("convert", "icdar2015", "--root", tmp_path, "--split", "train", "--out", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().startswith("img_7.jpg")
    done = run("convert", "icdar2015", "--root", tmp_path, "--out", tmp_path / "b.txt", code=2)
    assert "say --split test|train" in done.err
    done = run("convert", "icdar2015", "--root", tmp_path, "--split", "validation", "--out", tmp_path / "b.txt", code=3)
    assert "icdar2015 has no validation part; choose from test, train" in done.err
    done = run("convert", "icdar2015", "--root", tmp_path / "nowhere", "--split", "test", "--out", tmp_path / "b.txt",
               code=3)
    assert "nowhere: is no folder" in done.err


# Writing --------------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_by_a_slip(run, small):
    source = ["convert", "icdar2015", "-i", small / "images", "-l", small / "gt"]
    out = small / "a.txt"
    run(*source, "-o", out)
    before = out.read_bytes()
    done = run(*source, "-o", out, code=3)
    assert "exists already; add --force" in done.err
    run(*source, "-o", out, "--force")
    assert out.read_bytes() == before
    for name, content in (("notes.txt", b"my notes\n"), ("lines.txt", b"a,b,c\n")):
        (small / name).write_bytes(content)
        done = run(*source, "-o", small / name, "--force", code=3)
        assert "exists and is no label file" in done.err
        assert (small / name).read_bytes() == content
    for target, message in ((small / "model.ckpt", "a label file ends in .txt"), (small, "a label file ends in .txt"),
                            (small / "no" / "a.txt", "no such folder"),
                            (small / "gt" / "gt_out.txt", "lies among the labels")):
        assert message in run(*source, "-o", target, "--force", code=3).err
    assert "--json and --out are one file" in run(*source, "-o", small / "b.txt", "--json", small / "b.txt", code=2).err


def test_a_label_file_is_not_replaced_by_itself(run, small):
    out = small / "a.txt"
    run("convert", "icdar2015", "-l", small / "gt", "-o", out)
    done = run("convert", "prepared", "-l", out, "-o", out, "--force", code=3)
    assert "is the source itself" in done.err


def test_nothing_half_written(run, small, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    done = run("convert", "icdar2015", "-l", small / "gt", "-o", small / "a.txt", code=3)
    assert "the disk is full" in done.err
    assert sorted(file.name for file in small.iterdir()) == ["gt", "images"]


# Images ---------------------------------------------------------------------------------------------------------------


def test_gif_and_exif_images_are_gathered_upright(run, tmp_path):
    tree(tmp_path, {"images/a/img_1.jpg": None, "images/img_2.gif": frames("GIF"), "images/img_3.jpg": oriented(6),
                    "images/img_4.jpg": oriented(6), **below("gt", mlt(1, 2))})
    # 80 x 60 as stored, 60 x 80 as shown: each label fits one of them only.
    (tmp_path / "gt" / "gt_img_3.txt").write_text("10,10,79,10,79,30,10,30,Latin,stored\n")
    (tmp_path / "gt" / "gt_img_4.txt").write_text("10,10,50,10,50,79,10,79,Latin,shown\n")
    source = ["convert", "mlt2017", "-i", tmp_path / "images", "-l", tmp_path / "gt"]
    done = run(*source, "-o", tmp_path / "a.txt", "--list")
    assert "img_2.gif: not for OpenCV" in done.out
    assert "img_3.jpg: EXIF: orientation 6: stored as 80 x 60, shown as 60 x 80; its labels fit only as it is stored" \
        in done.out
    assert "img_4.jpg: EXIF: orientation 6: stored as 80 x 60, shown as 60 x 80; its labels fit only as it is shown" \
        in done.out
    assert [line.partition("\t")[0] for line in (tmp_path / "a.txt").read_text().splitlines()] == [
        "a/img_1.jpg", "img_3.jpg", "img_4.jpg"]
    run(*source, "-o", tmp_path / "b.txt", "--out-images", tmp_path / "all")
    samples = load_prepared(tmp_path / "b.txt", tmp_path / "all")
    assert [sample.image.relative_to(tmp_path / "all").as_posix() for sample in samples] == [
        "a/img_1.jpg", "img_2.png", "img_3.png", "img_4.png"]
    assert (tmp_path / "all" / "a" / "img_1.jpg").read_bytes() == (tmp_path / "images/a/img_1.jpg").read_bytes()
    shapes = [cv2.imread(str(sample.image)).shape[:2] for sample in samples]
    assert shapes == [(40, 80), (60, 80), (60, 80), (80, 60)]
    assert "clipped" not in run("check", tmp_path / "b.txt", "-i", tmp_path / "all").out
    stored = cv2.imread(str(tmp_path / "images/img_3.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(cv2.imread(str(samples[2].image)), stored)
    np.testing.assert_array_equal(cv2.imread(str(samples[3].image)), cv2.imread(str(tmp_path / "images/img_4.jpg")))


@pytest.mark.parametrize(("folder", "message"), [("images", "holds the original images"), ("images/new", "lies among"),
                                                 (".", "holds the original images"), ("full", "is not empty"),
                                                 ("file", "is a file"), ("no/where", "no such folder")])
def test_where_images_are_not_gathered(run, small, folder, message):
    tree(small, {"full/photo.jpg": None, "file": b"x"})
    source = ["convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "a.txt"]
    assert message in run(*source, "--out-images", small / folder, code=3).err
    assert not (small / "a.txt").exists()


# check ----------------------------------------------------------------------------------------------------------------


def test_check_finds_everything_in_one_go(run, tmp_path):
    tree(tmp_path, {
        **{f"images/img_{i}.jpg": None for i in (1, 2, 3, 7)}, "images/img_4.jpg": b"\xff\xd8\xff\xe0 cut off",
        "images/img_5.jpg": b"", "images/img_9.gif": frames("GIF"), **below("gt", icdar(1, 4, 5, 6, 9)),
        "gt/gt_img_2.txt": f"{QUAD},fine\n1,2,3,4,5,6,7,nan,word\nrubbish\n{QUAD},fine\n", "gt/gt_img_3.txt": ""})
    done = run("check", "icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt", "--list", code=1)
    for line in (rf"img_2: unreadable label: {tmp_path}/gt/gt_img_2\.txt, line 2: a number is out of range: nan",
                 rf"img_2: unreadable label: {tmp_path}/gt/gt_img_2\.txt, line 3: 1 fields",
                 r"img_6\.jpg: missing image: ", r"img_7\.jpg: no label: ", r"img_3\.jpg: no text: ",
                 r"img_4\.jpg: damaged image: ", r"img_5\.jpg: damaged image: is no image: is empty",
                 r"img_9\.gif: not for OpenCV: "):
        assert re.search(f"^{line}", done.out, re.MULTILINE), line
    assert "not complete: 7 would be left out" in done.out
    assert "icdar2015: 3 images, 4 texts: 3 readable, 1 ignored; read: 6 images, 10 texts" in done.out


def test_check_that_finds_nothing(run, small):
    done = run("check", "icdar2015", "-i", small / "images", "-l", small / "gt")
    assert "complete: nothing has to be left out" in done.out


def test_repairs_are_no_fault(run, small):
    tree(small, {"gt/gt_img_1.txt": "-5,-5,50,-5,50,30,-5,30,clip\n5,5,5,5,5,5,5,5,dot\n"})
    assert "complete" in run("check", "icdar2015", "-i", small / "images", "-l", small / "gt").out


@pytest.mark.parametrize("name", ["det_gt.txt", "Label.list", "labels"])
def test_a_label_file_by_its_name_alone(run, tmp_path, name):
    tree(tmp_path, {"img_1.jpg": None, name: f"img_1.jpg\t{LABEL}\n"})
    done = run("check", tmp_path / name, "--images", tmp_path)
    assert "prepared: 1 images, 2 texts: 1 readable, 1 ignored" in done.out


def test_a_label_file_with_faults(run, tmp_path):
    lines = [f"img_1.jpg\t{LABEL}", "img_2.jpg\t" + json.dumps([
        {"transcription": "two points", "points": [[1, 1], [9, 9]]}, {"transcription": "no points"},
        {"transcription": "nan", "points": [[float("nan"), 1], [9, 9], [3, 9]]}, {"points": [[1, 1], [9, 1], [9, 9]]},
        {"transcription": "fine", "points": [[1, 1], [9, 1], [9, 9]]}]), "img_3.jpg\t[{]", f"img_4.jpg\t{LABEL}"]
    tree(tmp_path, {**{f"img_{i}.jpg": None for i in (1, 2, 4)}, "det_gt.txt": "\n".join(lines)})
    done = run("check", tmp_path / "det_gt.txt", "-i", tmp_path, "--json", "-", code=1)
    report = json.loads(done.out)
    assert [(repair["image"], repair["index"], repair["kind"]) for repair in report["repairs"]] == [
        ("img_2.jpg", 1, "unreadable label"), ("img_2.jpg", 2, "unreadable label"),
        ("img_2.jpg", 3, "unreadable label"), ("img_3.jpg", None, "unreadable label"), ("img_2.jpg", 0, "dropped")]
    assert report["written"] == {"images": 3, "texts": 5, "readable": 3}


def test_an_empty_label_file(run, tmp_path):
    tree(tmp_path, {"img_1.jpg": None, "det_gt.txt": "\ufeff\n\n"})
    assert "0 images" in run("check", tmp_path / "det_gt.txt").out


def test_a_wrong_encoding(run, small):
    tree(small, {"gt/gt_img_1.txt": f"{QUAD},café\n{QUAD},日本\n".encode("gbk", "replace"),
                 "gt/gt_img_2.txt": f"{QUAD},日本\n".encode("utf-16")})
    done = run("convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "a.txt", "--list")
    assert re.search(r"^img_1\.jpg text \d: encoding: ", done.out, re.MULTILINE)
    assert "日本" in (small / "a.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [f"{QUAD},word\n".encode("utf-16-le"), b"hello\nworld\n", b"1 2 3 4\n", b"\0\1\2\n"])
def test_other_labels_than_was_said(run, small, text):
    tree(small, {f"gt/gt_img_{i}.txt": text for i in (1, 2, 10)})
    done = run("check", "icdar2015", "-i", small / "images", "-l", small / "gt", code=3)
    assert re.search(r"gt_img_1\.txt, line 1: ", done.err)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("shape", [(1, 1), (40, 20_000)])
def test_sizes_of_images(run, small, shape):
    cv2.imwrite(str(small / "images" / "img_1.jpg"), np.zeros((*shape, 3), np.uint8))
    done = run("convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "a.txt", "--list")
    assert f"img_1.jpg: size: {shape[1]} x {shape[0]} pixels" in done.out
    assert ("img_1.jpg text 0: dropped: outside of 1 x 1 pixels" in done.out) == (shape == (1, 1))
    assert (small / "a.txt").read_text().startswith("img_1.jpg\t[" + "]" * (shape == (1, 1)))


@pytest.mark.parametrize("name", ["a\tb.jpg", " a.jpg", "a\nb.jpg", os.fsdecode(b"a\xff.jpg")])
def test_names_that_no_label_file_can_hold(run, tmp_path, name):
    stem = name[:-4]
    tree(tmp_path, {f"images/{name}": None, "images/b.jpg": None, f"gt/gt_{stem}.txt": f"{QUAD},a\n",
                    "gt/gt_b.txt": f"{QUAD},a\n"})
    done = run("check", "icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt", "--list", code=1)
    assert "file name: " in done.out
