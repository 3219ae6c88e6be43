"""The protocols of CTW1500, Total-Text and MSRA-TD500 on any detections, and against plain rereadings of their rules.

The rereadings go pair by pair, as the data sets' own scripts do, and share no code with what they check.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate

from dbnet.sample import Detection, Sample
from evaluation.protocols import scores
from tests.test_dataset_protocols import ALL, DETEVAL, OVERLAP, along, count, found, labelled, results, sample, turned

# Properties -----------------------------------------------------------------------------------------------------------

CELL = 120
#: A shape well inside a cell, so that what is in one cell cannot meet what is in another.
shapes = st.builds(
    lambda x, y, w, h, angle, curved: np.round(along(turned(x, y, w, h, angle), 4 if curved else 2)),
    st.integers(40, 80), st.integers(40, 80), st.integers(8, 56), st.integers(8, 40), st.integers(-80, 80),
    st.booleans())
cells = st.tuples(st.lists(shapes, max_size=1), st.lists(shapes, max_size=1), st.booleans())
pages = st.lists(cells, max_size=5)
#: Anything anywhere: points may repeat, lie on a line, cross.
scribbles = st.lists(st.lists(st.tuples(st.integers(-20, 40), st.integers(-20, 40)), min_size=0, max_size=7)
                     .map(lambda points: np.array(points, np.float64).reshape(-1, 2)), max_size=5)


def page(drawn: list) -> tuple[Sample, list[np.ndarray]]:
    texts = [p + [i * CELL, 0] for i, (truth, _, _) in enumerate(drawn) for p in truth]
    ignore = np.array([ignored for truth, _, ignored in drawn for _ in truth], bool)
    return (Sample(Path("a.jpg"), texts, ignore, [""] * len(texts)),
            [p + [i * CELL, 0] for i, (_, there, _) in enumerate(drawn) for p in there])


@pytest.mark.parametrize("name", ALL)
@given(pages, st.randoms(use_true_random=False), st.integers(-500, 500), st.integers(-500, 500))
@settings(max_examples=30)
def test_order_and_place_do_not_matter(name, drawn, random, x, y):
    labels, detections = page(drawn)
    expected = ALL[name].count([labels], [found(detections)])
    shuffled = random.sample(detections, len(detections))
    np.testing.assert_array_equal(ALL[name].count([labels], [found(shuffled)]), expected)
    if not nearly_rounds_otherwise(labels, found(detections)):
        moved = Sample(labels.image, [p + [x, y] for p in labels.polygons], labels.ignore, labels.texts)
        np.testing.assert_array_equal(ALL[name].count([moved], [found([p + [x, y] for p in detections])]), expected)


@pytest.mark.parametrize("name", ALL)
@given(pages)
@settings(max_examples=30)
def test_perfect_detections_score_one(name, drawn):
    labels, _ = page(drawn)
    cared = int(np.sum(~labels.ignore))
    assert ALL[name].count([labels], [found(labels.polygons)])[0, 0].tolist() == [cared] * 4


@pytest.mark.parametrize("name", ALL)
@given(scribbles, scribbles, scribbles)
@settings(max_examples=60)
def test_counts_are_possible(name, truths, ignored, detections):
    matched, texts, right, given_ = count(name, truths, ignored, detections)
    assert texts == len(truths)
    assert 0 <= matched <= texts
    assert 0 <= right <= given_ <= len(detections)
    assert np.all(scores(np.array([matched, texts, right, given_])) <= 1 + 1e-12)


@pytest.mark.parametrize("name", ALL)
@given(st.lists(pages, max_size=4), st.integers(0, 4))
@settings(max_examples=20)
def test_parts_of_a_data_set_can_be_counted_apart(name, drawn, cut):
    samples, detections = [page(p)[0] for p in drawn], [found(page(p)[1]) for p in drawn]
    whole = ALL[name].count(samples, detections)
    assert whole.shape == (len(drawn), 1, 4)
    parts = [ALL[name].count(samples[part], detections[part]) for part in (slice(cut), slice(cut, None))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


# The rules reread, pair by pair ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "bounds"), [("totaltext", (0.7, 0.6)), ("totaltext_08_04", (0.8, 0.4))])
def test_deteval_of_a_real_detector(need, name, bounds):
    samples = labelled(need("data/ctw1500/gt.zip"))
    detections = results(need("data/results/ctw1500_ctd.zip"), samples)
    expected = [plain_deteval(s, d, *bounds) for s, d in zip(samples, detections, strict=True)]
    counts = ALL[name].count(samples, detections)[:, 0]
    np.testing.assert_allclose(counts, expected, atol=1e-9)
    assert (counts[:, 0] % 1).any(), "no split or merged text in the data"


crowds = st.lists(shapes.flatmap(lambda p: st.tuples(st.integers(0, 90), st.integers(0, 60)).map(lambda by: p + by)),
                  max_size=7)


@given(crowds, crowds, crowds)
@settings(max_examples=60)
def test_against_a_plain_deteval(truths, ignored, detections):
    labels, there = sample(truths, ignored), found(detections)
    assume(not nearly_rounds_otherwise(labels, there))
    for name, bounds in zip(DETEVAL, [(0.7, 0.6), (0.8, 0.4)], strict=True):
        np.testing.assert_allclose(ALL[name].count([labels], [there])[0, 0], plain_deteval(labels, there, *bounds))


@given(crowds, crowds, crowds)
@settings(max_examples=60)
def test_against_a_plain_overlap(truths, ignored, detections):
    labels, there = sample(truths, ignored), found(detections)
    expected = plain_overlap([shapely.Polygon(p) for p in labels.polygons], labels.ignore,
                             [shapely.Polygon(np.float64(d.polygon)) for d in there], lambda i, j: True)
    for name in OVERLAP:
        assert tuple(ALL[name].count([labels], [there])[0, 0]) == expected


labels_of_rectangles = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(8, 90),
                                          st.integers(8, 40), st.integers(-22, 22)), max_size=7)


@given(labels_of_rectangles, labels_of_rectangles, labels_of_rectangles, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_against_a_plain_td500(truths, ignored, detections, random):
    """The paper's words on labels (centre, size, angle): turned by shapely, angles subtracted."""
    def upright(box_: tuple) -> shapely.Geometry:
        return rotate(shapely.Polygon(turned(*box_)), -box_[4], origin=box_[:2])

    labels = [*truths, *ignored]
    expected = plain_overlap([upright(b) for b in labels], np.arange(len(labels)) >= len(truths),
                             [upright(b) for b in detections],
                             lambda i, j: abs(labels[i][4] - detections[j][4]) < 22.5)
    corners = [np.array(random.sample(turned(*b).tolist(), 4)) for b in detections]
    assert count("td500", [turned(*b) for b in truths], [turned(*b) for b in ignored], corners) == expected


