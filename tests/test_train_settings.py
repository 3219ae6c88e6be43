"""What a training is told: schedules against MindOCR's, optimizers' numbers, the average's decay, the loss scale."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings, ScaleSettings, ScheduleSettings, average_decay, learning_rate
from dbnet.training import LossScale, Progress, check_precision, learned, packed, unpacked
from parity.training import start_state

SPEC, SETTINGS = SPECS["db_mv3_paddle"], OptimizerSettings()


def mindocrs_rates(scheduler, lr, min_lr, warmup, epochs, per_epoch, rate=0.9, factor=0.0, decay=10):
    """The list that MindOCR 0.3's create_scheduler makes, for the schedules of the published recipes."""
    main = epochs - warmup
    rates = [lr * factor + min(i / per_epoch, warmup) / warmup * (lr - lr * factor) for i in range(warmup * per_epoch)]
    if scheduler == "polynomial_decay":
        return rates + [lr * (1 - min(i / per_epoch, main) / main) ** rate for i in range(main * per_epoch)]
    cosine = [min_lr + 0.5 * (lr - min_lr) * (1.0 + math.cos(math.pi * (i / per_epoch) / decay))
              for i in range(min(decay, main) * per_epoch)]
    return rates + cosine + [min_lr] * ((main - decay) * per_epoch)


