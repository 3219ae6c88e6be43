"""The official ICDAR 2015 protocol: its own results on real detectors, and its rules one by one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.datasets.archive import natural_order, read_texts
from dbnet.datasets.icdar2015 import parse_labels
from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation.protocols import Counts, Score, rrc, total
from evaluation.results import by_sample, read_results


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)


def sample(truths: list[np.ndarray], ignored: list[np.ndarray] = (), name: str = "img_1.jpg") -> Sample:
    polygons = [np.float64(p) for p in (*truths, *ignored)]
    return Sample(Path(name), polygons, np.arange(len(polygons)) >= len(truths), [""] * len(polygons))


def found(*polygons: np.ndarray) -> list[Detection]:
    return [Detection(np.asarray(polygon, np.float32), 0.9) for polygon in polygons]


@pytest.fixture(scope="module")
def test_set(need) -> list[Sample]:
    """The labels of all 500 test images; the images themselves are not needed."""
    texts = read_texts(need("data/icdar2015/test/gt.zip"))
    return [parse_labels(texts[name], name, Path(name[3:-4] + ".jpg")) for name in sorted(texts, key=natural_order)]


# The official script's results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("results", "expected"), [
    ("icdar2015_giou_east.zip", Score(0.84659, 0.78912, 0.81685)),
    ("icdar2015_db_mv3.zip", Score(0.69836, 0.59413, 0.64204)),
])
def test_real_detectors(need, test_set, results, expected):
    score, counts = rrc.score(test_set, by_sample(read_results(need(f"data/results/{results}")), test_set))
    assert (round(score.precision, 5), round(score.recall, 5), round(score.fscore, 5)) == (
        expected.precision, expected.recall, expected.fscore)
    assert len(counts) == 500
    assert sum(c.truths for c in counts) == 2077


def test_golden_detections(need, test_set):
    """Nine of these detections cross themselves; MindOCR's metric on the same detections says .7287."""
    golden = json.loads(need("golden/detections.json").read_text())
    detections = [found(*(np.reshape(quad, (4, 2)) for quad in golden["detections"].get(s.image.stem[4:], [])))
                  for s in test_set]
    score, _ = rrc.score(test_set, detections)
    expected = golden["expected"]["rrc"]
    assert (score.precision, score.recall, score.fscore) == pytest.approx(
        (expected["precision"], expected["recall"], expected["hmean"]), abs=1e-12)


# Its rules, one by one ------------------------------------------------------------------------------------------------

WORD = box(0, 0, 100, 20)


@pytest.mark.parametrize(("truths", "ignored", "detections", "expected"), [
    pytest.param([WORD], [], [WORD], Counts(1, 1, 1), id="a hit"),
    pytest.param([WORD], [], [WORD[::-1]], Counts(1, 1, 1), id="anticlockwise"),
    pytest.param([WORD], [], [], Counts(0, 1, 0), id="a miss"),
    pytest.param([], [], [WORD], Counts(0, 0, 1), id="a false alarm"),
    pytest.param([], [], [], Counts(0, 0, 0), id="nothing"),
    pytest.param([WORD], [], [box(0, 0, 50, 20)], Counts(0, 1, 1), id="IoU of exactly one half is no match"),
    pytest.param([WORD], [], [box(0, 0, 51, 20)], Counts(1, 1, 1), id="a little more is"),
    pytest.param([WORD], [], [WORD, WORD], Counts(1, 1, 2), id="a duplicate is a false alarm"),
    pytest.param([WORD, WORD], [], [WORD], Counts(1, 2, 1), id="a detection is used once"),
    pytest.param([], [WORD], [box(0, 0, 40, 20)], Counts(0, 0, 0), id="on an ignored text"),
    pytest.param([], [WORD], [box(60, 0, 80, 20)], Counts(0, 0, 1), id="half on an ignored text counts"),
    pytest.param([], [WORD], [box(59, 0, 80, 20)], Counts(0, 0, 0), id="more than half does not"),
    pytest.param([], [box(0, 0, 50, 20), box(50, 0, 50, 20)], [box(20, 0, 60, 20)], Counts(0, 0, 1),
                 id="two ignored texts do not add up"),
    pytest.param([WORD], [box(0, 0, 52, 20)], [WORD], Counts(0, 1, 0), id="an ignored detection matches nothing"),
    pytest.param([WORD], [box(0, 0, 50, 20)], [WORD], Counts(1, 1, 1), id="an overlap that is small enough"),
    pytest.param([], [WORD], [box(-100, -100, 400, 400)], Counts(0, 0, 1), id="around an ignored text"),
    pytest.param([WORD], [], [box(0, 0, 0, 0)], Counts(0, 1, 1), id="a detection without area"),
    pytest.param([], [WORD], [box(5, 5, 0, 0)], Counts(0, 0, 1), id="a detection without area on an ignored text"),
    pytest.param([box(0, 0, 0, 0)], [], [WORD], Counts(0, 1, 1), id="a text without area"),
    pytest.param([WORD], [], [WORD[[0, 2, 1, 3]]], Counts(1, 1, 1), id="a figure eight has no area"),
    pytest.param([WORD], [], [WORD + 0.9], Counts(1, 1, 1), id="fractions are cut off"),
    pytest.param([], [WORD], [WORD[[0, 2, 1, 3]]], Counts(0, 0, 1), id="so it does not lie on an ignored text"),
    pytest.param([box(0.9, 0, 2, 2.9)], [], [box(0, 0, 2, 2)], Counts(1, 1, 1), id="in the labels too"),
    pytest.param([box(0, 0, 2, 2)], [], [box(0.9, 0, 2, 2.9)], Counts(1, 1, 1), id="and not rounded"),
    pytest.param([box(0, 0, 2, 2)], [], [box(-0.9, -0.9, 2.9, 2.9)], Counts(1, 1, 1), id="towards zero"),
])
def test_rules(truths, ignored, detections, expected):
    assert rrc.count(sample(truths, ignored), found(*detections)) == expected


