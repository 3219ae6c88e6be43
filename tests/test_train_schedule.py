"""The learning rates are MindOCR's, and the settings of a recipe reach them."""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.postprocess import module_alone
from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from dbnet.recipe_kinds import MismatchError
from dbnet.recipe_train import schedule_settings
from dbnet.train_settings import ScheduleSettings, learning_rate

#: recipe, batches of an epoch -> step -> rate: what MindOCR 0.3.1's create_scheduler lists.
PUBLISHED: dict[tuple[str, int], dict[int, float]] = {
    ("db_r18_icdar15", 100): {
        0: 0.0, 1: 2.3333333333333336e-05, 150: 0.0035, 299: 0.0069766666666666675, 300: 0.007,
        301: 0.006999947368399068, 60000: 0.0037596674289692342, 119000: 9.43655128789257e-05,
        119998: 3.5135027738796235e-07, 119999: 1.8828395168071774e-07},
    ("db_r50_icdar15_8p", 100): {
        0: 0.0, 1: 3.3333333333333337e-06, 150: 0.0005, 299: 0.0009966666666666668, 300: 0.001,
        301: 0.0009999999998152947, 60000: 0.0004752683895246212, 119000: 1e-05, 119999: 1e-05},
    ("db_mobilenetv3_ppocrv3", 100): {
        0: 0.0, 1: 5e-06, 150: 0.00075, 299: 0.0009999902489800244, 301: 0.0009999898510211634,
        25000: 0.0005031541885706987, 49000: 9.945738509358204e-07, 49999: 9.94903770479283e-13},
    ("db_r18_synthtext", 53000): {
        0: 0.007, 1: 0.006999940566009701, 300: 0.006982167285558597, 53000: 0.003751207118877026,
        105000: 0.00010527439670108584, 105999: 2.100500364689498e-07},
}


@pytest.mark.parametrize(("name", "batches"), PUBLISHED)
def test_rates_of_the_recipes(name, batches):
    settings = schedule_settings(read_recipe(name), batches)
    for step, rate in PUBLISHED[name, batches].items():
        assert learning_rate(settings, step) == pytest.approx(rate, rel=1e-9, abs=1e-18), step


def test_settings_of_a_recipe():
    recipe = read_recipe("db_r18_icdar15", [
        "scheduler={scheduler: multi_step_decay, lr: 0.1, decay_rate: 0.5, milestones: [2, 4], num_epochs: 8, "
        "warmup_epochs: 1, warmup_factor: 0.2, lr_epoch_stair: True}"])
    settings = schedule_settings(recipe, 10)
    assert [round(learning_rate(settings, step), 6) for step in (0, 9, 10, 29, 30, 49, 50, 79, 80, 1000)] == [
        0.02, 0.02, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.025, 0.025]


@pytest.mark.parametrize(("settings", "told"), [
    (["scheduler.scheduler=warmup_cosine_decay", "scheduler.decay_epochs=0"], "decay_epochs"),
    (["scheduler.scheduler=polynomial"], "did you mean polynomial_decay?"),
    (["scheduler.lr=0"], "above 0"),
])
def test_what_is_no_schedule(settings, told):
    with pytest.raises((DbnetError, MismatchError), match=told):
        schedule_settings(read_recipe("db_r18_icdar15", settings), 10)


def test_a_warm_up_longer_than_the_training():
    """As in MindOCR: the training ends in its warm-up."""
    settings = schedule_settings(read_recipe("db_r18_icdar15", ["scheduler.num_epochs=2"]), 10)
    assert learning_rate(settings, 19) == pytest.approx(0.007 * 19 / 30)


GRID = [dict(zip(("steps_per_epoch", "num_epochs", "warmup_epochs", "lr_epoch_stair", "decay_epochs", "warmup_factor",
                  "num_cycles"), values, strict=True))
        for values in itertools.product((1, 7, 100), (5, 40), (0, 3), (False, True), (2, 10, 37), (0.0, 0.25), (1, 3))]


@pytest.fixture(scope="module")
def create() -> Callable[..., list[float]]:
    """MindOCR's own, where it is installed; it needs no MindSpore for this."""
    if importlib.util.find_spec("mindocr") is None:
        pytest.skip("mindocr is not installed")
    logging.getLogger("mindocr").setLevel(logging.ERROR)
    function: Callable[..., list[float]] = module_alone("mindocr.scheduler.scheduler_factory").create_scheduler
    return function


@pytest.mark.parametrize("name", ["constant", "cosine_decay", "warmup_cosine_decay", "exponential_decay",
                                  "polynomial_decay", "step_decay", "multi_step_decay"])
def test_bit_for_bit_as_in_mindocr(name, create):
    for given in GRID:
        rest: dict[str, Any] = {"lr": 0.007, "decay_rate": 0.9, "cycle_decay": 0.8}
        wanted = create(scheduler=name, min_lr=1e-5, milestones=[4, 9, 20], **rest, **given)
        epoch, steps = given["steps_per_epoch"], given["num_epochs"] * given["steps_per_epoch"]
        settings = ScheduleSettings(
            name, 0.007, 0.0 if name == "polynomial_decay" else 1e-5, given["warmup_epochs"] * epoch, steps, 0.9,
            given["warmup_factor"], given["decay_epochs"] * epoch, epoch, tuple(m * epoch for m in (4, 9, 20)),
            given["num_cycles"], 0.8, given["lr_epoch_stair"])
        assert [learning_rate(settings, step) for step in range(steps)] == wanted[:steps], given