@pytest.mark.parametrize(("scheduler", "lr", "min_lr", "warmup", "epochs", "decay", "factor"), [
    ("polynomial_decay", 0.007, 0.0, 3, 1200, None, 0.0),
    ("polynomial_decay", 0.007, 0.0, 0, 2, None, 0.0),
    ("polynomial_decay", 0.02, 0.0, 3, 5, None, 0.1),
    ("warmup_cosine_decay", 0.001, 0.0, 2, 500, 498, 0.0),
    ("warmup_cosine_decay", 0.001, 1e-5, 3, 1200, 1150, 0.0),
    ("cosine_decay", 0.001, 1e-5, 1, 4, 2, 0.5),
])
def test_rates_of_the_recipes(scheduler, lr, min_lr, warmup, epochs, decay, factor):
    expected = mindocrs_rates(scheduler, lr, min_lr, warmup, epochs, 7, factor=factor, decay=decay or 0)
    settings = ScheduleSettings(scheduler, lr, min_lr, warmup * 7, epochs * 7, 0.9, factor, decay and decay * 7, 7)
    found = [learning_rate(settings, step) for step in range(epochs * 7)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert len(found) == len(expected)


@given(st.sampled_from(["polynomial_decay", "cosine_decay"]), st.integers(0, 50), st.integers(1, 500),
       st.floats(1e-6, 1.0), st.floats(0.0, 1e-6))
def test_rates_rise_and_then_fall(name, warmup, length, lr, min_lr):
    settings = ScheduleSettings(name, lr, min_lr, warmup, warmup + length)
    rates = [learning_rate(settings, step) for step in range(warmup + length + 5)]
    assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
    assert rates[warmup] == pytest.approx(lr)
    assert rates[:warmup + 1] == sorted(rates[:warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize("changes", [
    {"name": "Adam"}, {"momentum": 1.0}, {"momentum": -0.1}, {"momentum": math.nan}, {"weight_decay": -1e-4},
    {"weight_decay": math.inf}, {"betas": (0.9, 1.0)}, {"betas": (math.nan, 0.9)}, {"eps": -1e-8},
    {"clip_norm": 0.0}, {"clip_norm": math.nan}, {"accumulate": 0}, {"ema_decay": 1.0}, {"ema_decay": -0.5},
    {"ema_start": "slow"}, {"loss_scale": ScaleSettings(0.0)}, {"loss_scale": ScaleSettings(math.inf)},
    {"loss_scale": ScaleSettings(factor=1.0)}, {"loss_scale": ScaleSettings(window=0)},
])
def test_numbers_without_a_meaning(changes):
    with pytest.raises(DbnetError, match=f"the optimizer's {next(iter(changes))}.* cannot be .*; it must be "):
        OptimizerSettings(**changes)


def test_defaults_are_the_recipes():
    settings = OptimizerSettings()
    assert (settings.name, settings.momentum, settings.weight_decay) == ("momentum", 0.9, 1e-4)
    assert (settings.loss_scale.start, settings.loss_scale.factor, settings.loss_scale.window) == (512, 2, 1000)


def test_decay_of_the_average():
    """MindOCR's: decay * (1 - exp(-updates / 2000)), with `updates` counted before it is used."""
    settings = OptimizerSettings(ema_decay=0.9999)
    for step in (1, 2, 100, 2000, 50000):
        assert average_decay(settings, step) == pytest.approx(0.9999 * (1 - math.exp(-step / 2000)), rel=1e-12)
    quick = replace(settings, ema_start="quick", ema_decay=0.99)
    assert [average_decay(quick, step) for step in (1, 10, 10000)] == [2 / 11, 11 / 20, 0.99]


def test_loss_scale():
    scale = LossScale(ScaleSettings(start=8.0, factor=2.0, window=3), active=True)
    seen = []
    for finite in (True, True, True, True, False, True, True, True, False, False, False, False, False, False):
        scale.update(finite)
        seen.append(scale.value)
    assert seen == [8, 8, 16, 16, 8, 8, 8, 16, 8, 4, 2, 1, 1, 1]


@pytest.mark.parametrize(("settings", "active", "value"), [(ScaleSettings(dynamic=False), True, 512.0),
                                                           (ScaleSettings(), False, 1.0)])
def test_a_loss_scale_that_stays(settings, active, value):
    scale = LossScale(settings, active)
    for finite in (False, *[True] * 2000):
        scale.update(finite)
    scale.resume(Progress(loss_scale=64.0, scale_step=5))
    assert (scale.value, scale.good) == (value, 0)


def test_a_loss_scale_goes_on():
    scale = LossScale(ScaleSettings(), active=True)
    scale.resume(Progress())  # saved without one
    assert scale.value == 512
    scale.resume(Progress(loss_scale=64.0, scale_step=999))
    scale.update(True)
    assert (scale.value, scale.good) == (128, 0)


def test_a_loss_scale_that_came_down_to_1_goes_on():
    low = LossScale(ScaleSettings(start=2.0), active=True)
    low.update(False)
    assert low.kept == (1.0, 0)
    scale = LossScale(ScaleSettings(), active=True)
    scale.resume(Progress(0, 0, 0, *low.kept))
    assert scale.value == 1.0
    assert LossScale(ScaleSettings(), active=False).kept == (0.0, 0)
    assert "loss_scale" not in start_state(SPEC, SETTINGS)


def test_a_smaller_window_than_the_one_before():
    scale = LossScale(ScaleSettings(window=100), active=True)
    scale.resume(Progress(loss_scale=64.0, scale_step=999))
    scale.update(True)
    assert (scale.value, scale.good) == (128, 0)


def pending_state(of: int | None, waiting: int = 1) -> dict[str, np.ndarray]:
    """Of a run that makes a step of so many batches; None: it does not say."""
    entries = {"accumulation_step": np.array(waiting)} | {
        f"grad_accumulation.{p.name}": np.zeros(p.shape, np.float32) for p in learned(SPEC)}
    return start_state(SPEC, SETTINGS) | entries | ({} if of is None else {"accumulation_size": np.array(of)})


def test_pending_gradients_belong_to_an_accumulation():
    for of, now in ((4, 4), (None, 4)):
        found = unpacked(SPEC, replace(SETTINGS, accumulate=now), pending_state(of))
        saved = packed(found, replace(SETTINGS, accumulate=now))
        assert (found.progress.accumulation_step, int(saved["accumulation_size"])) == (1, now)
    for of, now, told in ((4, 2, "train.gradient_accumulation_steps=4"), (2, 4, "steps=2"), (4, 1, "steps=4"),
                          (None, 1, "the accumulation of the run")):
        with pytest.raises(DbnetError, match=f"gradients of 1 batches, and this run makes a step of {now}.*{told}"):
            unpacked(SPEC, replace(SETTINGS, accumulate=now), pending_state(of))
    with pytest.raises(DbnetError, match="gradients of 5 batches"):
        unpacked(SPEC, replace(SETTINGS, accumulate=4), pending_state(4, waiting=5))
    assert "accumulation_size" not in start_state(SPEC, SETTINGS)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
def test_a_loss_scale_that_cannot_be(value):
    with pytest.raises(DbnetError, match="this state is damaged: loss_scale"):
        unpacked(SPEC, SETTINGS, start_state(SPEC, SETTINGS) | {"loss_scale": np.array(value, np.float32)})


def test_precisions():
    assert [check_precision(name) for name in ("O0", "O2", "bf16")] == ["O0", "O2", "bf16"]
    with pytest.raises(DbnetError, match="amp cannot be 'O1'; choose from O0, O2, bf16"):
        check_precision("O1")
