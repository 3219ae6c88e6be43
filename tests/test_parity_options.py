"""`pytest parity/ --reference A --candidate B`: what a user sees of two models in the words of pytest."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import cv2
import pytest

import converters
from converters.load import SourceOptions, load_model
from dbnet.cli.demo_model import WEIGHTS, embedded_spec
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from parity import two_models
from parity.two_models import DRAWN, TwoModels, Wanted, pictures_of
from tests.conftest import ROOT

SPEC = replace(embedded_spec(), pixels=replace(embedded_spec().pixels, resize="grid"))
PASSED, FAILED, USAGE, NOTHING = 0, 1, 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The trained model that comes with the package, and images with words."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("two")
    weights = load_model(WEIGHTS).weights
    converters.save_weights(weights, folder / "a.pth", spec=SPEC)
    converters.save_weights(weights, folder / "a.onnx", spec=SPEC)
    converters.save_weights(weights, folder / "padded.pth", spec=replace(SPEC, depthwise_padding="symmetric"))
    (folder / "cut.pth").write_bytes((folder / "a.pth").read_bytes()[:1000])
    (folder / "photos").mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / "photos" / f"{i}.png"), draw(i, 192, 320)[0])
    (folder / "some").mkdir()
    (folder / "some" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def run(folder, capfd, monkeypatch):
    """pytest within pytest: (exit code, what it printed). Files are named as in the folder."""
    monkeypatch.chdir(folder)

    def run(*arguments, where=str(ROOT / "parity")):
        code = pytest.main([where, "-p", "no:cacheprovider", "-p", "no:faulthandler", f"--rootdir={ROOT}",
                            f"-c{ROOT / 'pyproject.toml'}", *arguments])
        printed = capfd.readouterr()
        return int(code), printed.out + printed.err

    return run


def test_two_that_part(run, folder):
    code, told = run("--reference", "a.pth", "--candidate", "padded.pth", "--images", "photos", "--report", "r.json")
    assert code == FAILED and "Traceback" not in told and "Error" not in told
    assert "padded.pth against a.pth, the reference; the proofs of the project are left out" in told
    assert "different: first at c2, in backbone.features.4.layers.3; cause: depthwise_padding" in told
    assert "p5 differs; the first that does is c2, cause: depthwise_padding" in told
    assert told.count("A to float64  B to float64") >= 11 and "inherited" in told
    assert "probabilities are up to" in told and re.search(r"[0-9] of [1-9][0-9]* boxes are the same", told)
    assert re.search(r"^[01].png: (moved|lost|invented): .*", told, re.MULTILINE)
    assert "FAILED" in told and "test_stage[c2]" in told and "15 failed, 1 passed" in told  # the pixels
    rows = {row["test"].split("::")[1]: row for row in json.loads((folder / "r.json").read_text())["rows"]}
    assert rows["test_stage[p5]"]["isolated_passed"] and rows["test_stage[c2]"]["cause"] == "depthwise_padding"
    assert rows["test_boxes_on_images[photos]"]["count"] == 2


def test_two_that_do_not(run):
    code, told = run("--reference=a.pth", "--candidate=a.onnx", "--images=photos", "--images=photos/0.png", "-ra",
                     "--limit=1")
    assert code == PASSED and "16 passed, 2 skipped" in told, told
    assert "threshold: only the reference gives it" in told


def test_what_cannot_be_compared_is_one_line(run):
    code, told = run("--reference", "a.pth", "--candidate", "cut.pth", "--images", "photos", "-k", "c2 or boxes")
    before = told.partition("short test summary")[0]  # which pytest cuts, but not under CI
    assert code == FAILED and before.count("could not be compared: cut.pth: is a damaged or incomplete archive") == 2
    assert "Traceback" not in told and "another exception" not in told
    code, told = run("--reference", "a.pth", "--candidate", "a.pth", "--images", "some", "-k", "boxes")
    assert code == FAILED and "1 images could not be compared" in told and "broken.png" in told


def test_a_file_given_by_its_path_is_meant_only_with_models(run):
    code, told = run("-rs", where=str(ROOT / "parity" / "test_two_models.py"))
    assert code == PASSED and "give --reference FILE --candidate FILE" in told
    code, told = run("--reference", "a.pth", "--candidate", "a.pth", where=str(ROOT / "parity" / "test_sabotage.py"))
    assert code == NOTHING and "deselected" in told


@pytest.mark.parametrize(("options", "told"), [
    (["--reference", "a.pth"], "--reference needs --candidate too"),
    (["--candidate", "a.pth"], "--candidate needs --reference too"),
    (["--reference=", "--candidate="], "--reference and --candidate name two files"),
    (["--reference", "a.pth", "--candidate", "none.pth"], "--candidate none.pth: is not there"),
    (["--reference", "photos", "--candidate", "a.pth"], "--reference photos: is no file"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--images", "none"], "none: no such file or folder"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--limit", "2"], "--limit needs --images"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--images=photos", "--limit=0"], "a number from 1"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--pixels", "tesseract"], "tesseract"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--set", "k"], "--set wants FIELD=VALUE"),
    (["--images", "photos"], "--images needs --reference and --candidate"),
    (["--runner-a", "torch"], "--runner-a needs --reference and --candidate"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--runner-a", "toch"], "unknown runner 'toch'"),
    (["--reference", "a.pth", "--candidate", "a.pth", "--runner-b", "torch@none"], "there is no such interpreter"),
    (["--require", "tensorflow"], "--require tensorflow: runners are"),
    (["--device", "toaster:x"], "toaster"),
])
def test_wrong_usage(run, options, told):
    code, printed = run(*options)
    assert code == USAGE and told in printed and "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1


def test_options_reach_the_models(folder, monkeypatch):
    monkeypatch.chdir(folder)
    wanted = Wanted(folder / "a.pth", folder / "a.onnx", runners=(None, "torch"),
                    options=SourceOptions(pixels="mhliao"))
    a, b = TwoModels(wanted).sides()
    assert a.pixels == b.pixels != SPEC.pixels and (a.runner.name, b.runner.name) == ("torch", "torch")


def test_a_failure_is_remembered(folder, monkeypatch):
    """Thirteen tests ask; a model that cannot be opened is not opened thirteen times."""
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        raise MemoryError

    monkeypatch.setattr(two_models, "open_staged", failing)
    models = TwoModels(Wanted(folder / "a.pth", folder / "a.pth"))
    for _ in range(3):
        with pytest.raises(DbnetError, match="not enough memory"):
            models.stages()
    assert len(calls) == 1


def test_the_picture(folder):
    [drawn] = pictures_of([])
    assert drawn.upright.shape == (*DRAWN[1:], 3) and not drawn.note
    broken = str(folder / "some" / "broken.png")
    [found] = pictures_of([broken, str(folder / "photos" / "1.png")])
    assert found.upright.shape == (192, 320, 3) and not found.note
    [drawn] = pictures_of([broken])
    assert drawn.upright.shape == (*DRAWN[1:], 3) and "none of the images can be read" in drawn.note
