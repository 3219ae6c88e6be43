"""Recipes by name, settings on the command line, and the commands that print them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from dbnet.cli.recipe import recipe as command
from dbnet.errors import DbnetError
from dbnet.recipe import read_recipe
from dbnet.recipe_configs import names
from tests import seed_recipes
from tests.running import dbnet
from tests.test_recipe import show, write

# Names and the command line ------------------------------------------------------------------------------------------


def test_a_name_works_where_a_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("db_r18_ctw1500", "db_r18_ctw1500.yaml"):
        assert read_recipe(name).name == "db_r18_ctw1500"
    write(tmp_path, "loss: {eps: 0.5}", "db_r18_ctw1500.yaml")
    assert read_recipe("db_r18_ctw1500.yaml").get("loss.eps") == 0.5  # a file goes first
    assert read_recipe("db_r18_ctw1500").get("loss.eps") == 1e-6
    write(tmp_path, "loss: {eps: 0.5}", "db++_r50.yaml")
    assert read_recipe("db++_r50.yaml").name == "db++_r50"
    with pytest.raises(DbnetError, match="did you mean the recipe db_r18_icdar15"):
        read_recipe("configs/det/dbnet/db_r18_icdar15.yaml")
    with pytest.raises(DbnetError, match="did you mean the recipe db_r50_icdar15 "):
        read_recipe("db_r50_icdar")
    with pytest.raises(DbnetError, match="dbnet recipe list"):
        read_recipe("nothing_like_it.yaml")


@pytest.mark.parametrize(("option", "path", "value"), [
    ("scheduler.lr=0.1", "scheduler.lr", 0.1),
    ("scheduler.lr=1e-3", "scheduler.lr", 1e-3),
    (" scheduler.lr = 0.1 ", "scheduler.lr", 0.1),
    ("system.distribute=True", "system.distribute", True),
    ("eval.dataset.dataset_root=/data/a=b", "eval.dataset.dataset_root", "/data/a=b"),
    ("eval.dataset.data_dir=[a, b]", "eval.dataset.data_dir", ["a", "b"]),
    ("eval.ckpt_load_path=null", "eval.ckpt_load_path", None),
    ("eval.ckpt_load_path=", "eval.ckpt_load_path", None),
    ("model.backbone={name: det_resnet18}", "model.backbone.name", "det_resnet18"),
    ("train.ema=True", "train.ema", True),
    ("eval.dataset.transform_pipeline[2].DetResize.target_size=[960, 1280]", "eval.dataset.transform_pipeline",
     [960, 1280]),
    ("eval.dataset.transform_pipeline.DetResize.target_size=[960,1280]", "eval.dataset.transform_pipeline",
     [960, 1280]),
])
def test_settings_on_the_command_line(option, path, value):
    recipe = read_recipe("db_r50_icdar15", [option])
    found = recipe.get(path)
    if path.endswith("pipeline"):
        assert [next(iter(operation)) for operation in found][2] == "DetResize"
        assert (found[2]["DetResize"]["target_size"], found[2]["DetResize"]["keep_ratio"]) == (value, False)
        assert recipe.origins[f"{path}[2]"] == "seed default, command line"
        assert recipe.origins[f"{path}[1]"] == "seed default"
    else:
        assert found == value
        assert recipe.origins[path] == "command line"


def test_an_option_goes_before_the_file_and_defaults_follow_it():
    recipe = read_recipe("db_r50_icdar15", [
        "train.loader.batch_size=3", "optimizer.opt=Adam", "train.loader.batch_size=5"])
    assert recipe.get("train.loader.batch_size") == 5
    assert recipe.get("optimizer") == {"opt": "Adam", "beta1": 0.9, "beta2": 0.999}
    own = read_recipe("db_r18_td500", ["eval.dataset.transform_pipeline[2].DetResize.padding=False"])
    origin = own.origins["eval.dataset.transform_pipeline[2]"]
    assert re.fullmatch(r"db_r18_td500\.yaml:\d+, command line", origin)
    assert own.pixels.resize == "keep_ratio"


@pytest.mark.parametrize(("option", "message"), [
    ("scheduler.lrr=1", r"-o scheduler\.lrr=1: scheduler\.lrr is no key of a recipe; did you mean scheduler\.lr\?"),
    ("lr=1", r"did you mean scheduler\.lr\?"),
    ("scheduler.lr", "write KEY=VALUE"),
    ("=1", "write KEY=VALUE"),
    ("a b=1", "write KEY=VALUE"),
    ("scheduler.lr=fast", r"-o scheduler\.lr=fast: scheduler\.lr is the text 'fast'; it must be a number above 0"),
    ("scheduler.lr=[1", "is no YAML"),
    ("scheduler.lr.x=1", "scheduler.lr is the number 0.007; 'x' cannot be in it"),
    ("scheduler[0]=1", "0 cannot be in it"),
    ("eval.dataset.transform_pipeline[7].x=1", "has 5 entries, numbered from 0"),
    ("eval.dataset.transform_pipeline.DetResise.padding=True",
     r"DetResise stands in .* not; there are \[0\] DecodeImage"),
    ("eval.dataset.transform_pipeline[2].padding=True", r"transform_pipeline\[2\] is DetResize, not padding"),
    ("eval.dataset.transform_pipeline[2].DetResize.paddin=True", "did you mean padding"),
    ("eval.dataset=None", "eval.dataset is the text 'None'; it must be a section"),
])
def test_settings_that_are_not_understood(option, message):
    file = "db_r50_icdar15"
    with pytest.raises(DbnetError, match=message) as error:
        read_recipe(file, ["scheduler.lr=0.007", option] if option.startswith("scheduler.lr.") else [option])
    assert "\n" not in str(error.value)


def test_the_command(tmp_path):
    """MindOCR's spelling: one -o for many, `-o=`; --json alone is standard output."""
    shown = seed_recipes.shown(show("db_r50_icdar15", "-o", "scheduler.lr=0.1", "train.ema=True",
                                    "--opt", "loss.eps=1e-5"))
    assert [shown[path] for path in ("scheduler.lr", "train.ema", "loss.eps")] == [
        ("0.1", "command line"), ("True", "command line"), ("1e-05", "command line")]
    assert seed_recipes.shown(show("-o=scheduler.lr=0.1", "db_r50_icdar15"))["scheduler.lr"][0] == "0.1"
    for named in (["-c", "db_r50_icdar15"], ["--config", "db_r50_icdar15"], ["-c=db_r50_icdar15"],
                  ["-o", "loss.eps=1e-6", "-c", "db_r50_icdar15", "--json"]):
        assert ('"recipe": "db_r50_icdar15"' if "--json" in named else "[db_r50_icdar15]") in show(*named)
    for arguments in (["--json", "db_r50_icdar15"], ["db_r50_icdar15", "--json"], ["db_r50_icdar15", "--json", "-"]):
        found = json.loads(show(*arguments))
        assert found["settings"] == read_recipe("db_r50_icdar15").settings
        assert found["origins"]["train.gradient_accumulation_steps"].startswith("db_r50_icdar15.yaml:")
    target = tmp_path / "r.json"
    assert show("db_r50_icdar15", "--json", target).startswith("[db_r50_icdar15]")
    assert json.loads(target.read_text())["recipe"] == "db_r50_icdar15"
    assert "train.ema_decay = 0.9999  # not set" in show("db_r50_icdar15", "--all")


