"""Ground truth of every data set without its images: forms, telling them apart, and everything that can be wrong."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets import archive, ctw1500, icdar2015, labelfile, mlt2017, td500, totaltext
from dbnet.datasets.labels import FORMATS, PARSERS, read_labels
from dbnet.errors import DbnetError

QUAD = "10,20,110,22,109,52,9,50"
CURVE = ",".join(str(v) for v in range(10, 38))
RECORD = "x: [[10 20 30\n 40]], y: [[ 1  2\n 30 40]], ornt: [u'c'], transcriptions: [u'Joe\\'s']"
TD500 = "0 0 300 675 1232 112 0.053651"
ENTRY = {"transcription": "MASA", "points": [[310, 104], [416, 141], [418, 216], [312, 179]]}

#: Data set, file name, a line of it with one polygon, the image's stem.
FORMS = [
    ("icdar2015", "gt_img_1.txt", f"{QUAD},word, and more", "img_1"),
    ("icdar2015", "img_1.jpg.txt", f"{QUAD},word", "img_1"),
    ("mlt2017", "gt_img_1.txt", f"{QUAD},Latin,word, and more", "img_1"),
    ("ctw1500", "1001.txt", f"{CURVE},CARE", "1001"),
    ("ctw1500", "0001001.txt", f"{CURVE},####Latin 9", "0001001"),
    ("ctw1500", "0001.xml", f"<Annotations><image file='a'><box><label>w</label><segs>{CURVE}</segs></box></image>"
                            f"</Annotations>", "0001"),
    ("ctw1500", "1001.txt", f"5,6,7,8,{CURVE}", "1001"),
    ("totaltext", "poly_gt_img1.txt", "1,2,30,2,31,20,15,25,0,20,word", "img1"),
    ("totaltext", "poly_gt_img1.txt", RECORD, "img1"),
    ("totaltext", "img1.jpg.txt", f"{QUAD},word", "img1"),
    ("td500", "IMG_0059.gt", TD500, "IMG_0059"),
    ("td500", "IMG_0059.JPG.txt", f"{QUAD},0", "IMG_0059"),
    ("td500", "gt_img_59.txt", "0,0,100,20,0.05,text", "img_59"),
    ("td500", "a.gt", TD500, "a"),
]


def write(path: Path, texts: dict[str, str | bytes]) -> Path:
    """A folder, or a zip, of text files."""
    data = {name: text if isinstance(text, bytes) else text.encode() for name, text in texts.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name, content in data.items():
                target.writestr(name, content)
    else:
        path.mkdir(exist_ok=True)
        for name, content in data.items():
            (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("told", [False, True], ids=["found out", "told"])
@pytest.mark.parametrize("place", ["gt", "gt.zip"])
@pytest.mark.parametrize(("dataset", "name", "line", "stem"), FORMS)
def test_forms(tmp_path, dataset, name, line, stem, place, told):
    path = write(tmp_path / place, {name: "\ufeff" + line.replace("\n", "\r\n") + "\r\n\r\n", "notes.md": "x"})
    labels = read_labels(path, dataset if told else None)
    assert labels.dataset == dataset
    (sample,) = labels.samples
    assert (sample.image, sample.name) == (Path(stem), stem)
    assert len(sample.polygons) == len(sample.texts) == 1
    assert sample.ignore.tolist() == [False]
    assert sample.polygons[0].dtype == np.float64


def test_natural_order_and_empty_files(tmp_path):
    labels = read_labels(write(tmp_path, {f"gt_img_{i}.txt": "" for i in (10, 2, 1)}))
    assert [sample.name for sample in labels.samples] == ["img_1", "img_2", "img_10"]
    assert labels.dataset == "icdar2015"
    assert all(sample.ignore.shape == (0,) and sample.ignore.dtype == bool for sample in labels.samples)


# Each data set's lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "text", "ignored"), [
    (f"{QUAD},Arabic,###", "###", True), (f"{QUAD},None,", "", False), (f"{QUAD}, Korean ,a,b", "a,b", False),
    (f'{QUAD},Latin,"a,b"', "a,b", False),
])
def test_mlt2017(line, text, ignored):
    sample = mlt2017.parse_labels(line, "gt.txt", Path())
    assert (sample.texts, sample.ignore.tolist()) == ([text], [ignored])


@pytest.mark.parametrize(("line", "text", "ignored"), [
    (f"{CURVE},CARE", "CARE", False), (f"{CURVE},####a, b", "a, b", False), (f"{CURVE},#######", "###", True),
    (f"{CURVE},###", "###", True), (f"{CURVE},####", "", False), (f"{CURVE},2019", "2019", False),
])
def test_ctw1500(line, text, ignored):
    sample = ctw1500.parse_labels(line, "1001.txt", Path())
    assert (sample.texts, sample.ignore.tolist()) == ([text], [ignored])
    np.testing.assert_array_equal(sample.polygons[0].ravel(), np.arange(10, 38))


def test_ctw1500_relative_points():
    (polygon,) = ctw1500.parse_labels(f"5,6,7,8,{CURVE}", "1001.txt", Path()).polygons
    np.testing.assert_array_equal(polygon, np.arange(10, 38).reshape(14, 2) + (5, 6))


@pytest.mark.parametrize(("line", "text", "ignored"), [
    ("1,2,3,4,5,6,word", "word", False), ("1,2,3,4,5,6,###", "###", True), ("1,2,3,4,5,6,#", "#", True),
    ("1,2,3,4,5,6,42", "42", False), ("1,2,3,4,5,6,a,b", "a,b", False), ("1,2,3,4,5,6,7,b", "7,b", False),
    ('1,2,3,4,5,6,"1,000"', "1,000", False), ("1,2,3,4,5,6,", "", False),
])
def test_totaltext_lines(line, text, ignored):
    sample = totaltext.parse_labels(line, "poly_gt_img1.txt", Path())
    np.testing.assert_array_equal(sample.polygons[0].ravel()[:6], [1, 2, 3, 4, 5, 6])
    assert (sample.texts, sample.ignore.tolist()) == ([text], [ignored])


@pytest.mark.parametrize(("record", "texts", "ignored", "sizes"), [
    (RECORD, ["Joe's"], [False], [4]),
    (RECORD + "\n" + RECORD.replace("Joe\\'s", "#"), ["Joe's", "#"], [False, True], [4, 4]),
    (RECORD.replace("u'c'", "u'#'"), ["Joe's"], [True], [4]),
    (RECORD.replace("u'Joe\\'s'", ""), [""], [True], [4]),
    (RECORD.replace("u'Joe\\'s'", 'u"a]b, \\"c\\""'), ['a]b, "c"'], [False], [4]),
    (RECORD.replace("[u'c']", "['c']").replace("[u'Joe\\'s']", "['x']"), ["x"], [False], [4]),
    ("x: [[7]], y: [[8]], ornt: [u'#'], transcriptions: [u'#']", ["#"], [True], [3]),
    ("x: [[7, 9]], y: [[8, 9]], ornt: [u'h'], transcriptions: [u'a']", ["a"], [False], [3]),
])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_totaltext_records(record, texts, ignored, sizes, end):
    sample = totaltext.parse_labels(record.replace("\n", end), "poly_gt_img1.txt", Path())
    assert (sample.texts, sample.ignore.tolist()) == (texts, ignored)
    assert [len(polygon) for polygon in sample.polygons] == sizes


def test_totaltext_points():
    (polygon,) = totaltext.parse_labels(RECORD, "", Path()).polygons
    np.testing.assert_array_equal(polygon, [[10, 1], [20, 2], [30, 30], [40, 40]])


@given(*[st.floats(0, 2000)] * 4, st.floats(-math.pi, math.pi))
def test_td500_rectangles_are_opencvs(x, y, w, h, angle):
    """PSENet and PAN read these labels with cv2.boxPoints; the corners may come in another order."""
    sample = td500.parse_labels(f"0 1 {x!r} {y!r} {w!r} {h!r} {angle!r}", "a.gt", Path())
    theirs = cv2.boxPoints(((x + w / 2, y + h / 2), (w, h), math.degrees(angle)))
    distances = np.linalg.norm(sample.polygons[0][:, None] - theirs, axis=2)
    assert distances.min(axis=1).max() < 0.01
    assert distances.min(axis=0).max() < 0.01
    assert sample.ignore.tolist() == [True]


def test_td500_between_corners():
    """`xmin,ymin,xmax,ymax,angle,text` and the original's `x y w h angle` are the same rectangle."""
    numbered = td500.parse_labels("10,20,110,60,0.3,###\n10,20,110,60,0.3,text", "a.txt", Path())
    original = td500.parse_labels("0 1 10 20 100 40 0.3", "a.gt", Path())
    assert numbered.ignore.tolist() == [True, False]
    assert np.array_equal(numbered.polygons[1], original.polygons[0])


