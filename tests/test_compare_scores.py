"""Two F-scores on the same images: the paired bootstrap, and the test of whether they are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dbnet.errors import DbnetError
from dbnet.sample import Detection, Sample
from evaluation import paired_bootstrap, protocols
from evaluation.compare_scores import compare_results, compare_scores
from evaluation.equivalence import FEWEST, LEVEL
from evaluation.paired_bootstrap import Spread, normal_tail, spreads, student_tail
from evaluation.protocols import Result, scores
from evaluation.protocols.table import NAMES
from tests.protocol_scenes import box, found, sample

RRC, MMOCR = NAMES["rrc"][0], NAMES["mmocr"][0]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 1999)
    monkeypatch.setattr(protocols, "RESAMPLES", 20)


def counts(found, texts, right, detections):
    """(N, 1, 4)."""
    return np.stack(np.broadcast_arrays(found, texts, right, detections), axis=-1).astype(float)[:, np.newaxis]


def drawn(seed, images=200, loses=0.0, gains=0.0, whole=False):
    """Counts of A, and of B, which loses or gains a text in that fraction of the images (or loses all of them)."""
    rng = np.random.default_rng(seed)
    texts = rng.integers(1, 10, images)
    a, wrong = rng.binomial(texts, 0.7), rng.binomial(texts, 0.2)
    lost = (rng.random(images) < loses) & (a > 0)
    b = a - lost * (a if whole else 1) + ((rng.random(images) < gains) & (a < texts))
    return tuple(counts(side, texts, side, side + wrong) for side in (a, b))


def compared(a, b, margin=None, protocol=RRC):
    done = compare_results({protocol.name: Result(protocol, a)}, {protocol.name: Result(protocol, b)}, margin)
    return done.protocols[protocol.name]


def f_of(counts):
    return scores(counts.sum(axis=0))[..., 2].max()


# What is said ---------------------------------------------------------------------------------------------------------


def test_no_image_differs():
    """A point for an interval, which is told as what it is."""
    a, _ = drawn(0)
    done = compared(a, a.copy(), 0.001)
    assert done.interval == done.interval_90 == (0, 0) and done.images_apart == 0
    assert done.note.startswith("none of these 200 images is counted differently")
    assert "of further images up to 1.5 % may be (95 %, rule of three)" in done.note
    assert done.same_f.verdict == "same" and done.same_f.p < 0.01
    shift = 6 / (a[..., 1].sum() + a[..., 3].sum())
    assert done.same_f.why.startswith("on these images only: none of these 200")
    assert done.same_f.why.endswith(f"which this test cannot rule out; by one text each that is up to {shift:.4f} of F")
    assert "more images" not in done.same_f.why  # it is called the same, so nothing is missing
    assert compared(a, a).same_f is None and compared(a, a).note


@pytest.mark.parametrize("images", [1, 2, 4, 19])
def test_few_images_never_make_two_scores_the_same(images):
    a, _ = drawn(1, images)
    done = compared(a, a, 0.5)
    assert done.same_f.verdict == "not shown" and f"{images} images are too few" in done.same_f.why
    assert f"about {FEWEST - images} more" in done.same_f.why
    a, _ = drawn(1, FEWEST)
    assert compared(a, a, 0.5).same_f.verdict == "same"


def test_few_images_that_differ():
    """One image of one: B finds nothing, and still nothing follows from it."""
    a = counts([5], [5], [5], [5])
    assert compared(a, a * [1, 1, 1, 0] * [0, 1, 0, 1], 0.1).same_f.verdict == "not shown"
    assert compared(np.repeat(a, 5, 0), np.repeat(a, 5, 0) * [0, 1, 0, 0], 0.1).same_f.verdict == "different"


@pytest.mark.parametrize(("seed", "loses", "gains", "margin", "verdict", "why"), [
    (5, 0.3, 0.0, 0.01, "different", "lies wholly beyond 0.01"), (5, 0.0, 0.3, 0.01, "different", "lies wholly beyond"),
    (5, 0.05, 0.05, 0.03, "same", "lies within 0.03"), (3, 0.05, 0.05, 0.004, "not shown", "too few images: about"),
    (0, 0.05, 0.0, 0.004, "not shown", "and the difference itself is about as large"),
    (5, 0.05, 0.05, 0.004, "not shown", "and the difference itself is about as large"),  # -0.0039
])
def test_verdicts(seed, loses, gains, margin, verdict, why):
    a, b = drawn(seed, 200, loses, gains)
    done = compared(a, b, margin)
    assert done.same_f.verdict == verdict and why in done.same_f.why, done.same_f
    low, high = done.interval_90
    assert f"{low:+.4f} to {high:+.4f}" in done.same_f.why and low < done.difference.fscore < high
    assert done.images_apart == int((a != b).any(axis=(1, 2)).sum()) and done.note is None
    assert done.interval[0] <= low and high <= done.interval[1]
    assert done.difference.fscore == pytest.approx(f_of(b) - f_of(a))


def test_how_many_more_images_are_missing():
    """With so many more of the same kind it is shown."""
    a, b = drawn(3, 200, 0.05, 0.05)
    why = compared(a, b, 0.004).same_f.why
    more = int(why.split("about ")[1].split()[0])
    assert 50 < more < 1000
    times = -(-(200 + more) // 200)
    assert compared(np.tile(a, (times, 1, 1)), np.tile(b, (times, 1, 1)), 0.004).same_f.verdict == "same"


def test_no_text_to_find():
    a = counts([0] * 30, [0] * 30, [0] * 30, [1] * 30)
    done = compared(a, a, 0.1)
    assert done.same_f.verdict == "not shown" and "no text to find" in done.same_f.why


@pytest.mark.parametrize("detections", [0, 3])
def test_nothing_found_right(detections):
    """That neither side finds anything is no proof that they find the same."""
    a, b = (counts([0] * 30, [5] * 30, [0] * 30, [number] * 30) for number in (detections, 1))
    done = compared(a, b, 0.1)
    assert done.same_f.verdict == "not shown" and "neither finds a text right" in done.same_f.why
    assert compared(a, a, 0.1).same_f.verdict == "not shown"


def test_plain_values():
    a, b = drawn(5, 50, 0.1)
    both = compare_results({"rrc": Result(RRC, a), "mindocr": Result(RRC, a)},
                           {"rrc": Result(RRC, b), "mindocr": Result(RRC, a)}, 0.01)
    told = json.loads(json.dumps(both.to_dict(), allow_nan=False))
    assert told["images"] == 50 and list(told["protocols"]) == ["rrc", "mindocr"]
    row = told["protocols"]["rrc"]
    assert row["a"]["interval"] == {name: list(ends) for name, ends in Result(RRC, a).interval().items()}
    assert row["difference"]["recall"] == pytest.approx(row["b"]["recall"] - row["a"]["recall"])
    assert list(row["same_f"]) == ["margin", "verdict", "p", "why"] and len(row["interval_90"]) == 2
    assert (both.verdict("mindocr"), both.verdict("rrc")) == ("same", row["same_f"]["verdict"])
    assert both.verdict() == row["same_f"]["verdict"] != "same"
    assert compare_results({"rrc": Result(RRC, a)}, {"rrc": Result(RRC, a)}).verdict() is None


def test_of_detections():
    """Every protocol, from boxes: B misses a text in two images."""
    samples = [sample([box(0, 0, 100, 20), box(0, 100, 100, 20)], name=f"img_{i}.jpg") for i in range(30)]
    a = [found(*one.polygons) for one in samples]
    b = [boxes[:1] if i in (3, 7) else boxes for i, boxes in enumerate(a)]
    done = compare_scores(samples, a, b, NAMES, 0.001)
    assert done.images == 30 and set(done.protocols) == {row.name for rows in NAMES.values() for row in rows}
    for one in done.protocols.values():
        assert one.images_apart == 2 and one.difference.recall == pytest.approx(-2 / 60)
        assert one.a.fscore == 1 and one.same_f.verdict == "not shown"


@pytest.mark.parametrize("margin", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_margin_is_a_fraction(margin):
    with pytest.raises(DbnetError, match="above 0 and below 1"):
        compare_scores([sample([])], [[]], [[]], ["rrc"], margin)


def test_wrong_calls():
    with pytest.raises(DbnetError, match="no images"):
        compare_scores([], [], [], ["rrc"])
    with pytest.raises(DbnetError, match="unknown protocol"):
        compare_scores([sample([])], [[]], [[]], ["nobody"])
    with pytest.raises(ValueError, match="1 samples"):
        compare_scores([Sample(Path("a"), [], np.zeros(0, bool), [])], [[]], [[], [Detection(box(0, 0, 9, 9), 1)]],
                       ["rrc"])
    a, b = drawn(0, 30)[0], drawn(0, 20)[0]
    with pytest.raises(ValueError, match="same protocols"):
        compare_results({"rrc": Result(RRC, a)}, {"rrc": Result(RRC, b)})


# What the interval is -------------------------------------------------------------------------------------------------


def test_drawn_as_by_hand(monkeypatch):
    """Spread and quantiles of F of the same images drawn for both; a best variant is picked anew for each side."""
    rng = np.random.default_rng(3)
    texts = rng.integers(1, 10, (40, 1))
    a, b = (np.stack([right, np.broadcast_to(texts, right.shape), right, right + rng.integers(0, 3, right.shape)], -1)
            .astype(float) for right in (rng.binomial(texts, p, (40, 7)) for p in (0.7, 0.69)))
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 9999)
    [spread] = spreads([(a, b)])
    by_hand = np.sort([f_of(b[places]) - f_of(a[places]) for places in rng.integers(0, 40, (9999, 40))])
    assert spread.difference == f_of(b) - f_of(a)
    width = by_hand.std()
    assert spread.draws.std() == pytest.approx(width, rel=0.03)
    for share in (0.01, 0.05, 0.5, 0.95, 0.99):
        assert np.quantile(spread.draws, share) == pytest.approx(np.quantile(by_hand, share), abs=0.1 * width)
    low, high = compared(a, b, protocol=MMOCR).interval
    assert low == pytest.approx(np.quantile(by_hand, 0.025), abs=0.4 * width)
    assert high == pytest.approx(np.quantile(by_hand, 0.975), abs=0.4 * width)


@pytest.mark.parametrize("seed", range(4))
def test_bca_as_by_scipy(seed, monkeypatch):
    """On many images Student's factor is 1, and the interval is SciPy's BCa, not its percentiles."""
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 9999)
    a, b = drawn(seed, 400, 0.015, whole=True)
    rows = np.concatenate([a[:, 0], b[:, 0]], axis=1)

    def difference(places, axis=-1):
        sums = rows[places.astype(int)].sum(axis=-2)
        return scores(sums[..., 4:])[..., 2] - scores(sums[..., :4])[..., 2]

    theirs = [stats.bootstrap((np.arange(400),), difference, confidence_level=0.9, method=method, n_resamples=4999,
                              batch=500, rng=seed).confidence_interval for method in ("BCa", "percentile")]
    width = theirs[0][1] - theirs[0][0]
    assert compared(a, b).interval_90 == pytest.approx(tuple(theirs[0]), abs=0.05 * width)
    assert abs(theirs[0][0] - theirs[1][0]) > 0.1 * width


def test_few_images_widen_the_interval():
    """Which draw is an end, by SciPy's quantiles."""
    for images in (20, 1000):
        spread = Spread(images, 3, 0.0, np.linspace(-1, 1, 9999), 0.0, 0.0, 0.01, 100.0, 0.9)
        t = stats.t.ppf(LEVEL, images - 1) * (images / (images - 1)) ** 0.5
        assert spread.interval(LEVEL)[0] == pytest.approx(2 * stats.norm.cdf(t) - 1, abs=0.003)
        assert spread.interval(LEVEL)[1] == pytest.approx(-spread.interval(LEVEL)[0])


