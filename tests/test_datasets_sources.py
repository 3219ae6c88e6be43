"""The data sets' trees as they were published: labels find their images, and what does not fit is told."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbnet.datasets.layouts import LAYOUTS, find_place
from dbnet.datasets.prepared import digest, line_of, load_prepared
from dbnet.datasets.preparing import prepare
from dbnet.datasets.sources import dataset_name, load, paired
from dbnet.errors import DbnetError
from dbnet.sample import Sample
from tests.mat_scenes import Writer

QUAD = "10,10,50,10,50,30,10,30"
CURVE = ",".join(f"{x},{y}" for x, y in [(10 + 8 * i, 10) for i in range(7)] + [(58 - 8 * i, 30) for i in range(7)])
RECORD = "x: [[10 50 50 10]], y: [[10 10\n 30 30]], ornt: [u'c'], transcriptions: [u'{}']\n"
XML = '<Annotations><image file="{}"><box><label>word</label><segs>' + CURVE + "</segs></box></image></Annotations>"
LABEL = json.dumps([{"transcription": "word", "points": [[10, 10], [50, 10], [50, 30], [10, 30]]},
                    {"transcription": "###", "points": [[60, 10], [70, 10], [70, 30]]}])
PIXELS = {suffix: cv2.imencode(suffix, np.full((40, 80, 3), 90, np.uint8))[1].tobytes() for suffix in (".jpg", ".png")}


def tree(folder: Path, files: dict[str, str | bytes | None]) -> Path:
    """Files below `folder`; None is a small image, a dict in a .zip its entries."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w") as target:
                for inside, text in content.items():
                    target.writestr(inside, text)
        elif content is None:
            path.write_bytes(PIXELS[".png" if name.endswith(".png") else ".jpg"])
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def icdar(*numbers):
    return {f"gt_img_{i}.txt": f"\ufeff{QUAD},a,b\r\n{QUAD},###\r\n" for i in numbers}


def mlt(*numbers):
    return {f"gt_img_{i}.txt": f"{QUAD},Latin,word{i}\n{QUAD},Arabic,###\n" for i in numbers}


def below(folder: str, files: dict) -> dict:
    return {f"{folder}/{name}": content for name, content in files.items()}


