"""`dbnet data` given other labels than it was told, empty ones, spoilt ones, and people's own."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest

from dbnet.datasets.label_set import read_label_set
from dbnet.datasets.totaltext_mat import parse_mat
from dbnet.errors import DbnetError
from tests.mat_scenes import Writer
from tests.test_data_cli import run, small  # noqa: F401 (fixtures)
from tests.test_datasets_images import oriented
from tests.test_datasets_sources import CURVE, GT, LABEL, QUAD, RECORD, XML, below, icdar, mlt, tree

# Fixtures that are imported look like names that are defined twice.
# ruff: noqa: F811

POLYGON = "10,10,30,5,50,10,50,30,30,25,10,30"
SETS = ("icdar2015", "td500", "ctw1500", "totaltext", "mlt2017")
DRAWN = {
    "icdar2015": ("icdar2015", icdar(1, 2)),
    "icdar2015 mhliao": ("icdar2015", {f"img_{i}.jpg.txt": f"{QUAD},word\n{QUAD},###\n" for i in (1, 2)}),
    "td500": ("td500", {f"IMG_000{i}.gt": GT for i in (1, 2)}),
    "td500 drrg": ("td500", {f"gt_img_{i}.txt": "10,10,50,30,0.0,text\n" for i in (1, 2)}),
    "ctw1500": ("ctw1500", {f"000100{i}.txt": f"{CURVE},####word\n" for i in (1, 2)}),
    "ctw1500 tiou": ("ctw1500", {f"100{i}.txt": f"{CURVE},word\n" for i in (1, 2)}),
    "ctw1500 xml": ("ctw1500", {f"000{i}.xml": XML.format("a") for i in (1, 2)}),
    "totaltext": ("totaltext", {f"poly_gt_img{i}.txt": RECORD.format("a") for i in (1, 2)}),
    "totaltext lines": ("totaltext", {f"img{i}.jpg.txt": f"{POLYGON},word\n{QUAD},###\n" for i in (1, 2)}),
    "mlt2017": ("mlt2017", mlt(1, 2)),
}
REAL = {"icdar2015/test/gt.zip": "icdar2015", "icdar2015/train/gt": "icdar2015", "td500/test": "td500",
        "ctw1500/gt.zip": "ctw1500", "totaltext/gt.zip": "totaltext"}


def check_matrix(folder, dataset, said):
    if said == dataset:
        found = read_label_set(folder, said)
        assert (found.dataset, found.repairs) == (dataset, [])
        return
    with pytest.raises(DbnetError) as told:
        read_label_set(folder, said)
    assert f"are those of {dataset}, not of {said}; name that one" in str(told.value) or "spoilt" in str(told.value)


@pytest.mark.parametrize("said", SETS)
@pytest.mark.parametrize("form", DRAWN)
def test_another_data_set_than_was_said(tmp_path, form, said):
    dataset, files = DRAWN[form]
    folder = tree(tmp_path, below("gt", files)) / "gt"
    if (form, said) == ("icdar2015 mhliao", "td500"):  # TR400's copies have these names and may have any text
        assert read_label_set(folder, said).dataset == "td500"
        return
    check_matrix(folder, dataset, said)


@pytest.mark.parametrize("said", SETS)
@pytest.mark.parametrize("labels", REAL)
def test_another_data_set_than_was_said_of_real_labels(need, labels, said):
    check_matrix(need(f"data/{labels}"), REAL[labels], said)


@pytest.mark.parametrize(("said", "files"), [
    # One's own sets, in a data set's form, under any names.
    ("icdar2015", {"IMG_0001.txt": f"{QUAD},1,299\n{QUAD},word\n", "img2.txt": f"{QUAD},3,299 EUR\n"}),
    ("icdar2015", {"1.txt": f"{QUAD},5\n{QUAD},word\n1,2,3,4,5,6,7,nan,word\nrubbish\n"}),
    ("totaltext", {"1.txt": f"{POLYGON},a\n{QUAD},b\n", "2.txt": f"{QUAD},c\n"}),
    ("td500", {"IMG_0059.JPG.txt": f"{QUAD},a text\n{QUAD},###\n"}), ("td500", {"a.txt": f"{QUAD},0\n{QUAD},1\n"}),
    ("ctw1500", {"photo.txt": f"{CURVE},word\n"}), ("ctw1500", {"gt_img_1.txt": f"{CURVE},####word\n"}),
])
def test_ones_own_names(tmp_path, said, files):
    assert read_label_set(tree(tmp_path, below("gt", files)) / "gt", said).dataset == said


def test_an_image_without_a_readable_label_is_not_an_empty_one(run, small):
    tree(small, {"gt/gt_img_2.txt": "rubbish\nmore rubbish\n", "gt/gt_img_10.txt": f"rubbish\n{QUAD},word\n5"})
    tree(small, {f"gt/gt_img_{i}.txt": f"{QUAD},a\n" * 9 for i in (1,)})
    source = ["icdar2015", "-i", small / "images", "-l", small / "gt"]
    report = json.loads(run("check", *source, "--json", "-", code=1).out)
    assert report["counts"] == {"unreadable label": 5}
    assert ("img_2.jpg", "none of its labels is left; the image would count as empty") in [
        (repair["image"], repair["detail"]) for repair in report["repairs"]]
    run("convert", *source, "-o", small / "a.txt", "--out-images", small / "all")
    assert [line.partition("\t")[0] for line in (small / "a.txt").read_text().splitlines()] == ["img_1.jpg",
                                                                                                "img_10.jpg"]
    assert sorted(file.name for file in (small / "all").iterdir()) == ["img_1.jpg", "img_10.jpg"]


def test_an_image_of_a_label_file_without_a_readable_label(run, tmp_path):
    tree(tmp_path, {"a/1.jpg": None, "a/2.jpg": None,
                    "det_gt.txt": f'a/1.jpg\t[{{"transcription": 1}}]\na/2.jpg\t{LABEL}'})
    done = run("check", tmp_path / "det_gt.txt", "-i", tmp_path, "--list", code=1)
    assert "prepared: 1 images, 2 texts" in done.out
    assert "no text" not in done.out


def test_no_labels_at_all(run, small):
    (small / "e.txt").touch()
    done = run("check", "prepared", "--images", small / "images", "--labels", small / "e.txt", "--list", code=1)
    for name in ("img_1.jpg", "img_2.jpg", "img_10.jpg"):
        assert f"{name}: no label: nothing for it in {small}/e.txt" in done.out
    for images in (["--images", small / "images"], []):
        done = run("convert", "prepared", *images, "--labels", small / "e.txt", "-o", small / "a.txt", code=3)
        assert f"{small}/e.txt: holds no labels; nothing was written" in done.err
    assert not (small / "a.txt").exists()


@pytest.mark.parametrize("first", ["img_1.jpg", "img_1.jpg\tnull", "name\tlabels"])
def test_one_bad_line_at_the_beginning(run, small, first):
    labels = small / "Label.txt"
    labels.write_text(f"{first}\nimg_2.jpg\t{LABEL}\nimg_10.jpg\t{LABEL}\n")
    for name in (["prepared", "-l", labels], [labels]):
        done = run("check", *name, "-i", small / "images", "--list", code=1)
        assert f"unreadable label: {labels}, line 1: {'no JSON' if 'labels' in first else 'not path<TAB>'}" in done.out
        assert "img_1.jpg: no label: " in done.out
        assert "prepared: 2 images, 4 texts" in done.out
    out = small / "a.txt"
    out.write_text(labels.read_text())
    run("convert", "prepared", "-l", labels, "-i", small / "images", "-o", out, "--force")
    assert out.read_text().count("\n") == 2


def test_a_file_that_is_no_label_file_at_all(run, tmp_path):
    tree(tmp_path, {"a.txt": "hello\nworld\n", "images/a.jpg": None})
    assert "a.txt, line 1: not path<TAB>[{" in run("check", "prepared", "-l", tmp_path / "a.txt", code=3).err
    assert "name the data set: icdar2015|mlt2017|ctw1500|totaltext|td500|prepared" in run(
        "check", "-l", tmp_path / "a.txt", code=3).err


def test_a_label_file_among_the_labels_is_none_of_them(run, tmp_path):
    tree(tmp_path, {"img_1.jpg": None, "img_1.jpg.txt": f"{QUAD},0\n", "train.txt": f"img_1.jpg\t{LABEL}\n"})
    done = run("check", "td500", "-i", tmp_path, "-l", tmp_path)
    assert "td500: 1 images, 1 texts" in done.out
    tree(tmp_path, {"both/a.txt": f"a.jpg\t{LABEL}\n", "both/b.txt": f"b.jpg\t{LABEL}\n"})
    assert "holds several label files (a.txt, b.txt); give one" in run("check", "-l", tmp_path / "both", code=3).err


def test_a_label_file_is_written_into_the_folder_of_the_images_again_and_again(run, small):
    source = ["convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "images" / "gt.txt"]
    run(*source)
    before = (small / "images" / "gt.txt").read_bytes()
    run(*source, "--force")
    assert (small / "images" / "gt.txt").read_bytes() == before


# Encodings and other files --------------------------------------------------------------------------------------------


def test_utf16_without_a_mark(run, tmp_path):
    tree(tmp_path, {"images/img_1.jpg": None, "images/img_2.jpg": None, **below("gt", icdar(1)),
                    "gt/gt_img_2.txt": f"{QUAD},word\n".encode("utf-16-le") * 9})
    source = ["icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt"]
    done = run("check", *source, "--list", code=1)
    fault = f"{tmp_path}/gt/gt_img_2.txt, line 1: holds bytes of 0; is it UTF-16? Save it as UTF-8"
    assert f"img_2: unreadable label: {fault}" in done.out
    assert "icdar2015: 1 images, 2 texts" in done.out
    (tmp_path / "gt" / "gt_img_1.txt").unlink()
    assert fault in run("check", *source, code=3).err
    (tmp_path / "a.txt").write_bytes(f"img_1.jpg\t{LABEL}\n".encode("utf-16-le"))
    assert "is it UTF-16? Save it as UTF-8" in run("check", "prepared", "-l", tmp_path / "a.txt", code=3).err


def test_one_spoilt_file_of_two_is_listed(run, tmp_path):
    tree(tmp_path, {"images/img_1.jpg": None, "images/img_2.jpg": None, **below("gt", icdar(1)),
                    "gt/gt_img_2.txt": "rubbish\n" * 50})
    done = run("check", "icdar2015", "-i", tmp_path / "images", "-l", tmp_path / "gt", code=1)
    assert "icdar2015: 1 images, 2 texts" in done.out


def test_synthtexts_gt_is_told_as_such(run, tmp_path):
    cells = Writer()
    names = cells.file(cells.cells([cells.text(["8/a.jpg"])], "imnames", (1, 1)),
                       cells.cells([cells.numbers(np.zeros((2, 4)))], "wordBB", (1, 1)))
    (tmp_path / "gt.mat").write_bytes(names)
    told = f"is SynthText's gt.mat; say so: dbnet data check synthtext --images DIR --labels {tmp_path}/gt.mat"
    assert told in run("check", tmp_path / "gt.mat", code=3).err
    with (tmp_path / "gt.mat").open("r+b") as stream:
        stream.truncate(2**26 + 1)
    assert "dbnet data check synthtext" in run("check", tmp_path / "gt.mat", code=3).err
    assert "a MATLAB file" in run("check", "icdar2015", "-l", tmp_path / "gt.mat", code=3).err
    with pytest.raises(DbnetError, match="SynthText"):
        parse_mat(names, "gt.mat", tmp_path)


# One's own ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6])
def test_ones_own_labels_are_in_the_image_as_it_is_shown(run, tmp_path, orientation):
    """They fit both ways; people draw them in a viewer. Those of the data sets' authors are in the stored pixels."""
    tree(tmp_path, {"images/img_1.jpg": oriented(orientation), "det.txt": f"img_1.jpg\t{LABEL.replace('70', '55')}\n",
                    **below("gt", icdar(1))})
    stored = cv2.imread(str(tmp_path / "images/img_1.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    shown = cv2.imread(str(tmp_path / "images/img_1.jpg"))
    for name, labels, pixels, told in (("prepared", "det.txt", shown, "shown"), ("icdar2015", "gt", stored, "stored")):
        out = tmp_path / name
        done = run("convert", name, "-i", tmp_path / "images", "-l", tmp_path / labels, "-o", f"{out}.txt",
                   "--out-images", out, "--list")
        assert f"its labels fit both ways, taken as it is {told}" in done.out
        np.testing.assert_array_equal(cv2.imread(str(out / "img_1.png")), pixels)


def test_ppocrlabels_difficult_texts_are_ignored(run, tmp_path):
    entries = [{**json.loads(LABEL)[0], "difficult": difficult} for difficult in (True, False, None)]
    tree(tmp_path, {"a.jpg": None, "Label.txt": f"a.jpg\t{json.dumps([{'transcription': 'bad'}, *entries])}\n"})
    source = ["prepared", "-i", tmp_path, "-l", tmp_path / "Label.txt", "-o", tmp_path / "a.txt", "--json", "-"]
    report = json.loads(run("convert", *source).out)
    assert report["written"] == {"images": 1, "texts": 3, "readable": 2}
    assert [(repair["index"], repair["kind"], repair["detail"]) for repair in report["repairs"][1:]] == [
        (0, "difficult", "'word'")]
    assert [label["transcription"] for label in json.loads((tmp_path / "a.txt").read_text().partition("\t")[2])] == [
        "###", "word", "word"]


@pytest.mark.parametrize("copy", [True, False])
def test_links_and_copies(run, small, copy):
    out = small / "all"
    run("convert", "icdar2015", "-i", small / "images", "-l", small / "gt", "-o", small / "a.txt", "--out-images", out,
        *(["--copy"] if copy else []))
    for name in ("img_1.jpg", "img_2.jpg", "img_10.jpg"):
        assert (out / name).read_bytes() == (small / "images" / name).read_bytes()
        assert os.path.samefile(out / name, small / "images" / name) is not copy
    assert "--copy goes with --out-images" in run("convert", "icdar2015", "-l", small / "gt", "-o", small / "b.txt",
                                                  "--copy", code=2).err
