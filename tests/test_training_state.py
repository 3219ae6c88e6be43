"""Telling weights from optimizer state, EMA copies and counters, in files that MindSpore's own training cells save."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from converters import ckpt_file
from converters.training_state import split_scalars, split_training_state


@pytest.fixture
def ms() -> ModuleType:
    return pytest.importorskip("mindspore")


OPTIMIZERS = [
    *(("nn", name) for name in ("ASGD", "AdaMax", "Adadelta", "Adagrad", "Adam", "AdamWeightDecay", "FTRL", "Lamb",
                                "LazyAdam", "ProximalAdagrad", "RMSProp", "Rprop", "SGD")),
    *(("experimental.optim", name) for name in ("ASGD", "Adadelta", "Adam", "Adamax", "NAdam", "RMSprop", "SGD")),
    *(("mint.optim", name) for name in ("AdamW", "SGD"))]


@pytest.mark.parametrize(("module", "name"), OPTIMIZERS)
def test_state_of_mindspores_optimizers(ms: ModuleType, tmp_path: Path, module: str, name: str) -> None:
    net = ms.nn.SequentialCell(ms.nn.Conv2d(3, 4, 3), ms.nn.BatchNorm2d(4))
    own = [p.name for p in net.get_parameters()]
    folder = ms
    for part in module.split("."):
        folder = getattr(folder, part)
    optimizer = getattr(folder, name)(net.trainable_params(), 0.1)
    ms.save_checkpoint([*net.get_parameters(), *(p for p in optimizer.get_parameters() if p.name not in own)],
                       str(tmp_path / "x.ckpt"))
    file = ckpt_file.read(tmp_path / "x.ckpt")
    assert list(file.tensors) == own
    assert set(file.training) == {"optimizer state"}
    assert file.training["optimizer state"] >= len(net.trainable_params())


def test_resume_file_of_a_training_cell(ms: ModuleType, tmp_path: Path) -> None:
    """What MindOCR saves as train_resume.ckpt: the training cell, with clones named `ema.` and `swap.`."""
    net = ms.nn.SequentialCell(ms.nn.Conv2d(3, 4, 3), ms.nn.BatchNorm2d(4))
    weights = ms.ParameterTuple(net.get_parameters())
    ema, swap = weights.clone("ema", init="ones"), weights.clone("swap", init="zeros")
    rates = ms.nn.cosine_decay_lr(0.0, 0.1, 10, 5, 2)
    optimizer = ms.nn.Momentum([{"params": net.trainable_params(), "lr": rates}], rates, 0.9)
    cell = ms.nn.TrainOneStepWithLossScaleCell(ms.nn.WithLossCell(net, ms.nn.MSELoss()), optimizer,
                                               ms.nn.DynamicLossScaleUpdateCell(1024, 2, 1000))
    ms.save_checkpoint([*cell.get_parameters(), *ema, *swap], str(tmp_path / "x.ckpt"), append_dict={"epoch_num": 3})
    file = ckpt_file.read(tmp_path / "x.ckpt")
    own = {p.name: p.asnumpy() for p in weights}
    assert {name: array.tobytes() for name, array in file.tensors.items()} == \
        {name: array.tobytes() for name, array in own.items()}
    assert file.ema is not None
    assert sorted(file.ema) == sorted(own)
    assert all((array == 1).all() for array in file.ema.values())
    assert file.training == {"optimizer state": 4, "EMA copies": 5, "swap copies": 5}  # 3 moments, the rates
    assert file.metadata["epoch_num"] == "3"


def test_split_needs_the_parameter_itself() -> None:
    """`linear.` is Ftrl's prefix, but also a name that a network may use."""
    names = ("linear.weight", "prev.0.weight", "moments.gone", "exp_avg_sq_row_a.w", "a.w", "head.moments.w", "w")
    tensors = {name: np.ones(2) for name in names}
    weights, training, ema = split_training_state(tensors)
    assert list(weights) == ["linear.weight", "prev.0.weight", "moments.gone", "a.w", "head.moments.w", "w"]
    assert (training, ema) == ({"optimizer state": 1}, None)


def test_scalars() -> None:
    tensors = {"epoch_num": np.array(3), "loss_scale": np.array(0.1, np.float32), "global_step": np.array([5]),
               "bias": np.ones(1), "bn.num_batches_tracked": np.array(1), "learning_rate": np.ones(10)}
    weights, text = split_scalars(tensors)
    assert list(weights) == ["bias", "bn.num_batches_tracked", "learning_rate"]
    assert text == {"epoch_num": "3", "loss_scale": "0.1", "global_step": "5"}
    assert split_training_state(weights)[1] == {"optimizer state": 1}
