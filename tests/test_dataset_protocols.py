"""The protocols of CTW1500, Total-Text and MSRA-TD500: a published score, and their rules one by one.

What holds for any detections, and plain rereadings of the rules, are in test_dataset_protocols_plain.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from dbnet.datasets.archive import natural_order, read_texts
from dbnet.sample import Detection, Sample
from evaluation.protocols import Protocol, Result, ctw1500, scores, td500, totaltext

ALL = {protocol.name: protocol for module in (ctw1500, totaltext, td500) for protocol in module.PROTOCOLS}
OVERLAP, DETEVAL = ("ctw1500", "totaltext_iou"), ("totaltext", "totaltext_08_04")
RECTANGLES = ("td500", "td500_in_place")


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64)


def turned(x: float, y: float, width: float, height: float, degrees: float) -> np.ndarray:
    """A rectangle around (x, y)."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return corners @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


def sample(truths: Sequence[np.ndarray], ignored: Sequence[np.ndarray] = (), name: str = "img1.jpg") -> Sample:
    polygons = [np.asarray(p, np.float64) for p in (*truths, *ignored)]
    return Sample(Path(name), polygons, np.arange(len(polygons)) >= len(truths), [""] * len(polygons))


def found(polygons: Sequence[np.ndarray]) -> list[Detection]:
    return [Detection(np.asarray(polygon, np.float32), 0.9) for polygon in polygons]


def count(name: str, truths: Sequence[np.ndarray], ignored: Sequence[np.ndarray],
          detections: Sequence[np.ndarray]) -> tuple[float, ...]:
    counts = ALL[name].count([sample(truths, ignored)], [found(detections)])
    assert counts.shape == (1, 1, 4)
    assert counts.dtype == np.float64
    return tuple(counts[0, 0])


# Real data ------------------------------------------------------------------------------------------------------------


def labelled(path: Path) -> list[Sample]:
    """Labels `x1,y1,...,text` of a zip; `###` is nobody's care."""
    texts = read_texts(path)
    samples = []
    for name in sorted(texts, key=natural_order):
        rows = [line.strip().rsplit(",", 1) for line in texts[name].split("\n") if line.strip()]
        polygons = [np.array(numbers.split(","), np.float64).reshape(-1, 2) for numbers, _ in rows]
        samples.append(Sample(Path(name), polygons, np.array([text == "###" for _, text in rows]), [""] * len(rows)))
    return samples


def results(path: Path, samples: Sequence[Sample]) -> list[list[Detection]]:
    texts = read_texts(path)
    return [found([np.array(line.strip().rstrip(",").split(","), np.float32).reshape(-1, 2)
                   for line in texts[sample.name].split("\n") if line.strip()]) for sample in samples]


@pytest.fixture(scope="module")
def ctw(need) -> tuple[list[Sample], list[list[Detection]]]:
    samples = labelled(need("data/ctw1500/gt.zip"))
    return samples, results(need("data/results/ctw1500_ctd.zip"), samples)


@pytest.mark.parametrize("name", OVERLAP)
def test_published_score(ctw, name):
    """Recall .8162, precision .7497, hmean .7815 of 3,340 detections, as TIoU-metric's page for curved text prints."""
    result = Result(ALL[name], ALL[name].count(*ctw))
    score = result.score
    assert (round(score.precision, 4), round(score.recall, 4), round(score.fscore, 4)) == (0.7497, 0.8162, 0.7815)
    assert result.counts.sum(axis=(0, 1)).tolist() == [2504, 3068, 2504, 3340]


@pytest.mark.parametrize("name", ALL)
def test_perfect_detections_of_real_labels(need, name):
    """Total-Text's labels, ignored ones too. The rectangles around curved texts may cover an ignored neighbour's."""
    samples = labelled(need("data/totaltext/gt.zip"))
    counts = ALL[name].count(samples, [found(s.polygons) for s in samples]).sum(axis=(0, 1))
    assert counts[1] == 2214
    if name in RECTANGLES:
        assert scores(counts)[0] == 1
        assert scores(counts)[1] > 0.99
    else:
        np.testing.assert_allclose(counts, 2214)


