"""--precision and --keep-float32 where a model is run: who takes them, what is told, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import converters
from converters.load import SourceOptions, load_model
from dbnet.errors import DbnetError
from dbnet.precision import FORMATS
from dbnet.seeded import seeded_images, seeded_weights
from evaluation.runners import open_loaded, open_runner
from parity.staged import open_staged
from tests import detecting
from tests.opaque_models import detector
from tests.running import command

IMAGES = seeded_images(1, 64, 64, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same seeded network as .safetensors, .ckpt, .onnx and .pth."""
    folder = tmp_path_factory.mktemp("models")
    for suffix in (".safetensors", ".ckpt", ".onnx", ".pth"):
        converters.save_weights(seeded_weights(detecting.SPEC, 2030), folder / f"m{suffix}", spec=detecting.SPEC)
    return folder


@pytest.mark.parametrize(("file", "runner"), [("m.ckpt", "torch"), ("m.safetensors", "torch"), ("m.pth", "torch"),
                                              ("m.onnx", "onnxruntime")])
def test_who_runs_it_unless_told(models, file, runner):
    pytest.importorskip(runner)
    opened = open_runner(models / file, stages=("probability",), precision="bf16")
    assert opened.name == runner
    assert opened.title == f"{runner} in bf16"
    assert opened.environment()["precision"] == "bf16"
    assert opened.digest == load_model(models / file).record.sha256
    found = opened.run(IMAGES)["probability"]
    assert (FORMATS["bf16"].rounded(found) == found).all()
    assert any("not by the file's own" in note for note in opened.notes) == (file == "m.onnx")


def test_float32_is_what_it_was(models):
    plain = open_runner(models / "m.safetensors", "onnxruntime", stages=("probability",))
    said = open_runner(models / "m.safetensors", "onnxruntime", stages=("probability",), precision="float32")
    np.testing.assert_array_equal(*(opened.run(IMAGES)["probability"] for opened in (plain, said)))
    assert said.environment()["precision"] == "float32"
    assert "kept_float32" not in said.environment()


@pytest.mark.parametrize("runner", ["mindspore", "mindspore@/bin/sh"])
def test_mindspore_is_refused(models, runner):
    with pytest.raises(DbnetError, match=r"--precision fp16: torch and onnxruntime only here, not mindspore"):
        open_runner(models / "m.ckpt", runner, precision="fp16")


@pytest.mark.parametrize(("settings", "told"), [
    ({"precision": "half"}, "unknown precision 'half'; choose from float32, fp16, bf16"),
    ({"precision": "float64"}, "unknown precision"),
    ({"keep_float32": ["neck"]}, "means nothing in float32"),
    ({"precision": "fp16", "keep_float32": ["nack"]}, "has no layer 'nack'"),
])
def test_what_means_nothing(models, settings, told):
    with pytest.raises(DbnetError, match=told):
        open_runner(models / "m.safetensors", "onnxruntime", **settings)


def test_no_output_is_chosen(models):
    model = load_model(models / "m.onnx")
    with pytest.raises(DbnetError, match="leave out --map-output"):
        open_loaded(model, options=SourceOptions(output="probability"), precision="fp16")


def test_a_foreign_network_is_told_what_to_do(tmp_path, photos):
    path = detector(tmp_path / "m.onnx")
    for run in (lambda: open_runner(path, precision="fp16", pixels="paddle"),
                lambda: open_staged(path, precision="fp16", options=SourceOptions(pixels="paddle"))):
        with pytest.raises(DbnetError, match=r"so not in fp16: leave out --precision") as error:
            run()
        assert "\n" not in str(error.value)
    done = command("precision", path, "--images", photos, "--pixels", "paddle")
    assert (done.returncode, done.stdout) == (3, "")
    assert "dbnet precision needs a network that is known here" in done.stderr


# Commands -------------------------------------------------------------------------------------------------------------


def test_detect(models, photos, tmp_path):
    done = command("detect", photos, "-m", models / "m.safetensors", "--precision", "fp16", "--keep-float32",
                   "head.segm.0,head.sigmoid", "--json", tmp_path / "d.json")
    assert done.returncode == 0, done.stderr
    runner = json.loads((tmp_path / "d.json").read_text())["versions"]["runner"]
    assert runner["precision"] == "fp16"
    assert runner["kept_float32"] == ["head.segm.0", "head.sigmoid"]


def test_evaluate(models, tmp_path):
    detecting.write_photos(tmp_path / "images", 2)
    detecting.write_labels(tmp_path / "gt", 2)
    common = ("evaluate", models / "m.safetensors", "--root", tmp_path, "--runner", "onnxruntime", "--save",
              tmp_path / "s.jsonl")
    done = command(*common, "--precision", "bf16", "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "e.json").read_text())["versions"]["runner"]["precision"] == "bf16"
    other = command(*common, "--precision", "fp16")  # detections of another precision are not gone on with
    assert other.returncode == 3
    assert "s.jsonl" in other.stderr


def test_compare_takes_the_wider_tolerances(models, tmp_path):
    model = models / "m.safetensors"
    done = command("compare", model, model, "--runner-a", "onnxruntime", "--runner-b", "onnxruntime", "--precision-b",
                   "fp16", "--json", tmp_path / "c.json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "onnxruntime in fp16" in done.stdout
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["verdict"] == "within tolerance"
    assert told["b"]["environment"]["precision"] == "fp16"
    rows = {row["stage"]: row for row in told["stages"]}
    assert 1e-4 < rows["fused"]["max_rel"] < rows["fused"]["tolerance"] < 0.1
    assert all(row["isolated_passed"] for row in rows.values())


@pytest.mark.parametrize("arguments", [
    ("detect", "photos", "-m", "m.ckpt", "--keep-float32", "neck"),
    ("compare", "m.ckpt", "m.pth", "--keep-float32", "neck"),
    ("compare", "m.ckpt", "m.pth", "--weights", "--precision-b", "fp16"),
    ("evaluate", "m.ckpt", "--root", ".", "--keep-float32", "neck"),
    ("evaluate", "--results", ".", "--gt", ".", "--precision", "fp16"),
    ("detect", "photos", "-m", "m.ckpt", "--precision", "half"),
])
def test_wrong_usage(models, monkeypatch, arguments):
    monkeypatch.chdir(models)
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "precision" in done.stderr or "keep-float32" in done.stderr