@pytest.mark.parametrize("seed", range(6))
def test_exchanged(seed):
    a, b = drawn(seed, 60, 0.1, 0.05)
    one, other = compared(a, b, 0.02), compared(b, a, 0.02)
    assert one.interval == pytest.approx([-end for end in other.interval[::-1]], abs=1e-12)
    assert one.interval_90 == pytest.approx([-end for end in other.interval_90[::-1]], abs=1e-12)
    assert (one.same_f.verdict, one.images_apart) == (other.same_f.verdict, other.images_apart)
    assert one.same_f.p == pytest.approx(other.same_f.p) and one.difference.fscore == -other.difference.fscore


@pytest.mark.parametrize("seed", range(6))
def test_in_another_order(seed):
    """The same if no two images are each other's mirror, and to the noise of the draws if some are."""
    rng = np.random.default_rng(seed)
    a, b = drawn(seed, 60, 0.3)
    order = rng.permutation(60)
    one, other = compared(a, b, 0.02), compared(a[order], b[order], 0.02)
    assert (one.interval, one.interval_90, one.same_f.why) == (other.interval, other.interval_90, other.same_f.why)
    assert one.same_f.p == pytest.approx(other.same_f.p, abs=1e-12)
    a, b = drawn(seed, 60, 0.3, 0.3)
    one, other = compared(a, b), compared(a[order], b[order])
    assert one.interval == pytest.approx(other.interval, abs=0.1 * (one.interval[1] - one.interval[0]))