def test_exit_codes(tmp_path):
    for text, told in (("scheduler: {lrr: 1}", "r.yaml:1: scheduler.lrr"), ("- a", "r.yaml:1: holds the list")):
        done = dbnet("recipe", "show", write(tmp_path, text), code=3)
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    dbnet("recipe", "show", code=2)
    assert "both" in dbnet("recipe", "show", "db_r50_icdar15", "-c", "db_r50_icdar15", code=2).stderr
    file = write(tmp_path, "scheduler: {lr: 1}")
    dbnet("recipe", "show", file, "--json", file.with_suffix(".txt"), code=2)
    assert dbnet("recipe", "show", file, "--json=" + str(file), code=3).stderr.count("\n") == 1
    assert file.read_text() == "scheduler: {lr: 1}"
    own = write(tmp_path, '{"scheduler": {"lr": 1}}', "r.json")  # JSON is YAML
    assert "is the recipe itself" in dbnet("recipe", "show", own, "--json", own, code=3).stderr
    assert own.read_text() == '{"scheduler": {"lr": 1}}'


def test_list_and_keys():
    output = CliRunner().invoke(command, ["list"], catch_exceptions=False).output
    assert all(name in output for name in names())
    assert "85.05" in output
    output = CliRunner().invoke(command, ["keys", "postprocess"], catch_exceptions=False).output
    assert "postprocess.box_thresh" in output
    assert "from 0 to 1" in output
    for word, key in (("LR", "scheduler.lr"), ("Unclip", "postprocess.expand_ratio"), ("mixed precision", "amp_level")):
        assert key in CliRunner().invoke(command, ["keys", word], catch_exceptions=False).output
    with pytest.raises(DbnetError, match="no key has 'nothing'"):
        CliRunner().invoke(command, ["keys", "nothing"], catch_exceptions=False)
