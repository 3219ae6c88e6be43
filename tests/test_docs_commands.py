"""The commands of the pages that have no test of their own: run on small models and images, with the pages' words.

What stands for something of the reader's (MODEL, /opt/ms28/bin/python) is put in its place; options that make it quick
come behind.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import converters
from converters.load import default_record
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS
from tests import detecting
from tests.doc_pages import ROOT, Typed, blocks, commands, put, run, run_session, says, session, text_of, typed
from tests.opaque_models import detector
from tests.test_docs_start import EMBEDDED
from tests.train_scenes import write_set

#: Images as they are: the shorter side stays, so small ones are quick.
SMALL = ("--pixels", "resize=grid")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """model.ckpt and .pth of a small network that finds something."""
    folder = tmp_path_factory.mktemp("models")
    for suffix in ("ckpt", "pth"):
        detecting.write_model(folder / f"model.{suffix}")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, models) -> Path:
    """The working directory, with `models`; photos/ with their labels, as gt/ and gt.zip, and as icdar2015/."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    detecting.write_photos(tmp_path / "photos", 2)
    detecting.write_labels(tmp_path / "gt", 2)
    with zipfile.ZipFile("gt.zip", "w") as archive:
        for path in Path("gt").iterdir():
            archive.write(path, path.name)
    shutil.copytree("photos", "icdar2015/test/images")
    shutil.copytree("gt", "icdar2015/test/gt")
    return tmp_path


def needs(*names: str) -> None:
    for name in names:
        pytest.importorskip(name)


# README.md ------------------------------------------------------------------------------------------------------------


def test_the_first_thing_to_try(here):
    """README.md: with the model that is in the package."""
    needs("onnxruntime")
    Path("dbnet/embedded").mkdir(parents=True)
    shutil.copy(EMBEDDED, "dbnet/embedded")
    shutil.copy("photos/img_1.png", "photo.jpg")
    [one] = [one for one in (typed("README.md", number, "") [0] for number in range(3)) if "photo.jpg" in one.line]
    assert run_session(put([one], {".venv/bin/dbnet": "dbnet"}), more={"photo.jpg": SMALL}) == 1
    assert Path("detections/pictures/photo.jpg").is_file()


def test_the_code_map_has_the_folders_that_there_are():
    """README.md: and no others."""
    [block] = [block for block in blocks("README.md", "") if block.first.startswith("dbnet/ ")]
    named = set(re.findall(r"(?:^|\s)([a-z_]+)/(?=\s)", block.text))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert named == folders - {"docs"}


def test_the_proofs_options_are_understood():
    """README.md and docs/parity.md: their `pytest parity/` name no option that is not one."""
    lines = [one.line for page in ("README.md", "docs/parity.md") for block in blocks(page)
             for one in (session(block.text) or [Typed(line, "") for line in commands(block.text)])
             if one.line.startswith("pytest ")]
    assert len(lines) >= 8
    asked = {word.partition("=")[0] for line in lines for word in shlex.split(line) if word.startswith("--")}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "parity").glob("plugin*.py"))
    known = set(re.findall(r"addoption\(f?\"(--[a-z-]+)", sources)) | {"--pyargs"}
    assert {re.sub(r"[^a-z-]", "", word) for word in asked} - known == set() and "--baseline" in known


# docs/evaluation.md, docs/recipes.md ----------------------------------------------------------------------------------


def test_evaluation(here):
    """docs/evaluation.md: a model on a data set, a recipe, result files."""
    needs("onnxruntime")
    assert run("dbnet detect icdar2015/test/images -m model.ckpt --out found --only txt").returncode == 0
    lines = [one for one in typed("docs/evaluation.md", 0, "") if "..." not in one.line]
    filled = put(lines, {"MODEL": "model.ckpt", "DIR": "icdar2015", "RESULTS": "found/submit", "GT": "gt"})
    quick = [one for one in filled if "-c " not in one.line and "td500" not in one.line]
    assert run_session(quick, more={"model.ckpt": ("--runner", "onnxruntime")}) == 2
    assert len(filled) == 4 and "as a recipe says" in text_of("docs/evaluation.md")


@pytest.mark.long
def test_evaluation_by_recipes(here):
    """docs/recipes.md and docs/evaluation.md: settings on the command line, for the recipe's network."""
    needs("onnxruntime")
    write_set(here / "ic15")
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet50"]), "model.ckpt", spec="dbnet_resnet50", force=True)
    lines = typed("docs/recipes.md", 0, "") + [one for one in typed("docs/evaluation.md", 0, "") if "-c " in one.line]
    filled = put(lines, {"MODEL": "model.ckpt", "DIR": "ic15", "/data/ic15": "ic15"})
    assert len(filled) == 4
    for one in filled:
        root = () if "root" in one.line else ("--root", "ic15")
        assert run_session([one], more={"model.ckpt": (
            "--runner", "onnxruntime", *root, "-o",
            "eval.dataset.transform_pipeline.DetResize.target_size=[96,160]")}) == 1