@pytest.mark.parametrize("seed", range(40))
def test_verdict_interval_and_p_agree(seed):
    rng = np.random.default_rng(seed)
    a, b = drawn(seed, int(rng.integers(20, 120)), rng.choice([0.02, 0.1, 0.5]), rng.choice([0, 0.02, 0.3]))
    done = compared(a, b)
    for margin in rng.uniform(0.2, 2, 4) * max(np.abs(done.interval_90).max(), 1e-3):
        tested = compared(a, b, min(margin, 0.9)).same_f
        low, high = done.interval_90
        assert (tested.verdict == "same") == (-margin < low and high < margin), (tested, low, high)
        assert (tested.verdict == "same") == (tested.p <= LEVEL), (tested, low, high)
        assert (tested.verdict == "different") == (low >= margin or high <= -margin)


@pytest.mark.parametrize("images", [5, 20, 200])
def test_students_factor(images):
    """By SciPy's quantile; and back again."""
    t = stats.t.ppf(LEVEL, images - 1) * (images / (images - 1)) ** 0.5
    assert normal_tail(LEVEL, images) == pytest.approx(stats.norm.cdf(t), rel=0.03)
    for level in (0.001, 0.05, 0.3):
        assert student_tail(normal_tail(level, images), images) == pytest.approx(level)