def test_td500_turns_clockwise_around_the_centre():
    (polygon,) = td500.parse_labels(f"0 0 10 20 100 40 {math.pi / 2}", "a.gt", Path()).polygons
    np.testing.assert_allclose(polygon, [[80, -10], [80, 90], [40, 90], [40, -10]], atol=1e-9)


@pytest.mark.parametrize(("mark", "ignored"), [("1", True), ("0", False), ("###", True), ("word", False)])
def test_td500_with_corners(mark, ignored):
    assert td500.parse_labels(f"{QUAD},{mark}", "a.txt", Path()).ignore.tolist() == [ignored]


def test_label_file(tmp_path):
    rows = [("test/img_10.jpg", [ENTRY]), ("test/img_2.jpg", [ENTRY | {"transcription": t} for t in ("###", "*", "a")]),
            ("a b.png", [])]
    path = tmp_path / "det_gt.txt"
    path.write_text("".join(f"{name}\t{json.dumps(entries)}\n" for name, entries in rows))
    labels = read_labels(path)
    assert labels.dataset == "labelfile"
    assert [sample.name for sample in labels.samples] == ["a b", "img_2", "img_10"]
    assert [sample.ignore.tolist() for sample in labels.samples] == [[], [True, True, False], [False]]
    np.testing.assert_array_equal(labels.samples[2].polygons[0], ENTRY["points"])
    assert read_labels(path, "td500").dataset == "td500"