def test_one_picture_three_numbers(here):
    """docs/evaluation.md: the files, the command and the table of the example."""
    truth, results = (block.text for block in blocks("docs/evaluation.md", "text") if block.first.startswith("100,"))
    Path("res").mkdir()
    shutil.rmtree("gt")
    Path("gt").mkdir()
    Path("gt/gt_img_1.txt").write_text(truth)
    Path("res/res_img_1.txt").write_text(results)
    [one] = typed("docs/evaluation.md", 0)
    assert run_session([one], more={"evaluate": ("--json", "scores.json")}) == 1
    scores = json.loads(Path("scores.json").read_text())["scores"]
    table = text_of("docs/evaluation.md").partition("| | precision | recall | F-score |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", table, re.MULTILINE)
    told = {name: values for names, *values in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: [f"{score[key]:.5f}" for key in ("precision", "recall", "fscore")]
                    for name, score in scores.items()}


def test_boxes_from_python():
    """docs/evaluation.md: the first example, on a map."""
    [code] = [block.text for block in blocks("docs/evaluation.md", "python") if "default_boxes" in block.text]
    probability = np.zeros((96, 160), np.float32)
    probability[30:50, 20:120] = 0.9
    names: dict = {"probability": probability}
    exec(code, names)
    assert len(names["found"]) == 1


# docs/interop.md ------------------------------------------------------------------------------------------------------


def test_msprobe(here):
    """docs/interop.md: the mapping, what it prints, and how the file begins."""
    converters.save_weights(seeded_weights(SPECS["dbnet_resnet18"]), "r18.ckpt", spec="dbnet_resnet18")
    spec = default_record("mhliao", SPECS["dbnet_resnet18"]).spec
    converters.save_weights(seeded_weights(spec), "own.pth", spec=spec)
    assert run("dbnet convert own.pth mhliao_r18.pth --to mhliao").returncode == 0
    first, *others = typed("docs/interop.md", 0)
    assert run_session([first]) == 1
    [shown] = blocks("docs/interop.md", "yaml")
    written = Path("mapping.yaml").read_text(encoding="utf-8").splitlines()
    assert set(shown.text.splitlines()) <= set(written) and yaml.safe_load(shown.text)
    for one in others:
        Path("mapping.yaml").unlink()
        assert run_session([one]) == 1


def test_polygraphy(here):
    """docs/interop.md: inputs and outputs of the model."""
    needs("onnxruntime")
    detecting.write_image(here / "photos/img_3.png", 3)
    [one] = typed("docs/interop.md", 1)
    done = run(one.line, ("--runner", "onnxruntime"))
    assert done.returncode == 0, done.stderr
    assert says(done, one.printed.replace("dbnet-mindspore", "dbnet-onnxruntime"))


# docs/parity.md -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(here) -> dict[str, str]:
    """A and B: the same model in two formats; old.onnx and new.onnx of it."""
    needs("onnxruntime", "torch")
    for target in ("b.onnx", "old.onnx", "new.onnx"):
        assert run(f"dbnet convert model.pth {target}").returncode == 0
    shutil.copy("model.ckpt", "m.ckpt")
    return {"A": "model.pth", "B": "b.onnx"}


@pytest.mark.long
def test_compare_and_the_cause(here):
    """docs/parity.md: the session that names a cause."""
    needs("torch")
    spec = SPECS["db_mv3_paddle"]
    for name, padding in (("b.pth", "symmetric"), ("s.pth", "same")):
        converters.save_weights(seeded_weights(spec), name, spec=replace(spec, depthwise_padding=padding))
    assert run_session(typed("docs/parity.md", 1), codes={"compare": 1}) == 1


@pytest.mark.parametrize("number", [pytest.param(number, marks=[] if number == 4 else [pytest.mark.long])
                                    for number in range(7)])
def test_compare(number, two):
    """docs/parity.md: any two models. Two images do not show that a score is the same: exit code 1."""
    lines = put(typed("docs/parity.md", 0), two)
    assert len(lines) == 7
    one = lines[number]
    if "mindspore" in one.line:
        needs("mindspore")
    assert run_session([one], codes={"--same-f": 1} if "--same-f" in one.line else {}) == 1


@pytest.mark.long
def test_a_runner_of_another_environment(here):
    """docs/parity.md: this one stands for both, since the two of the page are the reader's."""
    needs("mindspore")
    shutil.copy("model.ckpt", "m.ckpt")
    [one] = put(typed("docs/parity.md", 2), {"mindspore@/opt/ms28/bin/python": f"mindspore@{sys.executable}",
                                             "mindspore@/opt/ms29/bin/python": f"mindspore@{sys.executable}"})
    done = run(one.line)
    assert done.returncode == 0, done.stderr
    assert says(done, one.printed.replace("within tolerance: no stage differs by more than its tolerance",
                                          "same: [...]")), done.stdout