GT = "1 0 10 10 40 20 0.0\n2 1 10 10 40 20 0.1\n"
TREES = {
    "icdar2015 page": ("icdar2015", "test", {"test/images/img_2.jpg": None, "test/images/img_10.jpg": None,
                                             **below("test/gt", icdar(2, 10))}, ["img_2.jpg", "img_10.jpg"]),
    "icdar2015 release": ("icdar2015", "test", {
        "ch4_test_images/img_1.jpg": None, "Challenge4_Test_Task1_GT.zip": icdar(1),
        "ch4_training_images/img_1.jpg": None, "ch4_training_localization_transcription_gt.zip": icdar(1),
    }, ["img_1.jpg"]),
    "icdar2015 release, train": ("icdar2015", "train", {
        "ch4_test_images/img_1.jpg": None, "Challenge4_Test_Task1_GT.zip": icdar(1),
        "ch4_training_images/img_1.jpg": None, "ch4_training_images/img_2.jpg": None,
        **below("ch4_training_localization_transcription_gt", icdar(1, 2)),
    }, ["img_1.jpg", "img_2.jpg"]),
    "icdar2015 paddle": ("icdar2015", "train", {
        "icdar_c4_train_imgs/img_1.jpg": None,
        "train_icdar2015_label.txt": f"icdar_c4_train_imgs/img_1.jpg\t{LABEL}\n"}, ["img_1.jpg"]),
    "td500 page": ("td500", "test", {"test/IMG_0059.JPG": None, "test/IMG_0059.gt": GT, "train/IMG_0030.JPG": None,
                                     "train/IMG_0030.gt": GT}, ["IMG_0059.JPG"]),
    "td500 with tr400": ("td500", "train", {
        "MSRA-TD500/train/IMG_0030.JPG": None, "MSRA-TD500/train/IMG_0030.gt": GT, "HUST-TR400/IMG_0030.jpg": None,
        "HUST-TR400/IMG_0030.gt": GT}, ["HUST-TR400/IMG_0030.jpg", "MSRA-TD500/train/IMG_0030.JPG"]),
    "td500 paddle": ("td500", "train", {
        "TD500/train_images/IMG_0030.JPG": None, "TD500/train_gts/IMG_0030.JPG.txt": f"{QUAD},0\n{QUAD},1\n",
        "TR400/train_images/img_1.jpg": None, "TR400/train_gts/img_1.jpg.txt": f"{QUAD},0\n{QUAD},1\n"},
        ["TD500/train_images/IMG_0030.JPG", "TR400/train_images/img_1.jpg"]),
    "ctw1500 page": ("ctw1500", "test", {"test_images/1001.jpg": None, "test_images/1002.jpg": None, "gt_ctw1500.zip": {
        "0001001.txt": f"{CURVE},####word\n{CURVE},#######\n", "0001002.txt": f"{CURVE},####a\n{CURVE},#######\n"}},
        ["1001.jpg", "1002.jpg"]),
    "ctw1500 train": ("ctw1500", "train", {
        "train_images/0001.jpg": None, "ctw1500_train_labels/0001.xml":
            XML.format("0001.jpg").replace("</image>", f"<box><label>###</label><segs>{CURVE}</segs></box></image>")},
        ["0001.jpg"]),
    "ctw1500 detector": ("ctw1500", "train", {
        "train/text_image/0001.jpg": None, "train/text_label_circum/0001.txt":
            ",".join(map(str, [10, 10, 58, 30, *[0, 0, 8, 0, 16, 0, 24, 0, 32, 0, 40, 0, 48, 0], *[48, 20, 40, 20, 32,
                                                  20, 24, 20, 16, 20, 8, 20, 0, 20]])) + "\n" + f"{CURVE},###\n"},
        ["0001.jpg"]),
    "totaltext page": ("totaltext", "test", {
        "Images/Test/img1.jpg": None, "Images/Test/img2.JPG": None, "Images/Train/img1001.jpg": None,
        "txt_format.zip": {"Test/poly_gt_img1.txt": RECORD.format("a") + RECORD.format("#"),
                           "Test/poly_gt_img2.txt": RECORD.format("b") + RECORD.format("#")}},
        ["img1.jpg", "img2.JPG"]),
    "totaltext mhliao": ("totaltext", "train", {
        "train_images/img11.jpg": None, "train_gts/img11.jpg.txt": f"{CURVE},word\n{QUAD},###\n"}, ["img11.jpg"]),
    "mlt2017 release": ("mlt2017", "train", {
        "ch8_training_images_1/img_1.jpg": None, "ch8_training_images_2/img_1001.png": None,
        "ch8_training_localization_transcription_gt_v2.zip": mlt(1, 1001)},
        ["ch8_training_images_1/img_1.jpg", "ch8_training_images_2/img_1001.png"]),
    "mlt2017 page": ("mlt2017", "validation", {
        "validation/img_1.jpg": None, **below("ch8_validation_localization_transcription_gt_v2", mlt(1))},
        ["img_1.jpg"]),
    "mlt2017 test is validation": ("mlt2017", "test", {
        "ch8_validation_images/img_1.jpg": None, "ch8_validation_localization_transcription_gt_v2.zip": mlt(1)},
        ["img_1.jpg"]),
    "prepared": ("icdar2015", "train", {"train/images/img_1.jpg": None,
                                        "train/train_det_gt.txt": f"img_1.jpg\t{LABEL}\n"}, ["img_1.jpg"]),
}


@pytest.mark.parametrize(("dataset", "split", "files", "names"), TREES.values(), ids=TREES)
def test_trees(tmp_path, dataset, split, files, names):
    place = find_place(dataset, tree(tmp_path, files), split)
    found = paired(dataset, place.images, place.labels)
    assert [entry.name for entry in found.entries] == names
    assert [repair for repair in found.repairs if repair.effect == "left out"] == []
    for entry in found.entries:
        assert entry.image.is_file()
        assert len(entry.sample.texts) == 2
        assert entry.sample.ignore.tolist() == [False, True]
        assert entry.sample.polygons[0].min(0).tolist() == [10, 10]
    preparation = prepare(found)
    assert preparation.complete
    assert [line.partition("\t")[0] for line in preparation.lines] == names


