"""docs/from_mindocr.md against MindOCR's own page (the data folder's seed_dbnet_page.md), and every command of it run.

Training, evaluation and export run with the recipe and the network of that page, on drawn images of a small size.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import converters
from converters.delivery_note import DeliveryNote
from dbnet.cli.train import train
from dbnet.recipe import read_recipe
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from tests.detecting import write_photos
from tests.doc_pages import ROOT, Block, blocks, blocks_of, commands, run_session, session, text_of
from tests.synthtext_scenes import draw_set, write
from tests.test_data_cli_pages import trees
from tests.test_distributed import free_port
from tests.test_lite_runner import _stand as stand
from tests.test_lite_runner import converted, sidecar
from tests.train_scenes import write_set

__all__ = ["stand", "trees"]
PAGE = "docs/from_mindocr.md"
RECIPE = "configs/det/dbnet/db_r50_icdar15.yaml"
SMALL = ("-o", "eval.dataset.transform_pipeline.DetResize.target_size=[64,96]")
SHORT = ("--device", "cpu", "--workers", "0", *SMALL,
         "train.dataset.transform_pipeline.RandomCropWithBBox.crop_size=[64,96]", "train.loader.batch_size=2",
         "scheduler.num_epochs=1", "scheduler.warmup_epochs=0")


def under(heading: str) -> list[Block]:
    return [block for block in blocks(PAGE) if block.heading == heading]


def typed(heading: str) -> list:
    return [one for block in under(heading) if block.language == "console" for one in session(block.text)]


def pairs(page: str) -> dict[str, list[str]]:
    """MindOCR's command -> the commands that stand for it: those of the next console or plain block below it."""
    found, waiting = {}, []
    for block in blocks_of(page):
        if block.language == "shell":
            waiting = commands(block.text)
        elif waiting and block.language in ("console", ""):
            here = [one.line for one in session(block.text)] or commands(block.text)
            found |= dict.fromkeys(waiting, here)
            waiting = []
    return found


def seed_commands(page: str) -> list[str]:
    return [line for block in blocks_of(page) if block.language in ("shell", "sh", "bash")
            for line in commands(block.text)]


def words(line: str) -> list[str]:
    return shlex.split(line)


# Against MindOCR's page ----------------------------------------------------------------------------------------------


def test_every_shell_block_of_mindocrs_page_has_its_equivalent(need):
    seed = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    theirs, here = seed_commands(seed), pairs(text_of(PAGE))
    assert len(theirs) == 7 and seed.count("```shell") == 6
    assert [words(line) for line in theirs] == [words(line) for line in here], "no counterpart, or not theirs"
    for line, equivalents in here.items():
        assert equivalents, line
        assert all(re.search(r"(^|-m )dbnet [a-z]+", one) for one in equivalents), (line, equivalents)


def test_a_block_without_an_equivalent_is_noticed():
    page = ("```shell\npython a.py \\\n    --b  # why\n```\n\nHere:\n\n```console\n$ dbnet specs\n```\n\n"
            "> ```shell\n> c\n> ```\n")
    assert seed_commands(page) == ["python a.py --b", "c"]
    assert pairs(page) == {"python a.py --b": ["dbnet specs"]}
    assert pairs(page.partition("Here")[0]) == {}


def test_every_section_of_mindocrs_page_is_in_the_table(need):
    seed = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    table = text_of(PAGE).partition("| MindOCR's page |")[2].partition("\n\n")[0]
    headings = re.findall(r"^#{2,4} (\d.*)$", re.sub(r"```.*?```", "", seed, flags=re.DOTALL), re.MULTILINE)
    assert len(headings) >= 15
    wanted = [heading for heading in headings if heading not in ("1. Introduction", "4. Quick Start")]
    assert [heading for heading in wanted if heading.strip() not in table] == []


def test_every_edit_of_mindocrs_page_is_in_the_recipe(need, tmp_path):
    """Its YAML blocks: what they set is set by this page's blocks, and each reads as a recipe."""
    def leaves(node, path=""):
        if isinstance(node, dict):
            return {leaf for key, value in node.items() for leaf in leaves(value, f"{path}.{key}")}
        return {path}
    seed = need("seed_dbnet_page.md").read_text(encoding="utf-8")
    theirs = [re.sub(r"^\.\.\.$|<---.*", "", block.text, flags=re.MULTILINE)
              for block in blocks_of(seed) if block.language == "yaml"]
    here = [block.text for block in blocks(PAGE, "yaml")]
    assert len(theirs) == len(here) == 2
    for number, (their, our) in enumerate(zip(theirs, here, strict=True)):
        assert leaves(yaml.safe_load(their)) == leaves(yaml.safe_load(our))
        for who, text in (("theirs", their), ("here", our)):
            path = tmp_path / f"{who}{number}.yaml"
            path.write_text(text, encoding="utf-8")
            assert read_recipe(path).settings


