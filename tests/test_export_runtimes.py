"""Exported files in the runtimes that they are for: the same boxes as the source, in environments of their own.

Trained models on photographs say what a user gets. Seeded networks have noise for a map, so that boxes sit near every
threshold: of those the maps are evidence, and boxes only together with them.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.delivery_note import read_delivery
from converters.load import load_model
from dbnet.datasets.drawn import draw
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, BoxRule, PixelFormat
from evaluation.delivery.rapidocr import BOXES, PIXELS
from evaluation.detect import detect
from evaluation.runners import open_runner
from tests.running import dbnet
from tests.runtimes import runtime

ROOT = Path(__file__).parents[1]
EMBEDDED = "dbnet/embedded/dbnet_mobilenetv3.safetensors"
PADDLE = "weights/db_mv3_icdar15.pdparams"
#: Held back: photographs that nothing here was tuned on.
PHOTOGRAPHS = [f"data/icdar2015/test/images/img_{i}.jpg" for i in (108, 118, 150, 163, 188)]
#: What OpenCV 4 refuses.
DEFORMABLE = [name for name, spec in SPECS.items() if spec.deformable != "none"]
#: RapidOCR as its users call it, the detector alone.
_RAPID = """
import json, sys
import cv2
from rapidocr_onnxruntime import RapidOCR
model, *images = sys.argv[1:]
engine = RapidOCR(det_model_path=model)
found = {}
for path in images:
    boxes, _ = engine(cv2.imread(path), use_cls=False, use_rec=False)
    found[path] = [] if boxes is None else [[[float(x) for x in point] for point in box] for box in boxes]
print(json.dumps(found))
"""


_DB_API = """
import json, sys
import cv2
from dbnet.spec import BoxRule, PixelFormat
from evaluation.opencv_db import db_api_boxes
pixels, boxes = json.loads(sys.stdin.read())
pixels = {name: tuple(value) if isinstance(value, list) else value for name, value in pixels.items()}
model, *images = sys.argv[1:]
found = {path: sorted(quad.astype(int).tolist() for quad, _ in db_api_boxes(
    model, cv2.imread(path), PixelFormat(**pixels), BoxRule(**boxes))) for path in images}
print(json.dumps(found))
"""


def export(model: Path, out: Path, *arguments: object) -> list[dict]:
    """The rows of the comparison, but for RapidOCR itself, which has an environment of its own here."""
    rows = json.loads(dbnet("export", model, out, *arguments, "--json", "-").stdout)["checked"]
    return [row for row in rows if row["runner"] != "rapidocr"]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeded")

    def make(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            converters.save_weights(seeded_weights(SPECS[name], 3), path, spec=name)
        return path

    return make


@pytest.fixture(params=[EMBEDDED, PADDLE], ids=["embedded", "paddle"])
def trained(request, need):
    return ROOT / EMBEDDED if request.param == EMBEDDED else need(PADDLE)


@pytest.fixture
def photographs(need):
    return [need(path) for path in PHOTOGRAPHS]


def runners(opencv: bool) -> list[str]:
    names = [f"onnxruntime@{runtime('onnxruntime-1.15')}", f"onnxruntime@{runtime('rapidocr')}", "openvino"]
    return [*names, f"opencv@{runtime('opencv-5')}"] if opencv else names


def given(names: list[str]) -> list[str]:
    return [part for name in names for part in ("--check-in", name)]


def require_same_boxes(rows: list[dict], least: int) -> None:
    for row in rows:
        assert row["why"] is None, row
        assert row["boxes"] >= least, row
        assert (row["same"], row["lost"], row["invented"]) == (row["boxes"], 0, 0), row


# Every spec, seeded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "dbnet_mobilenetv3" else pytest.mark.long)
                                  for name in SPECS])
@pytest.mark.parametrize("target", ["openvino", "opencv", *(
    pytest.param(target, marks=pytest.mark.long) for target in ("onnx", "rapidocr"))])
def test_every_network_in_every_runtime(name, target, seeded, tmp_path):
    """Within what the command asks for; OpenCV 4 and 5, ONNX Runtime 1.15 and today's, OpenVINO."""
    pytest.importorskip("openvino")
    suffix = ".xml" if target == "openvino" else ".onnx"
    own = {"onnx": ["onnxruntime"], "openvino": ["openvino"], "rapidocr": ["onnxruntime"], "opencv": ["opencv"]}[target]
    others = runners(opencv=True) if suffix == ".onnx" else []
    if target == "opencv" and name not in DEFORMABLE:
        others = [*others, "opencv"]
    size = ["--data-shape", 96, 160] if target == "opencv" else []
    rows = export(seeded(name), tmp_path / f"model{suffix}", "--target", target, *size, *given([*own, *others] if not (
        target == "opencv" and name in DEFORMABLE) else others))
    assert len(rows) >= (1 if suffix == ".xml" else 4)
    for row in rows:
        assert row["why"] is None
        if row["runner"] != "TextDetectionModel_DB":
            assert row["noise"] <= 1e-4 and row["images"] <= 5e-4


# Trained, on photographs ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("target", ["onnx", "rapidocr"])
def test_the_same_boxes_on_photographs(target, trained, photographs, tmp_path):
    images = [part for path in photographs for part in ("--images", path)]
    rows = export(trained, tmp_path / "det.onnx", "--target", target, *images,
                  *given(["onnxruntime", *runners(opencv=target == "onnx")]))
    require_same_boxes(rows, 10)


