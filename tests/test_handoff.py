"""The hand-off: its folder, what it holds, and its proof in Python. The example in C++: test_handoff_cpp.py."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import shutil
import unittest
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.runner import Runner

from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import input_size, prepare, read_image
from dbnet.spec import PADDLE_PIXELS, ResizeRule
from evaluation.delivery.handoff import write_handoff
from evaluation.delivery.handoff_rules import resize_of
from evaluation.runners import OnnxRuntimeRunner, archive
from tests.handoffs import EMBEDDED, SMALL, deliver, hand_off, loaded, verified


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(EMBEDDED, tmp_path_factory.mktemp("model"), pixels=SMALL)


@pytest.fixture(scope="module")
def handoff(model, tmp_path_factory) -> Path:
    """Of the embedded model, with the drawn scenes."""
    return hand_off(model, tmp_path_factory.mktemp("handoff") / "drawn")


@pytest.fixture(scope="module")
def delivered(model, tmp_path_factory):
    return deliver(model, tmp_path_factory.mktemp("delivered"))


@pytest.fixture
def image(tmp_path) -> Path:
    cv2.imwrite(str(tmp_path / "a.png"), draw(3, 200, 300)[0])
    return tmp_path / "a.png"


@pytest.fixture
def unproved(monkeypatch):
    """Without verify.py's run at the end, which takes most of the time."""
    monkeypatch.setattr("evaluation.delivery.handoff._proved", lambda *_: "")


@pytest.fixture
def copy(handoff, tmp_path) -> Path:
    shutil.copytree(handoff, tmp_path / "copy")
    return tmp_path / "copy"


def boxes_of(folder: Path) -> dict:
    return json.loads((folder / "boxes.json").read_text(encoding="utf-8"))


