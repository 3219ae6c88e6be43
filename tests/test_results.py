"""Anybody's result files: forms, telling them apart, matching them to labels, and everything that can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets.labels import FORMATS, read_labels
from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation.result_lines import parse_lines
from evaluation.result_order import told_names, told_order
from evaluation.results import Results, by_sample, read_results
from tests.test_labels import CURVE, coordinates, joined, outlines, write

QUAD = "0,0,100,0,100,20,0,20"
CORNERS = [[0, 0], [100, 0], [100, 20], [0, 20]]
POINTS = json.dumps([CORNERS])

#: Data set (None: told), file name, a line with the rectangle above, the image's stem, the score.
FORMS = [
    ("icdar2015", "res_img_1.txt", QUAD, "img_1", 1.0),
    ("icdar2015", "res_img_1.txt", f"{QUAD},0.75", "img_1", 0.75),
    ("icdar2015", "img_1.txt", QUAD.replace(",", ", "), "img_1", 1.0),
    ("icdar2015", "res_photo.txt", QUAD, "photo", 1.0),
    ("mlt2017", "res_img_1.txt", f"{QUAD},0.75", "img_1", 0.75),
    ("ctw1500", "1001.txt", QUAD, "1001", 1.0),
    ("ctw1500", "res_0001001.txt", f"{QUAD},", "0001001", 1.0),
    ("ctw1500", "1001.txt", f"{QUAD},0.5", "1001", 0.5),
    ("totaltext", "img1.txt", QUAD, "img1", 1.0),
    ("totaltext", "res_img1.txt", f"{QUAD},0.5", "img1", 0.5),
    ("totaltext", "poly_img1.txt", QUAD.replace(",", " "), "img1", 1.0),
    ("td500", "IMG_0059.txt", QUAD.replace(",", ", "), "IMG_0059", 1.0),
    ("td500", "res_IMG_0059.txt", f"{QUAD},0.5", "IMG_0059", 0.5),
    ("td500", "IMG_0059.txt", QUAD.replace(",", " "), "IMG_0059", 1.0),
    ("td500", "IMG_0059.txt", "0 0 100 20 0", "IMG_0059", 1.0),
    ("td500", "IMG_0059.txt", "0,0,100,20,0.0,0.25", "IMG_0059", 0.25),
    ("td500", "IMG_0059.JPG.txt", "7 1 0 0 100 20 0", "IMG_0059", 1.0),
    ("labelfile", "det_results.txt", f"test/img_1.jpg\t{POINTS}", "img_1", 1.0),
    ("labelfile", "det_results.txt", f"img_1.jpg\t{POINTS}\t[0.5]", "img_1", 0.5),
    ("labelfile", "predicts_db.txt", f'./img_1.jpg\t[{{"transcription": "", "points": {POINTS[1:-1]}}}]', "img_1", 1.0),
    ("labelfile", "a.txt", f'a.b.png\t[{{"points": {POINTS[1:-1]}, "score": 0.5}}]', "a.b", 0.5),
    ("dbnet", "d.json", f'{{"images": {{"img_1.jpg": {{"detections": [{{"polygon": {POINTS[1:-1]}, "score": 0.5}}]}}}}'
                        f', "scores": {{}}}}', "img_1", 0.5),
    ("dbnet", "d.jsonl", f'{{"dbnet": "detections", "images": 1}}\n{{"name": "img_1.jpg", "detections": [{{"polygon": '
                         f'{POINTS[1:-1]}, "score": 0.5}}]}}', "img_1", 0.5),
]


def found(*polygons):
    return [Detection(np.array(polygon, np.float32).reshape(-1, 2), 1.0) for polygon in polygons]


def sample(name, *polygons):
    polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    return Sample(Path(name), polygons, np.zeros(len(polygons), bool), [""] * len(polygons))


@pytest.mark.parametrize("told", [False, True], ids=["found out", "told"])
@pytest.mark.parametrize("place", ["results", "results.zip", "alone"])
@pytest.mark.parametrize(("form", "name", "line", "stem", "score"), FORMS)
def test_forms(tmp_path, form, name, line, stem, score, place, told):
    text = f"\ufeff{line}\r\n"
    if place == "alone":
        path = tmp_path / name
        path.write_bytes(text.encode())
    else:
        path = write(tmp_path / place, {name: text})
    if form == "mlt2017" and not told:
        form = "icdar2015"  # the same files
    results = read_results(path, form if told and form in FORMATS else None)
    assert results.format == form
    assert list(results.detections) == [stem]
    ((detection,),) = results.detections.values()
    assert detection.polygon.dtype == np.float32
    np.testing.assert_allclose(detection.polygon, CORNERS, atol=1e-5)
    assert detection.score == score


def test_files_in_natural_order_empty_ones_and_others(tmp_path):
    texts = {"res_img_10.txt": "", "res_img_2.txt": "\r\n", "res_img_1.txt": QUAD, "settings.json": "{}",
             "img_1.jpg": ""}
    results = read_results(write(tmp_path, texts))
    assert {stem: len(detections) for stem, detections in results.detections.items()} == {
        "img_1": 1, "img_2": 0, "img_10": 0}
    assert list(results.detections) == ["img_1", "img_2", "img_10"]


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "line", "message"), [
    ("icdar2015", "1,2,3,4,5,6,7", "7 fields, not x1,y1"),
    ("icdar2015", "1,2,3,4,5,6,7,8,0.5,word", "10 fields.*lines with transcriptions are labels"),
    ("icdar2015", "1,2,3,4,5,6,7,8,word", "must be numbers; lines with transcriptions are labels"),
    ("icdar2015", "1,2,3,4,5,6,7,8,###", "lines with transcriptions are labels"),
    ("icdar2015", "1,2,3,4,5,6,7,nan", "out of range: nan"),
    ("icdar2015", "1,2,3,4,5,6,7,1e300", "out of range: 1e"),
    ("icdar2015", "1,2,3,4,5,6,7,8,nan", "out of range: nan"),
    ("icdar2015", QUAD.replace(",", " "), "1 fields"),
    ("icdar2015", CURVE, "28 fields"),
    ("mlt2017", QUAD + ",Latin,word", "lines with transcriptions are labels"),
    ("ctw1500", "1,2,3,4", "4 numbers; a polygon is x and y of three or more points"),
    ("ctw1500", "1,2,3,4,0.5", "5 numbers; a polygon"),
    ("ctw1500", "1,2,3,4,5,6,7", "7 numbers.*perhaps a score from 0 to 1"),
    ("ctw1500", "1,2,3,4,,6", "must be numbers"),
    ("ctw1500", f"{CURVE},CARE", "lines with transcriptions are labels"),
    ("totaltext", "1,2,3,4,5,6,word", "lines with transcriptions are labels"),
    ("totaltext", "x: [[1 2 3]], y: [[1 2 3]], ornt: [u'c'], transcriptions: [u'a']", "must be numbers"),
    ("totaltext", "1,2,3,4,5,inf", "out of range: inf"),
    ("td500", "1 2 3 4", "4 numbers"),
    ("td500", "1 2 3 4 45", "angle in radians"),
    ("td500", "100,200,50,20,0.1", "xmin,ymin,xmax,ymax"),
    ("td500", "1 2 -3 4 0", "w and h of 0 or more"),
    ("td500", "0 7 1 2 3 4 0", "difficult 0 or 1"),
    ("labelfile", "1,2,3,4", "4 numbers"),
])
def test_malformed_lines_name_file_and_number(tmp_path, dataset, line, message):
    path = write(tmp_path / "r.zip", {"some/where/res_img_1.txt": f"{QUAD}\n\n{line}\n"})
    with pytest.raises(DbnetError, match=message) as error:
        read_results(path, dataset)
    assert str(error.value).startswith(f"{path}/res_img_1.txt, line 3: ")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("dataset", FORMATS)
def test_negative_coordinates_and_crossing_sides_are_kept(dataset):
    (detection,) = parse_lines("-5,-6,10,10,10,0,0,10", "", dataset)
    np.testing.assert_array_equal(detection.polygon, [[-5, -6], [10, 10], [10, 0], [0, 10]])


def test_td500_commas_and_blanks():
    """Five numbers: with commas the corners of the unturned rectangle, with blanks its size."""
    (corners,) = parse_lines("10,20,110,60,0.3", "", "td500")
    (size,) = parse_lines("10 20 100 40 0.3", "", "td500")
    assert np.array_equal(corners.polygon, size.polygon)


def test_td500_numbered_results():
    samples = [Sample(Path(f"IMG_{3 * i:04}"), [], np.zeros(0, bool), []) for i in range(200)]
    results = Results("td500", {"img_200": [], "img_2": [], "img_1": []})
    told = told_names(results, samples)
    assert list(told.detections) == ["IMG_0597", "IMG_0003", "IMG_0000"]
    assert "img_200 was taken for IMG_0597" in told.notes[0]
    for other in (samples[:-1], [*samples[:-1], Sample(Path("img_1"), [], np.zeros(0, bool), [])]):
        assert told_names(results, other) is results
    assert told_names(Results("icdar2015", {"img_1": []}), samples).notes == []
    assert told_names(Results("td500", {"img_201": []}), samples).notes == []


def test_results_with_the_images_numbers_for_names():
    samples = [Sample(Path(f"img_{i}"), [], np.zeros(0, bool), []) for i in (1, 2, 10)]
    told = told_names(Results("icdar2015", {"10": [], "2": []}), samples)
    assert list(told.detections) == ["img_10", "img_2"]
    assert "10 was taken for img_10" in told.notes[0]
    twice = [*samples, Sample(Path("ts_1"), [], np.zeros(0, bool), [])]
    for stem, other in (("3", samples), ("img_2", samples), ("2", twice)):
        assert told_names(Results("icdar2015", {stem: []}), other).notes == []


def test_td500_rectangles_lie_as_in_the_labels():
    (detection,) = parse_lines(f"10 20 100 40 {math.pi / 2} 0.5", "", "td500")
    np.testing.assert_allclose(detection.polygon, [[80, -10], [80, 90], [40, 90], [40, -10]], atol=1e-4)


@pytest.mark.parametrize(("scores", "noted"), [((0, 0.5, 1), False), ((-3.5, 0.5), True), ((97, 3), True)])
def test_scores_that_are_no_fractions_are_noted(tmp_path, scores, noted):
    lines = [f"{QUAD},{score}" for score in scores]
    results = read_results(write(tmp_path, {"res_img_1.txt": "\n".join(lines)}))
    assert [detection.score for detection in results.detections["img_1"]] == list(scores)
    assert bool(results.notes) == noted
    assert all(f"from {min(scores):g} to {max(scores):g}" in note for note in results.notes)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texts", "dataset", "message"), [
    ({}, None, r"no results \(.txt files\) in it"),
    ({"res_img_1.md": QUAD, ".res_img_1.txt": QUAD}, None, "no results"),
    ({"gt_img_1.txt": ""}, None, "gt_img_1.txt is no result file"),
    ({"poly_gt_img1.txt": ""}, "totaltext", "poly_gt_img1.txt is no result file.*begins the name of labels"),
    ({"res_img_1.txt": "", "img_1.txt": ""}, None, "img_1.txt and res_img_1.txt are both results of img_1"),
    ({"img_1.jpg.txt": "", "img_1.txt": ""}, None, "both results of img_1"),
    ({"a.txt": QUAD}, None, r"cannot tell whose results these are \(a.txt\); say --format totaltext\|ctw1500"),
    ({"img_1.txt": QUAD, "img2.txt": QUAD}, None, "cannot tell"),
    ({"a.txt": QUAD}, "coco", "unknown format 'coco'"),
    ({"a.json": "{}", "b.json": "{}"}, None, "a.json is no result file"),
])
@pytest.mark.parametrize("place", ["results", "results.zip"])
def test_files_that_are_no_results(tmp_path, texts, dataset, message, place):
    with pytest.raises(DbnetError, match=message) as error:
        read_results(write(tmp_path / place, texts), dataset)
    assert "\n" not in str(error.value)


def test_a_folder_of_td500_labels(tmp_path):
    with pytest.raises(DbnetError, match=r"no results .* its \.gt files are labels"):
        read_results(write(tmp_path, {"IMG_0059.gt": "0 0 1 2 3 4 0"}))


LINES = '{"dbnet": "detections", "version": 1, "images": 2}\n{"name": "a.jpg", "detections": []}\n'


@pytest.mark.parametrize(("name", "text", "message"), [
    ("d.json", "", "no JSON that can be read"),
    ("d.json", "[" * 100_000, "no JSON that can be read"),
    ("d.json", '{"a":' * 100_000, "no JSON that can be read"),
    ("d.json", "[]", "no object called images"),
    ("d.json", '{"dbnet": "detections", "images": 3}', "holds 0 of 3 images"),
    ("d.json", '{\n"images": []}', "no object called images"),
    ("d.json", '{"images": {"a.jpg": {}}}', "a.jpg: no image with its detections"),
    ("d.json", '{"images": {"a.jpg": {"detections": []}, "a.jpg": {"detections": []}}}', "'a.jpg' is set twice"),
    ("d.json", '{"images": {"a.jpg": {"detections": []}, "b/a.png": {"detections": []}}}', "the name of another image"),
    ("d.json", '{"images": {"a.jpg": {"detections": [{"score": 1}]}}}', "a.jpg: points that are not"),
    ("d.json", f'{{"images": {{"a.jpg": {{"detections": [{{"polygon": {POINTS[1:-1]}, "score": null}}]}}}}}}',
     "a NoneType where a number belongs"),
    ("d.json", '{"images": {"a.jpg": {"detections": [{"polygon": [[1, 2], [3, 4]], "score": 1}]}}}', "4 numbers"),
    ("d.json", '{"images": {"a.jpg": {"detections": [{"polygon": [[1, 2], [3, 4], [5, 1e300]], "score": 1}]}}}',
     "out of range"),
    ("d.jsonl", LINES, "holds 1 of 2 images; let the run that wrote it go on"),
    ("d.jsonl", LINES + '{"name": "b.jpg", "detec', "line 3: no JSON"),
    ("d.jsonl", LINES + '{"name": "a.jpg", "detections": []}', "line 3: .*the name of another image"),
    ("d.jsonl", LINES + "[]", "line 3: no image with its detections"),
    ("det.txt", f"a.jpg\t{POINTS}\nb.jpg\t{POINTS}\t[]", "line 2: 1 polygons, and behind the second tab no score"),
    ("det.txt", f"a.jpg\t{POINTS}\nb.jpg\t[[1, 2]]", "line 2: points that are not"),
    ("det.txt", f"a.jpg\t{POINTS}\nb/a.jpg\t{POINTS}", "line 2: .*has the name of an image of line 1"),
    ("det.txt", f'a.jpg\t{POINTS}\nb.jpg\t{{"Student": []}}', "line 2: not path<TAB>"),
])
def test_malformed_files_for_all_images(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DbnetError, match=message) as error:
        read_results(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 400


# Matching -------------------------------------------------------------------------------------------------------------


def test_by_sample():
    samples = [sample("img_7.jpg"), sample("img_8.png"), sample("img_9")]
    hit, other = found(CORNERS), found(CORNERS, CORNERS)
    assert by_sample(Results("icdar2015", {"img_9": other, "img_7": hit}), samples) == [hit, [], other]
    assert by_sample(Results("icdar2015", {}), samples) == [[], [], []]


@pytest.mark.parametrize(("image", "result"), [("1001.jpg", "0001001"), ("0001001", "1001"), ("img_0", "img_000"),
                                               ("a.b", "a.b"), ("x/img_1.JPEG", "img_1")])
def test_names_match_but_for_zeros(image, result):
    hit = found(CORNERS)
    assert by_sample(Results("ctw1500", {result: hit}), [sample(image), sample("other")]) == [hit, []]


def test_zeros_count_where_names_differ_by_nothing_else():
    first, second = found(CORNERS), found(CORNERS)
    samples = [sample("img_1"), sample("img_01")]
    assert by_sample(Results("icdar2015", {"img_01": second, "img_1": first}), samples) == [first, second]
    with pytest.raises(DbnetError, match="results called 1 and 001 are both for 01"):
        by_sample(Results("ctw1500", {"1": [], "001": []}), [sample("01")])


def test_results_of_other_images():
    results = Results("icdar2015", {"img_7": [], "img_98": [], "img_99": []})
    with pytest.raises(DbnetError, match=r"^2 of 3 results are for images without labels, the first for img_98;"):
        by_sample(results, [sample("img_7.jpg")])
    assert by_sample(results, [sample("img_7.jpg")], partial=True) == [[]]
    with pytest.raises(DbnetError, match=r"no result is for 7.jpg or another of the 1 images; .* is for img_7"):
        by_sample(results, [sample("7.jpg")], partial=True)
    with pytest.raises(DbnetError, match="two images are called img_7"):
        by_sample(results, [sample("img_7.jpg"), sample("img_7.png")])


# x or y first ---------------------------------------------------------------------------------------------------------

WORDS = [[100, 30, 300, 30, 300, 60, 100, 60], [400, 10, 600, 20, 600, 50, 400, 40], [20, 90, 90, 90, 90, 110, 20, 110]]


def swapped(polygon):
    return np.array(polygon).reshape(-1, 2)[:, ::-1]


@pytest.mark.parametrize("form", ["totaltext", "ctw1500"])
def test_y_first_is_told_and_noted(form):
    samples = [sample("img1", *WORDS[:2]), sample("img2", WORDS[2])]
    straight = Results(form, {"img1": found(*WORDS[:2]), "img2": found(WORDS[2])}, ["other"])
    assert told_order(straight, samples) is straight
    turned = Results(form, {"img1": found(*map(swapped, WORDS[:2])), "img2": found(swapped(WORDS[2]))}, ["other"])
    results = told_order(turned, samples)
    assert results.notes == ["other", "coordinates were read as y,x: so 3 of 3 boxes fit a label, as x,y 0"]
    for mine, theirs in zip(by_sample(results, samples), by_sample(straight, samples), strict=True):
        np.testing.assert_array_equal([d.polygon for d in mine], [d.polygon for d in theirs])
    assert turned.notes == ["other"]
    np.testing.assert_array_equal(turned.detections["img2"][0].polygon, swapped(WORDS[2]))


@pytest.mark.parametrize(("form", "detections"), [
    ("icdar2015", [swapped(WORDS[0])]), ("td500", [swapped(WORDS[0])]), ("labelfile", [swapped(WORDS[0])]),
    ("dbnet", [swapped(WORDS[0])]),
    ("totaltext", [WORDS[0], swapped(WORDS[1])]),  # no clear answer
    ("totaltext", [[900, 900, 910, 900, 910, 910, 900, 910]] * 20 + [swapped(WORDS[0])]),  # too few fit
    ("totaltext", []), ("totaltext", [[5, 5, 5, 5, 5, 5]]),
])
def test_order_is_kept_where_it_is_defined_or_unclear(form, detections):
    results = Results(form, {"img1": found(*detections)})
    assert told_order(results, [sample("img1", *WORDS), sample("img2")]) is results


# Properties and real files --------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(FORMATS))
def test_any_text_is_detections_or_one_line(data, dataset):
    pieces = st.sampled_from(["1,2,3,", "1 2 3", "\n", "\r", QUAD, CURVE, ",", "0.5", "word", "é", "###", "-7", "nan"])
    text = data.draw(st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join)))
    try:
        detections = parse_lines(text, "res.txt", dataset)
    except DbnetError as error:
        assert str(error).startswith("res.txt, line ")  # noqa: PT017 (both outcomes are right)
    else:
        assert all(d.polygon.shape[1] == 2 and len(d.polygon) >= 3 and math.isfinite(d.score) for d in detections)


@pytest.mark.parametrize("dataset", FORMATS)
@given(data=st.data())
def test_what_is_written_is_read(dataset, data):
    polygons = data.draw(st.lists(outlines(4, 4 if dataset in ("icdar2015", "mlt2017") else 20), max_size=5))
    scores = data.draw(st.lists(st.floats(0, 1), min_size=len(polygons), max_size=len(polygons)))
    with_scores = data.draw(st.booleans())
    lines = [joined(p) + (f",{score}" if with_scores else "") for p, score in zip(polygons, scores, strict=True)]
    detections = parse_lines("\n".join(lines), "res.txt", dataset)
    for detection, polygon in zip(detections, polygons, strict=True):
        np.testing.assert_array_equal(detection.polygon, np.array(polygon, np.float32))
    assert [detection.score for detection in detections] == (scores if with_scores else [1.0] * len(polygons))


@given(st.lists(st.tuples(coordinates, coordinates, *[st.floats(0, 999)] * 2, st.floats(-3, 3)), max_size=5))
def test_rectangles_have_the_area_they_are_given(rows):
    detections = parse_lines("\n".join(" ".join(map(repr, row)) for row in rows), "res.txt", "td500")
    for detection, (x, y, w, h, _) in zip(detections, rows, strict=True):
        np.testing.assert_allclose(detection.polygon.mean(axis=0), (x + w / 2, y + h / 2), atol=0.01)
        sides = np.linalg.norm(np.diff(detection.polygon, axis=0), axis=1)
        np.testing.assert_allclose(sides, (w, h, w), atol=0.01)


@pytest.mark.parametrize(("name", "gt", "form", "count"), [
    ("icdar2015_giou_east", "icdar2015/test/gt.zip", "icdar2015", 2688),
    ("icdar2015_db_mv3", "icdar2015/test/gt.zip", "icdar2015", 2282),
    ("ctw1500_ctd", "ctw1500/gt.zip", "ctw1500", 3340),
])
def test_published_results(need, name, gt, form, count):
    results = read_results(need(f"data/results/{name}.zip"))
    assert (results.format, results.notes) == (form, [])
    samples = read_labels(need(f"data/{gt}")).samples
    assert sum(map(len, by_sample(results, samples))) == count
    assert told_order(results, samples) is results
    turned = {stem: [Detection(d.polygon[:, ::-1], d.score) for d in f] for stem, f in results.detections.items()}
    back = told_order(Results("ctw1500", turned), samples)
    assert len(back.notes) == 1
    for stem, detections in results.detections.items():
        np.testing.assert_array_equal([d.polygon.sum() for d in back.detections[stem]],
                                      [d.polygon.sum() for d in detections])


def test_labels_as_results_are_refused(need):
    for path in ("icdar2015/test/gt.zip", "ctw1500/gt.zip", "totaltext/gt.zip", "td500/test"):
        with pytest.raises(DbnetError, match="labels"):
            read_results(need(f"data/{path}"))
    for name in ("icdar2015_db_mv3", "ctw1500_ctd"):
        with pytest.raises(DbnetError, match="results"):
            read_labels(need(f"data/results/{name}.zip"))