# Run -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: MindOCR's recipe where it lies in its checkout, ICDAR 2015 as its page has it."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "ic15")
    Path(RECIPE).parent.mkdir(parents=True)
    shutil.copy(ROOT / "configs/db_r50_icdar15.yaml", RECIPE)
    return tmp_path


def test_the_tables_of_results(here):
    assert run_session(typed("Models and results")) == 3


def test_the_data_sets(trees, monkeypatch):
    monkeypatch.chdir(trees)
    assert run_session(typed("Data sets")) == 11
    assert Path("mlt2017/train_det_gt.txt").read_text().count("\t") == 2


def test_synthtext(here):
    Path("SynthText").mkdir()
    write(Path("SynthText/gt.mat"), draw_set(Path("SynthText")))
    assert run_session(typed("SynthText")) == 1
    assert Path("SynthText/gt_processed.mat").is_file()


def test_the_recipe(here):
    assert run_session(typed("The recipe")) == 1
    for number, block in enumerate(blocks(PAGE, "yaml")):
        Path(f"{number}.yaml").write_text(block.text, encoding="utf-8")
    assert read_recipe("0.yaml").settings["train"]["dataset"]["dataset_root"] == "ic15"
    assert read_recipe("1.yaml").spec().name == "dbnet_resnet50"


def test_training_and_evaluation(here):
    """An epoch of four batches, then the scores of its best weights."""
    pytest.importorskip("torch")
    together = [one for one in typed("Training") if "distribute=True" in one.line]
    assert len(together) == 3
    for one in together:
        line = one.line.partition("dbnet train ")[2]
        assert line and train.make_context("train", shlex.split(line)).params["recipe"] == RECIPE
    assert run_session(typed("Training"), more={"dbnet train": ("--backend", "torch", *SHORT)},
                       without=("distribute=True",)) == 1
    assert run_session(typed("Evaluation"), more={"dbnet evaluate": SMALL}) == 1


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpirun", "msrun", "torchrun"])
def test_training_in_two_processes(launcher, here, monkeypatch):
    pytest.importorskip("torch" if launcher == "torchrun" else "mindspore")
    if launcher == "mpirun" and not shutil.which("mpirun"):
        pytest.skip("needs mpirun: apt-get install openmpi-bin")
    [one] = [one for one in typed("Training") if one.line.startswith(launcher)]
    port = {"msrun": "--master_port", "torchrun": "--master-port"}.get(launcher)
    if port:  # another test may have the usual one
        one = replace(one, line=one.line.replace(launcher, f"{launcher} {port}={free_port()}", 1))
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "1")  # two processes on a machine of one core
    assert run_session([one], more={"dbnet train": (*SHORT, "train.gradient_accumulation_steps=1")}) == 1
    folder = Path(f"by_{launcher}")
    assert (folder / ("best.pth" if launcher == "torchrun" else "best.ckpt")).is_file()


@pytest.mark.long
def test_mindir_and_inference(here):
    """The published size is for who has minutes; 96 x 160 stands for it. The recipe's pixels are of that size then."""
    pytest.importorskip("mindspore")
    pytest.importorskip("onnxruntime")
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet50"]), "local_ckpt.ckpt", spec="dbnet_resnet50")
    write_photos(here / "test_images", 2)
    small = ("--data-shape", "96", "160")
    assert run_session(typed("MindIR and MindSpore Lite"), more={"dbnet export": small}) == 4
    lines = Path("results_dir/det_results.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["img_1.png", "img_2.png"]


def test_the_command_for_mindspore_lite(here, stand, monkeypatch):
    """With a stand-in for the module that Huawei's wheel brings, and for what converter_lite makes."""
    pixels = replace(SPECS["dbnet_resnet50"].pixels, size=(96, 160))
    note = DeliveryNote("lite", pixels, SPECS["dbnet_resnet50"].boxes)
    converted(here, sidecar(record=Record(replace(SPECS["dbnet_resnet50"], pixels=pixels), "mindocr"), note=note),
              "output.mindir")
    monkeypatch.setattr(type(stand), "get_data_to_numpy", lambda self: 1 / (1 + np.exp(-self.data[:, :1])))
    [block] = [block for block in under("MindIR and MindSpore Lite") if block.language == ""]
    [line] = commands(block.text)
    write_photos(here / "test_images", 2)
    assert run_session(session(f"$ {line}\n")) == 1
    assert ("predict", (1, 3, 96, 160)) in stand.calls
    assert Path("results_dir/det_results.txt").read_text(encoding="utf-8").count("\t") == 2
