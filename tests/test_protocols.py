"""The protocols of the projects: where they differ, what holds for all, and the fast way against the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet.sample import Detection
from evaluation.protocols import Result, matching, mhliao, mindocr, mlt2017, mmocr, rrc, scores
from evaluation.protocols.outlines import outlines, shared_areas
from tests.protocol_scenes import (
    EIGHT,
    WORD,
    box,
    boxes,
    even_odd,
    found,
    plain_mhliao,
    plain_mindocr,
    plain_mmocr,
    plain_rrc,
    polygons,
    random_polygon,
    random_scene,
    sample,
    scenes,
    shoelace,
)

PROTOCOLS = tuple(module.PROTOCOLS[0] for module in (rrc, mindocr, mhliao, mmocr, mlt2017))
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=[protocol.name for protocol in PROTOCOLS])

# Side by side: found texts, texts, right detections, detections -------------------------------------------------------

FIRST, SECOND = box(0, 0, 100, 20), box(30, 0, 100, 20)
SPECK = box(0.5, 0.5, 0.003, 0.003)


@pytest.mark.parametrize(("truths", "ignored", "detections", "official", "in_mindocr", "in_mhliao", "in_mmocr"), [
    pytest.param([WORD], [], [WORD], (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), id="a hit"),
    pytest.param([WORD], [], [box(0, 0, 50, 20)], (0, 1, 0, 1), (0, 1, 0, 1), (0, 1, 0, 1), (0, 1, 0, 1),
                 id="IoU of exactly one half"),
    pytest.param([WORD], [WORD], [WORD], (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), id="ignored"),
    pytest.param([WORD], [], [WORD, WORD], (1, 1, 1, 2), (1, 1, 1, 1), (1, 1, 1, 2), (1, 1, 1, 2),
                 id="found twice: a false alarm, but for MindOCR"),
    pytest.param([FIRST, SECOND], [], [box(12, 0, 100, 20), box(15, 0, 100, 20)],
                 (2, 2, 2, 2), (1, 2, 1, 1), (2, 2, 2, 2), (2, 2, 2, 2), id="both find the first text in MindOCR"),
    pytest.param([FIRST, SECOND], [], [box(15, 0, 100, 20), box(60, 0, 100, 20)],
                 (2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2), id="the first finds the first, not the last"),
    pytest.param([box(0, 0, 2, 2)], [], [box(0.9, 0, 2, 2)], (1, 1, 1, 1), (0, 1, 0, 1), (0, 1, 0, 1), (0, 1, 0, 1),
                 id="fractions count, but not officially"),
    pytest.param([WORD], [], [EIGHT], (1, 1, 1, 1), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1),
                 id="a detection that crosses itself"),
    pytest.param([EIGHT], [], [WORD], (1, 1, 1, 1), (0, 0, 0, 1), (0, 0, 0, 1), (0, 1, 0, 1),
                 id="a text that crosses itself"),
    pytest.param([], [EIGHT], [box(0, 6, 14, 8), box(86, 6, 14, 8)],
                 (0, 0, 0, 0), (0, 0, 0, 2), (0, 0, 0, 2), (0, 0, 0, 1),
                 id="an ignored text that crosses itself: both halves, dropped, or the half that MMOCR's repair keeps"),
    pytest.param([WORD], [], [box(5, 5, 0, 0)], (0, 1, 0, 1), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1),
                 id="a detection without area"),
    pytest.param([WORD], [], [WORD[:2]], (0, 1, 0, 1), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1), id="two points"),
    pytest.param([WORD], [], [WORD[[0, 1, 0]]], (0, 1, 0, 1), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1),
                 id="there and back"),
    pytest.param([WORD[:2]], [], [WORD], (0, 1, 0, 1), (0, 0, 0, 1), (0, 0, 0, 1), (0, 1, 0, 1), id="a text of two"),
    pytest.param([WORD[:0]], [WORD[:1]], [WORD[:0]], (0, 1, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 1),
                 id="no points at all"),
    pytest.param([], [WORD], [SPECK], (0, 0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1),
                 id="a speck on an ignored text: nothing in integers, and less than MMOCR's 1e-5"),
])
def test_side_by_side(truths, ignored, detections, official, in_mindocr, in_mhliao, in_mmocr):
    for protocol, expected in zip(PROTOCOLS, (official, in_mindocr, in_mhliao, in_mmocr, official), strict=True):
        counts = protocol.count([sample(truths, ignored)], [found(*detections)])
        assert tuple(counts[0, 0]) == expected, protocol.name


def test_mmocr_scans_seven_thresholds():
    """The scan's end is in it, and 0.7 and 0.9 reach their thresholds, which are kept in float32."""
    words = [box(0, 50 * i, 100, 20) for i in range(9)]
    detections = [found(word, score=score)[0] for word, score in zip(
        words, (0.299, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), strict=True)]
    counts = mmocr.count([sample(words)], [detections])
    assert counts[0, :, 0].tolist() == counts[0, :, 3].tolist() == [8, 7, 6, 5, 4, 3, 2]
    assert counts[0, :, 1].tolist() == [9] * 7
    assert len(mmocr.PROTOCOLS[0].variants) == 7


