"""The official ICDAR 2015 protocol: its own results on real detectors, and its rules one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dbnet.datasets.archive import natural_order, read_texts
from dbnet.datasets.icdar2015 import parse_labels
from dbnet.sample import Sample
from evaluation.protocols import Result, mindocr, rrc
from evaluation.results import by_sample, read_results
from tests.protocol_scenes import EIGHT, WORD, box, found, sample


@pytest.fixture(scope="module")
def test_set(need) -> list[Sample]:
    """The labels of all 500 test images; the images themselves are not needed."""
    texts = read_texts(need("data/icdar2015/test/gt.zip"))
    return [parse_labels(texts[name], name, Path(name[3:-4] + ".jpg")) for name in sorted(texts, key=natural_order)]


def scored(module, samples, detections) -> Result:
    return Result(module.PROTOCOLS[0], module.count(samples, detections))


# The official script's results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("results", "precision", "recall", "fscore"), [
    ("icdar2015_giou_east.zip", 0.84659, 0.78912, 0.81685),
    ("icdar2015_db_mv3.zip", 0.69836, 0.59413, 0.64204),
])
def test_real_detectors(need, test_set, results, precision, recall, fscore):
    result = scored(rrc, test_set, by_sample(read_results(need(f"data/results/{results}")), test_set))
    score = result.score
    assert (round(score.precision, 5), round(score.recall, 5), round(score.fscore, 5)) == (precision, recall, fscore)
    assert result.per_image.shape == (500, 4)
    assert result.per_image[:, 1].sum() == 2077


@pytest.mark.parametrize("module", [rrc, mindocr])
def test_golden_detections(need, test_set, module):
    """Nine of these detections cross themselves; the two differ by 1.2 points."""
    golden = json.loads(need("golden/detections.json").read_text())
    detections = [found(*(np.reshape(quad, (4, 2)) for quad in golden["detections"].get(s.image.stem[4:], [])))
                  for s in test_set]
    score = scored(module, test_set, detections).score
    expected = golden["expected"][module.PROTOCOLS[0].name]
    assert (score.precision, score.recall, score.fscore) == pytest.approx(
        (expected["precision"], expected["recall"], expected["hmean"]), abs=1e-12)


# Its rules, one by one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("truths", "ignored", "detections", "matched", "texts", "counted"), [
    pytest.param([WORD], [], [WORD], 1, 1, 1, id="a hit"),
    pytest.param([WORD], [], [WORD[::-1]], 1, 1, 1, id="anticlockwise"),
    pytest.param([WORD], [], [], 0, 1, 0, id="a miss"),
    pytest.param([], [], [WORD], 0, 0, 1, id="a false alarm"),
    pytest.param([], [], [], 0, 0, 0, id="nothing"),
    pytest.param([WORD], [], [box(0, 0, 50, 20)], 0, 1, 1, id="IoU of exactly one half is no match"),
    pytest.param([WORD], [], [box(0, 0, 51, 20)], 1, 1, 1, id="a little more is"),
    pytest.param([WORD], [], [WORD, WORD], 1, 1, 2, id="a duplicate is a false alarm"),
    pytest.param([WORD, WORD], [], [WORD], 1, 2, 1, id="a detection is used once"),
    pytest.param([], [WORD], [box(0, 0, 40, 20)], 0, 0, 0, id="on an ignored text"),
    pytest.param([], [WORD], [box(60, 0, 80, 20)], 0, 0, 1, id="half on an ignored text counts"),
    pytest.param([], [WORD], [box(59, 0, 80, 20)], 0, 0, 0, id="more than half does not"),
    pytest.param([], [box(0, 0, 50, 20), box(50, 0, 50, 20)], [box(20, 0, 60, 20)], 0, 0, 1,
                 id="two ignored texts do not add up"),
    pytest.param([WORD], [box(0, 0, 52, 20)], [WORD], 0, 1, 0, id="an ignored detection matches nothing"),
    pytest.param([WORD], [box(0, 0, 50, 20)], [WORD], 1, 1, 1, id="an overlap that is small enough"),
    pytest.param([], [WORD], [box(-100, -100, 400, 400)], 0, 0, 1, id="around an ignored text"),
    pytest.param([WORD], [], [box(0, 0, 0, 0)], 0, 1, 1, id="a detection without area"),
    pytest.param([], [WORD], [box(5, 5, 0, 0)], 0, 0, 1, id="a detection without area on an ignored text"),
    pytest.param([box(0, 0, 0, 0)], [], [WORD], 0, 1, 1, id="a text without area"),
    pytest.param([WORD], [], [EIGHT], 1, 1, 1, id="a figure eight has no area"),
    pytest.param([], [WORD], [EIGHT], 0, 0, 1, id="so it does not lie on an ignored text"),
    pytest.param([WORD], [], [WORD + 0.9], 1, 1, 1, id="fractions are cut off"),
    pytest.param([box(0.9, 0, 2, 2.9)], [], [box(0, 0, 2, 2)], 1, 1, 1, id="in the labels too"),
    pytest.param([box(0, 0, 2, 2)], [], [box(0.9, 0, 2, 2.9)], 1, 1, 1, id="and not rounded"),
    pytest.param([box(0, 0, 2, 2)], [], [box(-0.9, -0.9, 2.9, 2.9)], 1, 1, 1, id="towards zero"),
])
def test_rules(truths, ignored, detections, matched, texts, counted):
    counts = rrc.count([sample(truths, ignored)], [found(*detections)])
    assert counts.tolist() == [[[matched, texts, matched, counted]]]


def test_every_text_takes_the_first_free_detection():
    """The first text takes the first detection, though the second fits it better; the second text then gets none."""
    first, second = box(0, 0, 100, 20), box(40, 0, 100, 20)
    between, exact = box(20, 0, 100, 20), box(0, 0, 100, 20)

    def matched(texts, detections):
        return rrc.count([sample(texts)], [found(*detections)])[0, 0, 0]

    assert matched([first, second], [between, exact]) == 1
    assert matched([first, second], [exact, between]) == 2
    assert matched([second, first], [between, exact]) == 2


def test_scores_are_over_all_texts_and_not_over_images():
    samples = [sample([WORD], name="img_1.jpg"), sample([WORD, box(0, 50, 100, 20), box(0, 90, 100, 20)])]
    result = scored(rrc, samples, [found(WORD), found(WORD, box(500, 0, 10, 10))])
    assert result.per_image.tolist() == [[1, 1, 1, 1], [1, 3, 1, 2]]
    assert (result.score.precision, result.score.recall) == (2 / 3, 2 / 4)
    assert result.score.fscore == pytest.approx(4 / 7)
