"""cv2.dnn: the maps of ONNX Runtime to a few last digits, at every size; what it refuses is one line that offers."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters import onnx_file
from dbnet.errors import DbnetError
from dbnet.portable import copy_modules
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.silence import silent_stderr
from dbnet.spec import SPECS, STAGES
from evaluation import opencv_runner
from evaluation.graph_files import OtherGraphError
from evaluation.onnx_inputs import read_graph
from evaluation.onnx_runner import OnnxRuntimeRunner
from evaluation.opencv_runner import OpenCvRunner
from tests.runtimes import runtime
from tests.test_openvino_runner import graph, matrix

SMALL = SPECS["dbnet_mobilenetv3"]
#: Winograd's transforms, which OpenCV uses for 3x3 kernels, cost a digit: of the largest value of a stage.
NEAR = 2e-4
#: Runs files at one size after the other and keeps the maps.
ELSEWHERE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import cv2
import numpy as np
from dbnet.errors import DbnetError
from dbnet.spec import SPECS
from evaluation.opencv_runner import OpenCvRunner
found, said = {}, {}
for path in sys.argv[3:]:
    try:
        runner = OpenCvRunner(path, SPECS["dbnet_mobilenetv3"])
        for name, images in np.load(sys.argv[2] + "/in.npz").items():
            found[path + ":" + name] = runner.run(images)["probability"]
    except DbnetError as error:
        said[path] = str(error)
np.savez(sys.argv[2] + "/out.npz", **found)
print(json.dumps([cv2.__version__, said]))
"""


@pytest.fixture(scope="module")
def small():
    return graph(form="delivery")


def delivery(name, **choices):
    spec, stream = SPECS[name], io.BytesIO()
    onnx_file.write(stream, seeded_weights(spec, 1), spec, None, form="delivery", **choices)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["dbnet_resnet18", "dbnetpp_resnet50", "db_mv3_ppocrv3"])
def test_every_stage_is_onnx_runtimes(name):
    content, images = delivery(name, stages=True), seeded_images(2, 64, 96)
    found = OpenCvRunner(content, SPECS[name], stages=None).run(images)
    expected = OnnxRuntimeRunner(content, SPECS[name], stages=None).run(images)
    assert tuple(found) == STAGES
    for stage, map_ in found.items():
        assert map_.dtype == np.float32 and map_.shape == expected[stage].shape
        assert np.abs(map_ - expected[stage]).max() < NEAR * np.abs(expected[stage]).max(), stage
    [fused] = OpenCvRunner(content, SPECS[name], stages=("fused",)).run(images).values()
    np.testing.assert_array_equal(fused, found["fused"])


def test_sizes_in_a_row():
    """One net of OpenCV 4 gives maps wrong by up to 1 at its second size."""
    content = delivery("dbnet_resnet18")
    runner, exact = OpenCvRunner(content, SMALL), OnnxRuntimeRunner(content, SMALL)
    for count, height, width in ((1, 96, 160), (1, 64, 96), (3, 32, 224), (1, 96, 160), (1, 64, 96)):
        images = seeded_images(count, height, width)
        difference = np.abs(runner.run(images)["probability"] - exact.run(images)["probability"]).max()
        assert difference < 1e-4, (count, height, width)
    assert len(runner._nets) <= opencv_runner._SIZES


@pytest.mark.parametrize("choices", [{"data_shape": (64, 96)}, {}])
def test_an_output_without_n_and_c(choices):
    content, images = matrix(form="delivery", opset=13, **choices), seeded_images(2, 64, 96)
    found = OpenCvRunner(content, SMALL).run(images)["probability"]
    assert found.shape == (2, 1, 64, 96)
    expected = OnnxRuntimeRunner(delivery(SMALL.name), SMALL).run(images)["probability"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_threads_are_its_own_and_given_back(small):
    images = seeded_images(1, 64, 96)
    one, many = OpenCvRunner(small, SMALL, threads=1), OpenCvRunner(small, SMALL)
    before = cv2.getNumThreads()
    np.testing.assert_array_equal(one.run(images)["probability"], many.run(images)["probability"])
    assert cv2.getNumThreads() == before
    assert one.environment()["threads"] == 1 and many.environment()["version"] == cv2.__version__
    assert one.at_once == 1


def test_from_a_path(small, tmp_path):
    (tmp_path / "m.onnx").write_bytes(small)
    images = seeded_images(1, 64, 96)
    np.testing.assert_array_equal(OpenCvRunner(tmp_path / "m.onnx", SMALL).run(images)["probability"],
                                  OpenCvRunner(small, SMALL).run(images)["probability"])


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "said"), [
    ("native", "no OpenCV reads DeformConv: export it with --deformable decomposed, which OpenCV 5 reads"),
    ("decomposed", r"run it in OpenCV 5 \(--runner opencv@PYTHON\), onnxruntime or openvino")])