def test_mmocr_reports_the_first_of_the_best():
    wrong = [Detection(box(0, 900, 9, 9), 0.55), Detection(box(50, 900, 9, 9), 0.55)]
    result = Result(mmocr.PROTOCOLS[0], mmocr.count([sample([WORD])], [[*found(WORD, score=0.8), *wrong]]))
    assert mmocr.PROTOCOLS[0].variants[result.best] == "score >= 0.6"
    assert result.score.fscore == 1
    assert "test set" in mmocr.PROTOCOLS[0].title


def test_a_low_score_lets_a_better_one_match():
    """At 0.3 the text takes the first detection; at 0.5 that one is not there."""
    detections = [*found(box(0, 0, 90, 20), score=0.4), *found(WORD, score=0.9)]
    counts = mmocr.count([sample([WORD])], [detections])[0]
    assert counts[0].tolist() == [1, 1, 1, 2]
    assert counts[2].tolist() == [1, 1, 1, 1]


# What holds for all ---------------------------------------------------------------------------------------------------


@every_protocol
def test_shapes(protocol):
    variants = len(protocol.variants)
    assert protocol.count([], []).shape == (0, variants, 4)
    assert protocol.count([sample([])], [[]]).shape == (1, variants, 4)
    assert protocol.count([sample([WORD])], [found(WORD)]).dtype == np.float64
    with pytest.raises(ValueError, match="1 samples but detections of 0"):
        protocol.count([sample([WORD])], [])


@every_protocol
@settings(max_examples=50)
@given(data=st.lists(st.one_of(scenes(boxes), scenes(polygons)), max_size=4), seed=st.randoms(use_true_random=False))
def test_any_scene(protocol, data, seed):
    samples, detections = [one for one, _ in data], [one for _, one in data]
    counts = protocol.count(samples, detections)
    values = scores(counts)
    assert np.all((values >= 0) & (values <= 1 + 1e-12))
    assert np.all(counts[..., 0] <= counts[..., 1])
    assert np.all(counts[..., 2] <= counts[..., 3])
    assert np.array_equal(counts, counts.round())
    one_by_one = [protocol.count([one], [other]) for one, other in data]
    assert np.array_equal(counts, np.concatenate([counts[:0], *one_by_one])), "an image counts differently in a set"
    shuffled = [seed.sample(image, len(image)) for image in detections]
    again = protocol.count(samples, shuffled)
    # One to one, matches depend on the order of the detections. In MindOCR's metric each stands alone.
    columns = slice(None) if protocol.name == "mindocr" else [1, 3]
    assert np.array_equal(counts[..., columns], again[..., columns])


@every_protocol
@given(scene=scenes(boxes), x=st.integers(0, 2000), y=st.integers(0, 2000))
def test_moved_together(protocol, scene, x, y):
    one, detections = scene
    moved = sample([p + [x, y] for p in np.array(one.polygons, object)[~one.ignore]],
                   [p + [x, y] for p in np.array(one.polygons, object)[one.ignore]])
    others = [Detection(detection.polygon + np.float32([x, y]), detection.score) for detection in detections]
    assert np.array_equal(protocol.count([one], [detections]), protocol.count([moved], [others]))


@every_protocol
@given(cells=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1), seed=st.randoms())
def test_perfect_detections(protocol, cells, seed):
    words = [box(40 * x, 40 * y, 30, 20) for x, y in cells]
    detections = found(*words)
    seed.shuffle(detections)
    result = Result(protocol, protocol.count([sample(words)], [detections]))
    assert (result.score.precision, result.score.recall, result.score.fscore) == (1, 1, 1)


@every_protocol
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(protocol, number):
    """The readers refuse them; here they disturb nobody."""
    broken = WORD.copy()
    broken[2, 0] = number
    with np.errstate(all="ignore"):
        counts = protocol.count([sample([WORD, broken], [broken])], [found(WORD, broken)])
    assert 1 <= counts[0, 0, 0] == counts[0, 0, 2] <= 2


# The fast way against the plain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_against_pair_by_pair(seed):
    """Random quads and polygons, with ties and without areas; hundreds of images at once."""
    rng = np.random.default_rng(seed)
    data = [random_scene(rng) for _ in range(120)]
    samples, detections = [one for one, _ in data], [one for _, one in data]
    for module, plain in ((rrc, plain_rrc), (mindocr, plain_mindocr), (mhliao, plain_mhliao)):
        expected = [plain(one, other) for one, other in data]
        assert module.count(samples, detections)[:, 0].tolist() == [list(row) for row in expected]
    counts = mmocr.count(samples, detections)
    for variant, threshold in enumerate(np.arange(0.3, 0.9, 0.1)):
        expected = [plain_mmocr(one, other, threshold) for one, other in data]
        assert counts[:, variant].tolist() == [list(row) for row in expected]


