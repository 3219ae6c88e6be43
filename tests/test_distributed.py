"""`system.distribute`: one training in two processes, run for real, and that it is the one of a single process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from converters.training_file import TrainingFile, read_training
from tests.test_train_loop import NO_CHECK, assert_same, done, one_thread, refused
from tests.train_scenes import ROOT, data, recipe

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]

#: A rate that does not change: with gradients of several batches the schedule counts batches, as MindOCR's does.
STEADY = ("scheduler.scheduler=step_decay", "scheduler.decay_epochs=100", "scheduler.warmup_epochs=0",
          "scheduler.num_epochs=2", "system.log_interval=1")
TOGETHER = "system.distribute=True"


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{bin_folder}:{os.environ['PATH']}", **more}


def begin(command: list[str | Path], log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                                stdin=subprocess.DEVNULL, env=variables, start_new_session=True)


def begin_two(recipe: Path, *arguments: str | Path, settings: tuple[str, ...] = (), size: int = 2,
              other: tuple[str, ...] = ()) -> list[subprocess.Popen[bytes]]:
    """As torchrun starts them. other: settings of all but the first."""
    port, found = str(free_port()), []
    for rank in range(size):
        given = environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
                            MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        found.append(begin([sys.executable, "-m", "dbnet", "train", "-c", recipe, "--workers", "0", "--device", "cpu",
                            *arguments, "-o", TOGETHER, *settings, *(other if rank else ())],
                           recipe.parent / f"log{rank}", given))
    return found


def end(processes: list[subprocess.Popen[bytes]], recipe: Path, code: int = 0, seconds: float = 90) -> list[str]:
    """What each has said, if all end with that code."""
    try:
        codes = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    told = [(recipe.parent / f"log{rank}").read_text() for rank in range(len(processes))]
    assert codes == [code] * len(codes), told
    return told


def two(recipe: Path, *arguments: str | Path, code: int = 0, **options) -> list[str]:
    return end(begin_two(recipe, *arguments, **options), recipe, code)


def to(recipe: Path, folder: str) -> str:
    return f"train.ckpt_save_dir={recipe.parent / folder}"


def last(recipe: Path, folder: str, suffix: str = ".pth") -> TrainingFile:
    return read_training(recipe.parent / folder / f"last{suffix}")


def losses(file: TrainingFile) -> list[float]:
    """Of each epoch."""
    return [dict(zip(file.about["columns"], row, strict=True))["loss"] for row in file.about["rows"]]


def require_same_learned(alone: TrainingFile, shared: TrainingFile) -> None:
    """All but the statistics, which are of each process's own images and then averaged, and what counts batches."""
    skipped = ("moving_mean", "moving_variance")
    names = [name for name in shared.state if not name.endswith(skipped)]
    assert len(names) > 300
    assert [name for name in names if alone.state[name].tobytes() != shared.state[name].tobytes()] == []


# Equal to one process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [
    (), pytest.param(("optimizer.opt=Adam", "train.ema=True", "train.clip_grad=True", "train.clip_norm=1"),
                     marks=pytest.mark.long)], ids=["momentum", "adam"])
def test_two_processes_learn_what_one_learns(recipe, more):
    """From the same global batch: each computes what the single one computes as one of two batches of a step. With two
    processes the mean of the gradients is exact, so the weights are the same bit for bit."""
    settings = (NO_CHECK, *STEADY, *more)
    done(recipe, settings=(*settings, to(recipe, "alone"), "train.gradient_accumulation_steps=2"))
    first, second = two(recipe, settings=(*settings, to(recipe, "shared")))
    assert "8 images, batch 2 processes x 2, 2 batches an epoch" in first
    assert " step 2/2: loss " in first
    assert second == ""
    alone, shared = last(recipe, "alone"), last(recipe, "shared")
    require_same_learned(alone, shared)
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-6)
    assert [path.name for path in (recipe.parent / "shared").iterdir() if "lock" in path.name] == []
    for name, array in alone.state.items():
        if name.endswith("moving_mean"):  # of one image each after the other, or of both: much the same
            assert np.linalg.norm(array - shared.state[name]) < 0.5 * np.linalg.norm(array) + 0.1


