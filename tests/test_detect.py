"""`dbnet detect` as people use it: real models and images in, files out that `dbnet evaluate` reads back."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dbnet.cli.detect_options import chosen_runner
from dbnet.datasets import icdar2015
from dbnet.extras import installed
from dbnet.preprocess import read_image
from evaluation.detect import detect
from evaluation.detecting_inputs import MARKER
from evaluation.evaluate import evaluate
from evaluation.runners import open_runner
from tests.detecting import SPEC, dbnet, write_image, write_labels, write_model, write_photos
from tests.opaque_models import detector

ROOT = Path(__file__).parents[1]
RESULTS = ("detections.json", "det_results.txt", "submit", "submit.zip", ".")

pytestmark = pytest.mark.skipif(not installed("onnxruntime"), reason="no onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "seeded.ckpt")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with photos/ in it."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    return tmp_path


def report(path="detections/detections.json"):
    return json.loads(Path(path).read_text())


def files(folder="detections"):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()} - {MARKER}


def score(monkeypatch, capsys, *arguments):
    dbnet(monkeypatch, "evaluate", *arguments, "--json", "-")
    return json.loads(capsys.readouterr().out)["scores"]


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box_type", ["quad", "poly"])
def test_everything_is_written_and_read_back_with_the_same_score(here, model, monkeypatch, capsys, box_type):
    dbnet(monkeypatch, "detect", "photos", "--model", model, "--crops", "--box-type", box_type, "--binary-thresh", 0.5)
    said = capsys.readouterr()
    found = report()
    stems = [f"img_{i}" for i in range(1, 6)]
    assert list(found["images"]) == [f"{stem}.png" for stem in stems]
    count = sum(len(entry["detections"]) for entry in found["images"].values())
    assert count >= 10
    assert files() == {"detections.json", "det_results.txt", "submit.zip",
                       *(f"submit/res_{stem}.txt" for stem in stems), *(f"pictures/{stem}.jpg" for stem in stems),
                       *(d["crop"] for entry in found["images"].values() for d in entry["detections"])}
    for told in (f"{count}", "images/s", "detections/submit.zip", "onnxruntime (cpu)", box_type):
        assert told in said.out, told
    assert said.err == ""
    write_labels(here / "gt")
    form = ["--format", "totaltext"] if box_type == "poly" else []
    scores = [score(monkeypatch, capsys, "--results", Path("detections") / name, "--gt", _labels(here, box_type), *form)
              for name in RESULTS if name != "." or box_type == "quad"]
    assert all(one == scores[0] for one in scores)
    [(_, values)] = [*scores[0].items()][:1]
    assert 0 < values["fscore"] <= 1


def _labels(here, box_type):
    """ICDAR 2015's labels, or the same as Total-Text's."""
    if box_type == "quad":
        return here / "gt"
    (here / "polygons").mkdir(exist_ok=True)
    for path in (here / "gt").iterdir():
        lines = [line.rsplit(",", 1) for line in path.read_text().splitlines()]
        name = f"poly_{path.name}"
        (here / "polygons" / name).write_text("\n".join(
            f"x: [[{' '.join(c.split(',')[::2])}]], y: [[{' '.join(c.split(',')[1::2])}]], ornt: [u'h'], "
            f"transcriptions: [u'{text}']" for c, text in lines))
    return here / "polygons"


def test_the_boxes_are_those_of_evaluate(here, model, monkeypatch, tmp_path):
    """Under the same runner, bit for bit, also with other thresholds, and from every form of a model."""
    write_labels(here / "test")
    os.rename("photos", "images")
    os.rename("test", "gt")
    box_options = ["--box-thresh", "0.4", "--unclip-ratio", "2"]
    dbnet(monkeypatch, "detect", "images", "-m", model, *box_options, "--runner", "onnxruntime", "--only", "json")
    dbnet(monkeypatch, "evaluate", model, "--root", here, *box_options, "--runner", "onnxruntime", "--json", "e.json")
    expected = {name: entry["detections"] for name, entry in report("e.json")["images"].items()}
    assert {name: entry["detections"] for name, entry in report()["images"].items()} == expected
    assert sum(map(len, expected.values())) >= 10
    assert report()["settings"]["model"] == report("e.json")["settings"]["model"]


def test_json_on_standard_output_and_nothing_else(here, model, monkeypatch, capsys):
    dbnet(monkeypatch, "detect", "photos/img_2.png", "-m", model, "--json", "-")
    said = capsys.readouterr()
    assert list(json.loads(said.out)["images"]) == ["img_2.png"]
    assert said.err == ""
    assert sorted(os.listdir()) == ["photos"]
    dbnet(monkeypatch, "detect", "photos/img_2.png", "-m", model, "--json", "-", "--out", "o", "--only", "txt")
    assert list(json.loads(capsys.readouterr().out)["images"]) == ["img_2.png"]
    assert files("o") == {"submit/res_img_2.txt"}
    dbnet(monkeypatch, "detect", "photos/img_2.png", "-m", model, "--json", "r.json")
    assert "r.json" in capsys.readouterr().out
    assert list(report("r.json")["images"]) == ["img_2.png"]
    assert sorted(os.listdir()) == ["o", "photos", "r.json"]


@pytest.mark.parametrize(("options", "expected"), [
    (["--only", "json"], {"detections.json"}),
    (["--only", "txt,zip"], {"submit/res_img_1.txt", "submit.zip"}),
    (["--only", "mindocr", "--only", "Pictures"], {"det_results.txt", "pictures/img_1.jpg"}),
    (["--no-pictures"], {"detections.json", "det_results.txt", "submit.zip", "submit/res_img_1.txt"}),
    (["--only", "json,pictures", "--picture-format", "png", "--no-overlay"], {"detections.json", "pictures/img_1.png"}),
])
def test_only_what_is_wanted(here, model, monkeypatch, options, expected):
    dbnet(monkeypatch, "detect", "photos/img_1.png", "-m", model, *options)
    assert files() == expected


def test_without_overlay_only_the_lines_differ_from_the_image(here, model, monkeypatch):
    pictures = []
    for more in ([], ["--no-overlay"]):
        dbnet(monkeypatch, "detect", "photos/img_1.png", "-m", model, "--only", "pictures", "--picture-format", "png",
              *more)
        pictures.append(cv2.imread("detections/pictures/img_1.png"))
    image = cv2.imread("photos/img_1.png")
    changed = [(picture != image).any(axis=2) for picture in pictures]
    assert changed[0].sum() > changed[1].sum() > 100
    assert (pictures[1][changed[1]] == (60, 255, 60)).all()


def test_results_go_on_past_what_cannot_be_read(here, model, monkeypatch, capsys):
    photos = here / "photos"
    data = (photos / "img_1.png").read_bytes()
    jpeg = cv2.imencode(".jpg", read_image(photos / "img_1.png"))[1].tobytes()
    (photos / "img_10.png").write_bytes(data[:len(data) // 2])
    (photos / "img_11.jpg").write_bytes(jpeg[:len(jpeg) // 2])
    (photos / "img_12.jpg").touch()
    (photos / "img_13.jpg").mkdir()
    (photos / "img_14.jpg").write_text("hello")
    os.mkfifo(photos / "img_15.jpg")
    dbnet(monkeypatch, "detect", "photos", "-m", model, code=3)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    failed = {line.split(":")[1].strip() for line in lines if line.startswith("failed: ")}
    assert failed == {f"photos/img_{i}.{'png' if i == 10 else 'jpg'}" for i in range(10, 16)}
    assert lines[-1].startswith("dbnet: 6 of 11 images failed") and "the other 5 are in detections" in lines[-1]
    assert len(report()["images"]) == 5
    assert len(report()["failed"]) == 6
    assert report()["complete"] is True
    dbnet(monkeypatch, "detect", "photos/img_12.jpg", "-m", model, code=3)
    assert "nothing could be detected" in capsys.readouterr().err


def test_photographs_of_all_kinds(here, model, monkeypatch):
    image = read_image("photos/img_1.png")
    plain = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    cv2.imwrite("photos/deep.png", image.astype(np.uint16) * 257)
    cv2.imwrite("photos/grey.png", cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    cv2.imwrite("photos/alpha.png", np.dstack([image, np.full(image.shape[:2], 9, np.uint8)]))
    plain.save("photos/frames.gif", save_all=True, append_images=[Image.fromarray(np.zeros(image.shape, np.uint8))])
    cv2.imwrite("photos/point.png", image[:1, :1])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored = np.ascontiguousarray(np.rot90(image))
    Image.fromarray(np.ascontiguousarray(stored[:, :, ::-1])).save("photos/turned.png", exif=exif)
    dbnet(monkeypatch, "detect", "photos", "-m", model, "--only", "json,pictures")
    found = report()["images"]
    first = [(d["polygon"], d["score"]) for d in found["img_1.png"]["detections"]]
    assert len(first) >= 2
    for name in ("deep.png", "alpha.png", "turned.png"):
        assert [(d["polygon"], d["score"]) for d in found[name]["detections"]] == first, name
    height, width = image.shape[:2]
    assert {(entry["height"], entry["width"]) for name, entry in found.items()
            if name in ("deep.png", "grey.png", "alpha.png", "frames.gif", "turned.png")} == {(height, width)}
    assert cv2.imread("detections/pictures/turned.jpg").shape == image.shape
    assert (found["point.png"]["height"], found["point.png"]["width"]) == (1, 1)


def test_a_very_long_image_is_refused_by_the_rule_and_named(here, model, monkeypatch, capsys):
    cv2.imwrite("photos/img_9.png", np.zeros((20_000, 2, 3), np.uint8))
    dbnet(monkeypatch, "detect", "photos", "-m", model, "--only", "json", code=3)
    said = capsys.readouterr().err
    assert "photos/img_9.png: an image of 20000 x 2 pixels" in said
    assert len(report()["images"]) == 5


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_second_run_replaces_the_first_but_nobody_elses_files(here, model, monkeypatch, capsys):
    dbnet(monkeypatch, "detect", "photos", "-m", model)
    dbnet(monkeypatch, "detect", ".", "-r", "-m", model, "--only", "pictures")  # not the pictures of the first
    texts = {"detections.json", "det_results.txt", "submit.zip", *(f"submit/res_img_{i}.txt" for i in range(1, 6))}
    assert files() == texts | {f"pictures/photos/img_{i}.jpg" for i in range(1, 6)}
    assert "submit/, submit.zip, det_results.txt of an earlier run stay" in capsys.readouterr().err
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").write_text("thesis")
    dbnet(monkeypatch, "detect", "photos", "-m", model, "--out", "mine", code=3)
    assert "--force" in capsys.readouterr().err
    dbnet(monkeypatch, "detect", "photos/img_1.png", "-m", model, "--out", "mine", "--force", "--only", "txt")
    assert files("mine") == {"thesis.txt", "submit/res_img_1.txt"}
    dbnet(monkeypatch, "detect", "photos", "-m", model, "--out", "photos", "--force", "--only", "pictures")
    assert len(list((here / "photos").glob("*.png"))) == 5


def test_a_run_that_fails_on_every_image_takes_nothing_away(here, model, monkeypatch, capsys):
    dbnet(monkeypatch, "detect", "photos", "-m", model)
    before = {name: Path("detections", name).read_bytes() for name in files()}
    (here / "broken.png").write_bytes(b"no image")
    capsys.readouterr()
    dbnet(monkeypatch, "detect", "broken.png", "-m", model, "--only", "json", code=3)
    assert "nothing could be detected" in capsys.readouterr().err
    assert {name: Path("detections", name).read_bytes() for name in files()} == before
    dbnet(monkeypatch, "detect", "broken.png", "-m", model, "--out", "new", code=3)
    assert len(report("new/detections.json")["failed"]) == 1


def test_colliding_names_keep_their_folders(here, model, monkeypatch, capsys):
    for folder in ("a", "b"):
        write_image(here / folder / "img_1.png", ord(folder))
    dbnet(monkeypatch, "detect", "a", "b", "-m", model)
    assert "a/img_1.png and b/img_1.png" in capsys.readouterr().err
    assert files() == {"detections.json", "det_results.txt", *(
        f"{kind}{folder}/{name}" for folder in "ab" for kind, name in (("submit/", "res_img_1.txt"),
                                                                      ("pictures/", "img_1.jpg")))}
    (here / "gt").mkdir()
    (here / "gt/gt_img_1.txt").write_text("0,0,9,0,9,9,0,9,word")
    score(monkeypatch, capsys, "--results", "detections/submit/a", "--gt", "gt")


@pytest.mark.parametrize("arguments", [
    ["nothere.jpg"], ["photos/*.tiff"], ["empty"], ["photos", "--out", "photos/img_1.png"],
    ["photos", "--model", "nothere.onnx"], ["photos", "--json", "detections/x.json", "--out", "."],
    ["photos", "--device", "abacus"], ["photos", "--spec", "dbnet_resnet999"],
])
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(here, model, monkeypatch, capsys, arguments):
    (here / "empty").mkdir()
    dbnet(monkeypatch, "detect", "-m", model, *arguments, code=3)
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("dbnet: ")
    assert said.out == ""
    assert sorted(os.listdir()) == ["empty", "photos"]


@pytest.mark.parametrize(("arguments", "told"), [
    ([], "IMAGE|FOLDER|GLOB"),
    (["photos", "--only", "pdf"], "json, txt, zip, mindocr, pictures, crops"),
    (["photos", "--only", ","], "no name"),
    (["photos", "--only", "pictures", "--no-pictures"], "contradict"),
    (["photos", "--only", "json", "--no-overlay"], "--no-overlay"),
    (["photos", "--json", "-", "--crops"], "--out"),
    (["photos", "--json", "-", "--only", "txt"], "--out"),
    (["photos", "--runner", "tensorflow"], "onnxruntime"),
    (["photos", "--box-thresh", "1.5"], "1.5"),
    (["photos", "--picture-format", "gif"], "png"),
    (["photos", "--box-rule", "mindocr", "--dilation"], "--dilation means nothing for boxes by the rule mindocr"),
    (["photos", "--box-rule", "mhliao", "--score-mode", "slow"], "--score-mode slow means nothing"),
    (["photos", "--dilation"], "by the rule mindocr; add --box-rule paddle"),  # the model's own
    (["photos", "--out", ""], "empty"),
    (["photos", "--threads", "0"], "0"),
])
def test_usage(here, model, monkeypatch, capsys, arguments, told):
    dbnet(monkeypatch, "detect", *arguments, "-m", model, code=2)
    assert told in capsys.readouterr().err
    assert os.listdir() == ["photos"]


# As a process ---------------------------------------------------------------------------------------------------------


def process(*arguments, **settings):
    return subprocess.Popen([sys.executable, "-m", "dbnet", "detect", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, **settings)


def test_ctrl_c(here, model):
    for i in range(6, 301):
        shutil.copy(here / f"photos/img_{i % 5 + 1}.png", here / f"photos/img_{i}.png")
    running = process("photos", "--model", model)
    deadline = time.monotonic() + 60
    while not (here / "detections/pictures/img_3.jpg").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)
    assert running.returncode == 3, said
    assert "interrupted" in said[1] and "of 300 images" in said[1]
    found = report()
    assert 3 <= len(found["images"]) < 300 and found["complete"] is False
    with zipfile.ZipFile("detections/submit.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(found["images"]) == len(os.listdir("detections/pictures"))


def test_a_disk_that_is_full(here, model):
    """A limit to the size of files stands for it: the first picture does not fit."""
    limit = 20_000
    running = process("photos", "--model", model)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (limit, limit))  # long before it has imported anything
    said = running.communicate(timeout=60)
    assert running.returncode == 3, said
    assert "the disk is full" in said[1] and "after 0 of 5 images" in said[1]
    assert report()["stopped"] == "the disk is full"
    assert not any(path.name.startswith(".dbnet-part") for path in here.rglob("*"))


def test_no_framework_is_asked_for_help_and_auto_takes_onnx_runtime_on_a_cpu(monkeypatch):
    monkeypatch.setattr("dbnet.running.driver_version", lambda kind: None)
    assert chosen_runner("auto", None) == chosen_runner("auto", "cpu") == "onnxruntime"
    assert chosen_runner("auto", "cuda:0") is None
    assert chosen_runner("torch", None) == "torch"
    monkeypatch.setattr("dbnet.running.driver_version", lambda kind: "550" if kind == "gpu" else None)
    assert chosen_runner("auto", None) is None
    monkeypatch.setattr("dbnet.extras.installed", lambda name: False)
    assert chosen_runner("auto", "cpu") is None


# The real thing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["onnxruntime", pytest.param("torch", marks=pytest.mark.long)])
def test_the_trained_model_on_real_photographs(need, tmp_path, monkeypatch, capsys, runner):
    pytest.importorskip(runner)
    weights, images = need("weights/db_mv3_icdar15.pdparams"), need("data/icdar2015/test/images")
    photos = [images / f"img_{i}.jpg" for i in (1, 2, 10)]
    monkeypatch.chdir(tmp_path)
    dbnet(monkeypatch, "detect", *photos, "--model", weights, "--runner", runner)
    found = {name: [(d["polygon"], d["score"]) for d in entry["detections"]]
             for name, entry in report()["images"].items()}
    opened = open_runner(weights, runner, stages=("probability",))
    alone = {photo.name: detect(opened, read_image(photo), opened.spec.pixels, opened.spec.boxes) for photo in photos}
    assert found == {name: [(d.polygon.tolist(), d.score) for d in boxes] for name, boxes in alone.items()}
    samples = {sample.name: sample for sample in icdar2015.load(images.parent)}
    evaluation = evaluate(opened, [samples[photo.name] for photo in photos], opened.spec.pixels, opened.spec.boxes)
    assert found == {name: [(d.polygon.tolist(), d.score) for d in boxes]
                     for name, boxes in evaluation.detections.items()}
    assert sum(map(len, found.values())) >= 15
    gt = need("data/icdar2015/test/gt.zip")
    capsys.readouterr()
    scores = [score(monkeypatch, capsys, "--results", f"detections/{name}", "--gt", gt) for name in RESULTS]
    assert all(one == scores[0] for one in scores)
    assert scores[0]["rrc"]["precision"] > 0.7


def test_the_commands_of_the_page(here, model, monkeypatch, capsys):
    """Every `$ dbnet` of docs/detect.md, in one folder one after the other, and what it says that they print."""
    shutil.copy(model, here / "model.ckpt")
    write_labels(here / "gt")
    for folder in ("a", "b"):
        write_photos(here / "archive" / folder, 2)
    detector(here / "ch_PP-OCRv4_det_infer.onnx", graph="Model from PaddlePaddle.")
    detector(here / "detector.onnx", output="probs", more=["thresh"])
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs/detect.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = re.findall(r"^\$ dbnet (.*?)(?:  #.*)?$", "".join(blocks), re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        dbnet(monkeypatch, *shlex.split(command))
    said = capsys.readouterr()
    assert "rrc" in said.out
    assert "no submit.zip" in said.err


def test_the_models_own_settings_are_used(here, model, monkeypatch):
    dbnet(monkeypatch, "detect", "photos/img_1.png", "-m", model, "--only", "json")
    settings = report()["settings"]
    assert settings["pixels"]["size"] == list(SPEC.pixels.size)
    assert settings["boxes"]["binary_thresh"] == SPEC.boxes.binary_thresh
    assert settings["spec"] == SPEC.name
