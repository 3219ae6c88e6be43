"""The hand-off's example in C++, compiled and run: the same boxes, on images that nothing was tuned to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.load import LoadedModel
from dbnet.datasets.drawn import draw
from dbnet.postprocess import boxes_from_map, default_boxes
from dbnet.preprocess import prepare, read_image
from dbnet.spec import IMAGENET_MEAN, IMAGENET_STD, SPECS, BoxRule, PixelFormat
from evaluation.runners import OnnxRuntimeRunner, archive
from parity.data import ROOT
from tests.handoffs import EMBEDDED, SMALL, built, checked, hand_off, loaded, model_of, run, wants_openvino

#: Of the data folder.
TRAINED = "weights/db_mv3_icdar15.pdparams"


def drawn(folder: Path, seeds: Sequence[int] = range(201, 206)) -> list[Path]:
    """Scenes of several sizes that no hand-off holds."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"held_back_{seed}.png" for seed in seeds]
    for path, seed in zip(paths, seeds, strict=True):
        cv2.imwrite(str(path), draw(seed, 300 + 37 * (seed % 5), 500 + 53 * (seed % 3))[0])
    return paths


def photographs(shared: Path, first: int = 3, step: int = 70) -> list[Path]:
    found = sorted((shared / "data/icdar2015/test/images").glob("*.jpg"), key=lambda path: (len(path.name), path.name))
    return found[first::step]


def assert_same_boxes(program: Path, handoff: Path, model: LoadedModel, images: Sequence[Path]) -> int:
    """Image files through the program, and through our own code. Returns the number of boxes."""
    spec = model.record.spec
    runner = OnnxRuntimeRunner(archive(spec, model.weights, False), spec)
    done = run(program, model_of(handoff), *images)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [*map(str, images)]
    count = 0
    for path, line in zip(images, lines, strict=True):
        ready = prepare(read_image(path, spec.pixels.ignore_orientation), spec.pixels)
        rule = asdict(replace(spec.boxes, box_type="quad"))
        wanted = boxes_from_map(runner.run(ready.tensor)["probability"][0, 0], **rule, resized_size=ready.resized_size,
                                original_size=ready.original_size)
        theirs = line["boxes"]
        assert len(wanted) == len(theirs)
        for box, other in zip(wanted, theirs, strict=True):
            turns = [np.abs(box.polygon - np.roll(other["polygon"], turn, axis=0)).max() for turn in range(4)]
            assert min(turns) <= 2 if rule["rule"] == "mmocr" else turns[0] <= 0.01
            assert box.score == pytest.approx(other["score"], abs=0.01)
        count += len(wanted)
    return count


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LoadedModel:
    return loaded(EMBEDDED, tmp_path_factory.mktemp("model"), pixels=SMALL)


@pytest.fixture(scope="module")
def handoff(model, tmp_path_factory) -> Path:
    return hand_off(model, tmp_path_factory.mktemp("cpp") / "embedded")


@pytest.fixture(scope="module")
def program(handoff) -> Path:
    return built(handoff)


def test_the_embedded_model(handoff, program, model, tmp_path):
    """Its scenes, from the resized pictures and from the images; and five that it was not handed over with."""
    done = checked(handoff, program)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [tuple(map(int, found)) for found in re.findall(r": same, (\d+) of (\d+) boxes", done.stdout)]
    assert len(told) == 6 and all(same == of >= 4 for same, of in told)
    assert assert_same_boxes(program, handoff, model, drawn(tmp_path / "images")) >= 20


@pytest.mark.long
def test_the_trained_model_on_photographs(need, shared, tmp_path):
    """PaddleOCR's pixels and boxes; the photographs lie beside the hand-off, then not."""
    model, images = loaded(need(TRAINED), tmp_path), photographs(shared)
    folder = hand_off(model, tmp_path / "out", images[:1])
    program = built(folder)
    assert assert_same_boxes(program, folder, model, images[1:]) >= 5
    done = checked(folder, program)
    assert done.returncode == 0 and "not checked, the image is not in images/" in done.stdout
    (folder / "images" / images[0].name).write_bytes(images[0].read_bytes())
    done = checked(folder, program)
    assert done.returncode == 0 and len(re.findall(": same", done.stdout)) == 2, done.stdout


OTHER = {"polygon": [[1, 1], [9, 1], [9, 9], [1, 9]], "score": 0.7}
#: What is done to the boxes that are wanted, whether that is found, and what is printed.
EDITS = [
    (lambda boxes: None, True, "same, 9 of 9 boxes"),
    (lambda boxes: boxes.insert(1, {**OTHER, "score": 0.605}), True, "so near to the threshold that it does not count"),
    (lambda boxes: boxes.insert(1, OTHER), False, "missing [[1, 1], [9, 1]"),
    (lambda boxes: boxes.insert(1, {**OTHER, "score": 0.55}), False, "missing [[1, 1], [9, 1]"),
    (lambda boxes: boxes.pop(1), False, "only here"),
    (lambda boxes: boxes.reverse(), False, "only here"),
    (lambda boxes: boxes[0]["polygon"][2].__setitem__(0, boxes[0]["polygon"][2][0] + 1), False, "8 of 9 boxes"),
    (lambda boxes: boxes[0].__setitem__("score", boxes[0]["score"] - 0.02), False, "8 of 9 boxes"),
    (lambda boxes: boxes.clear(), False, "DIFFERENT, 0 of 0 boxes"),
]


