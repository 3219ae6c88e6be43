"""Foreign .onnx files on the command line: detect, evaluate, evaluate -c, inspect; and --pixels for any model."""

from __future__ import annotations

import json

import pytest

from dbnet.pixel_formats import FAMILIES
from tests import detecting
from tests.opaque_models import BRIGHT, LOOSE, detector

pytest.importorskip("onnxruntime")


def test_detect(tmp_path, photos, dbnet):
    path = detector(tmp_path / "m.onnx", end="logits")
    said = dbnet("detect", photos, "-m", path, "--json", "-", code=3)
    assert "--pixels NAME, NAME one of mindocr, " in said.err and said.err.count("\n") == 1
    said = dbnet("detect", photos, "-m", path, "--pixels", BRIGHT, "--out", tmp_path / "out", "--no-pictures", *LOOSE)
    assert "m.onnx: opaque on onnxruntime (cpu); pixels BGR short_side (64, 64); boxes mhliao quad" in said.out
    assert "note: m.onnx: its network is not known here, it runs as it is" in said.err
    assert "note: out holds logits" in said.err
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert sum(len(image["detections"]) for image in found["images"].values()) > 1
    settings = found["settings"]
    assert (settings["spec"], settings["semantics"]) == ("opaque", {"output": "out", "sigmoid": True})
    assert settings["pixels"]["mean"] == [128, 128, 128] and len(settings["notes"]) == 2
    assert found["versions"]["runner"]["precision"] == "the file's own"


@pytest.mark.parametrize(("pixels", "message"), [
    ("nobody", "NAME one of mindocr"), ("paddle,size=0", "size cannot be '0'"), ("", "write NAME")])
def test_pixels_that_are_none_are_a_matter_of_usage(pixels, message, tmp_path, photos, dbnet):
    path = detector(tmp_path / "m.onnx")
    for command in (("detect", photos, "-m"), ("evaluate", "--root", photos), ("inspect",)):
        assert message in dbnet(*command, path, "--pixels", pixels, code=2).err


@pytest.mark.parametrize("runner", ["torch", "mindspore"])
def test_no_other_runner(runner, tmp_path, photos, dbnet):
    path = detector(tmp_path / "m.onnx")
    said = dbnet("detect", photos, "-m", path, "--pixels", BRIGHT, "--runner", runner, "--json", "-", code=3)
    assert f"runs in ONNX Runtime only, not in {runner}" in said.err and said.err.count("\n") == 1


def test_evaluate(tmp_path, photos, dbnet):
    detecting.write_labels(tmp_path / "gt", 3)
    photos.rename(tmp_path / "images")
    path = detector(tmp_path / "m.onnx", more=["second"])
    common = ("evaluate", path, "--root", tmp_path, "--pixels", BRIGHT, *LOOSE)
    assert "--map-output out" in dbnet(*common, code=3).err
    report, save = tmp_path / "r.json", tmp_path / "d.jsonl"
    said = dbnet(*common, "--map-output", "out", "--json", report, "--save", save)
    assert "m.onnx: opaque on onnxruntime (cpu), 3 images of icdar2015; pixels BGR short_side (64, 64)" in said.out
    assert said.err.count("note: ") == 1
    found = json.loads(report.read_text())
    assert found["settings"]["notes"] == ["m.onnx: its network is not known here, it runs as it is"]
    assert found["scores"]["rrc"]["recall"] > 0
    assert "3 of them from" in dbnet(*common, "--map-output", "out", "--save", save).out
    said = dbnet(*common, "--map-output", "second", "--save", save, code=3)  # other maps: not gone on with
    assert "output" in said.err


def test_map_output_and_pixels_mean_nothing_for_result_files(tmp_path, dbnet):
    for option in ("--pixels", "--map-output"):
        said = dbnet("evaluate", "--results", tmp_path, "--gt", tmp_path, option, "paddle", code=2)
        assert f"{option} means nothing with --results" in said.err


