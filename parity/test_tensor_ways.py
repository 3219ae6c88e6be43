"""What one tensor tells of the other: every way is recognised, and nothing that only comes near."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.tensor_ways import difference, differences, is_quantised, is_rounded

RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(16, 16, 3, 3)).astype(np.float32)
JOINED = RNG.normal(size=(8, 32, 3, 3)).astype(np.float32)
STEM = RNG.normal(size=(8, 3, 3, 3)).astype(np.float32)


def ways(name, mine, right, **others):
    found = difference(name, np.asarray(mine, np.float32), right, {name: right, **others})
    return None if found is None else [cause for cause, _ in found.ways]


def steps(array, bits, axis):
    largest = np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != axis), keepdims=True)
    step = largest / np.float32(2 ** (bits - 1) - 1)
    return (np.round(array / step) * step).astype(np.float32)


@pytest.mark.parametrize("axes", [axes for axes in itertools.permutations(range(4)) if axes != (0, 1, 2, 3)])
def test_axes_in_another_order(axes):
    """As another array, or as the same bytes read otherwise."""
    right = RNG.normal(size=(6, 4, 3, 5)).astype(np.float32)
    misread = np.ascontiguousarray(right.transpose(axes)).reshape(right.shape)
    assert ways("x.weight", misread, right) == ["transposed_kernel"]
    assert ways("x.weight", right.reshape([right.shape[i] for i in axes]).transpose(np.argsort(axes)),
                right) == ["transposed_kernel"]
    if KERNEL.transpose(axes).shape == KERNEL.shape:
        assert ways("x.weight", KERNEL.transpose(axes), KERNEL) == ["transposed_kernel"]


@pytest.mark.parametrize("order", [order for order in itertools.permutations(range(4)) if order != (0, 1, 2, 3)])
def test_joined_in_another_order(order):
    mine = np.concatenate([np.split(JOINED, 4, axis=1)[i] for i in order], axis=1)
    assert ways("head.segm.0.weight", mine, JOINED) == ["concat_order"]
    assert ways("head.segm.0.weight", mine.astype(np.float16), JOINED) == ["concat_order", "precision"]
    assert ways("x.weight", mine, JOINED) == ["swapped_tensors"]


@pytest.mark.parametrize("order", [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)])
def test_colours_in_another_order(order):
    mine = STEM[:, list(order)]
    assert ways("backbone.conv1.weight", mine, STEM) == ["color_order"]
    assert ways("backbone.conv1.weight", mine / np.float32(255), STEM) == ["color_order", "normalization"]


@pytest.mark.parametrize("amount", [1e-3 - 1e-5, 1e-5, -9e-6])
def test_an_epsilon_in_the_variances(amount):
    """Also where some are so large that float32 does not show it."""
    right = (10 ** np.random.default_rng(6).uniform(-3, 3, 64)).astype(np.float32)
    mine = right + np.float32(amount)
    assert ways("x.moving_variance", mine, right) == ["bn_eps"]
    assert ways("x.moving_mean", mine, right) is None
    other = mine.copy()
    other[np.argsort(right)[5]] += np.float32(amount / 50)
    assert ways("x.moving_variance", other, right) is None
    assert ways("x.moving_variance", right * np.float32(1 + amount), right) is None
    assert ways("x.moving_variance", right + 1, right) is None


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_fewer_digits(kind):
    mine = KERNEL.astype(np.float16 if kind == "float16" else getattr(ml_dtypes, kind)).astype(np.float32)
    assert is_rounded(mine, KERNEL) and is_rounded(KERNEL, mine)
    assert ways("x.weight", np.flip(mine, 2), KERNEL) == ["transposed_kernel", "precision"]


@pytest.mark.parametrize(("bits", "axis"), [(8, 0), (8, 1), (8, None), (4, 0), (4, 1)])
def test_integers(bits, axis):
    mine = steps(KERNEL, bits, axis)
    assert is_quantised(mine) and not is_quantised(KERNEL) and ways("x.weight", mine, KERNEL) == ["precision"]


def test_integers_of_other_kernels_are_not_near():
    other = RNG.normal(size=KERNEL.shape).astype(np.float32)
    assert ways("x.weight", steps(other, 8, 0), KERNEL) is None


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-5, 1e-3, 1e-2, 0.1]), length=st.sampled_from([1, 24, 0]))
def test_what_is_only_near_has_no_name(seed, size, length):
    """The weights of one more epoch are neither rounded nor in another order."""
    rng = np.random.default_rng(seed)
    right = (rng.uniform(0.6, 1.4, length) if length else rng.normal(size=(8, 8, 3, 3))).astype(np.float32)
    mine = (right + size * rng.normal(size=right.shape)).astype(np.float32)
    assert ways("x.gamma" if length else "x.weight", mine, right) is None


@pytest.mark.parametrize("mine", [KERNEL * 0, KERNEL * 0 + 1, KERNEL * 2, -KERNEL,
                                  np.where(np.arange(2304).reshape(KERNEL.shape) == 7, 3, KERNEL)])
def test_other_values_have_no_name(mine):
    assert ways("x.weight", mine, KERNEL) is None


def test_ones_are_no_rounded_gammas():
    gamma = RNG.uniform(0.8, 1.2, 64).astype(np.float32)
    assert ways("x.gamma", np.ones(64), gamma) is None
    assert ways("x.beta", np.zeros(64), gamma) == ["missing_bias"]


def test_values_of_another_tensor():
    dense = RNG.normal(size=(4, 16)).astype(np.float32)
    assert ways("x.weight", dense.T, np.ones((16, 4), np.float32), **{"y.weight": dense}) == ["swapped_tensors"]


def test_a_mean_of_the_colours_in_the_first_norm():
    stem, mean = "backbone.conv1.weight", "backbone.bn1.moving_mean"
    right = {stem: STEM, mean: RNG.normal(size=8).astype(np.float32)}
    shift = np.float32([0.4, -0.1, 0.3])
    mine = {stem: STEM / np.float32(2), mean: right[mean] + (STEM.sum(axis=(2, 3)) @ shift)}
    assert {way[0] for each in differences(mine, right) for way in each.ways} == {"normalization"}
    mine[mean] = right[mean] + np.float32(RNG.normal(size=8))
    assert [each.name for each in differences(mine, right)] == [stem]
