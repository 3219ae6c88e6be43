"""torch's loss against the published formulas, written out in numpy. The halves against each other: parity/."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.loss_settings import Losses, LossSettings
from dbnet.spec import SPECS

torch = pytest.importorskip("torch")

EPS = 1e-6


def loss_module(step="paper", **settings):
    from torch_reference.head import DBHead
    from torch_reference.loss import DBLoss
    spec = replace(SPECS["db_mv3_paddle"], step_function=step)
    return DBLoss(DBHead(spec), LossSettings(**settings))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def example(seed, count=3, height=8, width=12, spread=3.0):
    """logits, threshold logits, binary map, mask, threshold map and its mask, float64; image 0 has no text."""
    rng = np.random.default_rng(seed)
    shape = (count, height, width)
    logits, threshold = rng.normal(0, spread, (2, *shape))
    binary = (rng.random(shape) < 0.1).astype(float)
    binary[0] = 0
    return [logits, threshold, binary, (rng.random(shape) < 0.8).astype(float), rng.uniform(0.3, 0.7, shape),
            (rng.random(shape) < 0.4).astype(float)]


def computed(loss, arrays, dtype=torch.float64):
    """The four losses, and the gradients of the logits."""
    tensors = [torch.tensor(array, dtype=dtype) for array in arrays]
    logits = [tensor[:, None].clone().requires_grad_() for tensor in tensors[:2]]
    parts = loss(*logits, *tensors[2:])
    parts[0].backward()
    return Losses(*(part.item() for part in parts)), [each.grad[:, 0].double().numpy() for each in logits]


def cross_entropy(probability, target):
    return -(target * np.log(probability) + (1 - target) * np.log(1 - probability))


def mindocrs_bce(logits, binary, mask):
    """mindocr/losses/det_loss.py, BalancedBCELoss: each image by itself, at least 10, and all as hard as the last."""
    loss, positive, negative = cross_entropy(sigmoid(logits), binary), binary * mask, (1 - binary) * mask
    total, chosen, found = (loss * positive).sum(), 0.0, positive.sum()
    for image in range(len(logits)):
        count = max(int(min(negative[image].sum(), 3 * positive[image].sum())), 10)
        hard = (loss * negative)[image].ravel()
        chosen += hard[hard >= np.sort(hard)[len(hard) - count]].sum()
        found += count
    return (total + chosen) / (found + EPS)


def mhliaos_bce(logits, binary, mask):
    """decoders/balance_cross_entropy_loss.py: one top-k over the batch."""
    loss, positive, negative = cross_entropy(sigmoid(logits), binary), binary * mask, (1 - binary) * mask
    count = int(min(negative.sum(), 3 * positive.sum()))
    hard = np.sort((loss * negative).ravel())[::-1][:count]
    return ((loss * positive).sum() + hard.sum()) / (positive.sum() + count + EPS)


def dice(prediction, target, mask):
    return 1 - 2 * (prediction * target * mask).sum() / ((prediction * mask).sum() + (target * mask).sum() + EPS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step", ["paper", "mindocr"])
@pytest.mark.parametrize(("mining", "bce"), [("mindocr", mindocrs_bce), ("batch", mhliaos_bce)])
def test_published_formulas(mining, bce, step, seed):
    arrays = example(seed)
    logits, threshold_logits, binary, mask, thresh_map, thresh_mask = arrays
    probability, threshold = sigmoid(logits), sigmoid(threshold_logits)
    step_map = sigmoid(50 * (probability - threshold) if step == "paper" else 50 * probability - threshold)
    l1 = (np.abs(threshold - thresh_map) * thresh_mask).sum() / (thresh_mask.sum() + EPS)
    expected = [dice(step_map, binary, mask), l1, bce(logits, binary, mask)]
    found, _ = computed(loss_module(step, mining=mining), arrays)
    assert found[1:] == pytest.approx(expected, rel=1e-10)
    assert found.total == pytest.approx(expected[0] + 10 * l1 + 5 * expected[2], rel=1e-10)


def test_scales_and_dice_in_place_of_the_cross_entropy():
    arrays = example(7)
    found, _ = computed(loss_module(bce_replace="diceloss", bce_scale=2.0, l1_scale=3.0), arrays)
    assert found.cross_entropy == pytest.approx(dice(sigmoid(arrays[0]), arrays[2], arrays[3]), rel=1e-10)
    assert found.total == pytest.approx(found.dice + 3 * found.l1 + 2 * found.cross_entropy, rel=1e-12)


def test_mining_ratio_and_least():
    arrays = example(8)
    by_ratio = [computed(loss_module(negative_ratio=ratio, least_negatives=1), arrays)[0].cross_entropy
                for ratio in (1.0, 3.0, 9.0)]
    assert by_ratio == sorted(by_ratio, reverse=True)  # the more negatives, the easier ones among them
    few, many = (computed(loss_module(least_negatives=least), arrays)[0].cross_entropy for least in (10, 60))
    assert few != many


@pytest.mark.parametrize("mining", ["mindocr", "batch"])
def test_gradients_by_differences(mining):
    """Of a few logits each, in float64; mining has no gradient of its own."""
    loss, arrays = loss_module(mining=mining), example(3)
    _, gradients = computed(loss, arrays)
    rng, h = np.random.default_rng(0), 1e-6
    for which in (0, 1):
        for _ in range(12):
            place = tuple(int(rng.integers(0, side)) for side in arrays[0].shape)
            values = []
            for sign in (1, -1):
                moved = [array.copy() for array in arrays]
                moved[which][place] += sign * h
                values.append(computed(loss, moved)[0].total)
            assert (values[0] - values[1]) / (2 * h) == pytest.approx(gradients[which][place], rel=1e-4, abs=1e-8)


def test_gradient_at_a_logit_of_0():
    """As at a logit next to 0: a ReLU's and an absolute value's derivative would add up to 0, not to 1/2."""
    arrays = example(4)
    arrays[0][:] = 0
    _, (at_zero, _) = computed(loss_module(l1_scale=0.0), arrays)
    arrays[0][:] = 1e-9
    _, (beside, _) = computed(loss_module(l1_scale=0.0), arrays)
    assert np.allclose(at_zero, beside, rtol=1e-6)
    assert (np.abs(at_zero[arrays[2] * arrays[3] == 1]) > 0).all()


@pytest.mark.parametrize("size", [40.0, 90.0, 1e4])
def test_saturated_logits_keep_a_gradient(size):
    """float32: the probability is 0 or 1, its logarithm would be infinite."""
    arrays = example(5)
    arrays[0] = size * (1 - 2 * arrays[2])  # all wrong
    losses, (gradient, _) = computed(loss_module(mining="batch"), arrays, torch.float32)
    assert np.isfinite(losses).all()
    assert losses.cross_entropy == pytest.approx(size, rel=1e-5)
    assert np.isfinite(gradient).all()
    assert (gradient[arrays[2] * arrays[3] == 1] < 0).all()


@pytest.mark.parametrize("mining", ["mindocr", "batch"])
@pytest.mark.parametrize("empty", ["nothing but ignored", "no text", "no threshold"])
def test_nothing_to_compare(mining, empty):
    arrays = example(6)
    if empty == "nothing but ignored":
        arrays[3][:] = 0
    elif empty == "no text":
        arrays[2][:] = 0
    else:
        arrays[5][:] = 0
    losses, gradients = computed(loss_module(mining=mining), arrays, torch.float32)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if empty == "nothing but ignored":
        assert (losses.dice, losses.cross_entropy) == (1, 0)
        assert not gradients[0].any()
    if empty == "no threshold":
        assert losses.l1 == 0


@given(st.integers(0, 2**16), st.sampled_from(["mindocr", "batch"]))
def test_what_is_masked_does_not_matter(seed, mining):
    arrays = example(seed % 97)
    loss = loss_module(mining=mining)
    losses, _ = computed(loss, arrays)
    rng = np.random.default_rng(seed)
    hidden, no_band = arrays[3] == 0, arrays[5] == 0
    moved = [array.copy() for array in arrays]
    moved[0][hidden] = rng.normal(0, 9, hidden.sum())
    moved[2][hidden] = rng.random(hidden.sum()) < 0.5
    moved[1][hidden & no_band] = rng.normal(0, 9, (hidden & no_band).sum())
    moved[4][no_band] = rng.random(no_band.sum())
    again, gradients = computed(loss, moved)
    assert again == pytest.approx(losses, rel=1e-12)
    assert not gradients[0][hidden].any()
    assert not gradients[1][hidden & no_band].any()


@given(st.integers(0, 2**16), st.integers(1, 4))
def test_mining_takes_as_many_as_it_says(seed, levels):
    """With many pixels equally hard: `batch` shares the last places, `mindocr` takes all of them."""
    rng = np.random.default_rng(seed)
    shape = (2, 5, 6)
    text = (rng.random(shape) < 0.15).astype(float)
    rest = (1 - text) * (rng.random(shape) < 0.9)
    hardness = rng.integers(1, levels + 1, shape) * rest
    for mining in ("mindocr", "batch"):
        share, count = loss_module(mining=mining).mined(*(torch.tensor(a) for a in (hardness, text, rest)))
        share = share.numpy() * rest
        if mining == "batch":
            assert share.sum() == pytest.approx(float(count))
            assert float(count) == min(rest.sum(), 3 * text.sum())
            wanted = np.sort(hardness.ravel())[::-1][:int(count)].sum()
            assert (share * hardness).sum() == pytest.approx(wanted)
        else:
            for image in range(2):
                least = max(min(rest[image].sum(), 3 * text[image].sum()), 10)
                assert share[image].sum() >= min(least, rest[image].sum())
                assert set(np.unique(share)) <= {0.0, 1.0}


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                                 (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_precision(dtype, expected):
    arrays = example(1)
    logits = [torch.tensor(array, dtype=dtype)[:, None] for array in arrays[:2]]
    maps = [torch.tensor(array, dtype=expected) for array in arrays[2:]]
    parts = loss_module()(*logits, *maps)
    assert {part.dtype for part in parts} == {expected}
    exact, _ = computed(loss_module(), [*(each[:, 0].double().numpy() for each in logits), *arrays[2:]])
    assert [part.item() for part in parts] == pytest.approx(exact, rel=1e-5)