def test_perfect_detections_of_rotated_labels(need):
    files = sorted(need("data/td500/test").glob("*.gt"))
    samples = []
    for file in files:
        rows = np.loadtxt(file, ndmin=2)
        polygons = [turned(x + w / 2, y + h / 2, w, h, math.degrees(angle)) for x, y, w, h, angle in rows[:, 2:]]
        samples.append(Sample(file, polygons, rows[:, 1] == 1, [""] * len(rows)))
        np.testing.assert_allclose(td500.rectangles(polygons)[:, 2:], rows[:, 4:], atol=1e-3)
    for name in RECTANGLES:
        counts = ALL[name].count(samples, [found(s.polygons) for s in samples]).sum(axis=(0, 1))
        assert counts[0] == counts[1] == counts[2] == counts[3] == sum(np.sum(~s.ignore) for s in samples)


# Overlap, one to one --------------------------------------------------------------------------------------------------

WORD = box(0, 0, 100, 20)
CROSSED = WORD[[0, 2, 1, 3]]
ARC = np.concatenate([np.stack([r * np.cos(a), r * np.sin(a)], axis=-1) for r, a in
                      ((100, np.linspace(0, 2, 7)), (80, np.linspace(2, 0, 7)))])


@pytest.mark.parametrize("name", OVERLAP)
@pytest.mark.parametrize(("truths", "ignored", "detections", "expected"), [
    pytest.param([ARC], [], [ARC], (1, 1, 1, 1), id="a curved text"),
    pytest.param([ARC], [], [ARC[::-1]], (1, 1, 1, 1), id="anticlockwise"),
    pytest.param([ARC], [], [np.roll(ARC, 3, axis=0)], (1, 1, 1, 1), id="another first point"),
    pytest.param([ARC], [], [ARC * 1.04], (1, 1, 1, 1), id="about the same"),
    pytest.param([ARC], [], [box(-50, 0, 150, 100)], (0, 1, 0, 1), id="the box around it"),
    pytest.param([WORD], [], [], (0, 1, 0, 0), id="a miss"),
    pytest.param([], [], [WORD], (0, 0, 0, 1), id="a false alarm"),
    pytest.param([], [], [], (0, 0, 0, 0), id="nothing"),
    pytest.param([WORD], [], [box(0, 0, 50, 20)], (0, 1, 0, 1), id="exactly one half"),
    pytest.param([WORD], [], [box(0, 0, 50.25, 20)], (1, 1, 1, 1), id="fractions of a pixel count"),
    pytest.param([WORD], [], [WORD, WORD], (1, 1, 1, 2), id="a duplicate is a false alarm"),
    pytest.param([WORD, WORD], [], [WORD], (1, 2, 1, 1), id="a detection is used once"),
    pytest.param([WORD, box(40, 0, 100, 20)], [], [box(20, 0, 100, 20), WORD], (1, 2, 1, 2), id="the first free"),
    pytest.param([WORD, box(40, 0, 100, 20)], [], [WORD, box(20, 0, 100, 20)], (2, 2, 2, 2), id="in the file's order"),
    pytest.param([], [WORD], [box(59, 0, 80, 20)], (0, 0, 0, 0), id="more than half on an ignored text"),
    pytest.param([], [WORD], [box(60, 0, 80, 20)], (0, 0, 0, 1), id="half is too little"),
    pytest.param([], [box(0, 0, 50, 20), box(50, 0, 50, 20)], [box(20, 0, 60, 20)], (0, 0, 0, 1),
                 id="two ignored texts do not add up"),
    pytest.param([WORD], [box(0, 0, 52, 20)], [WORD], (0, 1, 0, 0), id="an ignored detection matches nothing"),
    pytest.param([WORD], [], [CROSSED], (1, 1, 1, 1), id="a figure eight covers half and has no area"),
])
def test_overlap(name, truths, ignored, detections, expected):
    assert count(name, truths, ignored, detections) == expected


# DetEval --------------------------------------------------------------------------------------------------------------