def test_every_text_takes_the_first_free_detection():
    """The first text takes the first detection, though the second fits it better; the second text then gets none."""
    first, second = box(0, 0, 100, 20), box(40, 0, 100, 20)
    between, exact = box(20, 0, 100, 20), box(0, 0, 100, 20)
    assert rrc.count(sample([first, second]), found(between, exact)) == Counts(1, 2, 2)
    assert rrc.count(sample([first, second]), found(exact, between)) == Counts(2, 2, 2)
    assert rrc.count(sample([second, first]), found(between, exact)) == Counts(2, 2, 2)


def test_scores_are_over_all_texts_and_not_over_images():
    samples = [sample([WORD], name="img_1.jpg"), sample([WORD, box(0, 50, 100, 20), box(0, 90, 100, 20)])]
    score, counts = rrc.score(samples, [found(WORD), found(WORD, box(500, 0, 10, 10))])
    assert counts == [Counts(1, 1, 1), Counts(1, 3, 2)]
    assert (score.precision, score.recall) == (2 / 3, 2 / 4)
    assert score.fscore == pytest.approx(4 / 7)


@pytest.mark.parametrize(("counts", "expected"), [
    ([], Score(0, 0, 0)), ([Counts(0, 0, 0)], Score(0, 0, 0)), ([Counts(0, 5, 0)], Score(0, 0, 0)),
    ([Counts(0, 0, 5)], Score(0, 0, 0)), ([Counts(5, 5, 5)], Score(1, 1, 1)),
])
def test_nothing_to_divide_by(counts, expected):
    assert total(counts) == expected


def test_a_list_of_detections_for_every_sample():
    with pytest.raises(ValueError, match="zip"):
        rrc.score([sample([WORD])], [])


words = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)).map(lambda b: box(*b))


@given(st.lists(words, max_size=6), st.lists(words, max_size=4), st.lists(words, max_size=6))
def test_counts_are_possible(truths, ignored, detections):
    counts = rrc.count(sample(truths, ignored), found(*detections))
    assert 0 <= counts.matched <= min(counts.truths, counts.detections)
    assert counts.truths == len(truths)
    assert counts.detections <= len(detections)
    score = total([counts])
    assert 0 <= score.fscore <= max(score.precision, score.recall) + 1e-12 <= 1 + 2e-12
    itself = rrc.count(sample(truths), found(*truths))
    assert itself == Counts(len(truths), len(truths), len(truths))


# Result files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_read_results(tmp_path, zipped):
    texts = {"res_img_1.txt": "0,0,100,0,100,20,0,20\r\n5,5,9,5,9,9,5,9,0.75\n\n", "res_img_12.txt": ""}
    if zipped:
        path = tmp_path / "results.zip"
        with zipfile.ZipFile(path, "w") as target:
            for name, text in texts.items():
                target.writestr(f"sub/{name}", text)
    else:
        path = tmp_path
        for name, text in texts.items():
            (path / name).write_text(text)
    results = read_results(path)
    assert results.keys() == {"img_1", "img_12"}
    assert [d.score for d in results["img_1"]] == [1.0, 0.75]
    np.testing.assert_array_equal(results["img_1"][0].polygon, WORD)
    assert results["img_12"] == []


@pytest.mark.parametrize(("name", "text", "message"), [
    ("gt_img_1.txt", "", "gt_img_1.txt is no result file"),
    ("res_img_1.txt", "1,2,3,4,5,6,7\n", r"res_img_1.txt, line 1: 7 fields"),
    ("res_img_1.txt", "\n1,2,3,4,5,6,7,8,0.5,word\n", "line 2: 10 fields"),
    ("res_img_1.txt", "1,2,3,4,5,6,7,x\n", "line 1: .*must be numbers"),
    ("res_img_1.md", "", "no res_img_N.txt"),
])
def test_results_that_cannot_be_read(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DbnetError, match=message):
        read_results(tmp_path)


def test_results_are_found_by_image_name():
    samples = [sample([WORD], name="img_7.jpg"), sample([WORD], name="img_8.png")]
    hit = found(WORD)
    assert by_sample({"img_7": hit, "img_99": []}, samples) == [hit, []]
    with pytest.raises(DbnetError, match=r"no result is for img_7.jpg or another of the 2 images.* is for 7"):
        by_sample({"7": hit}, samples)