def plain_overlap(texts: list, ignore: np.ndarray, detections: list, near: Callable[[int, int], bool]) -> tuple:
    """ICDAR 2015's rule. Nothing is asked where a half is so near that the last digit decides."""
    left_out = [any(ignore[i] and above_half(texts[i].intersection(d).area / d.area) for i in range(len(texts)))
                for d in detections]
    used = list(left_out)
    matched = 0
    for i, text in enumerate(texts):
        for j, detection in enumerate(detections):
            shared = text.intersection(detection).area
            over = above_half(shared / (text.area + detection.area - shared))
            if not ignore[i] and not used[j] and over and near(i, j):
                used[j] = True
                matched += 1
                break
    return matched, int(np.sum(~ignore)), matched, left_out.count(False)


def above_half(fraction: float) -> bool:
    assume(abs(fraction - 0.5) > 1e-9)
    return fraction > 0.5


def plain_shares(labels: Sample, detections: list[Detection]) -> tuple[list, list, list]:
    """Texts that count, detections that are left, and (sigma, tau) of each pair, not rounded."""
    texts = [shapely.Polygon(p) for p in labels.polygons]
    left = [shapely.Polygon(np.float64(d.polygon)) for d in detections]
    for text, ignored in zip(texts, labels.ignore, strict=True):
        left = [d for d in left if not (ignored and above_half(text.intersection(d).area / (d.area + 1)))]
    texts = [text for text, ignored in zip(texts, labels.ignore, strict=True) if not ignored]
    return texts, left, [[(a / t.area, a / d.area) for d in left for a in [t.intersection(d).area]] for t in texts]


def nearly_rounds_otherwise(labels: Sample, detections: list[Detection]) -> bool:
    return any(abs((share * 100) % 1 - 0.5) < 1e-6 for row in plain_shares(labels, detections)[2]
               for pair in row for share in pair)


def plain_deteval(labels: Sample, detections: list[Detection], tr: float, tp: float) -> tuple:
    """Total-Text's script in its own order: one text after the other, then one detection after the other."""
    texts, left, both = plain_shares(labels, detections)
    sigma = [[round(pair[0], 2) for pair in row] for row in both]
    tau = [[round(pair[1], 2) for pair in row] for row in both]
    text_used, left_used = [False] * len(texts), [False] * len(left)
    recall = precision = 0.0
    for t in range(len(texts)):
        enough = [d for d in range(len(left)) if sigma[t][d] > tr]
        if len(enough) == 1 and sum(share > tp for share in tau[t]) == 1:
            recall, precision = recall + 1, precision + 1
            text_used[t] = left_used[enough[0]] = True
    for t in range(len(texts)):
        if text_used[t] or sum(share > 0 for share in sigma[t]) < 2:
            continue
        parts = [d for d in range(len(left)) if tau[t][d] >= tp and not left_used[d]]
        if sum(sigma[t][d] for d in parts) >= tr:
            recall, precision = recall + (1 if len(parts) == 1 else 0.8), precision + (
                1 if len(parts) == 1 else 0.8 * len(parts))
            text_used[t] = True
            for d in parts:
                left_used[d] = True
    for d in range(len(left)):
        if left_used[d] or sum(tau[t][d] > 0 for t in range(len(texts))) < 2:
            continue
        parts = [t for t in range(len(texts)) if sigma[t][d] >= tp and not text_used[t]]
        if len(parts) == 1 and not (tau[parts[0]][d] >= tp and sigma[parts[0]][d] >= tr):
            continue
        if sum(tau[t][d] for t in parts) >= tp:
            recall, precision = recall + (1 if len(parts) == 1 else 0.8 * len(parts)), precision + (
                1 if len(parts) == 1 else 0.8)
            left_used[d] = True
            for t in parts:
                text_used[t] = True
    return recall, len(texts), min(precision, len(left)), len(left)
