"""`dbnet train --resume` with what `dbnet convert --with-optimizer` has moved. From one framework to the other: see
parity/test_training.py."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from converters.training_convert import convert_training
from dbnet.cli.convert import convert as command
from tests.test_convert_training import mindocrs, write_raw
from tests.test_train_loop import NO_CHECK, assert_same, done, last, one_thread
from tests.train_scenes import write_recipe, write_set

pytest.importorskip("torch")
__all__ = ["one_thread"]


def test_a_training_goes_on_from_what_was_converted(tmp_path):
    """Bit for bit as one that nobody interrupted: in the middle of an epoch and of an accumulation."""
    recipe = write_recipe(tmp_path, write_set(tmp_path / "data"))

    def to(folder: str) -> tuple[str, ...]:
        return (NO_CHECK, "optimizer.opt=Adam", "train.ema=True", "train.gradient_accumulation_steps=2",
                f"train.ckpt_save_dir={tmp_path / folder}")

    done(recipe, "--max-steps", 10, settings=to("whole"))
    done(recipe, "--max-steps", 5, settings=to("parts"))
    saved = tmp_path / "parts"
    assert CliRunner().invoke(command, [str(saved / "last.pth"), str(saved / "last.ckpt"), "--with-optimizer"]
                              ).exit_code == 0
    (saved / "last.pth").unlink()
    told = done(recipe, "--resume", "--max-steps", 10, settings=to("parts"))
    assert f"goes on from {saved / 'last.ckpt'}: 1 epochs and 1 of 4 batches done" in told
    assert_same(last(recipe, "parts"), last(recipe, "whole"))


def test_a_training_of_mindocrs_goes_on(tmp_path):
    recipe = write_recipe(tmp_path, write_set(tmp_path / "data"))
    source = write_raw(tmp_path / "train_resume.ckpt", mindocrs(epoch_num=np.array(2, np.int32)))
    convert_training(source, tmp_path / "moved.pth")
    told = done(recipe, "--resume", tmp_path / "moved.pth", "--step-function", "mindocr", "--max-steps", 9,
                settings=(NO_CHECK, "train.ema=True", "optimizer.opt=SGD"))
    assert "2 epochs and 0 of 4 batches done" in told
    assert last(recipe).record.spec.step_function == "mindocr"
    assert int(last(recipe).state["global_step"]) == 51
