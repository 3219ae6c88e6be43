"""`dbnet train`: what it leaves, and that a training which was interrupted is the same as one that was not."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from converters.load import load_model
from converters.training_file import TrainingFile, read_training, write_training
from dbnet.cli.train_print import Printed
from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from evaluation import training_setup
from evaluation.training import Training
from evaluation.training_data import training_samples
from tests import synthtext_scenes
from tests.running import dbnet
from tests.train_scenes import IMAGES, data, recipe, train_here

__all__ = ["data", "recipe"]
torch = pytest.importorskip("torch")
NO_CHECK = "system.val_while_train=False"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Others want the cores too, and threads that wait for each other make tiny steps slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def done(recipe: Path | str, *arguments: str | Path, settings: tuple[str, ...] = ()) -> str:
    """What a run that succeeds says on standard error."""
    result = train_here(recipe, *arguments, settings=settings)
    assert result.exception is None, result.exception
    return result.stderr


def refused(recipe: Path, *arguments: str | Path, settings: tuple[str, ...] = ()) -> str:
    """The line of a run that fails."""
    result = train_here(recipe, *arguments, settings=settings)
    assert isinstance(result.exception, DbnetError), (result.exception, result.output)
    return str(result.exception)


def assert_same(a: TrainingFile, b: TrainingFile) -> None:
    assert set(a.state) == set(b.state)
    assert [name for name in a.state if a.state[name].tobytes() != b.state[name].tobytes()] == []
    told = [{key: value for key, value in row.items() if not key.endswith("_s")} for file in (a, b)
            for row in [dict(zip(file.about["columns"], values, strict=True)) for values in file.about["rows"]]]
    assert told[:len(told) // 2] == told[len(told) // 2:]


def last(recipe: Path, folder: str = "saved") -> TrainingFile:
    return read_training(recipe.parent / folder / "last.pth")


def test_what_a_training_leaves(recipe, tmp_path):
    told = done(recipe, "--json", tmp_path / "out.json", settings=("train.ema=True", "system.val_start_epoch=2"))
    saved = tmp_path / "saved"
    assert {path.name for path in saved.iterdir()} == {
        "best.pth", "last.pth", "e2.pth", "e3.pth", "result.csv", "curves.png", "effective_recipe.yaml"}
    assert "start: all weights drawn from seed 42" in told
    assert "step function: the paper's" in told
    assert [line.split(":")[0] for line in told.splitlines() if " step " in line and line.startswith("epoch")] == [
        f"epoch {epoch}/3 step {step}/4" for epoch in (1, 2, 3) for step in (2, 4)]
    rows = list(csv.DictReader((saved / "result.csv").open()))
    assert [row["steps"] for row in rows] == ["4", "8", "12"]
    assert rows[0]["f-score"] == ""
    assert 0 <= float(rows[2]["f-score"]) <= 1
    loss, dice, l1, cross = (float(rows[1][name]) for name in ("loss", "dice", "l1", "cross_entropy"))
    assert loss == pytest.approx(dice + 10 * l1 + 5 * cross, rel=1e-4)
    assert cv2.imread(str(saved / "curves.png")).shape == (900, 960, 3)
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["steps"], report["epochs"], report["best"]["by"]) == (12, 3, "f-score")
    file = last(recipe)
    assert file.record.spec == load_model(saved / "best.pth").record.spec
    assert file.record.spec.pixels.size == (64, 96)
    assert int(file.state["global_step"]) == 12


def test_the_best_weights_are_the_averaged_ones(recipe, tmp_path):
    """As MindOCR's best.ckpt. The loss falls, so the last epoch is the best."""
    done(recipe, settings=("train.ema=True", NO_CHECK))
    file = last(recipe)
    assert file.about["best"][0] == 3
    for name in ("best.pth", "e3.pth"):
        weights = load_model(tmp_path / "saved" / name).weights
        assert all((array == file.state[f"ema.{name}"]).all() for name, array in weights.items())
        assert any((array != file.state[name]).any() for name, array in weights.items())


