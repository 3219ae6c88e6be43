"""Two trainings at once in one folder: the second is told so, and a training that was killed keeps nobody out."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from dbnet.errors import DbnetError
from evaluation import training_setup
from evaluation.training_folder import LOCK, Folder
from tests.test_train_loop import NO_CHECK, done, one_thread, refused
from tests.train_scenes import ROOT, begin_train, data, recipe

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]


def test_two_trainings_at_once(recipe, tmp_path):
    """The first goes on, whatever the second wants; when it was killed, the next one takes its place."""
    saved, long = tmp_path / "saved", (NO_CHECK, "scheduler.num_epochs=10000")
    process = begin_train(recipe, "--workers", "1", "--save-every", "0", "-o", *long)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            assert not line.startswith("dbnet:"), line
            if line.startswith("epoch 2/"):
                break
        for arguments in (["--resume"], ["--force"]):
            told = refused(recipe, *arguments, settings=long)
            assert told.startswith(f"{saved}: another training is at work in it (process {process.pid} on ")
            assert "-o train.ckpt_save_dir=" in told
            assert (saved / "last.pth").is_file()
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert (saved / LOCK).exists()
    done(recipe, "--resume", "--max-steps", 1, settings=long)
    assert not (saved / LOCK).exists()


def test_a_training_that_fails_lets_others_in(recipe, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise DbnetError("no")

    with monkeypatch.context() as patch:
        patch.setattr("torch_reference.train.Trainer.step", fail)
        assert refused(recipe, settings=(NO_CHECK,)) == "no"
    assert not (tmp_path / "saved" / LOCK).exists()
    done(recipe, "--max-steps", 1, settings=(NO_CHECK,))


@pytest.mark.parametrize("begin", [[], ["--resume"]], ids=["fresh", "resumed"])
def test_a_training_that_is_already_getting_ready_keeps_others_out(recipe, monkeypatch, begin):
    """From before it looks at what is there: nothing that another one makes meanwhile may be lost."""
    if begin:
        done(recipe, "--max-steps", 1, settings=(NO_CHECK,))
    make, told = training_setup._trainer, []

    def slowly(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(training_setup, "_trainer", make)
            told.append(refused(recipe, *begin, "--max-steps", 3, settings=(NO_CHECK,)))
        return make(*arguments)

    monkeypatch.setattr(training_setup, "_trainer", slowly)
    done(recipe, *begin, "--max-steps", 2, settings=(NO_CHECK,))
    assert len(told) == 1
    assert "another training is at work in it" in told[0]


def test_what_is_refused_leaves_no_folder(tmp_path):
    folder = Folder(tmp_path / "a/b", "torch")
    folder.lock()
    assert (tmp_path / "a/b" / LOCK).is_file()
    folder.close()
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    folder.lock()
    folder.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("kind", ["link", "hanging", "folder", "pipe", "hard link"])
def test_the_lock_is_nobody_elses_file(tmp_path, kind):
    place, other = tmp_path / "saved" / LOCK, tmp_path / "other"
    place.parent.mkdir()
    other.write_text("precious")
    {"link": lambda: place.symlink_to(other), "hanging": lambda: place.symlink_to(tmp_path / "new"),
     "folder": place.mkdir, "pipe": lambda: os.mkfifo(place), "hard link": lambda: place.hardlink_to(other)}[kind]()
    folder = Folder(place.parent, "torch")
    if kind == "hard link":
        folder.lock()
        folder.close()
    else:
        with pytest.raises(DbnetError, match="is in the way of the lock"):
            folder.lock()
        assert os.path.lexists(place)
    assert other.read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    folders = [Folder(tmp_path, "torch") for _ in range(2)]
    for folder in folders:
        folder.open(resumed=True)


#: Several processes that enter the folder again and again; prints how many have been in it at once, at most.
ENTER = """
import multiprocessing, sys, time
from pathlib import Path
from dbnet.errors import DbnetError
from evaluation.training_folder import Folder

def enter(inside, found):
    folder = Folder(Path(sys.argv[1]), "torch")
    for _ in range(1500):
        try:
            folder.open(resumed=True)
        except DbnetError:
            continue
        with inside.get_lock():
            inside.value += 1
            found.value = max(found.value, inside.value)
        time.sleep(0.0002)
        with inside.get_lock():
            inside.value -= 1
        folder.close()

context = multiprocessing.get_context("fork")
inside, found = context.Value("i", 0), context.Value("i", 0)
processes = [context.Process(target=enter, args=(inside, found)) for _ in range(4)]
for process in processes:
    process.start()
for process in processes:
    process.join()
print(found.value, [process.exitcode for process in processes])
"""


def test_never_two_at_once(tmp_path):
    """Also while one removes the file that another has opened. From a process of its own: what is forked from this one,
    where frameworks have threads, may wait for ever for a lock that one of these held.
    """
    done = subprocess.run([sys.executable, "-c", ENTER, tmp_path], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert (done.returncode, done.stdout) == (0, "1 [0, 0, 0, 0]\n"), done.stderr
    assert os.listdir(tmp_path) == []