def test_deformable_convolutions(capfd, form, said):
    if not opencv_runner._ONE_SIZE_PER_NET and form == "decomposed":
        pytest.skip("OpenCV 5 reads it")
    name = "dbnet_resnet18_deformable"
    with pytest.raises(DbnetError, match=said) as caught:
        OpenCvRunner(delivery(name, deformable=form), SPECS[name])
    assert "\n" not in str(caught.value) and f"OpenCV {cv2.__version__} refuses it" in str(caught.value)
    assert capfd.readouterr() == ("", "")  # OpenCV prints it too


@pytest.mark.parametrize(("change", "said"), [
    (lambda b: b[:len(b) // 2], "is damaged or no ONNX model"), (lambda b: b"text" * 9, "is damaged"),
    (lambda b: b"", "takes no input"), (lambda b: b.replace(b"ConvTr", b"KonvTr"), "refuses it: .*KonvTranspose")])
def test_bad_files_are_one_line(small, tmp_path, capfd, change, said):
    (tmp_path / "m.onnx").write_bytes(change(small))
    for source in (tmp_path / "m.onnx", change(small)):
        with pytest.raises(DbnetError, match=said):
            OpenCvRunner(source, SMALL)
    with pytest.raises(DbnetError, match="cannot be read"):
        OpenCvRunner(tmp_path / "none.onnx", SMALL)
    assert capfd.readouterr() == ("", "")


def test_other_graphs(small):
    with pytest.raises(OtherGraphError, match="has no output c2, only probability") as caught:
        OpenCvRunner(small, SMALL, stages=("c2",))
    assert not caught.value.foreign
    with pytest.raises(OtherGraphError, match="has no output probability") as caught:
        OpenCvRunner(small.replace(b"probability", b"probabilitz"), SMALL)
    assert caught.value.foreign
    assert OpenCvRunner(small, SMALL, "CPU").device == "cpu"
    with pytest.raises(DbnetError, match=r"cv2\.dnn runs on cpu here, not on cuda:0"):
        OpenCvRunner(small, SMALL, "cuda:0")


@pytest.mark.parametrize(("shape", "said"), [
    ((1, 3, 96, 96), r"takes images of shape \(any, 3, 64, 96\) only"), ((1, 3, 60, 96), "multiples of 32"),
    ((3, 64, 96), "images must be")])
def test_images_that_do_not_fit(shape, said):
    with pytest.raises(DbnetError, match=said):
        OpenCvRunner(delivery(SMALL.name, data_shape=(64, 96)), SMALL).run(np.zeros(shape, np.float32))


def test_graphs_are_read_without_any_package():
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "H", 96]) for name in ("image", "weights")]
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Add", ["image", "weights"], ["probability"], domain="ai.onnx")], "g", ends,
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)],
        [helper.make_tensor("weights", TensorProto.FLOAT, [1], [2.0])]))
    found = read_graph(model.SerializeToString(), "x")
    assert found.inputs == {"image": (1, (1, 3, None, 96))} and found.operators == {"Add"}
    for size in range(len(model.SerializeToString())):  # cut anywhere: another graph, or an error of ours
        with contextlib.suppress(DbnetError):
            read_graph(model.SerializeToString()[:size], "x")
    for spec in ("dbnet_resnet18", "db_mv3_ppocrv3"):
        content = delivery(spec)
        operators = {node.op_type for node in onnx.load_from_string(content).graph.node}
        assert read_graph(content, "x").operators == operators


def test_silence_is_over_afterwards(capfd):
    with silent_stderr():
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'within')"], check=True)
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'after')"], check=True)
    with pytest.raises(ValueError, match="x"), silent_stderr():
        raise ValueError("x")
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b', again')"], check=True)
    assert capfd.readouterr().err == "after, again"


# OpenCV 5 -------------------------------------------------------------------------------------------------------------


def test_in_opencv_5(tmp_path):
    """Deformable convolutions too, made of plain operators, and sizes in a row; with OpenCV and NumPy alone."""
    python = runtime("opencv-5")
    copy_modules(tmp_path / "ours", ["evaluation.opencv_runner"], ["numpy", "cv2"])
    images = {"a": seeded_images(1, 96, 160), "b": seeded_images(2, 64, 96)}
    np.savez(tmp_path / "in.npz", **images)
    files = {}
    for name, form in (("dbnet_mobilenetv3", None), ("dbnetpp_resnet50", None),
                       ("dbnet_resnet18_deformable", "decomposed"), ("dbnet_resnet18_deformable", "native")):
        path = tmp_path / f"{name}_{form}.onnx"
        path.write_bytes(delivery(name, deformable=form))
        files[str(path)] = form
    done = subprocess.run([python, "-c", ELSEWHERE, tmp_path / "ours", tmp_path, *files], capture_output=True,
                          text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    version, said = json.loads(done.stdout)
    assert version.startswith("5.")
    assert [files[path] for path in said] == ["native"] and "no OpenCV reads DeformConv" in next(iter(said.values()))
    found = dict(np.load(tmp_path / "out.npz"))
    assert len(found) == 2 * 3
    for key, map_ in found.items():
        path, _, which = key.rpartition(":")
        expected = OnnxRuntimeRunner(path, SMALL).run(images[which])["probability"]
        assert np.abs(map_ - expected).max() < 1e-4, key
