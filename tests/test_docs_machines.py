"""The commands of docs/ascend.md, precision.md and training.md, most of which take minutes, in small."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import converters
from dbnet.cli.train import train
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.doc_pages import ROOT, put, run, run_session, typed
from tests.test_distributed import free_port
from tests.test_docs_commands import here, models, needs
from tests.train_scenes import write_set

__all__ = ["here", "models"]
SHORT = ("train.dataset.transform_pipeline.RandomCropWithBBox.crop_size=[64,96]", "train.loader.batch_size=2",
         "eval.dataset.transform_pipeline.DetResize.target_size=[64,96]", "scheduler.warmup_epochs=0")


# docs/precision.md ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_half_precision(here):
    """docs/precision.md: whatever it finds in a network that was never trained is a verdict, 0 or 1."""
    needs("onnxruntime", "torch")
    lines = put(typed("docs/precision.md", 0), {"cuda:0": "cpu", "model.ckpt": "model.pth"})
    assert len(lines) == 6
    for one in lines:
        more = () if one.line.startswith("dbnet compare") else ("--runner", "onnxruntime")
        if one.line.startswith("dbnet precision"):  # the search takes an hour; tests/test_precision_search.py runs it
            more = () if "--runner" in one.line else ("--runner", "torch")
            more += () if "--keep-float32" in one.line else ("--no-search",)
        done = run(one.line, more)
        assert done.returncode in ((0, 1) if "evaluate" not in one.line else (0,)), (one.line, done.stderr)
        assert done.stdout and "Traceback" not in done.stderr


# docs/ascend.md -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_kit_and_its_way_home(here):
    """docs/ascend.md: the rehearsal's trace in place of the NPU's, whose name the page has for it."""
    needs("mindspore", "torch")
    assert run_session(typed("docs/ascend.md", 0)) == 1
    rehearsal = put(typed("docs/ascend.md", 0, ""), {"rehearsal.trace": "result.trace"})
    assert run_session(rehearsal) == 1
    assert run_session(typed("docs/ascend.md", 1)) == 3


@pytest.mark.long
@pytest.mark.parametrize("number", range(5))
def test_files_for_ascend(number, here):
    """docs/ascend.md: without Huawei's converters the last three leave what these need, and end with 3."""
    needs("mindspore", "onnxruntime")
    one = typed("docs/ascend.md", 2)[number]
    assert run_session([one], codes={} if number < 2 else {"deploy": 3}) == 1
    assert len(list(Path().glob("model.mindir" if number < 2 else "deploy.*"))) >= 1


# docs/training.md -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_training(here):
    """docs/training.md: begun in PyTorch, gone on with in MindSpore, settings on the command line; then moved."""
    needs("torch", "mindspore")
    write_set(here / "ic15")
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), "resnet18.pth", spec="dbnet_resnet18")
    shutil.copy(ROOT / "configs/db_mobilenetv3_icdar15.yaml", "my_recipe.yaml")
    steps = {"--pretrained": ("--backend", "torch", "--device", "cpu", "--max-steps", "1"),
             "--resume": ("--max-steps", "2"), "my_recipe": ("--root", "ic15", "--backend", "torch", "--device", "cpu")}
    lines = put(typed("docs/training.md", 0, ""), {"/data/ic15": "ic15", "ascend": "cpu"})
    more = {key: ("--workers", "0", *words, "-o", *SHORT, "scheduler.num_epochs=2") for key, words in steps.items()}
    more["my_recipe"] += ("model.backbone.pretrained=False",)
    lines = [replace(one, line=one.line.replace("train.ckpt_save_dir=runs/a", "train.ckpt_save_dir=saved"))
             for one in lines]
    assert run_session(lines, more=more) == 3
    Path("saved/last.pth").rename("saved/kept.pth")
    assert run("dbnet convert saved/kept.pth saved/last.ckpt --with-optimizer").returncode == 0
    assert run_session(typed("docs/training.md", 1, "")[:1]) == 1


def test_several_processes_are_understood():
    """docs/training.md: each launcher's line, up to the launcher itself."""
    lines = typed("docs/training.md", 2, "")
    assert [one.line.split()[0] for one in lines] == ["torchrun", "msrun", "mpirun"]
    for one in lines:
        given = train.make_context("train", one.line.partition("dbnet train ")[2].split()).params
        assert (given["recipe"], str(given["root"])) == ("db_r50_icdar15_8p", "/data/ic15")


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_several_processes(number, here, monkeypatch):
    """docs/training.md: with two processes on this CPU in place of eight cards, and the smallest recipe for several."""
    needs("torch" if number == 0 else "mindspore")
    if number == 2 and not shutil.which("mpirun"):
        pytest.skip("needs mpirun: apt-get install openmpi-bin")
    write_set(here / "ic15")
    [one] = put([typed("docs/training.md", 2, "")[number]],
                {"/data/ic15": "ic15", "db_r50_icdar15_8p": "db_mobilenetv3_icdar15_8p"})
    line = re.sub(r"(=| )8(?= )", r"\g<1>2", one.line)
    for launcher, port in (("torchrun", "--master-port"), ("msrun", "--master_port")):  # the usual one may be taken
        line = re.sub(rf"^{launcher} ", f"{launcher} {port}={free_port()} ", line)
    line = re.sub("^mpirun ", "mpirun --allow-run-as-root --oversubscribe ", line)
    more = ("--workers", "0", "--device", "cpu", "-o", *SHORT, "scheduler.num_epochs=1",
            "model.backbone.pretrained=False", "train.ckpt_save_dir=saved")
    assert run_session([replace(one, line=line)], more={"dbnet train": more}) == 1
    assert Path("saved/last.pth" if number == 0 else "saved/last.ckpt").is_file()