@pytest.mark.parametrize(("dataset", "split", "files", "names"), TREES.values(), ids=TREES)
def test_load(tmp_path, dataset, split, files, names):
    samples = load(dataset, tree(tmp_path, files), split=split)
    assert [sample.image.name for sample in samples] == [Path(name).name for name in names]
    assert all(sample.image.is_file() for sample in samples)


def test_every_layout_is_named_in_lower_case():
    for splits in LAYOUTS.values():
        for images, labels in splits.values():
            assert all(pattern == pattern.lower() for pattern in images + labels)


def test_shared_data(need):
    folder = need("data")
    assert len(load("icdar2015", folder / "icdar2015")) == 200
    assert len(load("icdar2015", folder / "icdar2015", split="train")) == 1000
    assert [sample.name for sample in load("td500", folder / "td500")][:2] == ["IMG_0059.JPG", "IMG_0080.JPG"]
    assert find_place("ctw1500", folder / "ctw1500", "test").images == []


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "name"), [
    ("icdar2015", "icdar2015"), ("ic15", "icdar2015"), ("ICDAR-15", "icdar2015"), ("MSRA-TD500", "td500"),
    ("HUST-TR400", "td500"), ("SCUT-CTW1500", "ctw1500"), ("Total-Text", "totaltext"), ("MLT_2017", "mlt2017"),
    ("mlt2019", "mlt2017"), ("labelfile", "prepared"),
])
def test_names_of_data_sets(text, name):
    assert dataset_name(text) == name


def test_an_unknown_name_with_the_nearest():
    with pytest.raises(DbnetError, match=r"unknown data set 'totaltex', did you mean totaltext\?"):
        dataset_name("totaltex")
    with pytest.raises(DbnetError, match=r"unknown data set 'coco'.* There are icdar2015, "):
        dataset_name("coco")


# Pairing --------------------------------------------------------------------------------------------------------------


def kinds(found):
    return [(repair.kind, repair.image) for repair in found.repairs]


def test_what_is_missing_is_listed_and_left_out(tmp_path):
    tree(tmp_path, {"images/img_1.jpg": None, "images/img_3.jpg": None, **below("gt", icdar(1, 2))})
    found = paired("icdar2015", [tmp_path / "images"], [tmp_path / "gt"])
    assert [entry.name for entry in found.entries] == ["img_1.jpg"]
    assert kinds(found) == [("missing image", "img_2.jpg"), ("no label", "img_3.jpg")]
    assert not prepare(found).complete
    with pytest.raises(DbnetError, match=r"img_3\.jpg: image without a label"):
        load("icdar2015", images=tmp_path / "images", labels=tmp_path / "gt")
    (tmp_path / "images" / "img_3.jpg").unlink()
    assert len(load("icdar2015", images=tmp_path / "images", labels=tmp_path / "gt")) == 1


def test_labels_alone(tmp_path):
    tree(tmp_path, {**below("gt", icdar(2, 10)), "td/IMG_0001.gt": GT, "tr/IMG_1.jpg.txt": f"{QUAD},0\n",
                    "ctw/0001001.txt": f"{CURVE},####a\n"})
    for dataset, folder, names in (("icdar2015", "gt", ["img_2.jpg", "img_10.jpg"]), ("td500", "td", ["IMG_0001.JPG"]),
                                   ("td500", "tr", ["IMG_1.jpg"]), ("ctw1500", "ctw", ["1001.jpg"])):
        found = paired(dataset, [], [tmp_path / folder])
        assert [entry.name for entry in found.entries] == names
        assert prepare(found).complete


def test_images_in_folders_below(tmp_path):
    tree(tmp_path, {"images/a/img_1.jpg": None, "images/b/c/img_2.jpg": None, "images/__MACOSX/img_1.jpg": None,
                    "images/.hidden/img_2.jpg": None, "images/b/._img_2.jpg": b"x", **below("gt", icdar(1, 2))})
    (tmp_path / "images" / "b" / "loop").symlink_to(tmp_path / "images")
    found = paired("icdar2015", [tmp_path / "images"], [tmp_path / "gt"])
    assert [entry.name for entry in found.entries] == ["a/img_1.jpg", "b/c/img_2.jpg"]
    assert found.repairs == []