def test_other_commands_read_the_checkpoints(recipe, tmp_path):
    done(recipe, "--max-steps", 4, settings=("train.ema=True", NO_CHECK))
    saved = tmp_path / "saved"
    assert "a training file" in dbnet("convert", saved / "last.pth", tmp_path / "a.ckpt", code=3).stderr
    for take in ("plain", "ema"):
        dbnet("convert", saved / "last.pth", tmp_path / f"{take}.ckpt", "--take", take)
    state = last(recipe).state
    for take, prefix in (("plain", ""), ("ema", "ema.")):
        assert all((array == state[prefix + name]).all()
                   for name, array in load_model(tmp_path / f"{take}.ckpt").weights.items())
    found = json.loads(dbnet("evaluate", "-c", recipe, saved / "best.pth", "--runner", "torch", "--device", "cpu",
                             "--json", "-").stdout)
    assert found["settings"]["pixels"]["size"] == [64, 96]
    assert torch.load(saved / "best.pth", weights_only=True)["backbone.features.0.weight"].shape == (8, 3, 3, 3)
    assert "dbnet_training" in torch.load(saved / "last.pth", weights_only=True)


def test_the_effective_recipe_is_the_recipe(recipe, tmp_path):
    done(recipe, "--max-steps", 1, settings=("scheduler.lr=1e-3", NO_CHECK))
    again = read_recipe(tmp_path / "saved/effective_recipe.yaml")
    assert again.settings == read_recipe(recipe, ["scheduler.lr=1e-3", NO_CHECK]).settings


@pytest.mark.parametrize("settings", [
    ("optimizer.opt=Adam", "train.ema=True", "train.gradient_accumulation_steps=3", "train.clip_grad=True"),
    pytest.param(("optimizer.opt=SGD", "scheduler.scheduler=warmup_cosine_decay", "train.loader.drop_remainder=False",
                  "train.loader.batch_size=3"), marks=pytest.mark.long),
], ids=["adam", "sgd"])
def test_interrupted_and_resumed_is_the_same(recipe, settings):
    """Bit for bit, in the middle of an epoch and of an accumulation, through both formats."""
    def to(folder: str) -> tuple[str, ...]:
        return (*settings, f"train.ckpt_save_dir={recipe.parent / folder}", NO_CHECK)

    done(recipe, settings=to("whole"))
    done(recipe, "--max-steps", 1, settings=to("parts"))
    done(recipe, "--max-steps", 5, "--resume", settings=to("parts"))
    half = last(recipe, "parts")
    write_training(recipe.parent / "parts/last.ckpt", half.record.spec, half.state, half.about)
    (recipe.parent / "parts/last.pth").unlink()
    told = done(recipe, "--resume", settings=to("parts"))
    assert "last.ckpt: 1 epochs and" in told
    assert_same(last(recipe, "parts"), last(recipe, "whole"))
    results = [(recipe.parent / folder / "result.csv").read_text().splitlines() for folder in ("parts", "whole")]
    assert [len(lines) for lines in results] == [4, 4]