HALVES = [box(0, 0, 50, 20), box(50, 0, 50, 20)]
APART = [box(0, 0, 50, 20), box(60, 0, 50, 20)]


@pytest.mark.parametrize(("truths", "ignored", "detections", "expected"), [
    pytest.param([ARC], [], [ARC[::-1]], (1, 1, 1, 1), id="a curved text"),
    pytest.param([WORD], [], [], (0, 1, 0, 0), id="a miss"),
    pytest.param([], [], [WORD], (0, 0, 0, 1), id="a false alarm"),
    pytest.param([], [], [], (0, 0, 0, 0), id="nothing"),
    pytest.param([WORD], [], [box(0, 0, 70, 20)], (0, 1, 0, 1), id="sigma exactly .7"),
    pytest.param([WORD], [], [box(0, 0, 70.4, 20)], (0, 1, 0, 1), id="sigma .704 is rounded"),
    pytest.param([WORD], [], [box(0, 0, 70.6, 20)], (1, 1, 1, 1), id="sigma .706 too"),
    pytest.param([WORD], [], [box(0, 0, 100, 20 / 0.6)], (0, 1, 0, 1), id="tau exactly .6"),
    pytest.param([WORD], [], [box(0, 0, 100, 20 / 0.61)], (1, 1, 1, 1), id="tau .61"),
    pytest.param([WORD], [], HALVES, (0.8, 1, 1.6, 2), id="split"),
    pytest.param([WORD], [], [*HALVES, box(0, 0, 30, 20)], (0.8, 1, 2.4, 3), id="split, and a part found twice"),
    pytest.param([WORD], [], [WORD, WORD], (0.8, 1, 1.6, 2), id="a duplicate is a split"),
    pytest.param([WORD], [], [box(0, 0, 30, 20), box(30, 0, 30, 20)], (0, 1, 0, 2), id="parts that are too small"),
    pytest.param([WORD], [], [box(0, 0, 35, 20), box(40, 0, 35, 20)], (0.8, 1, 1.6, 2), id="parts just enough"),
    pytest.param([WORD], [], [box(0, 0, 50, 20), box(50, 0, 50, 40)], (0, 1, 0, 2), id="a part that is too loose"),
    pytest.param([WORD], [], [box(0, 0, 75, 20), box(90, 0, 100, 20)], (1, 1, 1, 2), id="one to one, another touches"),
    pytest.param([WORD], [], [box(0, 0, 70, 20), box(90, 0, 100, 20)], (1, 1, 1, 2),
                 id="where another touches sigma .7 is enough"),
    pytest.param([WORD], [], [box(0, 0, 70, 20), box(99.9, 0, 100, 20)], (0, 1, 0, 2),
                 id="what is rounded to nothing does not touch"),
    pytest.param(HALVES, [], [WORD], (1.6, 2, 0.8, 1), id="merged"),
    pytest.param(HALVES, [], [box(0, 0, 100, 13)], (1.6, 2, 0.8, 1), id="merged by the bound of tau"),
    pytest.param(HALVES, [], [box(0, 0, 100, 11)], (0, 2, 0, 1), id="merged, but too little of each"),
    pytest.param(HALVES, [], [box(0, 0, 100, 40)], (0, 2, 0, 1), id="merged, but too loosely"),
    pytest.param(APART, [], [box(0, 0, 50 / 0.6, 20)], (1, 2, 1, 1), id="where another touches tau .6 is enough"),
    pytest.param(APART, [], [box(0, 0, 50 / 0.6, 13)], (0, 2, 0, 1), id="but then sigma .7 is needed"),
    pytest.param([WORD, *[h + [0, 50] for h in HALVES]], [], [*HALVES, WORD + [0, 50]], (2.4, 3, 2.4, 3), id="both"),
    pytest.param([WORD, WORD], [], [WORD], (2, 2, 1, 1), id="texts on top of each other, precision at most 1"),
    pytest.param([], [WORD], [WORD], (0, 0, 0, 0), id="on an ignored text"),
    pytest.param([], [WORD], [box(50, 0, 100, 20)], (0, 0, 0, 1), id="half on an ignored text"),
    pytest.param([], [WORD], [box(49.98, 0, 100, 20)], (0, 0, 0, 1), id="half, measured with a pixel more"),
    pytest.param([], [WORD], [box(49.9, 0, 100, 20)], (0, 0, 0, 0), id="more than half"),
    pytest.param([WORD], [box(0, 0, 52, 20)], [WORD], (0, 1, 0, 0), id="an ignored detection matches nothing"),
    pytest.param([WORD], [box(0, 0, 40, 20)], HALVES, (0, 1, 0, 1), id="nor is it a part"),
    pytest.param([box(0, 0, 50, 20)], [box(50, 0, 50, 20)], [WORD], (0, 1, 0, 1), id="an ignored text is not merged"),
    pytest.param([WORD], [], [CROSSED], (0, 1, 0, 1), id="a figure eight has no area"),
])
def test_deteval(truths, ignored, detections, expected):
    assert count("totaltext", truths, ignored, detections) == pytest.approx(expected)