# Telling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texts", "dataset"), [
    ({"gt_img_1.txt": f"{QUAD},Latin,a\n{QUAD},word", "gt_img_2.txt": f"{QUAD},word"}, "icdar2015"),
    ({"gt_img_1.txt": f"{QUAD},Latin,a", "gt_img_2.txt": ""}, "mlt2017"),
    ({"gt_img_1.txt": f"{QUAD},a", "readme.txt": "hello"}, "icdar2015"),
    ({"gt_img_1.txt": f"{QUAD},5"}, "icdar2015"),
    ({"a.txt": RECORD}, "totaltext"),
    ({"a.txt": f"{CURVE},####a"}, "ctw1500"),
    ({"a.txt": TD500}, "td500"),
    ({"a.gt": "", "IMG_1.txt": "1,2,3"}, "td500"),
    ({"a.txt": f"{QUAD},Latin,a"}, "mlt2017"),
    ({"poly_gt_img1.txt": ""}, "totaltext"),
])
def test_told_by_names_and_lines(tmp_path, texts, dataset):
    assert read_labels(write(tmp_path, texts)).dataset == dataset


@pytest.mark.parametrize(("texts", "message"), [
    ({"a.txt": f"{QUAD},word"}, r"cannot tell.*icdar2015 or td500 or totaltext would fit a\.txt; say --format icdar2015"
                                r"\|td500\|totaltext"),
    ({"7.txt": f"{QUAD},word"}, r"cannot tell.*say --format icdar2015"),
    ({"gt_img_1.txt": f"{CURVE},word"}, r"cannot tell.*ctw1500 or totaltext would fit"),
    ({"a.txt": "hello world"}, r"cannot tell which labels these are \(a\.txt\); say --format icdar2015\|mlt2017\|"),
    ({"a.txt": ""}, "cannot tell"),
    ({"a.txt": f"{QUAD}\n{QUAD}"}, "cannot tell.*they may be results"),
    ({"res_img_1.txt": QUAD}, "holds results .*--gt and --results the other way round"),
    ({}, r"no labels \(\.txt, \.gt, \.xml files\) in it"),
    ({".hidden.txt": QUAD, "img_1.jpg": b"\xff\xd8"}, "no labels"),
    ({"gt_img_1.txt": QUAD, "poly_gt_img_1.txt": ""}, r"gt_img_1.txt and poly_gt_img_1.txt are both labels of img_1"),
])
@pytest.mark.parametrize("place", ["gt", "gt.zip"])
def test_what_cannot_be_told(tmp_path, texts, message, place):
    with pytest.raises(DbnetError, match=message) as error:
        read_labels(write(tmp_path / place, texts))
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_format(tmp_path):
    with pytest.raises(DbnetError, match=r"unknown format 'coco'; choose from icdar2015, mlt2017"):
        read_labels(tmp_path, "coco")
    with pytest.raises(DbnetError, match="no label file, whose lines are"):
        read_labels(write(tmp_path, {"gt_img_1.txt": ""}), "labelfile")