@pytest.mark.long
def test_the_same_boxes_in_openvinos_own_format(trained, photographs, tmp_path):
    pytest.importorskip("openvino")
    images = [part for path in photographs for part in ("--images", path)]
    require_same_boxes(export(trained, tmp_path / "det.xml", *images), 10)


@pytest.mark.long
def test_the_same_boxes_in_opencv(trained, photographs, tmp_path):
    images = [part for path in photographs for part in ("--images", path)]
    rows = export(trained, tmp_path / "det.onnx", "--target", "opencv", *images,
                  *given(["opencv", f"opencv@{runtime('opencv-5')}", f"opencv@{runtime('onnxruntime-1.15')}"]))
    require_same_boxes(rows, 10)


@pytest.mark.long
@pytest.mark.parametrize("environment", ["opencv-5", "onnxruntime-1.15"])
def test_opencvs_db_api_finds_the_sources_boxes(environment, trained, photographs, tmp_path):
    """By OpenCV 5.0 and 4.10, where nothing of ours makes the boxes; the source's by the rule `opencv` in this one."""
    dbnet("export", trained, tmp_path / "det.onnx", "--target", "opencv")
    note = read_delivery(tmp_path / "det.onnx")
    done = subprocess.run([runtime(environment), "-c", _DB_API, str(tmp_path / "det.onnx"), *map(str, photographs)],
                          capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          input=json.dumps([asdict(note.pixels), asdict(note.boxes)]))
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = source_boxes(trained, photographs, note.pixels, note.boxes)
    assert sum(map(len, ours.values())) >= 10
    assert from_one_corner(theirs) == from_one_corner(ours)


def from_one_corner(found: dict[str, list]) -> dict[str, list]:
    """Which corner of a rectangle is OpenCV's first depends on its version."""
    def turned(quad: list) -> list:
        begin = quad.index(min(quad))
        return quad[begin:] + quad[:begin]
    return {path: sorted(map(turned, quads)) for path, quads in found.items()}


def rapidocr_boxes(model: Path, images: list[Path]) -> dict[str, list[list[list[int]]]]:
    done = subprocess.run([runtime("rapidocr"), "-c", _RAPID, str(model), *map(str, images)], capture_output=True,
                          text=True, check=True)
    return {path: sorted([[int(x), int(y)] for x, y in box] for box in boxes)
            for path, boxes in json.loads(done.stdout.splitlines()[-1]).items()}


def source_boxes(model: Path, images: list[Path], pixels: PixelFormat, boxes: BoxRule) -> dict[str, list]:
    """Of the model itself, with the geometry of these pixels, under that rule."""
    own = load_model(model).record.spec.pixels
    pixels = replace(pixels, colour=own.colour, mean=own.mean, std=own.std)
    runner = open_runner(model, "onnxruntime", stages=("probability",))
    return {str(path): sorted(np.asarray(found.polygon).astype(int).tolist() for found in
                              detect(runner, cv2.imread(str(path)), pixels, boxes)) for path in images}


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.long)], ids=["drawn", "photographs"])
def test_rapidocr_itself_finds_the_sources_boxes(many, request, tmp_path):
    model = ROOT / EMBEDDED
    runtime("rapidocr")
    if many:
        images = request.getfixturevalue("photographs")
    else:
        images = [tmp_path / f"{seed}.png" for seed in (7, 8)]
        for seed, path in zip((7, 8), images, strict=True):
            cv2.imwrite(str(path), draw(seed, 480, 640)[0])
    dbnet("export", model, tmp_path / "det.onnx", "--target", "rapidocr")
    ours = source_boxes(model, images, PIXELS, BOXES)
    assert sum(map(len, ours.values())) >= 8
    assert rapidocr_boxes(tmp_path / "det.onnx", images) == ours


@pytest.mark.long
def test_rapidocr_with_paddles_network(need, photographs, tmp_path):
    model = need(PADDLE)
    dbnet("export", model, tmp_path / "det.onnx", "--target", "rapidocr")
    assert rapidocr_boxes(tmp_path / "det.onnx", photographs) == \
        source_boxes(model, photographs, PIXELS, BOXES)


# Refused --------------------------------------------------------------------------------------------------------------


def test_opencv_4_refuses_deformable_networks_and_opencv_5_does_not(seeded, tmp_path):
    model, out = seeded("dbnet_resnet18_deformable"), tmp_path / "d.onnx"
    size = ("--target", "opencv", "--data-shape", 96, 160)
    told = dbnet("export", model, out, *size, "--check-in", "opencv@" + str(runtime("onnxruntime-1.15")), code=3).stderr
    assert "kept as d.onnx.refused" in told and "from 5 on" in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d.onnx.refused"]
    row, api = export(model, out, *size, "--check-in", "opencv@" + str(runtime("opencv-5")))
    assert row["runtime"].startswith("OpenCV 5") and row["noise"] <= 1e-4
    assert api["runtime"].startswith("TextDetectionModel_DB of OpenCV 5")


def test_onnxruntime_1_15_refuses_deformconv(seeded, tmp_path):
    model, out = seeded("dbnet_resnet18_deformable"), tmp_path / "d.onnx"
    told = dbnet("export", model, out, "--deformable", "native", "--check-in",
                 f"onnxruntime@{runtime('onnxruntime-1.15')}", code=3).stderr
    assert "kept as d.onnx.refused" in told and "leave out --deformable" in told
    assert not out.exists()