def test_a_wrong_box_is_told_and_a_doubtful_one_not_counted(handoff, program, tmp_path):
    """check.hpp against edited boxes.json: order, corners, scores, boxes too many and too few."""
    wanted = json.loads((handoff / "test_data_set_0/boxes.json").read_text())
    for number, (change, _, _) in enumerate(EDITS):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "resized.png").symlink_to(handoff / "test_data_set_0/resized.png")
        boxes = json.loads(json.dumps({**wanted, "file": f"edit_{number}"}))
        change(boxes["detections_of_resized"])
        (tmp_path / str(number) / "boxes.json").write_text(json.dumps(boxes, indent=1))
    done = run(program, model_of(handoff), "--check", *(tmp_path / str(number) for number in range(len(EDITS))))
    assert done.returncode == 1
    for number, (_, same, told) in enumerate(EDITS):
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"edit_{number} (resized.png): ")]
        assert any(told in line for line in lines), (number, lines)
        assert (": same, " in lines[-1], ": DIFFERENT, " in lines[-1]) == (same, not same), (number, lines)


def test_what_the_program_says_when_it_cannot(handoff, program, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    scene = handoff / "images/scene_0.png"
    for arguments, code, told in (((), 2, "detect MODEL IMAGE..."), ((model_of(handoff), "--check"), 2, "--check"),
                                  ((model_of(handoff), tmp_path / "text.png"), 3, "is no image that OpenCV can read"),
                                  ((model_of(handoff), tmp_path / "none.png"), 3, "is no image that OpenCV can read"),
                                  ((tmp_path / "none.onnx", scene), 3, "none.onnx"),
                                  ((model_of(handoff), "--check", tmp_path), 3, "boxes.json: cannot be read")):
        done = run(program, *arguments)
        assert done.returncode == code and told in done.stderr, done.stderr


def test_an_image_that_opencv_does_not_read_is_not_checked(handoff, program, tmp_path):
    """A GIF, say, put into images/: its resized.png stands for it."""
    shutil.copytree(handoff / "test_data_set_0", tmp_path / "test_data_set_0")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/scene_0.png").write_bytes(b"GIF89a of another kind")
    done = run(program, model_of(handoff), "--check", tmp_path / "test_data_set_0")
    assert done.returncode == 0 and "scene_0.png (resized.png): same" in done.stdout, done.stderr
    assert "scene_0.png: not checked, OpenCV cannot read that file" in done.stdout


def mutated(handoff: Path, folder: Path, before: str, after: str) -> Path:
    """The same hand-off in another folder, with another constant in the example."""
    folder.mkdir()
    for path in handoff.iterdir():
        (folder / path.name).symlink_to(path)
    text = (handoff / "detect.cpp").read_text()
    assert text.count(before) == 1, before
    (folder / "detect.cpp").unlink()
    (folder / "detect.cpp").write_text(text.replace(before, after))
    return folder


MUTATIONS = [
    ("= area * 1.5 /", "= area * 1.6 /"), ("score < 0.6", "score < 0.87"), (">= 0.3", ">= 0.4"), ("57.12f", "67.12f"),
    ("2 - c", "c"), ("352.0 / std::min", "320.0 / std::min"), ("std::trunc(point.x)", "std::round(point.x + 1)"),
    ("    image.convertTo(result, CV_32F);", "    image(cv::Rect(0, 0, width - 4, height)).convertTo(result, CV_32F);"),
    ("original.width - 1.f", "99.f"), ("bitmap(bounds)", "bitmap(bounds) * 0 + 255"),
]


@pytest.mark.parametrize(("before", "after"), [MUTATIONS[0], *(pytest.param(*mutation, marks=pytest.mark.long)
                                                              for mutation in MUTATIONS[1:])])
def test_a_wrong_constant_is_found(handoff, tmp_path, before, after):
    folder = mutated(handoff, tmp_path / "handoff", before, after)
    done = checked(folder, built(folder))
    assert done.returncode == 1 and "DIFFERENT" in done.stdout, done.stdout


# Every rule, every target, every network ------------------------------------------------------------------------------


def ours(rule: str, **changes: object) -> BoxRule:
    return replace(default_boxes(rule), **changes)


def pixels(resize: str, *size: int, **changes: object) -> PixelFormat:
    return PixelFormat("RGB", IMAGENET_MEAN, IMAGENET_STD, resize, size, **changes)


#: In which a weight of the embedded model has no room otherwise.
HALF = {"precision": "fp16", "keep_float32": ("head.segm.1",)}
VARIANTS = {
    "mhliao": {"boxes": ours("mhliao")},
    "mhliao, polygons": {"boxes": replace(default_boxes("mhliao", "poly"))},
    "mindocr, polygons": {"boxes": ours("mindocr", box_type="poly")},
    "paddle, slow and dilated": {"boxes": ours("paddle", score_mode="slow", dilation=True)},
    "paddle, few": {"boxes": ours("paddle", max_candidates=3, box_thresh=0.0)},
    "mmocr": {"boxes": ours("mmocr"), "pixels": pixels("fit_pad_after", 352, 640, ignore_orientation=True)},
    "opencv": {"boxes": ours("opencv")},
    "opencv, all": {"boxes": ours("opencv", box_thresh=0.0, binary_thresh=0.02)},
    "mmocr, all": {"boxes": ours("mmocr", box_thresh=0.0, binary_thresh=0.02)},
    "low thresholds": {"boxes": ours("mindocr", box_thresh=0.05, binary_thresh=0.05, unclip_ratio=0.3)},
    **{resize: {"pixels": pixels(resize, *size)} for resize, size in (
        ("stretch", (352, 640)), ("keep_ratio_pad", (352, 640)), ("short_side_min", (480, 480)),
        ("limit_max", (480, 480)), ("limit_min", (352, 352)), ("keep_ratio", (352, 640)), ("grid", (1, 1)))},
}


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_every_rule(tmp_path, name):
    model = loaded(EMBEDDED, tmp_path, **{"pixels": SMALL, **VARIANTS[name]})
    folder = hand_off(model, tmp_path / "out")
    program = built(folder)
    done = checked(folder, program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert assert_same_boxes(program, folder, model, drawn(tmp_path / "images")) >= (12 if "few" in name else 15)


@pytest.mark.long
@pytest.mark.parametrize("settings", [
    {"output": "logits"}, {"data_shape": (352, 640)}, {"data_shape": (352, 640), "batch": 2}, {"batch": 3},
    {"target": "rapidocr"}, {"target": "opencv", "data_shape": (352, 640)}, HALF,
    {"target": "openvino", "suffix": ".xml"}, {"target": "openvino", "suffix": ".xml", **HALF},
], ids=str)
def test_every_target(tmp_path, settings):
    if settings.get("target") == "openvino":
        pytest.importorskip("openvino")
    model = loaded(EMBEDDED, tmp_path, pixels=SMALL)
    folder = hand_off(model, tmp_path / "out", **settings)
    assert wants_openvino(folder) == (settings.get("target") in ("openvino", "rapidocr") or "precision" in settings)
    done = checked(folder, built(folder, wants_openvino(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(of) for of in re.findall(r": same, \d+ of (\d+) boxes", done.stdout)) >= 24


@pytest.mark.long
@pytest.mark.parametrize("name", SPECS)
def test_every_network(tmp_path, name):
    """Seeded weights, whose maps are noise, with a threshold that leaves boxes; OpenVINO where OpenCV 4.6 refuses."""
    spec = SPECS[name]
    small = replace(spec.pixels, size=(160, 256))
    model = loaded(replace(spec, pixels=small), tmp_path)
    probability = OnnxRuntimeRunner(archive(spec, model.weights, False), spec).run(
        prepare(draw(101, 360, 640)[0], small).tensor)["probability"]
    choices = [replace(spec.boxes, binary_thresh=float(np.quantile(probability, share).round(4)), box_thresh=0.0)
               for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
    boxes = max(choices, key=lambda choice: len(boxes_from_map(probability[0, 0], **asdict(choice))))
    model = loaded(replace(spec, pixels=small, boxes=boxes), tmp_path)
    folder = hand_off(model, tmp_path / "out")
    assert wants_openvino(folder) == ("deformable" in name or "pp_" in name)
    done = checked(folder, built(folder, wants_openvino(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(of) for of in re.findall(r": same, \d+ of (\d+) boxes", done.stdout)) >= 6


@pytest.mark.long
def test_the_page_s_commands(tmp_path):
    """docs/handoff.md, as they stand, cmake among them."""
    built_with = [shutil.which(name) for name in ("cmake", "g++")]
    if not all(built_with) or run("pkg-config", "--exists", "opencv4").returncode:
        pytest.skip("needs cmake, g++ and OpenCV's C++: apt-get install cmake g++ libopencv-dev")
    model = loaded(EMBEDDED, tmp_path, pixels=SMALL)
    converters.save_weights(model.weights, tmp_path / "model.ckpt", spec=model.record.spec)
    drawn(tmp_path / "photos", (211, 212))
    page = (ROOT / "docs/handoff.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.*)", page, re.MULTILINE)
    assert len(commands) == 5  # each is run in the same folder
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False,
                              env={**os.environ, "PATH": path})
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert len(re.findall(": same, ", done.stdout)) == 2 and "held_back_211.png (resized.png): same" in done.stdout