@pytest.mark.parametrize(("truths", "detections", "strict", "old"), [
    pytest.param([WORD], [box(0, 0, 75, 20)], (1, 1, 1, 1), (0, 1, 0, 1), id="more of the text"),
    pytest.param([WORD], [box(0, 0, 100, 45)], (0, 1, 0, 1), (1, 1, 1, 1), id="less of the detection"),
    pytest.param([WORD], [box(0, 0, 75, 20), box(95, 0, 5, 20)], (0.8, 1, 1.6, 2), (0.8, 1, 1.6, 2), id="split"),
    pytest.param(HALVES, [box(0, 0, 100, 9)], (0, 2, 0, 1), (1.6, 2, 0.8, 1), id="merged"),
])
def test_bounds(truths, detections, strict, old):
    assert count("totaltext", truths, [], detections) == pytest.approx(strict)
    assert count("totaltext_08_04", truths, [], detections) == pytest.approx(old)


# Rotated rectangles ---------------------------------------------------------------------------------------------------

LINE = turned(300, 200, 200, 20, 10)
UPRIGHT = turned(300, 200, 20, 200, 10)


def along(rectangle: np.ndarray, points: int = 7) -> np.ndarray:
    """The rectangle as a detector of curved text gives it: `points` along each long side."""
    steps = np.linspace(0, 1, points)[:, np.newaxis]
    a, b, c, d = rectangle
    return np.concatenate([a + steps * (b - a), c + steps * (d - c)])


@pytest.mark.parametrize("name", RECTANGLES)
@pytest.mark.parametrize(("truths", "ignored", "detections", "expected"), [
    pytest.param([LINE], [], [LINE], (1, 1, 1, 1), id="a hit"),
    pytest.param([LINE], [], [along(LINE)], (1, 1, 1, 1), id="as a polygon"),
    pytest.param([UPRIGHT], [], [UPRIGHT], (1, 1, 1, 1), id="upright text"),
    pytest.param([UPRIGHT], [], [turned(300, 200, 200, 20, 100)], (1, 1, 1, 1), id="the same, said otherwise"),
    pytest.param([turned(300, 200, 20, 200, 3)], [], [turned(300, 230, 20, 200, 3)], (1, 1, 1, 1), id="further down"),
    pytest.param([LINE], [], [UPRIGHT], (0, 1, 0, 1), id="across"),
    pytest.param([turned(0, 0, 99, 101, 1)], [], [turned(0, 0, 101, 99, 0)], (1, 1, 1, 1), id="nearly a square"),
    pytest.param([turned(0, 0, 200, 40, 44)], [], [turned(0, 0, 200, 40, 46)], (1, 1, 1, 1), id="at 45 degrees"),
    pytest.param([turned(0, 0, 30, 30, 44)], [], [turned(0, 0, 30, 30, -44)], (1, 1, 1, 1), id="a square on its tip"),
    pytest.param([turned(0, 0, 40, 40, 0)], [], [turned(0, 0, 40, 40, 22)], (1, 1, 1, 1), id="22 degrees askew"),
    pytest.param([turned(0, 0, 40, 40, 0)], [], [turned(0, 0, 40, 40, 23)], (0, 1, 0, 1), id="23 degrees askew"),
    pytest.param([WORD], [], [box(0, 0, 50, 20)], (0, 1, 0, 1), id="exactly one half"),
    pytest.param([WORD], [], [box(0, 0, 51, 20)], (1, 1, 1, 1), id="a little more"),
    pytest.param([WORD], [], [WORD, WORD], (1, 1, 1, 2), id="a duplicate is a false alarm"),
    pytest.param([WORD, box(40, 0, 100, 20)], [], [box(20, 0, 100, 20), WORD], (1, 2, 1, 2), id="the first free"),
    pytest.param([], [LINE], [LINE, LINE], (0, 0, 0, 0), id="on a difficult text"),
    pytest.param([], [WORD], [box(60, 0, 80, 20)], (0, 0, 0, 1), id="half on a difficult text"),
    pytest.param([LINE], [LINE], [LINE], (0, 1, 0, 0), id="an ignored detection matches nothing"),
    pytest.param([], [], [], (0, 0, 0, 0), id="nothing"),
])
def test_rectangles(name, truths, ignored, detections, expected):
    assert count(name, truths, ignored, detections) == expected


