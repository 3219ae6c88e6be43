"""`dbnet train` in a process of its own: signals from outside, a kill, and what a terminal shows."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from converters.training_file import read_training
from dbnet.cli.train_print import duration
from tests.test_train_loop import NO_CHECK, assert_same, done, last, one_thread
from tests.train_scenes import begin_train, data, recipe, train_here

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]


def signalled(recipe: Path, number: signal.Signals, group: bool, workers: int) -> str:
    """What a training of many epochs says when it is told to end in its second one."""
    process = begin_train(recipe, "--workers", workers, "-o", NO_CHECK, "scheduler.num_epochs=10000")
    assert process.stderr is not None
    for line in process.stderr:
        assert not line.startswith("dbnet:"), line
        if line.startswith("epoch 2/"):
            break
    (os.killpg if group else os.kill)(process.pid, number)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 3
    assert out == ""
    return told


@pytest.mark.parametrize(("number", "group", "workers"), [
    (signal.SIGINT, True, 2),  # Ctrl-C: the terminal sends it to all processes
    *(pytest.param(number, group, workers, marks=pytest.mark.long)
      for number in (signal.SIGINT, signal.SIGTERM) for group in (False, True) for workers in (0, 2))])
def test_a_signal_saves_and_ends(recipe, number, group, workers):
    told = [line for line in signalled(recipe, number, group, workers).splitlines() if not line.startswith("epoch")]
    assert told[:2] == ["", f"{number.name}: finishes the step, saves and ends; once more ends at once"]
    assert len(told) == 3, told
    assert told[2].startswith(f"dbnet: stopped by {number.name} after ")
    done(recipe, "--resume", "--max-steps", last(recipe).about["epoch"] * 4 + 5,
         settings=(NO_CHECK, "scheduler.num_epochs=10000"))


@pytest.mark.long
def test_killed_again_and_again_is_the_same(recipe, tmp_path):
    """kill -9 of the whole training, ten times, at moments of its own."""
    settings = (NO_CHECK, "train.ema=True", "optimizer.opt=Adam")
    done(recipe, settings=(*settings, f"train.ckpt_save_dir={tmp_path / 'whole'}"))
    saved = tmp_path / "saved/last.pth"
    for i in range(10):
        process = begin_train(recipe, *(["--resume"] if saved.exists() else ["--force"]), "--save-every", "0",
                              "--workers", "1", "-o", *settings)
        before, deadline = stamp(saved), time.monotonic() + 60
        while stamp(saved) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 * i)
        process.kill()
        process.communicate()
        read_training(saved)
    done(recipe, "--resume", settings=settings)
    assert_same(last(recipe), last(recipe, "whole"))


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_twice_ends_at_once(recipe, monkeypatch, interrupts_arrive):
    """The second signal does not wait for the step."""
    def step(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr("torch_reference.train.Trainer.step", step)
    result = train_here(recipe, settings=(NO_CHECK,))
    assert result.exit_code == 1  # click's own answer to KeyboardInterrupt, which dbnet's main turns into 3
    assert not (recipe.parent / "saved/last.pth").exists()


def test_a_terminal_shows_a_bar(recipe, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    told = done(recipe, "--max-steps", 4, settings=(NO_CHECK,))
    assert "epoch 1/3" in told
    assert "img/s, ETA" in told
    assert "━" in told
    assert " step 2/4" not in told
    assert "start: all weights drawn from seed 42" in told


@pytest.mark.parametrize(("seconds", "text"), [(0.26, "0.3 s"), (42.4, "42 s"), (59.7, "0:01:00"), (3723, "1:02:03"),
                                               (1e6, "277:46:40")])
def test_duration(seconds, text):
    assert duration(seconds) == text
