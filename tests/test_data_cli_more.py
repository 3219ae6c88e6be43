"""`dbnet data show`, what users type wrong, and the shared data."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dbnet.__main__ import cli
from tests.test_data_cli import run, small  # noqa: F401 (fixtures)
from tests.test_datasets_images import oriented
from tests.test_datasets_sources import CURVE, QUAD, below, icdar, mlt, tree

# Fixtures that are imported look like names that are defined twice.
# ruff: noqa: F811

# show -----------------------------------------------------------------------------------------------------------------


def test_show(run, small):
    tree(small, {"gt/gt_img_1.txt": f"-5,-5,50,-5,50,30,-5,30,日本\n{QUAD},word\n5,5,5,5,5,5,5,5,dot\n{QUAD},###\n"})
    out = small / "pictures"
    done = run("show", "icdar2015", "-i", small / "images", "-l", small / "gt", "--out", out, "--limit", 2)
    assert "wrote 2 pictures and texts.tsv" in done.out
    assert sorted(file.name for file in out.iterdir()) == ["img_1.jpg", "img_2.jpg", "texts.tsv"]
    assert (out / "texts.tsv").read_text(encoding="utf-8").splitlines()[:5] == [
        "image\tindex\tstate\ttranscription", "img_1.jpg\t0\tclipped\t日本", "img_1.jpg\t1\treadable\tword",
        "img_1.jpg\t2\tdropped\tdot", "img_1.jpg\t3\tignored\t###"]
    picture = cv2.imread(str(out / "img_2.jpg"))
    before = cv2.imread(str(small / "images" / "img_2.jpg"))
    assert picture.shape == before.shape
    assert np.abs(picture.astype(int) - before).max() > 50
    assert np.abs(picture[35:].astype(int) - before[35:]).max() < 40  # below the labels, but for what JPEG adds
    assert "is not empty" in run("show", "icdar2015", "-i", small / "images", "-l", small / "gt", "--out", out,
                                 code=3).err


def test_show_only_what_was_repaired(run, small):
    tree(small, {"gt/gt_img_10.txt": f"-5,-5,50,-5,50,30,-5,30,a\n{QUAD},word\n"})
    run("show", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "out", "--repaired")
    assert sorted(file.name for file in (small / "out").iterdir()) == ["img_10.jpg", "texts.tsv"]
    (small / "gt" / "gt_img_10.txt").write_text(f"{QUAD},word\n")
    done = run("show", "ic15", "-i", small / "images", "-l", small / "gt", "-o", small / "no", "--repaired", code=3)
    assert "no image to draw has a label that was repaired" in done.err


def test_show_draws_in_the_pixels_that_the_labels_mean(run, tmp_path):
    tree(tmp_path, {"images/img_1.jpg": oriented(6), "gt/gt_img_1.txt": "10,10,79,10,79,30,10,30,stored\n",
                    "images/img_2.jpg": oriented(6), "gt/gt_img_2.txt": "10,10,50,10,50,79,10,79,shown\n"})
    run("show", "icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt", "-o", tmp_path / "out")
    assert cv2.imread(str(tmp_path / "out" / "img_1.jpg")).shape[:2] == (60, 80)
    assert cv2.imread(str(tmp_path / "out" / "img_2.jpg")).shape[:2] == (80, 60)


@pytest.mark.parametrize("where", ["images", "images/new"])
def test_pictures_do_not_go_among_the_images(run, small, where):
    done = run("show", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / where, "--force", code=3)
    assert "lies among the images" in done.err


# What users type wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    (["convert"], "say where the labels lie: --labels PATH"),
    (["convert", "icdar2015", "-l", "gt"], "name the label file to write: --out"),
    (["convert", "icdar2015", "-o", "a.txt"], "say where the labels lie: --labels PATH, or --root DIR --split NAME"),
    (["convert", "icdar2051", "-l", "gt", "-o", "a.txt"], "unknown data set 'icdar2051', did you mean icdar2015?"),
    (["convert", "icdar2015", "-d", "ic15", "-l", "gt", "-o", "a.txt"], "the data set is named twice"),
    (["convert", "-d", "ic15", "-t", "rec", "-l", "gt", "-o", "a.txt"], "rec: these are data sets for detection"),
    (["convert", "-d", "ic15", "--path_mode", "abs", "-l", "gt", "-o", "a.txt"], "abs: names are written relative"),
    (["convert", "ic15", "--split", "train", "-l", "gt", "-o", "a.txt"], "--split goes with --root"),
    (["convert", "--root", ".", "-o", "a.txt"], "--root needs the name of the data set"),
    (["convert", "prepared", "--root", ".", "-o", "a.txt"], "prepared has no layout of its own"),
    (["convert", "ic15", "-l", "gt", "-o", "a.txt", "--out-images", "x"], "--out-images needs --images"),
    (["convert", "ic15", "-l", "gt", "-o", "a.txt", "--workers", "0"], "0 is not in the range x>=1"),
    (["convert", "ic15", "-i", "", "-l", "gt", "-o", "a.txt"], "the path is empty"),
    (["check", "nowhere/det_gt.txt"], "no file or folder has that name either"),
    (["check"], "say where the labels lie"),
    (["show", "ic15", "-l", "gt", "-o", "x"], "labels are drawn into images: say where these lie"),
    (["show", "ic15", "-i", "images", "-l", "gt"], "name the folder for the pictures"),
    (["show", "synthtext", "-l", "gt.mat", "-o", "x"], "labels are drawn into images: say where these lie"),
    (["convert", "synthtext", "-l", "gt.mat", "-l", "b.mat", "-o", "x.mat"], "synthtext has one gt.mat"),
    (["convert", "synthtext", "-l", "gt.mat", "-o", "x.mat", "--out-images", "x"], "--out-images means nothing with"),
    (["shwo"], "No such command 'shwo'"),
])
def test_usage(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tree(tmp_path, {"images/img_1.jpg": None, **below("gt", icdar(1))}))
    result = CliRunner().invoke(cli, ["data", *arguments])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_none_of_the_images_can_be_used(run, tmp_path):
    tree(tmp_path, {"images/img_1.jpg": b"", **below("gt", icdar(1))})
    done = run("convert", "ic15", "-i", tmp_path / "images", "-l", tmp_path / "gt", "-o", tmp_path / "a.txt", code=3)
    assert "none of 1 images can be used: img_1.jpg: damaged image, is no image: is empty" in done.err
    assert not (tmp_path / "a.txt").exists()


def test_pillows_warnings_stay_inside(run, small):
    """A broken EXIF block makes Pillow warn in two lines of Python."""
    stream = io.BytesIO()
    Image.new("RGB", (80, 40)).save(stream, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    (small / "images" / "img_1.jpg").write_bytes(stream.getvalue())
    assert run("check", "icdar2015", "-i", small / "images", "-l", small / "gt").err == ""


# The shared data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "images", "labels", "counts", "official"), [
    ("icdar2015", None, "icdar2015/test/gt.zip", (500, 5230, 2077), "icdar2015 test"),
    pytest.param("icdar2015", "icdar2015/train/images", "icdar2015/train/gt", (1000, 11886, 4468), "icdar2015 train",
                 marks=pytest.mark.long),  # a thousand images; the rows around it are read in the same ways
    ("icdar2015", "icdar2015/test/images", "icdar2015/test/gt.zip", (200, 2279, 862), None),
    ("td500", "td500/test", "td500/test", (12, 42, 38), None),
    ("ctw1500", None, "ctw1500/gt.zip", (500, 3068, 3068), "ctw1500 test"),
    ("totaltext", None, "totaltext/gt.zip", (300, 2545, 2214), None),
])
def test_the_shared_data(run, need, tmp_path, dataset, images, labels, counts, official):
    source = [dataset, "--labels", need(f"data/{labels}"), *(["--images", need(f"data/{images}")] if images else [])]
    out = tmp_path / "det_gt.txt"
    report = json.loads(run("convert", *source, "--out", out, "--json", "-").out)
    assert tuple(report["written"].values()) == tuple(report["read"].values()) == counts
    assert report["official_counts"] == official
    assert report["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    again = json.loads(run("check", out, "--json", "-").out)
    assert (again["sha256"], again["counts"]) == (report["sha256"], {})


def test_official_counts_are_printed(run, need):
    done = run("check", "icdar2015", "--labels", need("data/icdar2015/test/gt.zip"))
    assert ("icdar2015: 500 images, 5230 texts: 2077 readable, 3153 ignored; read: the published counts of icdar2015 "
            "test") in done.out


def test_files_of_the_real_kind_are_all_read(need):
    """Nothing in the shared images is noted: they are what the sets' authors published."""
    from dbnet.datasets.image_facts import inspect_image
    for folder in ("icdar2015/test/images", "td500/test"):
        for path in sorted(Path(need(f"data/{folder}")).glob("*.[jJ]*"))[:20]:
            facts = inspect_image(path)
            assert (facts.damage, facts.opencv, facts.notes) == (None, True, ())


@pytest.mark.parametrize(("said", "labels", "meant"), [
    ("icdar2015", mlt(1, 2), "mlt2017"), ("totaltext", mlt(1, 2), "mlt2017"), ("td500", mlt(1, 2), "mlt2017"),
    ("totaltext", {f"gt_img_{i}.txt": f"{CURVE},####word\n" for i in (1, 2)}, "ctw1500"),
])
def test_labels_of_another_data_set_than_was_said(run, tmp_path, said, labels, meant):
    """Labels of MLT 2017 read as ICDAR 2015's would call no text `###`."""
    tree(tmp_path, {**{f"images/img_{i}.jpg": None for i in (1, 2)}, **below("gt", labels)})
    done = run("check", said, "-i", tmp_path / "images", "-l", tmp_path / "gt", code=3)
    assert f"gt: its lines are those of {meant}, not of {said}; name that one" in done.err


def test_an_interrupted_run_does_not_wait_for_all_images(small):
    from dbnet.datasets.preparing import prepare
    from dbnet.datasets.sources import paired
    found = paired("icdar2015", [small / "images"], [small / "gt"])
    found.entries[:] = found.entries * 2000
    seen = []

    def stop(done, total):
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(found, 1, stop)
    assert seen == [1]