def test_a_signal_finishes_the_step(recipe, monkeypatch):
    """SIGINT in the second epoch, SIGTERM in the validation at its end; then on, as if nothing had been."""
    done(recipe, settings=(f"train.ckpt_save_dir={recipe.parent / 'whole'}",))

    def at(step: int, number: signal.Signals) -> None:
        def tell(self: Printed, training: Training, *_: object) -> None:
            if training.journal.step == step:
                os.kill(os.getpid(), number)
        monkeypatch.setattr(Printed, "step", tell)

    # A look at the losses after every step, for the signals to come just there.
    monkeypatch.setattr("evaluation.training.LOOK_BATCHES", 1)
    at(6, signal.SIGINT)
    told = refused(recipe)
    assert "stopped by SIGINT after 1 of 3 epochs and 2 of 4 batches; saved in" in told
    assert "--resume" in told
    monkeypatch.setattr(Printed, "step", lambda *_: None)
    monkeypatch.setattr(Printed, "validating", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert "stopped by SIGTERM after 1 of 3 epochs and 4 of 4 batches" in refused(recipe, "--resume")
    monkeypatch.undo()
    done(recipe, "--resume")
    assert_same(last(recipe), last(recipe, "whole"))
    assert [row[9:] for row in last(recipe).about["rows"]] != []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_loss_is_no_number(recipe, monkeypatch):
    """The images are named, and what was saved before stays."""
    done(recipe, "--max-steps", 2, settings=(NO_CHECK,))
    before = (recipe.parent / "saved/last.pth").read_bytes()
    told = refused(recipe, "--resume", "--save-every", 0, settings=(NO_CHECK, "scheduler.lr=1e30"))
    assert "nan" in told
    assert "at epoch 1, step 4 of 4, in the batch of train_" in told
    assert "last.pth is from before" in told
    assert (recipe.parent / "saved/last.pth").read_bytes() != before  # step 3 was finite, and was saved
    assert int(last(recipe).state["global_step"]) == 3
    assert "nothing had been saved" in refused(recipe, settings=(
        NO_CHECK, "scheduler.lr=1e30", "scheduler.warmup_epochs=0", f"train.ckpt_save_dir={recipe.parent / 'other'}"))


def test_weights_that_are_no_numbers_are_not_saved(recipe, monkeypatch):
    """A loss may be finite while the gradient was not."""
    monkeypatch.setattr("torch_reference.train.Trainer.state", lambda self: {
        **{name: array * np.nan for name, array in self.weights().items()}, "global_step": np.array(1)})
    told = refused(recipe, "--max-steps", 1, settings=(NO_CHECK,))
    assert told.startswith("NaN or Inf in 301 arrays of the state")
    assert "in the batch of train_" in told
    assert not (recipe.parent / "saved/last.pth").exists()


def test_the_data_is_the_same_however_it_is_made(recipe):
    """In this process, or in two others; and an incomplete last batch is one."""
    for workers, folder in ((0, "a"), (2, "b")):
        done(recipe, "--workers", workers, "--max-steps", 3, settings=(
            NO_CHECK, f"train.ckpt_save_dir={recipe.parent / folder}", "train.loader.batch_size=3",
            "train.loader.drop_remainder=False"))
    assert_same(last(recipe, "a"), last(recipe, "b"))
    assert last(recipe, "a").about["batches"] == 3
    assert len(last(recipe, "a").about["rows"]) == 1


def test_the_best_by_each_indicator_and_those_that_are_kept(recipe, monkeypatch):
    scores = iter([(0.2, 0.9, 0.3), (0.6, 0.1, 0.2), (0.3, 0.3, 0.3)] * 3)
    kept = {}
    for name, settings in (("f-score", ()), ("recall", ("metric.main_indicator=recall", "system.ckpt_max_keep=1")),
                           ("latest", ("system.ckpt_save_policy=latest_k", "system.ckpt_max_keep=2"))):
        monkeypatch.setattr(training_setup, "_validator", lambda *_: lambda weights, progress: training_setup.Scores(
            *next(scores)))
        done(recipe, "--force", settings=(*settings, f"train.loader.batch_size={IMAGES}"))
        kept[name] = (last(recipe).about["best"], sorted(p.name for p in (recipe.parent / "saved").glob("e*.pth")))
    assert kept == {"f-score": ([1, 0.3], ["e1.pth", "e2.pth", "e3.pth"]), "recall": ([2, 0.6], ["e2.pth"]),
                    "latest": ([1, 0.3], ["e2.pth", "e3.pth"])}


def test_synthtext(tmp_path):
    """The seed's pre-training: gt.mat as it is, samples made in the processes that need them, a part of them drawn."""
    savemat(tmp_path / "gt.mat", synthtext_scenes.draw_set(tmp_path / "SynthText"))
    settings = ("model.backbone={name: det_mobilenet_v3, pretrained: False}", "train.loader.batch_size=2",
                "train.dataset.data_dir=SynthText", "train.dataset.label_file=gt.mat", "train.dataset.sample_ratio=0.5",
                f"train.ckpt_save_dir={tmp_path / 'saved'}",
                "train.dataset.transform_pipeline.RandomCropWithBBox.crop_size=[64, 96]")
    told = done("db_r18_synthtext", "--root", tmp_path, "--max-steps", 3, "--workers", 1, settings=settings)
    images = synthtext_scenes.IMAGES
    assert f"{images // 2} images, batch 2, {images // 4} batches an epoch, 2 epochs; no validation" in told
    assert "MindOCR's code decays them all the same" in told
    assert read_training(tmp_path / "saved/last.pth").about["batch"] == 3


def test_the_part_of_a_data_set(recipe):
    """Drawn by the seed, once for all epochs; without shuffling the first ones."""
    def chosen(*settings: str, seed: int = 1) -> list[str]:
        return [sample.name for sample in training_samples(read_recipe(recipe, settings), seed)]

    half = chosen("train.dataset.sample_ratio=0.5")
    assert len(half) == 4
    assert half == chosen("train.dataset.sample_ratio=0.5") == sorted(half)
    assert half != chosen("train.dataset.sample_ratio=0.5", seed=2)
    first = chosen("train.dataset.sample_ratio=0.5", "train.dataset.shuffle=False")
    assert first == [f"train_{i}.png" for i in range(4)]
    both = chosen("train.dataset.data_dir=[train/images, test/images]", "train.dataset.sample_ratio=[0.25, 1.0]",
                  "train.dataset.label_file=[train/train_det_gt.txt, test/test_det_gt.txt]")
    assert both[2:] == ["test_0.png", "test_1.png", "test_2.png"]


def test_without_shuffling_the_order_is_the_files(recipe, monkeypatch):
    seen: list[str] = []
    step = training_setup.importlib.import_module("torch_reference.train").Trainer.step
    monkeypatch.setattr("torch_reference.train.Trainer.step", lambda self, batch, rate: (
        seen.extend(batch.names), step(self, batch, rate))[1])
    done(recipe, "--max-steps", 5, settings=(NO_CHECK, "train.loader.shuffle=False"))
    assert seen == [f"train_{i}.png" for i in (0, 1, 2, 3, 4, 5, 6, 7, 0, 1)]


@pytest.mark.long
def test_from_torch_to_mindspore_and_back(recipe, tmp_path):
    """In the middle of an accumulation: the losses are those of torch alone. How near the halves are is asked in
    parity/, of networks that a rounding does not throw off."""
    pytest.importorskip("mindspore")
    settings = (NO_CHECK, "train.ema=True", "train.gradient_accumulation_steps=2", "scheduler.lr=0.001")
    done(recipe, "--max-steps", 8, settings=(*settings, f"train.ckpt_save_dir={tmp_path / 'whole'}"))
    done(recipe, "--max-steps", 3, settings=settings)
    done(recipe, "--max-steps", 5, "--backend", "mindspore", "--resume", settings=settings)
    done(recipe, "--max-steps", 8, "--resume", settings=settings)
    file, whole = last(recipe), last(recipe, "whole")
    assert file.about["rows"][1][1] == 8
    for row, expected in zip(file.about["rows"], whole.about["rows"], strict=True):
        assert row[2:6] == pytest.approx(expected[2:6], rel=1e-2)
    assert set(file.state) == set(whole.state)
    assert int(file.state["global_step"]) == 4


def test_without_validation_the_loss_decides(recipe):
    done(recipe, settings=(NO_CHECK,))
    rows = list(csv.DictReader((recipe.parent / "saved/result.csv").open()))
    losses = [float(row["loss"]) for row in rows]
    epoch, score = last(recipe).about["best"]
    assert losses.index(min(losses)) == epoch - 1
    assert score == pytest.approx(-min(losses), rel=1e-4)