# Lines that cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "line", "message"), [
    ("icdar2015", QUAD, "8 fields, not x1,y1"),
    ("icdar2015", "1,2,3,4,5,6,7,nan,word", "out of range: nan"),
    ("icdar2015", "1,2,3,4,5,6,7,1e300,word", "out of range: 1e"),
    ("icdar2015", "1,2,3,4,5,6,7,-inf,word", "out of range: -inf"),
    ("mlt2017", f"{QUAD},Klingon,word", "script of Arabic, Latin"),
    ("mlt2017", f"{QUAD},Latin", "not x1,y1"),
    ("ctw1500", "1,2,3,4,word", "4 numbers; a polygon is x and y of three or more points"),
    ("ctw1500", CURVE, "28 numbers and no transcription"),
    ("ctw1500", "word", "0 numbers"),
    ("totaltext", "1,2,3,4,word", "4 numbers"),
    ("totaltext", "1,2,3,4,5,6", "6 numbers and no transcription.*lines without one are results"),
    ("totaltext", "1,2,3,4,5,nan,word", "4 numbers"),
    ("totaltext", "1,2,3,4,5,9999999,word", "out of range"),
    ("totaltext", "x: [[1 2 3]], y: [[1 2]], ornt: [u'c'], transcriptions: [u'a']", "3 x and 2 y"),
    ("totaltext", "x: [[1 2 b]], y: [[1 2 3]], ornt: [u'c'], transcriptions: [u'a']", "must be numbers"),
    ("totaltext", "x: [[]], y: [[]], ornt: [u'c'], transcriptions: [u'a']", "must be numbers"),
    ("totaltext", "x: [[1 2 3]], y: [[1 2 3]], ornt: [u'c']", "not x: "),
    ("td500", "0 0 1 2 3 4", "not index difficult x y w h angle"),
    ("td500", "0 2 1 2 3 4 0.5", "difficult 0 or 1"),
    ("td500", "0 0 1 2 -3 4 0.5", "w and h of 0 or more"),
    ("td500", "0 0 1 2 3 4 45", "angle in radians"),
    ("td500", "0 0 1 2 3 nan 0", "out of range"),
    ("td500", "10,20,5,30,0,text", "xmin,ymin,xmax,ymax"),
    ("td500", QUAD, "not index difficult"),
])
def test_malformed_lines_name_file_and_number(dataset, line, message):
    good = next(text for d, _, text, _ in FORMS if d == dataset and text[0] not in "<x")
    if line.startswith("x:"):
        good = RECORD.replace("\n", " ")
    with pytest.raises(DbnetError, match=message) as error:
        PARSERS[dataset](f"{good}\n\n{line}\n{good}", "dir/gt.txt", Path())
    assert str(error.value).startswith("dir/gt.txt, line 3: ")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("dataset", "line"), [
    ("icdar2015", "-5,-6,10,10,10,0,0,10,bow tie"), ("totaltext", "-5,-6,10,10,10,0,0,10,bow tie"),
    ("ctw1500", "-5,-6,10,10,10,0,0,10,bow tie"),
])
def test_negative_coordinates_and_crossing_sides_are_kept(dataset, line):
    (polygon,) = PARSERS[dataset](line, "", Path()).polygons
    np.testing.assert_array_equal(polygon, [[-5, -6], [10, 10], [10, 0], [0, 10]])