def array_of(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


# The folder -----------------------------------------------------------------------------------------------------------


def test_the_folder_is_whole(handoff):
    sums = dict(reversed(line.split("  ")) for line in (handoff / "SHA256SUMS").read_text().splitlines())
    there = {path.relative_to(handoff).as_posix(): path for path in handoff.rglob("*") if path.is_file()}
    assert set(sums) == set(there) - {"SHA256SUMS", ".dbnet-handoff.json"}
    assert all(hashlib.sha256(there[name].read_bytes()).hexdigest() == digest for name, digest in sums.items())
    each = {"input_0.pb", "output_0.pb", "resized.png", "boxes.json"}
    assert set(there) == {"SHA256SUMS", ".dbnet-handoff.json", "README.md", "preprocess.json", "verify.py",
                          "model.onnx", "detect.cpp", "network.hpp", "check.hpp", "CMakeLists.txt",
                          *(f"images/scene_{i}.png" for i in range(3)),
                          *(f"test_data_set_{i}/{name}" for i in range(3) for name in each)}


def test_the_data_are_the_source_models(handoff, model):
    """Bit for bit what our own preparing and our own graph give, and the boxes with them."""
    spec = model.record.spec
    runner = OnnxRuntimeRunner(archive(spec, model.weights, False), spec)
    for number in range(3):
        folder = handoff / f"test_data_set_{number}"
        image, told = read_image(handoff / f"images/scene_{number}.png"), boxes_of(folder)
        ready = prepare(image, spec.pixels)
        assert np.array_equal(array_of(folder / "input_0.pb"), ready.tensor)
        probability = runner.run(ready.tensor)["probability"]
        assert np.allclose(array_of(folder / "output_0.pb"), probability, rtol=0, atol=1e-6)
        found = boxes_from_map(probability[0, 0], **asdict(spec.boxes), resized_size=ready.resized_size,
                               original_size=ready.original_size)
        assert [entry["polygon"] for entry in told["detections"]] == [box.polygon.tolist() for box in found]
        assert len(found) >= 4 and told["original_size"] == [*image.shape[:2]]
        assert cv2.imread(str(folder / "resized.png")).shape[:2] == tuple(told["resized_size"]) == ready.resized_size
        assert [onnx.TensorProto.FromString((folder / file).read_bytes()).name
                for file in ("input_0.pb", "output_0.pb")] == ["image", "probability"]


def test_onnxs_own_backend_test_reads_and_passes_it(handoff, monkeypatch):
    """onnx.backend.test, which the layout is for, with ONNX Runtime as the backend."""
    backend = pytest.importorskip("onnxruntime.backend")
    case = TestCase("test_handoff", "handoff", None, str(handoff), None, None, "real", 1e-3, 1e-4)
    monkeypatch.setattr("onnx.backend.test.runner.load_model_tests", lambda kind: [case] * (kind == "real"))
    tests = Runner(backend, "tests.test_handoff").test_cases["OnnxBackendRealModelTest"]
    result = unittest.TestResult()
    tests("test_handoff_cpu").run(result)
    assert (result.testsRun, result.errors, result.failures, result.skipped) == (1, [], [], [])
    case.model_dir = str(handoff.parent / "broken")
    shutil.copytree(handoff, case.model_dir)
    wrong = numpy_helper.from_array(array_of(handoff / "test_data_set_2/output_0.pb") * np.float32(0.99))
    (handoff.parent / "broken/test_data_set_2/output_0.pb").write_bytes(wrong.SerializeToString())
    tests("test_handoff_cpu").run(result)
    assert len(result.failures) == 1 and "Not equal to tolerance" in result.failures[0][1]


def test_photographs_stay_where_they_are(model, delivered, tmp_path, unproved):
    """Only their resized pictures and names are handed over; beside the originals everything is checked."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    images = [tmp_path / "a/größe '1'.png", tmp_path / "b/größe '1'.png"]
    for seed, path in enumerate(images, 5):
        path.write_bytes(cv2.imencode(".png", draw(seed, 200, 300)[0])[1].tobytes())
    folder, name = tmp_path / "out", tmp_path / 'it\'s """x""" $(y) \\.onnx'  # whatever it is called
    shutil.copy(delivered.path, name)
    write_handoff(folder, replace(delivered, path=name, files=(name,)), model, images, force=False)
    assert [boxes_of(folder / f"test_data_set_{i}")["file"] for i in range(2)] == ["a/größe '1'.png", "b/größe '1'.png"]
    assert [path.name for path in (folder / "images").iterdir()] == ["README.txt"]
    ast.parse((folder / "verify.py").read_text(encoding="utf-8"))
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    (folder / "images/a").mkdir()
    shutil.copy(images[0], folder / "images/a")
    done = verified(folder)
    assert done.returncode == 0 and re.findall("input from (.*) same", done.stdout) == [
        "resized.png", "a/größe '1'.png", "resized.png"]


def test_a_file_that_no_python_package_runs(model, delivered, image, tmp_path):
    """A .mindir, by its outputs; an .om, by the .onnx that it was made from."""
    mindir = tmp_path / "model.mindir"
    mindir.write_bytes(b"graph")
    told = write_handoff(tmp_path / "h", replace(delivered, path=mindir, files=(mindir,), target="mindir"), model,
                         [image], force=False)
    assert "no example in C++: neither OpenCV nor OpenVINO runs a .mindir file" in told
    assert not (tmp_path / "h/detect.cpp").exists() and (tmp_path / "h/preprocess.json").is_file()
    done = verified(tmp_path / "h")
    assert done.returncode == 3 and "model.mindir runs in none of the runtimes here" in done.stderr
    om = replace(delivered, path=tmp_path / "model.om", files=(tmp_path / "model.om", delivered.path), target="om")
    om.path.write_bytes(b"chip")
    told = write_handoff(tmp_path / "o", om, model, [image], force=False)
    assert any("verify.py passes in onnxruntime" in line for line in told) and (tmp_path / "o/detect.cpp").is_file()
    assert "detect model.onnx --check" in (tmp_path / "o/README.md").read_text(encoding="utf-8")


def test_a_name_that_is_no_text_is_refused(model, delivered, tmp_path):
    for path, images in ((tmp_path / "a\nb.onnx", []), (delivered.path, [tmp_path / "a\tb.png"])):
        with pytest.raises(DbnetError, match="its name is no plain text"):
            write_handoff(tmp_path / "h", replace(delivered, path=path, files=(path,)), model, images, force=False)
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(("prepared", "told"), [
    (lambda folder: [folder / "none.png"], "none.png: cannot be read"),
    (lambda folder: [folder / "bad.png"], "bad.png: not an image"),
    (lambda folder: [folder / "long.png"], "long.png: an image of 1 x 9000 pixels"),
    (lambda folder: [folder / "long.png"] * 2, "given twice"),
    (lambda folder: [folder / "strip.png"], "strip.png: an image of 5 x 330 pixels becomes 352 x 23264 by"),
])
def test_what_cannot_be_proved_with_leaves_nothing(model, delivered, tmp_path, prepared, told):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((1, 9000, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros((5, 330, 3), np.uint8))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DbnetError, match=re.escape(told)):
        write_handoff(tmp_path / "h", delivered, model, prepared(tmp_path), force=False)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_computes_something_else_is_not_handed_over(model, delivered, image, tmp_path):
    """The outputs are the source's, so its own verify.py finds out, before there is a folder."""
    other = {name: array * np.float32(1.01) for name, array in model.weights.items()}
    with pytest.raises(DbnetError, match=r"does not prove itself in onnxruntime: test_data_set_0: map DIFFERENT"):
        write_handoff(tmp_path / "h", delivered, replace(model, weights=other), [image], force=False)
    assert not (tmp_path / "h").exists()


def test_a_proof_without_boxes_says_so(model, delivered, tmp_path, unproved):
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((200, 300, 3), 128, np.uint8))
    told = write_handoff(tmp_path / "h", delivered, model, [tmp_path / "empty.png"], force=False)
    assert any(line.startswith("warning: the model finds no box in any of them") for line in told)