def test_evaluate_by_a_recipe(tmp_path, photos, dbnet):
    """The recipe says pixels and boxes, so nothing else need be said; its network is not checked."""
    lines = [f'{photo.name}\t[{{"transcription": "a", "points": [[0, 0], [9, 0], [9, 9], [0, 9]]}}]'
             for photo in sorted(photos.iterdir())]
    (tmp_path / "gt.txt").write_text("\n".join(lines))
    photos.rename(tmp_path / "images")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"model: {{backbone: {{name: det_resnet18}}}}\neval:\n  dataset:\n    dataset_root: {tmp_path}\n"
                      "    data_dir: images\n    label_file: gt.txt\n")
    size = "eval.dataset.transform_pipeline.DetResize={target_size: [64, 96], keep_ratio: False}"
    path = detector(tmp_path / "m.onnx")
    common = ("evaluate", "-c", recipe, "-o", size)
    said = dbnet(*common, path)
    assert "pixels RGB stretch (64, 96); boxes mindocr" in said.out
    assert "whether this is the network of recipe own is not known, and was not checked" in said.err
    said = dbnet(*common, path, "--pixels", BRIGHT)
    assert "pixels BGR short_side (64, 64); boxes mindocr" in said.out
    assert "the recipe's pixels (RGB stretch (64, 96)) are left aside" in said.err
    fixed = detector(tmp_path / "fixed.onnx", shape=(1, 3, 96, 96))
    assert "resize=stretch,size=96x96" in dbnet(*common, fixed, code=3).err
    assert "(96, 96)" in dbnet(*common, fixed, "--pixels", "mindocr,size=96").out


def test_pixels_of_a_model_of_ours_are_told(tmp_path, photos, dbnet):
    model = detecting.write_model(tmp_path / "m.onnx")
    said = dbnet("detect", photos, "-m", model, "--json", tmp_path / "d.json", "--pixels", "size=96")
    assert "note: pixels as you say, size=96, not the model's own" in said.err
    assert "pixels BGR short_side_min (96, 96); boxes mindocr quad, binary_thresh 0.5" in said.out
    said = dbnet("detect", photos, "-m", model, "--json", tmp_path / "d.json", "--pixels", "mmocr,size=96")
    assert "note: pixels and box rule as you say" in said.err and "boxes mmocr quad, binary_thresh 0.3" in said.out
    dbnet("convert", model, tmp_path / "n.pth", "--pixels", "mhliao,size=96")
    found = json.loads(dbnet("inspect", tmp_path / "n.pth", "--json", "-").out)
    assert found["metadata"]["pixels"]["size"] == [96, 96] and found["metadata"]["boxes"]["rule"] == "mhliao"
    found = json.loads(dbnet("inspect", tmp_path / "n.pth", "--json", "-", "--pixels", "paddle").out)
    assert found["metadata"]["pixels"]["size"] == list(FAMILIES["paddle"][0].size)


@pytest.mark.parametrize(("settings", "told"), [
    ({}, "--pixels NAME, NAME one of mindocr"),
    ({"producer": "PaddlePaddle"}, "; pixels paddle, for it was written by")])
def test_inspect(settings, told, tmp_path, dbnet):
    path = detector(tmp_path / "m.onnx", **settings)
    out = dbnet("inspect", path, code=1).out
    assert f"runs        perhaps as it is: dbnet detect IMAGES -m {path}" in out and told in out
    found = json.loads(dbnet("inspect", path, "--json", "-", code=1).out)
    assert (found["spec"], found["runs"]["pixels"]) == (None, "paddle" if settings else None)
    own = json.loads(dbnet("inspect", detecting.write_model(tmp_path / "own.onnx"), "--json", "-").out)
    assert own["runs"] is None


def test_inspect_of_weights_in_another_file(tmp_path, dbnet):
    path = detector(tmp_path / "m.onnx", external=True)
    said = dbnet("inspect", path, code=3).err
    assert "external data" in said and f"it may run as it is: dbnet detect IMAGES -m {path} --pixels NAME" in said
