"""A device that is too small for the network itself: one line, like a batch that is too large for it."""

from __future__ import annotations

import pytest

from dbnet.errors import DbnetError
from dbnet.initial import initial_weights
from dbnet.loss_settings import LossSettings
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings
from parity.training import drawn_batch, start_state

torch = pytest.importorskip("torch")
SPEC, SETTINGS = SPECS["db_mv3_paddle"], OptimizerSettings("adam")


def trainer():
    from torch_reference.train import Trainer
    return Trainer(SPEC, initial_weights(SPEC, 0), SETTINGS, LossSettings(), "cpu")


def full(*given, **named):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")


def broken(*given, **named):
    raise RuntimeError("something else")


def test_while_it_is_built(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DbnetError, match=r"^cpu has too little memory for the network .*a smaller network") as error:
        trainer()
    assert "\n" not in str(error.value)
    monkeypatch.setattr(torch.nn.Module, "to", broken)
    with pytest.raises(RuntimeError, match="something else"):
        trainer()


def test_while_a_state_is_put_into_it(monkeypatch):
    learner, state = trainer(), start_state(SPEC, SETTINGS)
    monkeypatch.setattr(torch, "empty_like", full)
    with pytest.raises(DbnetError, match=r"cpu has too little memory for the network and what its optimizer remembers"):
        learner.load_state(state)


def test_in_a_step(monkeypatch):
    learner = trainer()
    monkeypatch.setattr(learner.net, "training_logits", full)
    with pytest.raises(DbnetError, match=r"memory for batches of . images of 64 x 64 px; use a smaller batch or crop"):
        learner.step(drawn_batch(0, height=64, width=64), 0.001)
