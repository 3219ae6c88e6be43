"""Noise bounds of the factor between two series of rounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.bench_report.bounds import LEAST_ROUNDS, MOST_ROUNDS, TAIL, bounds

SERIES = st.lists(st.floats(1e-6, 1e4), min_size=LEAST_ROUNDS, max_size=12)


def chance_of_separation(new, old, kept):
    """P(at most `kept` of all pairs are the wrong way round), by counting all orders of both series."""
    orders = list(itertools.combinations(range(new + old), new))
    wrong = [sum(place - i for i, place in enumerate(order)) for order in orders]
    return np.mean(np.array(wrong) <= kept)


@pytest.mark.parametrize(("new", "old"), [(3, 3), (3, 5), (4, 4), (5, 5), (5, 7), (8, 8)])
def test_the_tail_is_that_of_all_orders(new, old):
    """Distinct numbers whose order is known: the low end leaves out as many pairs as the tail allows."""
    rng = np.random.default_rng(new * old)
    a, b = rng.lognormal(size=new), rng.lognormal(size=old)
    found = bounds(a, b)
    ratios = np.sort((a[:, None] / b).ravel())
    dropped = int(np.argmin(np.abs(ratios - found.low)))
    assert ratios[dropped] == pytest.approx(found.low) and ratios[-1 - dropped] == pytest.approx(found.high)
    assert found.tail == pytest.approx(chance_of_separation(new, old, dropped))
    assert found.tail <= TAIL or dropped == 0
    assert chance_of_separation(new, old, dropped + 1) > TAIL
    assert found.factor == pytest.approx(np.median(ratios) if len(ratios) % 2 else np.sqrt(np.prod(
        ratios[len(ratios) // 2 - 1:len(ratios) // 2 + 1])))


@given(SERIES, SERIES, st.floats(1e-3, 1e3))
def test_scaling_one_series_scales_the_factor(a, b, scale):
    plain, scaled = bounds(a, b), bounds([value * scale for value in a], b)
    for name in ("low", "factor", "high"):
        assert getattr(scaled, name) == pytest.approx(scale * getattr(plain, name), rel=1e-9)
    assert plain.low <= plain.factor <= plain.high


@given(SERIES, SERIES)
def test_exchanged_series_give_the_inverse(a, b):
    one, other = bounds(a, b), bounds(b, a)
    assert one.low == pytest.approx(1 / other.high, rel=1e-9)
    assert one.factor == pytest.approx(1 / other.factor, rel=1e-9)


@pytest.mark.parametrize(("new", "old"), [(0, 5), (2, 5), (5, 2), (0, 0)])
def test_too_few_rounds_say_nothing(new, old):
    assert bounds([1.0] * new, [1.0] * old) is None


def test_one_disturbed_round_moves_little():
    quiet = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01]
    disturbed = [*quiet[:-1], 50.0]
    found = bounds(disturbed, quiet)
    assert 0.98 < found.factor < 1.02 and found.low < 1.03


@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_equal_runs_pass_an_end_as_seldom_as_said(rounds):
    """Noise that is not normal, 4000 pairs of runs of the same thing."""
    rng = np.random.default_rng(rounds)
    series = rng.exponential(0.2, (4000, 2, rounds)) + 1
    found = [bounds(new, old) for new, old in series]
    beyond = np.mean([one.low > 1 for one in found])
    assert beyond <= found[0].tail + 3 * np.sqrt(found[0].tail / 4000)
    assert beyond > 0.3 * found[0].tail  # it is no interval that cannot be passed


def test_many_rounds_are_thinned():
    rng = np.random.default_rng(0)
    found = bounds(1.2 * rng.lognormal(0, 0.1, 5000), rng.lognormal(0, 0.1, 10 * MOST_ROUNDS))
    assert found.low < 1.2 < found.high and found.high / found.low < 1.2