@pytest.mark.parametrize(("text", "message"), [
    ("<a><box></a>", "no XML that can be read"), ("<a><box><segs>1,2,3,4</segs></box></a>", "box 1: 4 numbers"),
    ("<a><box/></a>", "box 1: .*must be numbers"), ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "declares a document type"),
])
def test_malformed_xml(text, message):
    with pytest.raises(DbnetError, match=message):
        ctw1500.parse_labels(text, "0001.xml", Path())


@pytest.mark.parametrize(("line", "message"), [
    ("img_2.jpg", "not path<TAB>"), ("img_2.jpg\t[{]", "no JSON that can be read"),
    ("img_2.jpg\t" + "[" * 100_000, "no JSON that can be read"), ("img_2.jpg\t{}", "not path<TAB>"),
    ("img_2.jpg\t[[[1, 2], [3, 4], [5, 6]]]", "lines without transcriptions are results"),
    ('img_2.jpg\t[{"transcription": "a", "transcription": "b"}]', "'transcription' is set twice"),
    ('img_2.jpg\t[{"transcription": "a"}]', "points that are not"),
    ('img_2.jpg\t[{"transcription": "a", "points": [[1, 2], [3, 4]]}]', "4 numbers; a polygon"),
    ('img_2.jpg\t[{"transcription": "a", "points": [[1, 2], [3, NaN], [5, 6]]}]', "out of range"),
    ('img_2.jpg\t[{"transcription": "a", "points": [[1, 2], [3, true], [5, 6]]}]', "a bool where a number belongs"),
    ('img_2.jpg\t[{"transcription": "a", "points": [[1, 2], [3, 1' + "0" * 400 + '], [5, 6]]}]', "out of range"),
    ('img_2.jpg\t[{"transcription": "a", "points": [[1, 2], [3, 1' + "0" * 5000 + '], [5, 6]]}]', "no JSON"),
    ("other/img_1.jpg\t[]", "has the name of an image of line 1"),
])
def test_malformed_label_files(tmp_path, line, message):
    path = tmp_path / "det_gt.txt"
    path.write_text(f"img_1.jpg\t{json.dumps([ENTRY])}\n{line}\n")
    with pytest.raises(DbnetError, match=message) as error:
        read_labels(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert len(str(error.value)) < 400


@given(st.data(), st.sampled_from(sorted(PARSERS)))
def test_any_text_is_labels_or_one_line(data, dataset):
    pieces = st.sampled_from(["x: [[", "]], y: [[", "ornt: [u'", "'], transcriptions: [u'", "1 2", "1,2,3,", "\n", "\r",
                              QUAD, CURVE, "####", ",", "Latin", TD500, "<a><box>", "</box>", "0 0 ", "é"])
    text = data.draw(st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join)))
    try:
        sample = PARSERS[dataset](text, "gt.txt", Path())
    except DbnetError as error:
        assert str(error).startswith("gt.txt")  # noqa: PT017 (both outcomes are right)
    else:
        assert len(sample.polygons) == len(sample.texts) == len(sample.ignore)
        assert all(polygon.shape[1] == 2 and len(polygon) >= 3 for polygon in sample.polygons)