@pytest.mark.long
def test_statistics_are_the_mean_of_all(recipe):
    """0.9 old + 0.1 new of each process. The single one has blended the first batch, and then both."""
    settings = (NO_CHECK, *STEADY)
    alone = (*settings, to(recipe, "alone"), "train.gradient_accumulation_steps=2")
    done(recipe, "--max-steps", 1, settings=alone)
    once = last(recipe, "alone").state
    done(recipe, "--resume", "--max-steps", 2, settings=alone)
    twice = last(recipe, "alone").state
    two(recipe, "--max-steps", 1, settings=(*settings, to(recipe, "shared")))
    shared = last(recipe, "shared").state
    names = [name for name in shared if name.endswith("moving_mean")]  # 0 at the start
    assert len(names) > 40
    for name in names:
        np.testing.assert_allclose(shared[name], (twice[name] + 0.1 * once[name]) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.long
def test_interrupted_and_resumed_is_the_same(recipe):
    """In the middle of an accumulation; validation, checkpoints and average by the first process alone."""
    settings = ("train.gradient_accumulation_steps=2", "train.ema=True", "train.loader.batch_size=1",
                "scheduler.num_epochs=2")
    two(recipe, settings=(*settings, to(recipe, "whole")))
    two(recipe, "--max-steps", 5, settings=(*settings, to(recipe, "parts")))
    two(recipe, "--resume", settings=(*settings, to(recipe, "parts")))
    assert_same(last(recipe, "whole"), last(recipe, "parts"))
    assert {path.name for path in (recipe.parent / "parts").iterdir()} == {
        "best.pth", "last.pth", "e1.pth", "e2.pth", "result.csv", "curves.png", "effective_recipe.yaml"}


@pytest.mark.long
def test_resumed_by_another_number_of_processes(recipe):
    settings = (NO_CHECK, "scheduler.num_epochs=4")
    done(recipe, "--max-steps", 3, settings=settings)
    told = two(recipe, "--resume", "--max-steps", 3, settings=settings)[0]
    assert "batch size 2 is now 4" in told
    assert "epoch 1 begins anew" in told
    assert last(recipe, "saved").about["batch"] == 1
    told = done(recipe, "--resume", settings=(*settings, "train.loader.batch_size=4"))
    assert "begins anew" not in told  # the same batches, by one process
    assert last(recipe, "saved").about["epoch"] == 4
    assert int(last(recipe, "saved").state["global_step"]) == 3 + 8


@pytest.mark.long
def test_what_is_left_of_a_batch_is_shared_out(recipe):
    """Three processes and eight images: two batches of three, and two images that are not enough for three."""
    told = two(recipe, "--max-steps", 1, size=3, settings=(NO_CHECK, "train.loader.batch_size=1",
                                                           "train.loader.drop_remainder=False"))
    assert "2 batches an epoch" in told[0]
    told = two(recipe, "--force", size=2, settings=(NO_CHECK, "train.loader.batch_size=3", "scheduler.num_epochs=1",
                                                    "train.loader.drop_remainder=False"))
    assert "2 batches an epoch" in told[0]
    assert last(recipe, "saved").about["epoch"] == 1


def test_through_torchrun(recipe):
    process = begin(["torchrun", "--nproc_per_node=2", f"--master-port={free_port()}", "-m", "dbnet", "train", "-c",
                     recipe, "--workers", "1", "--device", "cpu", "--json", recipe.parent / "out.json", "-o", TOGETHER,
                     NO_CHECK, "scheduler.num_epochs=1"], recipe.parent / "log0", environment())
    [told] = end([process], recipe)
    assert told.count("batch 2 processes x 2") == told.count("complete after 1 of 1 epochs") == 1
    report = json.loads((recipe.parent / "out.json").read_text())
    assert (report["steps"], report["processes"], len(report["rows"])) == (2, 2, 1)


# Ends -----------------------------------------------------------------------------------------------------------------


def in_epoch_two(recipe: Path, **options) -> list[subprocess.Popen[bytes]]:
    processes = begin_two(recipe, settings=(NO_CHECK, "scheduler.num_epochs=10000"), **options)
    deadline = time.monotonic() + 60
    while "epoch 2/" not in (recipe.parent / "log0").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_signal_to_one_ends_all_with_a_save(recipe, rank):
    processes = in_epoch_two(recipe)
    processes[rank].send_signal(signal.SIGTERM)
    first, second = end(processes, recipe, 3)
    assert "dbnet: stopped by SIGTERM after " in first
    assert "dbnet: " not in second
    file = last(recipe, "saved")
    assert int(file.state["global_step"]) == file.about["epoch"] * 2 + file.about["batch"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.long
def test_kill_9_of_one_ends_all(recipe, rank):
    processes = in_epoch_two(recipe)
    processes[rank].kill()
    processes[1 - rank].wait(90)
    assert processes[1 - rank].returncode == 3
    told = (recipe.parent / f"log{1 - rank}").read_text().splitlines()
    assert told[-1] == f"dbnet: process {rank} of 2 has ended without a word; look at what it has printed"


def test_other_recipes_and_images_are_refused(recipe, tmp_path, data):
    first, second = two(recipe, code=3, settings=(NO_CHECK,), other=("scheduler.lr=0.02",))
    assert first == ("dbnet: processes 0 and 1 have different recipes: scheduler.lr is 0.01, and 0.02; start all with "
                     "the same command\n")
    assert second == ""
    assert not (tmp_path / "saved").exists()


@pytest.mark.long
def test_other_images_are_refused(recipe, tmp_path, data):
    shutil.copytree(data, tmp_path / "less")
    labels = tmp_path / "less/train/train_det_gt.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-1]))
    first, second = two(recipe, code=3, settings=(NO_CHECK,),
                        other=(f"train.dataset.dataset_root={tmp_path / 'less'}",))
    assert "process 1 of 2 has other images than process 0 (7, and not 8)" in first
    assert second == ""


@pytest.mark.long
def test_what_one_cannot_read_ends_all(recipe, tmp_path, data):
    """All images of the second process, and of the first: one line."""
    shutil.copytree(data, tmp_path / "bad")
    for path in (tmp_path / "bad/train/images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    first, second = two(recipe, code=3, settings=(NO_CHECK,),
                        other=(f"train.dataset.dataset_root={tmp_path / 'bad'}",))
    assert first.splitlines()[-1].startswith("dbnet: process 1 of 2: ")
    assert "dbnet data check" in first
    assert "dbnet: " not in second


@pytest.mark.long
def test_a_loss_that_is_no_number_names_all_images(recipe, tmp_path):
    first, second = two(recipe, code=3, settings=(NO_CHECK, "scheduler.lr=1e30", "scheduler.warmup_epochs=0"))
    line = first.splitlines()[-1]
    assert line.startswith("dbnet: the loss is ")
    assert line.count("train_") == 4
    assert "dbnet: " not in second


@pytest.mark.parametrize(("settings", "told"), [
    (("train.loader.batch_size=5",), "a batch of 5 in each of 2 processes is more than the 8 images of the data set; "
                                     "give -o train.loader.batch_size=4 or less"),
    (("train.dataset.sample_ratio=0.125", "train.loader.drop_remainder=False"), "1 images are not enough for 2"),
    (("eval.dataset.label_file=nowhere.txt",), "or train without: -o system.val_while_train=False"),
])
@pytest.mark.long
def test_what_none_can_do_is_told_once(recipe, settings, told):
    first, second = two(recipe, code=3, settings=settings)
    assert told in first and first.count("\n") == 1
    assert second == ""


# Without a launcher, or with the wrong one ----------------------------------------------------------------------------


def test_distribute_without_a_launcher(recipe):
    line = refused(recipe, settings=(TOGETHER,))
    assert "recipe.yaml: system.distribute" in line
    for command in ("torchrun --nproc_per_node=N -m dbnet train", "msrun --worker_num=N", "mpirun -n N",
                    "-o system.distribute=False"):
        assert command in line


def test_a_launcher_without_distribute(recipe, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, value)
    assert "torchrun started 2 processes, and system.distribute is False; give -o system.distribute=True" in refused(
        recipe)
    assert "torchrun starts torch, not mindspore" in refused(recipe, "--backend", "mindspore", settings=(TOGETHER,))
    monkeypatch.setenv("WORLD_SIZE", "1")
    done(recipe, "--max-steps", 1, settings=(TOGETHER, NO_CHECK))  # a single one needs nobody


@pytest.mark.long
def test_processes_that_do_not_come_together(recipe, monkeypatch):
    """Somebody else has the port."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        given = environment(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1",
                            MASTER_PORT=str(place.getsockname()[1]))
        process = begin([sys.executable, "-m", "dbnet", "train", "-c", recipe, "--device", "cpu", "-o", TOGETHER],
                        recipe.parent / "log0", given)
        [told] = end([process], recipe, 3)
    assert "the 2 processes of torchrun do not come together" in told
    assert told.count("dbnet: ") == 1


# MindSpore ------------------------------------------------------------------------------------------------------------


def started(launcher: str, folder: Path) -> list[str]:
    if launcher == "msrun":
        return ["msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={free_port()}", "--join=True",
                f"--log_dir={folder / 'log'}"]
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]


MEET = """
import numpy as np
from mindspore import Tensor
from dbnet.launch import find_launch, is_scheduler
from evaluation.training_peers import connect
from ms_models.compat import serve
from ms_models.world import Mean, World
if is_scheduler():
    serve()
launch = find_launch()
world = World(launch, "cpu")
peers = connect(world.rank, world.size, "127.0.0.1", world.total)
values = tuple(Tensor(np.full((2, i + 1), world.rank + i, np.float32)) for i in range(3))
means = [mean.asnumpy().tolist() for mean in Mean([value.shape for value in values], world.size)(values)]
print("met", peers.exchange([world.rank, means, launch.local_rank]))
"""


def test_processes_of_mindspore_meet(tmp_path):
    """All that they exchange, without a network, which takes minutes to compile."""
    pytest.importorskip("mindspore")
    (tmp_path / "meet.py").write_text(MEET)
    process = begin([*started("msrun", tmp_path), "python", tmp_path / "meet.py"], tmp_path / "log0",
                    environment(PYTHONPATH=str(ROOT), GLOG_v="3"))
    end([process], tmp_path / "recipe.yaml", seconds=200)
    means = [[[i + 0.5] * (i + 1)] * 2 for i in range(3)]
    for rank in range(2):
        told = (tmp_path / f"log/worker_{rank}.log").read_text()
        assert f"met {[[other, means, other] for other in range(2)]}" in told


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["msrun", "mpirun"])
def test_two_processes_of_mindspore_learn_what_one_learns(recipe, launcher):
    pytest.importorskip("mindspore")
    if shutil.which(launcher, path=environment()["PATH"]) is None:
        pytest.skip(f"{launcher} is not installed")
    command: list[str | Path] = ["python", "-m", "dbnet", "train", "-c", recipe, "--workers", "0", "--device", "cpu"]
    settings = ["-o", NO_CHECK, *STEADY]
    shared = begin([*started(launcher, recipe.parent), *command, *settings, TOGETHER, to(recipe, "shared")],
                   recipe.parent / "log0", environment())
    [told] = end([shared], recipe, seconds=400)
    assert told.count("complete after 2 of 2 epochs") == 1
    alone = begin([*command, "--backend", "mindspore", *settings, to(recipe, "alone"),
                   "train.gradient_accumulation_steps=2"], recipe.parent / "log0", environment())
    end([alone], recipe, seconds=400)
    one, both = last(recipe, "alone", ".ckpt"), last(recipe, "shared", ".ckpt")
    assert losses(both)[0] == pytest.approx(losses(one)[0], rel=1e-5)
    assert losses(both) == pytest.approx(losses(one), rel=1e-3)  # mpirun gives each process another number of threads
    if launcher == "msrun":
        require_same_learned(one, both)


@pytest.mark.long
def test_mindspore_resumed_and_ended_by_a_failure(recipe):
    """What torch has begun alone, two processes of MindSpore go on with; then one of them cannot read its images."""
    pytest.importorskip("mindspore")
    done(recipe, "--max-steps", 2, settings=(NO_CHECK,))
    before = (recipe.parent / "saved/last.pth").read_bytes()
    process = begin([*started("msrun", recipe.parent), "python", "-m", "dbnet", "train", "-c", recipe, "--workers", "0",
                     "--device", "cpu", "--resume", "-o", NO_CHECK, TOGETHER, "scheduler.lr=1e30",
                     "scheduler.warmup_epochs=0"], recipe.parent / "log0", environment())
    [told] = end([process], recipe, 1, seconds=400)
    [line] = [line for line in told.splitlines() if line.startswith("dbnet: ")]
    assert "the loss is " in line and line.count("train_") == 4
    assert (recipe.parent / "saved/last.pth").read_bytes() == before