def rate_at_margin(repeats, images, **kind):
    """How often two scores are called the same whose true difference is the margin."""
    a, b = drawn(99, 300_000, **kind)
    margin = abs(f_of(b) - f_of(a))
    return np.mean([compared(*drawn(1000 + i, images, **kind), margin).same_f.verdict == "same"
                    for i in range(repeats)])


def test_no_more_than_one_in_twenty_is_called_the_same_wrongly(monkeypatch):
    """Few images that differ, all in one direction: where plain percentiles err in 8 to 14 %. Three standard errors
    are left to chance.
    """
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 499)
    monkeypatch.setattr(protocols, "RESAMPLES", 1)
    assert rate_at_margin(250, 100, loses=0.08) <= LEVEL + 3 * (LEVEL * (1 - LEVEL) / 250) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize(("images", "kind", "most"), [
    (200, {"loses": 0.02}, 0.05), (200, {"loses": 0.05}, 0.05), (50, {"loses": 0.1}, 0.05), (20, {"loses": 0.3}, 0.05),
    (200, {"loses": 0.03, "gains": 0.015}, 0.05), (50, {"loses": 0.3, "gains": 0.15}, 0.05),
    (200, {"loses": 0.03, "whole": True}, 0.08), (50, {"loses": 0.1, "whole": True}, 0.08),  # of six and five images
])
def test_how_often_it_errs(images, kind, most, monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 999)
    monkeypatch.setattr(protocols, "RESAMPLES", 1)
    assert rate_at_margin(600, images, **kind) <= most + 3 * (most * (1 - most) / 600) ** 0.5
