"""`dbnet train --deterministic`: the same twice, bit for bit, with several threads and processes that make images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_train_loop import NO_CHECK
from tests.train_scenes import ROOT, write_recipe, write_set

SETTINGS = (NO_CHECK, "scheduler.num_epochs=1", "optimizer.opt=Adam", "train.ema=True")
#: Threads that wait for each other without a word: others want the cores too.
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("twice")
    return write_recipe(folder, write_set(folder / "data"))


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_twice_is_the_same(recipe, backend):
    pytest.importorskip(backend)
    suffix = {"torch": ".pth", "mindspore": ".ckpt"}[backend]
    processes = [subprocess.Popen(
        [sys.executable, "-m", "dbnet", "train", "-c", str(recipe), "--backend", backend, "--device", "cpu",
         "--deterministic", "--workers", str(workers), "-o", *SETTINGS,
         f"train.ckpt_save_dir={recipe.parent / f'{backend}{workers}'}"],
        cwd=ROOT, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True) for workers in (0, 1)]
    told = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    for name in ("best", "e1"):
        files = [recipe.parent / f"{backend}{workers}" / f"{name}{suffix}" for workers in (0, 1)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_torch_is_told():
    """In a process of its own: it holds for all that the process computes."""
    pytest.importorskip("torch")
    program = ("import os, torch; from torch_reference.train import be_repeatable; be_repeatable(); print("
               "torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, "
               "torch.backends.cudnn.benchmark, os.environ['CUBLAS_WORKSPACE_CONFIG'])")
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=environment)
    assert done.stdout == "True True False :4096:8\n"