def test_a_suffix_in_capitals(model, delivered, image, tmp_path):
    """As .onnx: an example in C++, and verify.py in every runtime."""
    name = tmp_path / "M.ONNX"
    shutil.copy(delivered.path, name)
    told = write_handoff(tmp_path / "h", replace(delivered, path=name, files=(name,)), model, [image], force=False)
    assert any("verify.py passes in onnxruntime" in line for line in told) and (tmp_path / "h/detect.cpp").is_file()
    assert verified(tmp_path / "h", "--runtime", "opencv").returncode == 0


# verify.py ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "before", "after", "code", "told"), [
    ("preprocess.json", '"mean": [123.675', '"mean": [124.675', 1, "resized.png DIFFERENT"),
    ("preprocess.json", '"map_largest": 0.0001', '"map_largest": -1', 1, "map DIFFERENT"),
    ("verify.py", "math.ceil(", "math.floor(", 1, "input from scene_1.png DIFFERENT, largest difference inf"),
    ("preprocess.json", "model.onnx", "model.ms", 3, "NoSuchFile"),
])
def test_verify_finds(copy, file, before, after, code, told):
    text = (copy / file).read_text(encoding="utf-8")
    assert before in text
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")
    done = verified(copy)
    assert done.returncode == code and told in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert f"{file}: is missing, or not what was handed over" in done.stdout


def test_verify_without_a_runtime_or_with_a_damaged_file(copy):
    assert verified(copy, "--runtime", "tensorrt").returncode == 2
    (copy / "onnxruntime.py").write_text("raise ImportError(name='onnxruntime')")
    done = verified(copy)
    assert (done.returncode, done.stderr) == (3, "verify.py: onnxruntime is not installed: pip install numpy onnx "
                                                 "opencv-python onnxruntime\n")
    (copy / "onnxruntime.py").unlink()
    (copy / "test_data_set_1/output_0.pb").write_bytes(b"\xff" * 100)
    done = verified(copy)
    assert done.returncode == 3 and "DecodeError" in done.stderr and "test_data_set_1/output_0.pb: is mi" in done.stdout


def test_outputs_of_another_runtime_are_compared(copy, tmp_path):
    assert verified(copy, "--save-inputs", tmp_path / "npy").returncode == 0
    session = pytest.importorskip("onnxruntime").InferenceSession(str(copy / "model.onnx"))
    for number in range(3):
        given = session.run(None, {"image": np.load(tmp_path / f"npy/input_{number}.npy")})[0]
        np.save(tmp_path / f"npy/output_{number}.npy", given + (number == 2) * np.float32(0.001))
    done = verified(copy, "--outputs", tmp_path / "npy")
    assert done.returncode == 1
    assert re.findall(r"(\w+): map (\w+)", done.stdout) == [("test_data_set_0", "same"), ("test_data_set_1", "same"),
                                                           ("test_data_set_2", "DIFFERENT")]
    (tmp_path / "npy/output_1.npy").unlink()
    assert verified(copy, "--outputs", tmp_path / "npy").returncode == 3


def test_an_image_that_opencv_does_not_read_is_not_checked(copy):
    """A GIF, say: resized.png stands for it. (In SHA256SUMS this one would be damaged; a photograph is not in it.)"""
    (copy / "images/scene_1.png").write_bytes(b"GIF89a of another kind")
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if "scene_1.png" not in line))
    done = verified(copy)
    assert done.returncode == 0 and done.stdout.count(" same, ") == 8, done.stderr
    assert re.search(r"test_data_set_1: input from scene_1.png not checked, OpenCV \S+ cannot read", done.stdout)


@pytest.mark.parametrize("name", ["openvino", "opencv"])
def test_verify_in_another_runtime(handoff, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    done = verified(handoff, "--runtime", name)
    assert done.returncode == 0 and done.stdout.count("map same") == 3, done.stdout + done.stderr


# The rules in words and code ------------------------------------------------------------------------------------------


@given(st.sampled_from(get_args(ResizeRule)), st.integers(2, 5000), st.integers(2, 5000),
       st.sampled_from([(736, 736), (736, 1280), (1333, 736), (50, 70)]))
def test_the_resize_in_preprocess_json_is_ours(rule, height, width, size):
    pixels = replace(PADDLE_PIXELS, resize=rule, size=size)
    found = {"height": height, "width": width, "math": math}
    exec("\n".join(resize_of(pixels).python), found)  # our own lines
    try:
        expected = input_size(height, width, pixels)[0]
    except DbnetError:  # a size that no network takes; what the lines say is refused by every runtime too
        return
    assert (found["new_height"], found["new_width"]) == expected