@pytest.mark.parametrize(("text", "detection", "paper", "in_place"), [
    pytest.param(turned(0, 0, 600, 10, 0), turned(0, 0, 600, 10, 3), 1, 0, id="a long line a little askew"),
    pytest.param(turned(0, 0, 300, 30, 40), turned(60, 50, 300, 30, 40), 0, 1, id="at 40 degrees, further on"),
])
def test_turning_decides(text, detection, paper, in_place):
    """The paper turns each about its own centre, which also moves two slanting lines apart."""
    assert [count(name, [text], [], [detection])[0] for name in RECTANGLES] == [paper, in_place]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_corners_in_any_order(order):
    np.testing.assert_allclose(td500.rectangles([UPRIGHT[list(order)]]),
                               [[300, 200, 20, 200, math.radians(10)]], atol=1e-4)


# Odd input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("polygon", [
    [], [[3, 4]], [[0, 0], [10, 10]], [[5, 5]] * 4, [[0, 0], [10, 0], [20, 0]], [[0, 0], [10, 10], [0, 0]],
    [[0, 0], [10, 10], [10, 0], [0, 10]], [[0, 0], [10, 0], [10, 10], [10, 0], [0, 0]],
    [[0, 0], [10, 0], [10, 0], [10, 10], [0, 10], [0, 10], [0, 0]], [[0, 0], [10, 0], [5, 0], [5, 9]],
    [[-5, -5], [-1, -5], [-1, -1], [-5, -1]], [[0, 0], [9e5, 1], [9e5, 9e5], [3, 9e5]],
], ids=str)
def test_degenerate_polygons(name, polygon):
    """Counted, whatever they match, and not in the way of the others."""
    odd, far = np.array(polygon, np.float64).reshape(-1, 2), box(-900, -900, 40, 20)
    assert count(name, [far], [], [odd, far]) == (1, 1, 1, 2)
    assert count(name, [far], [odd], [far]) == (1, 1, 1, 1)
    assert count(name, [odd, far], [], [far])[1:] == (2, 1, 1)
    assert count(name, [odd], [odd], [odd])[1] == 1


@pytest.mark.parametrize("name", ALL)
def test_as_many_lists_of_detections_as_samples(name):
    assert ALL[name].count([], []).shape == (0, 1, 4)
    with pytest.raises(ValueError, match=r"samples|zip"):
        ALL[name].count([sample([WORD])], [])


def test_the_table_of_names():
    assert list(ALL) == ["ctw1500", "totaltext", "totaltext_08_04", "totaltext_iou", "td500", "td500_in_place"]
    assert all(isinstance(protocol, Protocol) and protocol.thresholds and protocol.title for protocol in ALL.values())
