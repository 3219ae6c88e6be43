"""What a trace keeps of a map: right, the same bits everywhere, and a true bound of what it cannot know."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbnet import sums
from parity.compare import compare
from parity.data import ROOT
from parity.trace_statistics import (
    FIELDS,
    SAMPLE,
    SKETCH_PART,
    WIDTH,
    sample_of,
    sample_places,
    sha256_of,
    statistics_of,
)
from parity.trace_views import View, compare_views, least_error

SHAPES = ((1, 1, 1, 1), (1, 3, 2, 5), (1, 70, 9, 7), (2, 16, 33, 20), (1, 1, 64, 96))


def maps(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Numbers that no version of a generator can change."""
    bits = np.frombuffer(b"".join(hashlib.sha256(f"{seed} {i}".encode()).digest()
                                  for i in range(-(-int(np.prod(shape)) * 4 // 32))), "<u4")[:int(np.prod(shape))]
    return ((bits.astype(np.float64) / 2**31 - 1) * scale).astype(np.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_statistics_are_what_they_are_called(shape):
    array = maps(1, shape, 7.0)
    row = statistics_of(array)
    assert row.shape == (WIDTH,) and row.dtype == np.float64
    wide = array.astype(np.float64)
    wanted = (wide.size, 0, wide.min(), wide.max(), wide.mean(), wide.std(), np.linalg.norm(wide))
    np.testing.assert_allclose(row[:len(FIELDS)], wanted, rtol=1e-12, atol=1e-13)
    assert sums.total(array) == pytest.approx(wide.sum(), rel=1e-12, abs=1e-10)


def test_what_is_no_number_is_counted_and_left_out():
    array = maps(2, (1, 4, 8, 8))
    array[0, 1, 2, 3], array[0, 0, 0, 0] = np.nan, np.inf
    row = statistics_of(array)
    assert row[FIELDS.index("not_finite")] == 2 and np.isfinite(row).all()


@pytest.mark.parametrize("moved", [
    lambda a: a[:, :, ::-1], lambda a: np.roll(a, 1, 3), lambda a: a[:, [1, 0, *range(2, a.shape[1])]]],
    ids=["upside down", "a pixel to the right", "two channels exchanged"])
def test_a_map_that_is_only_rearranged_is_seen(moved):
    """Its least, largest and mean value are the same."""
    array = maps(3, (1, 8, 32, 32))
    other = moved(array)
    plain = slice(0, len(FIELDS))
    np.testing.assert_allclose(statistics_of(array)[plain], statistics_of(other)[plain], rtol=1e-9)
    apart = compare_views("c2", _statistics_only(array), _statistics_only(other), 1e-5)
    assert not apart.passed and apart.basis == "statistics" and apart.max_rel > 0.2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SHAPES), st.sampled_from((1e-6, 1e-3, 1.0)), st.booleans())
def test_the_bound_is_one(seed, shape, scale, local):
    """The largest error is never less than the statistics say; and half of it is seen where it is everywhere."""
    array, error = maps(seed, shape, 3.0), maps(seed + 1, shape, scale)
    if local:
        error *= np.arange(error.size).reshape(shape) == seed % error.size
    other = array + error
    largest = float(np.abs(array.astype(np.float64) - other).max())
    bound = least_error(statistics_of(array), statistics_of(other))
    assert bound <= largest * (1 + 1e-9)
    found = compare_views("c2", _statistics_only(array), _statistics_only(other), 1e-5)
    assert found.max_abs == (bound if (array != other).any() else 0.0)


def test_the_sketch_tells_the_root_mean_square():
    far = []
    for seed in range(20):
        array = maps(seed, (1, 32, 40, 40))
        other = array + maps(seed + 100, array.shape, 0.01)
        rms = np.sqrt(np.mean((array.astype(np.float64) - other) ** 2))
        apart = statistics_of(array)[SKETCH_PART] - statistics_of(other)[SKETCH_PART]
        far.append(np.linalg.norm(apart) / np.sqrt(array.size) / rms)
    assert np.std(far) < 0.14 and abs(np.mean(far) - 1) < 0.06, far


@pytest.mark.parametrize("size", [1, 7, SAMPLE, SAMPLE + 1, 100_000, 5_000_000])
def test_samples_are_spread(size):
    places = sample_places(size)
    assert len(places) == min(size, SAMPLE) and places.min() >= 0 and places.max() < size
    gaps = np.diff(np.unique(places))
    assert not len(gaps) or gaps.max() <= 4 * size / len(places) + 1
    assert sample_of(np.ones(size, np.float32)).sum() == len(places)


def test_a_sample_sees_values_where_they_are():
    array = maps(5, (1, 16, 40, 40))
    other = array.copy()
    place = int(sample_places(array.size)[777])
    other.reshape(-1)[place] += 0.5
    found = compare_views("c2", _sampled(array), _sampled(other), 1e-5)
    assert found.basis == "sample" and found.max_abs == pytest.approx(0.5, rel=1e-6)
    assert found.worst_index == np.unravel_index(place, array.shape) and found.size == SAMPLE


def test_whole_maps_are_compared_as_ever():
    array, other = maps(6, (1, 8, 16, 16)), maps(6, (1, 8, 16, 16)) + np.float32(1e-6)
    found = compare_views("c2", View(array), View(other), 1e-5)
    assert found == compare("c2", array, other, 1e-5)
    assert compare_views("c2", View(array), View(array.copy()), 1e-5).basis == "digest"


def test_digests_know_shape_and_order():
    array = maps(7, (1, 4, 6, 6))
    same = np.asfortranarray(array)
    assert sha256_of(array).tobytes() == sha256_of(same).tobytes()
    assert sha256_of(array).tobytes() != sha256_of(array.reshape(1, 6, 4, 6)).tobytes()


SCRIPT = """
import hashlib
import numpy as np
from parity.compare import compare
from parity.trace_statistics import statistics_of
from tests.test_trace_statistics import SHAPES, maps
found = hashlib.sha256()
for shape in SHAPES:
    a, b = maps(1, shape, 7.0), maps(2, shape, 7.0)
    found.update(statistics_of(a).tobytes())
    zeros = np.where(a > 0, np.float32(0), np.float32(-0.0))
    found.update(statistics_of(zeros).tobytes() + statistics_of(zeros.astype(np.float64)).tobytes())
    found.update(repr(compare("c2", a, b, 1e-5, constant_is_known=True)).encode())
print(found.hexdigest())
"""


def test_the_digits_do_not_hang_on_numpy_s_ways():
    """NumPy's loops for other processors, which add in another order: its own mean differs, these digits do not."""
    told = set()
    for features in ("", "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"):
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": features}
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=ROOT, env=environment, check=True,
                              capture_output=True, text=True)
        told.add(done.stdout)
    assert len(told) == 1


class _statistics_only(View):  # noqa: N801
    """A view that has lost its values."""

    def __init__(self, array: np.ndarray):
        super().__init__(array)
        self._shape, _ = self.full.shape, (self.statistics, self.sha256)
        self.full, self.__dict__["sample"] = None, None

    shape = property(lambda self: self._shape)


class _sampled(View):  # noqa: N801
    def __init__(self, array: np.ndarray):
        super().__init__(array)
        self._shape, _ = self.full.shape, (self.statistics, self.sha256, self.sample)
        self.full = None

    shape = property(lambda self: self._shape)