@pytest.mark.long
def test_the_baseline(here):
    """docs/parity.md: record, compare, your own model, another environment's runner; on one runner, so that it ends."""
    needs("onnxruntime", "torch")
    shutil.copy("model.ckpt", "m.ckpt")
    lines = put(typed("docs/parity.md", 3), {"mindspore@/opt/ms29": f"onnxruntime@{sys.executable}"})
    assert len(lines) == 4
    for number, one in enumerate(lines):
        line = re.sub(r"\[(.*)\]", r"\1", one.line).replace("parity/", "--pyargs parity -p no:cacheprovider")
        if "--candidate" in line:  # its baseline is not there yet
            done = run(line, ("--runner", "onnxruntime", "--update-baseline"))
            assert done.returncode == 0, done.stdout
        done = run(line, () if number == 3 else ("--runner", "onnxruntime"))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_baseline_in_ci():
    """docs/parity.md: the workflow reads as YAML, and its commands are those of the page."""
    [shown] = blocks("docs/parity.md", "yaml")
    steps = yaml.safe_load(shown.text)
    typed_there = [step["run"] for step in steps if step.get("run", "").startswith("pytest")]
    assert typed_there == ["pytest --pyargs parity --baseline numbers.trace --update-baseline",
                           "pytest --pyargs parity --baseline numbers.trace"]
    [kind] = [step["run"] for step in steps if step.get("id") == "cpu"]
    done = subprocess.run(["bash", "-c", kind.replace('>> "$GITHUB_OUTPUT"', "")], capture_output=True, text=True,
                          check=True)
    assert re.fullmatch(r"kind=\w+-\d+\n", done.stdout)


# docs/python.md, docs/published.md, docs/detect.md ------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["onnxruntime", pytest.param("mindspore", marks=pytest.mark.long)])
def test_running_from_python(runner, here):
    """docs/python.md: the third block; in MindSpore as it stands."""
    needs("onnxruntime", runner)
    detector(here / "foreign.onnx")
    code = blocks("docs/python.md", "python")[2].text
    assert 'runner="mindspore", stages=STAGES' in code
    names: dict = {"images": seeded_images(1, 64, 96)}
    exec(code.replace('runner="mindspore"', f'runner="{runner}"'), names)
    assert names["maps"]["probability"].shape == (1, 1, 64, 96) and len(names["maps"]) == 11


def test_fetching_from_python(monkeypatch, capsys, tmp_path):
    """docs/published.md: whose file it is and where it would be; that it comes is what tests/test_fetch.py shows."""
    import dbnet.fetch
    asked = []
    monkeypatch.setenv("DBNET_CACHE", str(tmp_path))
    monkeypatch.setattr(dbnet.fetch, "fetch", lambda entry, means: asked.append((entry, means)) or dbnet.fetch.Fetched(
        means.cache / entry.file, "cached"))
    names: dict = {}
    exec(blocks("docs/published.md", "python")[0].text, names)
    assert names["path"] == tmp_path / "dbnet_resnet50-48153c3b-910v2.ckpt"
    assert capsys.readouterr().out.startswith("48153c3b ")


def test_the_json_of_detections(here):
    """docs/detect.md: what the page shows of detections.json is in one."""
    needs("onnxruntime")
    Path("photos/img_4.png").write_bytes(b"no image")
    assert run("dbnet detect photos -m model.ckpt").returncode == 3
    written = Path("detections/detections.json").read_text(encoding="utf-8")
    [shown] = blocks("docs/detect.md", "json")
    keys = set(re.findall(r'"(\w+)":', shown.text))
    assert len(keys) > 12 and keys - set(re.findall(r'"(\w+)":', written)) == set()


# What builds the environment ----------------------------------------------------------------------------------------


def test_what_make_is_asked_for():
    """README.md and CONTRIBUTING.md: make knows how, and which command of this package it would run."""
    asked = {line.split()[1] for page in ("README.md", "CONTRIBUTING.md") for block in blocks(page, "")
             for line in commands(block.text) if line.startswith("make ")}
    assert asked >= {"demo", "test", "test-full", "lint"}
    for target in asked:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.strip(), (target, done.stderr)
        assert target != "demo" or "/dbnet demo" in done.stdout


@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/from_mindocr.md"])
def test_what_pip_is_asked_for(page):
    """Extras and the file of pins are there; the environment that `.ci/run` builds has the same line."""
    [line] = [line for block in blocks(page, "") for line in commands(block.text) if "pip install" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for text in re.findall(r"[`.]\[([a-z,]+)\]", text_of(page)) for extra in text.split(",")}
    assert "all" in named and named - set(project["optional-dependencies"]) == set()
    assert line.endswith("pip install '.[all]' -c constraints.txt") and (ROOT / "constraints.txt").is_file()
    assert re.search(r"pip install .*'\.\[all,[a-z,]+\]' -c constraints\.txt", text_of("Makefile"))
