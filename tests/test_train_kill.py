"""A training that is killed between two of its files, or rolled back: its folder tells one story all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.load import load_model
from converters.training_file import write_training
from evaluation.training_folder import Folder
from tests.test_train_loop import NO_CHECK, done, last, one_thread, refused
from tests.train_scenes import data, recipe, train_here

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]
#: One batch an epoch.
SHORT = (NO_CHECK, "train.loader.batch_size=8", "train.ema=True")


class KilledError(Exception):
    """Stands for kill -9: nobody handles it."""


def killed(recipe: Path, monkeypatch: pytest.MonkeyPatch, where: str, *arguments: str) -> None:
    """In the middle of what closes an epoch, before `where` of the folder, or right after the last of it."""
    def die(*_: object, **__: object) -> None:
        raise KilledError

    place = "evaluation.training_folder.Folder." + where if where != "end" else "dbnet.cli.train_print.Printed.epoch"
    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        result = train_here(recipe, *arguments, settings=SHORT)
    assert isinstance(result.exception, KilledError), result.exception


@pytest.mark.parametrize("where", ["save_best", "save_epoch", "write_results", "end"])
def test_killed_while_an_epoch_is_closed(recipe, tmp_path, monkeypatch, where):
    """Two minutes have not passed: what there is can be gone on with, and what was not written yet comes then."""
    saved = tmp_path / "saved"
    killed(recipe, monkeypatch, where)
    file = last(recipe)
    assert (file.about["epoch"], file.about["best"][0], [epoch for epoch, _ in file.about["kept"]]) == (1, 1, [1])
    told = done(recipe, "--resume", "--max-steps", 1, settings=SHORT)
    assert "goes on from" in told
    assert "looked for anew" not in told
    assert {path.name for path in saved.iterdir()} == {
        "best.pth", "last.pth", "e1.pth", "result.csv", "curves.png", "effective_recipe.yaml"}
    for name in ("best.pth", "e1.pth"):
        assert all((array == file.state[f"ema.{key}"]).all() for key, array in load_model(saved / name).weights.items())
    assert len((saved / "result.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("where", ["save_best", "save_epoch", "end", *(
    pytest.param(where, marks=pytest.mark.long) for where in ("save_last", "write_results"))])
def test_best_is_what_the_journal_says(recipe, tmp_path, monkeypatch, where):
    """Killed in the second epoch, whose loss is the less: whatever there is, it is as the journal has it."""
    done(recipe, "--max-steps", 1, settings=SHORT)
    killed(recipe, monkeypatch, where, "--resume")
    epochs = 1 if where == "save_last" else 2
    done(recipe, "--resume", "--max-steps", epochs, settings=SHORT)
    file = last(recipe)
    assert (file.about["epoch"], file.about["best"][0]) == (epochs, epochs)
    weights = load_model(tmp_path / "saved/best.pth").weights
    assert all((array == file.state[f"ema.{key}"]).all() for key, array in weights.items())
    assert len((tmp_path / "saved/result.csv").read_text().splitlines()) == epochs + 1


def test_checkpoints_that_the_journal_does_not_know_are_told(recipe, tmp_path):
    """And stay: they may be worth something."""
    done(recipe, "--max-steps", 1, settings=SHORT)
    other = tmp_path / "saved/e9.pth"
    other.write_bytes((tmp_path / "saved/e1.pth").read_bytes())
    told = done(recipe, "--resume", "--max-steps", 2, settings=SHORT)
    assert f"{tmp_path / 'saved'}: e9.pth: not among the checkpoints that this training keeps" in told
    assert other.exists()


def test_without_a_last_one_the_advice_leads_on(recipe, tmp_path):
    done(recipe, "--max-steps", 1, settings=SHORT)
    (tmp_path / "saved/last.pth").unlink()
    assert "give --force in place of --resume to begin anew" in refused(recipe, "--resume", settings=SHORT)
    done(recipe, "--force", "--max-steps", 1, settings=SHORT)


def test_the_further_one_whatever_its_batches(recipe, tmp_path):
    """Two epochs of 2 batches are further than 5 batches of 8."""
    saved = tmp_path / "saved"
    done(recipe, "--max-steps", 4, settings=(NO_CHECK, "train.loader.batch_size=4"))
    far = last(recipe)
    write_training(tmp_path / "last.ckpt", far.record.spec, far.state, far.about)
    done(recipe, "--force", "--max-steps", 5, settings=(NO_CHECK, "train.loader.batch_size=1"))
    (tmp_path / "last.ckpt").rename(saved / "last.ckpt")
    told = done(recipe, "--resume", "--max-steps", 1, settings=(NO_CHECK, "train.loader.batch_size=1"))
    assert f"goes on from {saved / 'last.ckpt'}: 2 epochs" in told


def test_rolled_back_in_the_other_format(recipe, tmp_path):
    """What was further is given up once there is something to go on with; before, it stays."""
    saved = tmp_path / "saved"
    done(recipe, "--max-steps", 1, settings=SHORT)
    early = last(recipe)
    (saved / "last.pth").rename(saved / "early.pth")
    write_training(saved / "last.ckpt", early.record.spec, early.state, early.about | {"epoch": 2})
    refused(recipe, "--resume", saved / "early.pth", "--device", "cuda:7", settings=SHORT)
    assert (saved / "last.ckpt").exists()
    told = done(recipe, "--resume", saved / "early.pth", "--max-steps", 2, settings=SHORT)
    assert f"{saved / 'last.ckpt'} is further: it is given up" in told
    assert not (saved / "last.ckpt").exists()
    assert "last.pth: 2 epochs" in done(recipe, "--resume", settings=SHORT)


@pytest.mark.parametrize("key", ["model.resume", pytest.param("train.resume", marks=pytest.mark.long)])
def test_the_recipes_own_resume_is_asked_the_same(recipe, tmp_path, key):
    done(recipe, "--max-steps", 1, settings=SHORT)
    before = (tmp_path / "saved/last.pth").read_bytes()
    for value in ("True", str(tmp_path / "saved/last.pth")):
        for arguments, told in ((["--pretrained", tmp_path / "saved/last.pth"], "name weights to begin with both"),
                                (["--force"], "--force gives it up")):
            result = train_here(recipe, *arguments, settings=(*SHORT, f"{key}={value}"))
            assert result.exit_code == 2
            assert told in " ".join(result.stderr.split())
            assert f"{key}=False" in result.stderr
    assert (tmp_path / "saved/last.pth").read_bytes() == before
    assert "goes on from" in done(recipe, "--max-steps", 2, settings=(*SHORT, f"{key}=True"))


def test_epochs_are_found_by_their_names(tmp_path):
    for name in ("e1.pth", "e12.ckpt", "effective_recipe.yaml", "e.pth", "early.pth"):
        (tmp_path / name).write_text("")
    assert [path.name for path in Folder(tmp_path, "torch").epochs()] == ["e1.pth", "e12.ckpt"]
