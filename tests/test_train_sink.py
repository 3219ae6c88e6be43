"""`train.dataset_sink_mode`: whose it is, and what is said of it."""

from __future__ import annotations

import pytest

from dbnet.recipe import read_recipe
from dbnet.recipe_train import training_plan
from evaluation.training_setup import sinking
from tests.test_train_loop import NO_CHECK, done, one_thread
from tests.train_scenes import data, recipe

__all__ = ["data", "one_thread", "recipe"]
SINK = "train.dataset_sink_mode=True"


@pytest.mark.parametrize(("settings", "backend", "device", "sinks", "told"), [
    ([], "torch", "cpu", False, None),
    ([], "mindspore", "ascend:0", True, None),
    ([SINK], "torch", "cuda:0", False, "without effect here, for PyTorch has no such mode"),
    ([SINK], "mindspore", "cpu", False, "without effect here, for MindSpore cannot sink on a CPU"),
    ([SINK], "mindspore", "ascend:0", True, "for up to 2 batches"),
    ([SINK, "system.log_interval=1000"], "mindspore", "gpu:0", True, "for up to 50 batches"),
    (["train.dataset_sink_mode=False"], "mindspore", "ascend:0", False, None),
])
def test_whose_it_is(recipe, settings, backend, device, sinks, told):
    read = read_recipe(recipe, settings)
    found, notes = sinking(read, training_plan(read), backend, device)
    assert found == sinks
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]


@pytest.mark.parametrize("sinks", [False, True])
def test_losses_are_looked_at_when_they_are_logged(recipe, monkeypatch, sinks):
    """Or every half second, which here is always over."""
    torch_train = pytest.importorskip("torch_reference.train")
    looked, losses = [], torch_train.losses
    monkeypatch.setattr("evaluation.training.LOOK_SECONDS", -1.0)
    monkeypatch.setattr("evaluation.training_setup.sinking", lambda *_: (sinks, []))
    monkeypatch.setattr(torch_train, "losses", lambda parts: looked.append(len(steps)) or losses(parts))
    steps, step = [], torch_train.Trainer.step
    monkeypatch.setattr(torch_train.Trainer, "step", lambda self, *given: steps.append(0) or step(self, *given))
    done(recipe, "--max-steps", 4, settings=(NO_CHECK, "system.log_interval=3"))
    assert looked == ([3, 3, 3, 4] if sinks else [1, 2, 3, 4])


def test_it_is_told(recipe):
    pytest.importorskip("torch")
    assert "train.dataset_sink_mode: without effect here" in done(recipe, "--max-steps", 1, settings=(NO_CHECK, SINK))
    assert "dataset_sink_mode" not in done(recipe, "--resume", "--max-steps", 2, settings=(NO_CHECK,))