def test_other_parts_below_the_same_folder_are_not_unlabelled(tmp_path):
    tree(tmp_path, {"test/img_1.jpg": None, "train/img_7.jpg": None, **below("gt", icdar(1))})
    found = paired("icdar2015", [tmp_path], [tmp_path / "gt"])
    assert [entry.name for entry in found.entries] == ["test/img_1.jpg"]
    assert found.repairs == []


def test_one_name_twice(tmp_path):
    tree(tmp_path, {"train/img_1.jpg": None, "test/img_1.png": None, **below("gt", icdar(1))})
    with pytest.raises(DbnetError, match=r"img_1\.png and .*img_1\.jpg: two images of the name img_1; take one away"):
        paired("icdar2015", [tmp_path], [tmp_path / "gt"])


def test_two_label_files_for_one_image(tmp_path):
    tree(tmp_path, {"images/img_1.jpg": None, "gt/gt_img_1.txt": f"{QUAD},a\n", "gt/poly_gt_img_1.txt": f"{QUAD},b\n"})
    with pytest.raises(DbnetError, match=r"are both labels of img_1"):
        paired("icdar2015", [tmp_path / "images"], [tmp_path / "gt"])


def test_a_converted_gif_stands_for_its_original(tmp_path):
    tree(tmp_path, {"images/img_1.gif": b"GIF89a", "images/img_1.png": None, **below("gt", mlt(1))})
    found = paired("mlt2017", [tmp_path / "images"], [tmp_path / "gt"])
    assert [entry.name for entry in found.entries] == ["img_1.png"]
    assert found.repairs == []


def test_names_in_another_case_and_numbers(tmp_path):
    tree(tmp_path, {"images/IMG_1.jpg": None, "images/img_2.jpg": None, **below("gt", icdar(1, 2))})
    assert len(paired("icdar2015", [tmp_path / "images"], [tmp_path / "gt"]).entries) == 2


def test_td500_numbered_in_the_order_of_the_names(tmp_path):
    """As DRRG and TextBPN hand it around."""
    lines = {f"gt_img_{i}.txt": f"10,10,{50 + i},30,0.0,text\n" for i in (1, 2)}
    tree(tmp_path, {"test/IMG_0080.JPG": None, "test/IMG_0059.JPG": None, **below("gt", lines)})
    found = paired("td500", [tmp_path / "test"], [tmp_path / "gt"])
    assert [(entry.name, entry.sample.polygons[0].max()) for entry in found.entries] == [("IMG_0059.JPG", 51),
                                                                                        ("IMG_0080.JPG", 52)]
    assert [repair.kind for repair in found.repairs] == ["by order"]


@pytest.mark.parametrize(("files", "message"), [
    ({"gt/gt_img_1.txt": f"{QUAD},a"}, r"images: no such folder"),
    ({"images": b"x", "gt/gt_img_1.txt": f"{QUAD},a"}, r"images: is a file; give a folder of images"),
    ({"images/readme.txt": "x", "gt/gt_img_1.txt": f"{QUAD},a"}, r"images: no images"),
    ({"images/ch8_training_images_1.zip": b"", "gt/gt_img_1.txt": f"{QUAD},a"}, r"unzip ch8_training_images_1"),
    ({"images/img_1.jpg": None, "gt/readme.md": ""}, r"gt: no labels"),
    ({"images/img_1.jpg": None}, r"gt: cannot be read"),
    ({"images/photo.jpg": None, "gt/gt_img_1.txt": f"{QUAD},a"}, r"none of its 1 images \(img_1\.jpg, \.\.\.\) is in"),
])
def test_nothing_to_pair(tmp_path, files, message):
    tree(tmp_path, files)
    with pytest.raises(DbnetError, match=message):
        paired("icdar2015", [tmp_path / "images"], [tmp_path / "gt"])


# Labels of another split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("test", "train"), ("Test", "Train"), ("test_images", "train_images"),
                                     ("ch4_test_images", "ch4_training_images")])
def test_swapped_labels_are_told_by_the_other_folder(tmp_path, folders):
    test, train = folders
    tree(tmp_path, {f"{test}/IMG_0059.JPG": None, f"{train}/IMG_0030.JPG": None, "labels/IMG_0030.gt": GT})
    with pytest.raises(DbnetError, match=rf"names the images of .*{train} \(IMG_0030\.JPG, \.\.\.\), none of .*"
                                         rf"{test}; train and test label files are swapped"):
        paired("td500", [tmp_path / test], [tmp_path / "labels"])