# Round trips ----------------------------------------------------------------------------------------------------------

coordinates = st.floats(-9999, 9999).map(lambda value: round(value, 3))
words = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"\\'), min_size=1).filter(
    lambda text: text.strip() == text and not archive.is_number(text.split(",")[0]))


def outlines(least, most):
    return st.integers(least, most).flatmap(
        lambda points: st.lists(st.tuples(coordinates, coordinates), min_size=points, max_size=points))


def joined(polygon):
    return ",".join(str(value) for point in polygon for value in point)


WRITERS = {
    "icdar2015": lambda polygon, text: f"{joined(polygon)},{text}",
    "mlt2017": lambda polygon, text: f"{joined(polygon)},Latin,{text}",
    "ctw1500": lambda polygon, text: f"{joined(polygon)},####{text}",
    "totaltext": lambda polygon, text: f'{joined(polygon)},"{text}"',
    "records": lambda polygon, text: (
        f"x: [[{' '.join(str(x) for x, _ in polygon)}]], y: [[{' '.join(str(y) for _, y in polygon)}]], "
        f"ornt: [u'h'], transcriptions: [u\"{text}\"]"),
}


@pytest.mark.parametrize("form", WRITERS)
@given(data=st.data())
def test_what_is_written_is_read(form, data):
    least, most = (4, 4) if form in ("icdar2015", "mlt2017") else (3, 20)
    rows = data.draw(st.lists(st.tuples(outlines(least, most), words), max_size=5))
    text = "\n".join(WRITERS[form](polygon, text) for polygon, text in rows)
    sample = PARSERS["totaltext" if form == "records" else form](text, "gt.txt", Path())
    assert [polygon.tolist() for polygon in sample.polygons] == [[list(p) for p in polygon] for polygon, _ in rows]
    assert sample.texts == [text for _, text in rows]


@given(st.lists(st.tuples(outlines(3, 9), st.text()), max_size=5))
def test_a_label_file_that_is_written_is_read(rows):
    entries = [{"transcription": text, "points": polygon} for polygon, text in rows]
    (sample,) = labelfile.read_label_file(f"a.jpg\t{json.dumps(entries)}", "gt.txt")
    assert [polygon.tolist() for polygon in sample.polygons] == [[list(p) for p in polygon] for polygon, _ in rows]
    assert sample.texts == [text for _, text in rows]


# The data sets themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "dataset", "images", "texts", "cared_for"), [
    ("icdar2015/test/gt.zip", "icdar2015", 500, 5230, 2077), ("ctw1500/gt.zip", "ctw1500", 500, 3068, 3068),
    ("totaltext/gt.zip", "totaltext", 300, 2545, 2214), ("td500/test", "td500", 12, 42, 38),
])
def test_the_data_sets(need, path, dataset, images, texts, cared_for):
    """The numbers are the official scripts' own (ICDAR 2015: 2,077 words; TIoU: 3,068 and 2,214)."""
    labels = read_labels(need(f"data/{path}"))
    assert labels.dataset == dataset
    assert len(labels.samples) == images
    assert sum(len(sample.polygons) for sample in labels.samples) == texts
    assert sum(int(np.sum(~sample.ignore)) for sample in labels.samples) == cared_for
    names = [sample.name for sample in labels.samples]
    assert names == sorted(names, key=archive.natural_order)


def test_the_same_labels_as_with_images(need):
    with_images = icdar2015.load(need("data/icdar2015/test"))
    labels = {sample.name: sample for sample in read_labels(need("data/icdar2015/test/gt.zip")).samples}
    for sample in with_images:
        np.testing.assert_array_equal(sample.polygons, labels[sample.image.stem].polygons)
        assert sample.texts == labels[sample.image.stem].texts


def test_every_data_set_has_a_form():
    assert {dataset for dataset, *_ in FORMS} == set(PARSERS) == set(FORMATS) - {"labelfile"}