@given(scene=scenes(polygons))
def test_rrc_against_pair_by_pair(scene):
    assert tuple(rrc.count([scene[0]], [scene[1]])[0, 0]) == plain_rrc(*scene)


def test_areas_and_validity():
    rng = np.random.default_rng(5)
    many = [random_polygon(rng) for _ in range(2000)]
    many = [polygon for polygon in many if len(polygon) > 2]
    flat = outlines([many], np.positive)
    np.testing.assert_allclose(flat.areas, [shoelace(polygon) for polygon in many], atol=1e-9)
    valid = shapely.is_valid([shapely.Polygon(polygon) for polygon in many if len(polygon) > 3])
    assert flat.valid[[len(polygon) > 3 for polygon in many]].tolist() == valid.tolist()
    assert 500 < flat.convex.sum() < flat.valid.sum() < len(many)
    assert np.array_equal(flat.convex, outlines([[polygon[::-1] for polygon in many]], np.positive).convex)


@pytest.mark.parametrize("shift", [0.0, 1e-9, 1e-12, 0.5])
def test_convex_overlaps(shift):
    """Copies of each other but for a hair, any two, one in the other, and neighbours with a common side."""
    rng = np.random.default_rng(6)
    first = outlines([[random_polygon(rng) for _ in range(6000)]], np.positive)
    quads = first.quads[:, :, first.convex]
    for other in (quads + shift, np.roll(quads, 1, axis=2), quads * 0.5, quads + (quads[0] - quads[1])):
        shared = shared_areas(quads, other)
        a, b = (shapely.polygons(corners.transpose(2, 0, 1)) for corners in (quads, other))
        known = ~np.isnan(shared)
        assert known.mean() > 0.99
        np.testing.assert_allclose(shared[known], shapely.area(shapely.intersection(a, b))[known], atol=1e-6)


def test_sides_that_all_but_coincide():
    """A rectangle moved along its side, and every corner by a hair: shapely itself sometimes calls the overlap 0."""
    rng = np.random.default_rng(8)
    number = 40000
    angle, sizes = rng.uniform(0, np.pi, number), rng.uniform(1, 200, (number, 2))
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    quads = (box(0, 0, 1, 1) * sizes[:, np.newaxis]) @ turn + rng.uniform(0, 1000, (number, 1, 2))
    share = rng.choice([0, 1 / 3, 1 / 2, 1], number)
    other = quads + (quads[:, 1] - quads[:, 0])[:, np.newaxis] * share[:, np.newaxis, np.newaxis]
    other += rng.normal(0, 1, other.shape) * 10.0 ** rng.integers(-16, -8, (number, 1, 1))
    shared = shared_areas(quads.transpose(1, 2, 0), other.transpose(1, 2, 0))
    known = ~np.isnan(shared)
    assert 0.99 * number < known.sum() < number, "none crossed a line twice"
    np.testing.assert_allclose(shared[known], (sizes.prod(axis=1) * (1 - share))[known], atol=1e-5)


def test_ties():
    """Convex quads of a coarse grid that overlap by a half but for rounding, which then decides as in the plain way."""
    rng = np.random.default_rng(9)
    first = rng.integers(0, 8, (150000, 4, 2)).astype(np.float64)
    other = first + rng.integers(-2, 3, first.shape)
    texts, others = outlines([list(first)], np.positive), outlines([list(other)], np.positive)
    both = np.flatnonzero(texts.convex & others.convex)
    shared = shared_areas(texts.quads[:, :, both], others.quads[:, :, both])
    ties = both[np.abs(shared / (texts.areas[both] + others.areas[both] - shared) - 0.5) < 1e-9]
    samples, detections = [sample([first[i]]) for i in ties], [found(other[i]) for i in ties]
    for protocol, plain in ((rrc, plain_rrc), (mindocr, plain_mindocr), (mhliao, plain_mhliao),
                            (mmocr, lambda one, others: plain_mmocr(one, others, 0.3))):
        expected = [plain(one, others) for one, others in zip(samples, detections, strict=True)]
        assert protocol.count(samples, detections)[:, 0].tolist() == [list(row) for row in expected]
        assert 0 < sum(row[0] for row in expected) < len(ties)


def test_crossing_quads_share_what_is_inside_by_even_and_odd():
    """Both lobes of an eight, whose signed area is 0, lie inside the word."""
    texts, others = outlines([[WORD, EIGHT]], np.positive), outlines([[EIGHT, EIGHT]], np.positive)
    pairs = matching.Pairs(np.array([0, 1]), np.array([0, 1]), np.ones(2))
    assert rrc.rules(texts, others).over_union(pairs) == pytest.approx([1000 / (2000 + 0 - 1000), 1000 / -1000])
    assert even_odd(EIGHT).area == 1000


def test_blocks_of_pairs(monkeypatch):
    rng = np.random.default_rng(7)
    data = [random_scene(rng) for _ in range(60)]
    samples, detections = [one for one, _ in data], [one for _, one in data]
    whole = rrc.count(samples, detections)
    monkeypatch.setattr(matching, "BLOCK", 3)
    assert np.array_equal(rrc.count(samples, detections), whole)