def test_the_pages_own_tree_of_td500(tmp_path):
    """test/train_det_gt.txt: what it names counts. With the images of the other part it is swapped."""
    tree(tmp_path, {"test/IMG_0059.JPG": None, "train/IMG_0030.JPG": None,
                    "test/train_det_gt.txt": f"IMG_0059.JPG\t{LABEL}\n",
                    "train/test_det_gt.txt": f"IMG_0059.JPG\t{LABEL}\n"})
    found = paired("prepared", [tmp_path / "test"], [tmp_path / "test" / "train_det_gt.txt"])
    assert [repair.kind for repair in found.repairs] == ["named"]
    assert prepare(found).complete
    with pytest.raises(DbnetError, match=r"names the images of .*test \(IMG_0059\.JPG, .*are swapped"):
        paired("prepared", [tmp_path / "train"], [tmp_path / "train" / "test_det_gt.txt"])


def test_swapped_labels_of_the_same_names(tmp_path):
    """ICDAR 2015 calls its images img_1.jpg in both parts."""
    tree(tmp_path, {**{f"test/images/img_{i}.jpg": None for i in (1, 2)}, **below("train/gt", icdar(1, 2, 3, 4))})
    with pytest.raises(DbnetError, match=r"train/gt is named after the train part, .*/test/images after the test part, "
                                         r"and 2 of their names have no counterpart"):
        paired("icdar2015", [tmp_path / "test/images"], [tmp_path / "train/gt"])


@pytest.mark.parametrize(("labels", "meant", "number", "other"), [("train/gt", "train", 500, "test"),
                                                                  ("test/gt.zip", "test", 1000, "train")])
def test_swapped_labels_are_told_by_the_published_counts(need, tmp_path, labels, meant, number, other):
    """Names of folders say nothing here; the number of images does, and what they are called."""
    source = tmp_path / f"labels{Path(labels).suffix}"
    source.symlink_to(need(f"data/icdar2015/{labels}"))
    tree(tmp_path, {f"{folder}/img_{i}.jpg": b"" for folder in ("pictures", f"{other}_images")
                    for i in range(1, (number if folder == "pictures" else 9) + 1)})
    for folder in ("pictures", f"{other}_images"):
        with pytest.raises(DbnetError, match=rf"holds the labels of all \d+ {meant} images of icdar2015, but .* its "
                                             rf"{other} images .*; train and test labels are swapped"):
            paired("icdar2015", [tmp_path / folder], [source])


# Prepared label files -------------------------------------------------------------------------------------------------


def test_load_prepared_keeps_paths_and_order(tmp_path):
    tree(tmp_path, {"images/2/img_1.jpg": None, "images/1/img_1.jpg": None,
                    "det_gt.txt": f"2/img_1.jpg\t{LABEL}\n./1\\img_1.jpg\t[]\n"})
    samples = load_prepared(tmp_path / "det_gt.txt", tmp_path / "images")
    assert [sample.image for sample in samples] == [tmp_path / "images/2/img_1.jpg", tmp_path / "images/1/img_1.jpg"]
    assert samples[0].ignore.tolist() == [False, True]
    assert samples[1].texts == []
    assert load("prepared", images=tmp_path / "images", labels=tmp_path / "det_gt.txt")[0].image == samples[0].image


@pytest.mark.parametrize(("lines", "message"), [
    ("a.jpg\t[]\na.jpg\t[]\n", "a.jpg has the name of an image of line 1; keep the line that counts"),
    ("a.jpg\t[]\nb.jpg\t[]\nc.jpg\t[]\n", r"2 of its 3 images are missing: .*b\.jpg, .*c\.jpg$"),
    ("hello", "not path<TAB>"), ("a.jpg\tx\n", "line 1: no JSON"),
])
def test_load_prepared_refuses(tmp_path, lines, message):
    tree(tmp_path, {"images/a.jpg": None, "det_gt.txt": lines})
    with pytest.raises(DbnetError, match=message):
        load_prepared(tmp_path / "det_gt.txt", tmp_path / "images")


