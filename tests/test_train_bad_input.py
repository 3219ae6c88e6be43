"""What users get wrong when they train: each one line that says what, where and what to do, before anything is written
where that can be known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dbnet.__main__ import COMMANDS
from dbnet.cli.train import train
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from dbnet.train_settings import OptimizerSettings
from dbnet.training import Progress, TrainingState, learned, packed
from tests.test_cli import dbnet
from tests.test_train_files import damaged, no_room_beyond
from tests.test_train_loop import NO_CHECK, done, last, one_thread, refused
from tests.train_scenes import data, recipe, train_here, write_set

pytest.importorskip("torch")
__all__ = ["data", "one_thread", "recipe"]


def broken_set(folder: Path, kind: str) -> Path:
    """`train` and `test` with one fault."""
    write_set(folder)
    labels = folder / "train/train_det_gt.txt"
    lines = labels.read_text().splitlines()
    if kind == "empty":
        labels.write_text("")
    elif kind == "unreadable":
        for image in (folder / "train/images").iterdir():
            image.write_bytes(b"no image")
    elif kind == "missing":
        (folder / "train/images/train_3.png").unlink()
    elif kind == "renamed":
        labels.rename(folder / "train/labels.txt")
    elif kind == "results":
        labels.write_text("train_0.png\t[[1, 2]]\n")
    elif kind == "one name":
        (folder / "test/images/a").mkdir()
        (folder / "test/images/test_0.png").rename(folder / "test/images/a/test_1.png")
        check = folder / "test/test_det_gt.txt"
        check.write_text(check.read_text().replace("test_0.png", "a/test_1.png"))
    elif kind == "no text":
        labels.write_text("\n".join(line.partition("\t")[0] + "\t[]" for line in lines))
    return folder


@pytest.mark.parametrize(("kind", "told"), [
    ("empty", "no images to train on"), ("unreadable", "dbnet data check"),
    ("missing", "1 of its 8 images are missing: "), ("renamed", "train has labels.txt"),
    ("results", "train_det_gt.txt, line 1")])
def test_data_that_cannot_be_trained_on(recipe, tmp_path, kind, told):
    folder = broken_set(tmp_path / "broken", kind)
    line = refused(recipe, "--root", folder)
    assert told in line
    assert str(folder) in line
    assert (tmp_path / "saved").exists() == (kind == "unreadable")


def test_images_of_one_name_are_validated_on(recipe, tmp_path):
    """In two folders, as data sets of several parts have them."""
    done(recipe, "--root", broken_set(tmp_path / "set", "one name"), settings=("scheduler.num_epochs=1",))
    [row] = last(recipe).about["rows"]
    assert row[-1] is not None


def test_images_without_text_are_learned_from(recipe, tmp_path):
    """There is nothing to find in them, and that is something to learn."""
    done(recipe, "--root", broken_set(tmp_path / "set", "no text"), "--max-steps", 2, settings=(NO_CHECK,))


@pytest.mark.parametrize(("settings", "told"), [
    (["train.loader.batch_size=9"], "a batch of 9 is more than the 8 images of the data set"),
    (["train.dataset.sample_ratio=0.01"], "sample_ratio leaves none of 8"),
    (["train.dataset.data_dir=nowhere"], "not found"),
    (["train.dataset.label_file=null"], "is not set"),
    (["train.dataset.label_file=[a.txt, b.txt]", "train.dataset.data_dir=[a, b, c]"], "lists 3, label_file 2"),
    (["eval.dataset.label_file=nowhere.txt"], "or train without: -o system.val_while_train=False"),
    (["eval.dataset.type=SynthTextDataset"], "SynthTextDataset is not evaluated"),
    (["eval.dataset.label_file=[test/test_det_gt.txt, test/test_det_gt.txt]",
      "eval.dataset.data_dir=[test/images, test/images]"], "test_0.png: is there twice"),
    (["scheduler.learning_rate=1"], "did you mean scheduler.lr?"),
    (["scheduler.lr=fast"], "it must be a number above 0"),
    (["system.seed=-1"], "it must be a whole number of at least 0"),
    (["optimizer.opt=Lion"], "Lion is not supported"),
    (["model.backbone.name=det_resnet152"], "det_resnet152 is not built here"),
    (["model.neck.name=RSEFPN"], "RSEFPN goes with det_mobilenet_v3_enhance"),
    (["train.dataset.type=SynthTextDataset"], "train_det_gt.txt"),
])
def test_recipes_that_cannot_be_trained(recipe, tmp_path, settings, told):
    assert told in refused(recipe, settings=tuple(settings))
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(("arguments", "told"), [
    ([], "-c"), (["-c", "r", "--max-steps", "0"], "--max-steps"), (["-c", "r", "--backend", "onnx"], "--backend"),
    (["-c", "r", "--workers", "-1"], "--workers"), (["-c", "r", "--save-every", "-1"], "--save-every"),
    (["-c", "db_r18_icdar15", "--resume", "--force"], "give one of them"),
    (["-c", "db_r18_icdar15", "--resume", "--pretrained", "x.pth"], "give one of them"),
    (["-c", "db_r18_icdar15", "--root", "a", "-o", "train.dataset.dataset_root=b"], "give one of them"),
])
def test_usage(arguments, told):
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_a_backend_that_is_not_installed(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    assert "pip install 'dbnet-parity[mindspore]'" in refused(recipe, "--backend", "mindspore")
    assert "no device" in refused(recipe, "--device", "cuda:7")
    assert "unknown device" in refused(recipe, "--device", "gpu!")


def test_one_of_several_processes(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK is '', and should be a number: this is one of several processes" in refused(recipe)


def test_resuming_what_cannot_be(recipe, tmp_path):
    done(recipe, "--max-steps", 1, settings=(NO_CHECK, "train.ema=True"))
    saved, ema = tmp_path / "saved", (NO_CHECK, "train.ema=True")
    assert "holds a training already" in refused(recipe, settings=ema)
    assert "saved by the optimizer momentum, and this run uses adam" in refused(
        recipe, "--resume", settings=(*ema, "optimizer.opt=Adam"))
    assert "holds averaged weights, which a training without train.ema would lose" in refused(
        recipe, "--resume", settings=(NO_CHECK,))
    assert "step_function is paper, here mindocr; give --step-function paper; resume" in refused(
        recipe, "--resume", "--step-function", "mindocr", settings=ema)
    assert "backbone is mobilenetv3, the recipe says resnet18" in refused(
        recipe, "--resume", settings=(*ema, "model.backbone={name: det_resnet18, pretrained: False}"))
    assert "neck_channels is 256, the recipe says 128" in refused(
        recipe, "--resume", settings=(*ema, "model.neck.out_channels=128"))
    elsewhere = (*ema, f"train.ckpt_save_dir={tmp_path / 'other'}")
    assert "leave out --resume to begin one" in refused(recipe, "--resume", settings=elsewhere)
    for kind, told in (("weights", "holds weights only"), ("inference", "inference subset"), ("cut", "last.pth"),
                       ("json", "is damaged")):
        (tmp_path / kind).mkdir()
        assert told in refused(recipe, "--resume", damaged(kind, tmp_path / kind), settings=elsewhere)
    assert "cannot be read" in refused(recipe, "--resume", tmp_path / "gone.pth", settings=elsewhere)
    assert not (tmp_path / "other").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/e7.ckpt").write_text("of another training")
    assert "holds a training already (e7.ckpt)" in refused(recipe, "--resume", saved / "last.pth", settings=elsewhere)
    assert sorted(path.name for path in saved.iterdir()) == ["effective_recipe.yaml", "last.pth"]


def test_resuming_with_another_recipe_says_what_differs(recipe, tmp_path):
    done(recipe, "--max-steps", 5, settings=(NO_CHECK,))
    told = done(recipe, "--resume", "--max-steps", 6, settings=(
        NO_CHECK, "scheduler.lr=0.001", "scheduler.num_epochs=5", "system.log_interval=7",
        "train.loader.num_workers=3"))
    assert "scheduler.lr was 0.01, is now 0.001" in told
    assert "scheduler.num_epochs was 3, is now 5" in told
    assert "log_interval was" not in told
    assert "num_workers was" not in told
    told = done(recipe, "--resume", "--max-steps", 7, "--seed", 1, settings=(NO_CHECK,))
    assert "seed 42 is now 1: epoch 2 begins anew, for its batches are other ones" in told
    assert last(recipe).about["batch"] == 3
    told = done(recipe, "--resume", settings=(NO_CHECK, "train.loader.batch_size=4"))
    assert "batches 4 is now 2" in told
    told = done(recipe, "--resume", settings=(NO_CHECK, "train.loader.batch_size=4"))
    assert "3 epochs and 0 of 2 batches done" in told  # complete: nothing is done, and nothing changes
    assert int(last(recipe).state["global_step"]) == 5 + 1 + 3 + 4


def test_resuming_in_another_folder(recipe, tmp_path):
    """The rows go with it; the best checkpoint stays where it is, and so another is looked for."""
    done(recipe, "--max-steps", 5)
    settings = (f"train.ckpt_save_dir={tmp_path / 'other'}",)
    told = done(recipe, "--resume", tmp_path / "saved", settings=settings)
    assert "after epoch 1) is not in " in told
    assert {path.name for path in (tmp_path / "other").iterdir()} == {
        "best.pth", "last.pth", "e2.pth", "e3.pth", "result.csv", "curves.png", "effective_recipe.yaml"}
    assert len((tmp_path / "other/result.csv").read_text().splitlines()) == 4
    told = done(recipe, "--resume", "--max-steps", 16, settings=(*settings, NO_CHECK, "scheduler.num_epochs=5"))
    assert "was chosen by f-score, is now by loss: it is looked for anew" in told
    assert last(recipe, "other").about["best"][0] == 4


def test_resuming_a_training_of_mindocrs(recipe, tmp_path):
    """Without a record and a journal: network by names and shapes, the epoch from epoch_num."""
    from converters.formats import codec
    spec = SPECS["dbnet_mobilenetv3"]
    weights = {name: np.float32(array) for name, array in seeded_weights(spec, 1).items()}
    state = packed(TrainingState(weights, ({p.name: weights[p.name] * 0 for p in learned(spec)},), None, None,
                                 Progress(global_step=8)), OptimizerSettings())
    tensors = {name: array for name, array in state.items() if name not in ("overflows", "scale_step")}
    with (tmp_path / "train_resume.ckpt").open("w+b") as stream:
        codec("ckpt").write(stream, tensors | {"epoch_num": np.array(2, np.int32)}, None)
    told = done(recipe, "--resume", tmp_path / "train_resume.ckpt", settings=(NO_CHECK,))
    assert "2 epochs and 0 of 4 batches done" in told
    assert int(last(recipe).state["global_step"]) == 12
    assert [row[0] for row in last(recipe).about["rows"]] == [3]


def test_the_disk_is_full(recipe, tmp_path):
    """The training ends with one line, and what was saved before stays."""
    done(recipe, "--max-steps", 2, settings=(NO_CHECK,))
    before = (tmp_path / "saved/last.pth").read_bytes()
    with no_room_beyond(2_000_000):
        result = train_here(recipe, "--resume", "--save-every", 0, settings=(NO_CHECK,))
    assert "last.pth: could not be written (the disk is full); nothing was changed" in str(result.exception)
    assert (tmp_path / "saved/last.pth").read_bytes() == before
    assert not list((tmp_path / "saved").glob(".dbnet-*"))


def test_a_validation_that_fails_costs_no_training(recipe, tmp_path):
    """An image of eval.dataset goes bad: the epoch is saved, and --resume goes on with its validation."""
    folder = write_set(tmp_path / "set")
    image = folder / "test/images/test_1.png"
    good = image.read_bytes()
    image.write_bytes(good[:100])
    assert "test_1.png" in refused(recipe, "--root", folder, settings=("scheduler.num_epochs=1",))
    assert last(recipe).about["batch"] == 4
    image.write_bytes(good)
    done(recipe, "--root", folder, "--resume", settings=("scheduler.num_epochs=1",))
    [row] = last(recipe).about["rows"]
    assert row[-1] is not None


def test_through_the_command(recipe):
    """Exit codes and one line, as every command's."""
    assert "train" in COMMANDS
    line = dbnet("train", f"-c={recipe}", "-o", "scheduler.lr=x", code=3).stderr
    assert line.count("\n") == 1
    out = dbnet("train", f"-c={recipe}", "-o", NO_CHECK, "scheduler.num_epochs=1", "--max-steps", "1", "--workers", "0",
                "--json", "-", "--device", "cpu", "--backend", "torch")
    assert json.loads(out.stdout)["steps"] == 1
    assert "last.pth" not in out.stdout.splitlines()[-1]