@pytest.mark.parametrize("star", ["###", "*"])
def test_load_prepared_ignores_both_marks(tmp_path, star):
    tree(tmp_path, {"a.jpg": None, "det_gt.txt": "a.jpg\t" + LABEL.replace("###", star)})
    assert load_prepared(tmp_path / "det_gt.txt", tmp_path)[0].ignore.tolist() == [False, True]


def test_an_empty_label_file_is_an_empty_list(tmp_path):
    (tmp_path / "det_gt.txt").touch()
    assert load_prepared(tmp_path / "det_gt.txt", tmp_path) == []


def test_lines_and_digest():
    sample = Sample(Path("a"), [np.array([[1, 2.5], [3, 4], [0.25, 9]])], np.array([False]), ["日本\t\u2028"])
    line = line_of("1/a b.jpg", sample)
    assert line == '1/a b.jpg\t[{"transcription": "日本\\t\u2028", "points": [[1, 2.5], [3, 4], [0.25, 9]]}]'
    assert digest([line, "b\t[]"]) == digest(["x/y/b\t[]", line.replace("1/", "7/")])
    assert digest([line]) != digest([line.replace("a b", "a c")])
    assert digest(["a\t[]", "b\t[]"]) != digest(["a\t[]"])


def test_names_that_leave_the_folder(tmp_path):
    """A label file may name images anywhere; what is read from there is not written there."""
    tree(tmp_path, {"images/a.jpg": None, "other/b.jpg": None})
    (tmp_path / "det_gt.txt").write_text(f"../other/b.jpg\t{LABEL}\n{tmp_path}/images/a.jpg\t{LABEL}\n")
    found = paired("prepared", [tmp_path / "images"], [tmp_path / "det_gt.txt"])
    assert [entry.name for entry in found.entries] == ["../other/b.jpg", "a.jpg"]
    (tmp_path / "copies").mkdir()
    lines = prepare(found, copies=tmp_path / "copies").lines
    assert [line.partition("\t")[0] for line in lines] == ["other/b.jpg", "a.jpg"]
    assert sorted(file.name for file in tmp_path.rglob("copies/**/*.jpg")) == ["a.jpg", "b.jpg"]


def test_an_image_that_is_named_in_two_ways(tmp_path):
    tree(tmp_path, {"a.jpg": None, "det_gt.txt": f"a.jpg\t{LABEL}\n{tmp_path}/a.jpg\t[]\n"})
    with pytest.raises(DbnetError, match=r"a\.jpg is labelled twice"):
        paired("prepared", [tmp_path], [tmp_path / "det_gt.txt"])


def test_a_part_of_icdar2015_is_its_own_root(tmp_path):
    tree(tmp_path, {"train/images/img_1.jpg": None, **below("train/gt", icdar(1, 2))})
    assert len(load("icdar2015", tmp_path / "train", split="train")) == 1


def test_a_part_of_td500_is_its_own_root(tmp_path):
    tree(tmp_path, {"IMG_0001.JPG": None, "IMG_0001.gt": GT})
    assert len(load("td500", tmp_path)) == 1


def test_labels_of_totaltext_as_mat(tmp_path):
    cells = Writer()
    row = [cells.text(["x:"]), cells.numbers(np.array([[10.0, 50, 50, 10]])), cells.text(["y:"]),
           cells.numbers(np.array([[10.0, 10, 30, 30]])), cells.text(["word"]), cells.text(["c"])]
    tree(tmp_path, {"Images/Test/img1.jpg": None, "Images/Test/img2.jpg": None,
                    "Groundtruth/Polygon/Test/poly_gt_img1.mat": cells.file(cells.cells(row, "polygt", (1, 6)))})
    place = find_place("totaltext", tmp_path, "test")
    found = paired("totaltext", place.images, place.labels)
    assert [(entry.name, entry.sample.texts) for entry in found.entries] == [("img1.jpg", ["word"])]
    assert [repair.kind for repair in found.repairs] == ["no label"]
    assert paired(None, place.images, place.labels).dataset == "totaltext"
    (tmp_path / "Groundtruth/Polygon/Test/poly_gt_img2.mat").write_bytes(b"broken")
    found = paired("totaltext", place.images, place.labels)
    assert ("unreadable label", "img2") in kinds(found)
