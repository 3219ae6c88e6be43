"""OpenVINO: the same numbers as ONNX Runtime, however many calls are under way; what it refuses is one line."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters import onnx_file
from dbnet.errors import DbnetError
from dbnet.extras import require
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES
from evaluation import openvino_runner
from evaluation.graph_files import MAX_AT_ONCE, OtherGraphError, cores
from evaluation.onnx_runner import OnnxRuntimeRunner
from evaluation.openvino_runner import OpenVinoRunner
from parity.tolerances import tolerances_of

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'dbnet-parity[openvino]'")

SMALL = SPECS["dbnet_mobilenetv3"]
#: The networks whose operators differ; deformable ones of plain operators.
KINDS = ["dbnet_mobilenetv3", "db_mv3_ppocrv3",
         *(pytest.param(name, marks=pytest.mark.long) for name in ("dbnetpp_resnet50", "dbnet_resnet18_deformable"))]


def graph(spec=SMALL, **choices) -> bytes:
    stream = io.BytesIO()
    deformable = "decomposed" if spec.deformable != "none" else None
    onnx_file.write(stream, seeded_weights(spec, 1), spec, None, deformable=deformable, **choices)
    return stream.getvalue()


def matrix(**choices) -> bytes:
    """A graph whose output is (H, W)."""
    model = onnx.load_from_string(graph(**choices))
    for node in model.graph.node:
        node.output[:] = ["whole" if name == "probability" else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [2], [0, 1]))
    model.graph.node.append(helper.make_node("Squeeze", ["whole", "axes"], ["probability"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["H", "W"]))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def small():
    return graph()


def threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_stage_is_onnx_runtimes(name):
    content = graph(SPECS[name], stages=True)
    images = seeded_images(2, 64, 96)
    found = OpenVinoRunner(content, SPECS[name], stages=None).run(images)
    expected = OnnxRuntimeRunner(content, SPECS[name], stages=None).run(images)
    assert tuple(found) == STAGES
    for stage, map_ in found.items():
        assert map_.dtype == np.float32 and map_.flags.c_contiguous
        assert np.abs(map_ - expected[stage]).max() < 2e-5 * max(1, np.abs(expected[stage]).max()), stage


def test_float32_is_asked_for_and_told(small):
    """OpenVINO takes bfloat16 by itself where a CPU has it; asked for, it shows that the setting arrives."""
    runner = OpenVinoRunner(small, SMALL)
    assert runner.environment() | {"framework": "openvino", "precision": "float32", "device": "cpu",
                                   "INFERENCE_PRECISION_HINT": "f32"} == runner.environment()
    assert runner._any_size._model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@pytest.mark.parametrize("many", [1, 64])
def test_no_more_calls_at_once_than_there_is_memory_for(small, monkeypatch, many):
    monkeypatch.setattr(openvino_runner, "cores", lambda: many)
    assert OpenVinoRunner(small, SMALL, concurrent=True).at_once == min(many, 8)


@pytest.mark.parametrize("threads", [2, pytest.param(None, marks=pytest.mark.long)])
def test_neither_threads_nor_calls_at_once_move_a_bit(small, threads):
    images = seeded_images(1, 96, 160)
    expected = OpenVinoRunner(small, SMALL, threads=1).run(images)["probability"]
    runner = OpenVinoRunner(small, SMALL, threads=threads, concurrent=True)
    assert runner.at_once == (threads or min(cores(), MAX_AT_ONCE))
    found: list[np.ndarray] = []
    started = [threading.Thread(target=lambda: found.extend(runner.run(images)["probability"] for _ in range(6)))
               for _ in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(found) == 18 and all(np.array_equal(map_, expected) for map_ in found)
    assert len(runner._any_size._idle) <= 3  # one request for each thread that ever called at once


def test_a_result_is_the_callers_own(small):
    runner = OpenVinoRunner(small, SMALL)
    first = runner.run(seeded_images(1, 64, 96))["probability"]
    kept = first.copy()
    runner.run(-seeded_images(1, 64, 96))
    np.testing.assert_array_equal(first, kept)


# Many images of one size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
def test_a_size_that_comes_often_is_compiled_for_itself(small, monkeypatch, at_once):
    monkeypatch.setattr(openvino_runner, "_WORTH", 3)
    runner = OpenVinoRunner(small, SMALL, threads=2, concurrent=at_once)
    a, b, c = seeded_images(1, 64, 96), seeded_images(1, 96, 64), seeded_images(1, 32, 32)
    before = {image.shape: runner.run(image)["probability"] for image in (a, b, c)}
    for _ in range(4):
        for image in (a, b, c):
            np.testing.assert_array_equal(runner.run(image)["probability"], before[image.shape])
    assert set(runner._sizes) == ({a.shape, b.shape} if at_once else set())  # two at most


def test_it_is_not_taken_where_bits_would_move(small, monkeypatch):
    """Else a result would depend on how many images came before."""
    monkeypatch.setattr(openvino_runner, "_WORTH", 2)
    runner = OpenVinoRunner(small, SMALL, threads=2, concurrent=True)
    images, compile_ = seeded_images(1, 64, 96), runner._compile
    monkeypatch.setattr(runner, "_compile", lambda graph: compile_(_noisy(graph)))
    expected = runner.run(images)["probability"]
    for _ in range(4):
        np.testing.assert_array_equal(runner.run(images)["probability"], expected)
    assert not runner._sizes


def _noisy(model):
    """The same graph, its image a millionth brighter."""
    ov = require("openvino")
    parameter = model.input(0).get_node()
    readers = list(parameter.output(0).get_target_inputs())
    brighter = ov.opset13.multiply(parameter, np.float32(1.0001))
    for reader in readers:
        reader.replace_source_output(brighter.output(0))
    model.validate_nodes_and_infer_types()
    return model


# Files ----------------------------------------------------------------------------------------------------------------


def test_ir_with_its_weights_and_without(small, tmp_path):
    ov = require("openvino")
    ov.save_model(ov.Core().read_model(small), tmp_path / "m.xml", compress_to_fp16=False)
    images = seeded_images(1, 64, 96)
    np.testing.assert_array_equal(OpenVinoRunner(tmp_path / "m.xml", SMALL).run(images)["probability"],
                                  OpenVinoRunner(small, SMALL).run(images)["probability"])
    (tmp_path / "m.bin").rename(tmp_path / "other.bin")
    with pytest.raises(DbnetError, match=r"m\.bin: is not beside m\.xml"):
        OpenVinoRunner(tmp_path / "m.xml", SMALL)


@pytest.mark.parametrize("choices", [{"data_shape": (64, 96)}, pytest.param({}, marks=pytest.mark.long)])
def test_an_output_without_n_and_c(choices):
    images = seeded_images(3, 64, 96)
    runner = OpenVinoRunner(matrix(**choices), SMALL)
    found = runner.run(images)["probability"]
    assert found.shape == (3, 1, 64, 96)
    fed, given = runner.exchanged(images[:1])
    assert list(fed) == ["image"] and given["probability"].shape == (64, 96)
    np.testing.assert_array_equal(found, OpenVinoRunner(graph(), SMALL).run(images)["probability"])


@pytest.mark.parametrize(("shape", "said"), [
    ((1, 3, 96, 96), r"takes images of shape \(1, 3, 64, 96\) only, not \(1, 3, 96, 96\); say .*size=64x96"),
    ((2, 3, 64, 96), "takes every number of images"), ((1, 3, 60, 96), "multiples of 32"),
    ((0, 3, 64, 96), "no images"), ((3, 64, 96), "images must be")])
def test_images_that_do_not_fit(shape, said):
    runner = OpenVinoRunner(graph(data_shape=(64, 96)), SMALL)
    assert runner.shape == (1, 3, 64, 96)
    with pytest.raises(DbnetError, match=said):
        runner.run(np.zeros(shape, np.float32))


def test_an_image_of_one_channel_is_no_matter_of_sizes():
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 64, 96]) for name in ("image", "probability")]
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["image"], ["probability"])], "g",
                                                ends[:1], ends[1:]), ir_version=8)
    with pytest.raises(DbnetError, match=r"\(1, 1, 64, 96\), so of 1 channels, and images have 3 here"):
        OpenVinoRunner(model.SerializeToString(), SMALL).run(np.zeros((1, 3, 64, 96), np.float32))


def test_other_graphs(small):
    with pytest.raises(OtherGraphError, match="has no output c2, only probability") as caught:
        OpenVinoRunner(small, SMALL, stages=("c2",))
    assert not caught.value.foreign
    renamed = small.replace(b"probability", b"probabilitz")
    with pytest.raises(OtherGraphError, match="has no output probability") as caught:
        OpenVinoRunner(renamed, SMALL)
    assert caught.value.foreign
    for kind, shape in ((TensorProto.INT64, [1, 3, 64, 96]), (TensorProto.FLOAT, [3, 64, 96])):
        ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("image", "probability")]
        model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["image"], ["probability"])], "g",
                                                    ends[:1], ends[1:]), ir_version=8)
        with pytest.raises(OtherGraphError, match="not one float32 image"):
            OpenVinoRunner(model.SerializeToString(), SMALL)


@pytest.mark.parametrize(("name", "change", "said"), [
    ("cut.onnx", lambda b: b[:len(b) // 2], "refuses it"),
    ("op.onnx", lambda b: b.replace(b"ConvTr", b"KonvTr"), "refuses it: .*KonvTranspose"),
    ("a.xml", lambda b: b"<html></html>", "is no OpenVINO IR"),
    ("a.pdmodel", lambda b: b, "as an .onnx or an .xml only"), ("none.onnx", None, "cannot be read")])
def test_bad_files_are_one_line(small, tmp_path, capfd, name, change, said):
    if change:
        (tmp_path / name).write_bytes(change(small))
    with pytest.raises(DbnetError, match=said) as caught:
        OpenVinoRunner(tmp_path / name, SMALL)
    assert name in str(caught.value) and "\n" not in str(caught.value) and ".cpp" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("device", "said"), [
    ("gpu", "has no GPU on this machine, only CPU"), ("npu:1", "has no NPU.1 on this machine"),
    ("cuda:0", "has no device 'cuda:0'; choose from cpu, gpu, npu, auto"), ("cpu:1", "has no device"),
    (f"gpu:{'1' * 5000}", "has no device"),
    ("", "no device"), ("GPU.0", "has no device")])
def test_devices(small, device, said):
    here = require("openvino").Core().available_devices
    if said.startswith("has no GPU") and here != ["CPU"]:
        pytest.skip(f"this machine has {here}")
    with pytest.raises(DbnetError, match=said):
        OpenVinoRunner(small, SMALL, device or " ")


def test_auto_tells_what_it_came_to(small):
    """Else no comparison knows which errors are right there."""
    runner, told = OpenVinoRunner(small, SMALL, "auto"), "as OpenVINO chooses"
    here = [name.lower().replace(".", ":") for name in require("openvino").Core().available_devices]
    assert runner.device in here and f"OpenVINO has chosen {runner.device}" in runner.notes
    assert runner.environment() | {"device": runner.device, "threads": told} == runner.environment()
    assert tolerances_of(runner.environment()).probability > 0
    with pytest.raises(DbnetError, match="takes a number of threads for cpu only, not for auto"):
        OpenVinoRunner(small, SMALL, "auto", threads=1)


@pytest.mark.parametrize("error", [
    RuntimeError("Exception from src/a.cpp:3:\nCheck 'ptr' failed at b.cpp:7:\nFailed to allocate 9 bytes of memory"),
    MemoryError()])
def test_too_little_memory(small, monkeypatch, error):
    runner = OpenVinoRunner(small, SMALL)

    def fail(images):
        raise error

    monkeypatch.setattr(runner._any_size, "run", fail)
    with pytest.raises(DbnetError, match=r"failed on cpu at \(1, 3, 64, 96\): there is not enough memory; try a"):
        runner.run(seeded_images(1, 64, 96))


# What it leaves alone -------------------------------------------------------------------------------------------------


def test_no_thread_is_left(small):
    gc.collect()
    counts = []
    for _ in range(4):
        runner = OpenVinoRunner(small, SMALL, threads=2, concurrent=True)
        runner.run(seeded_images(1, 64, 96))
        del runner
        gc.collect()
        time.sleep(0.1)
        counts.append(threads_now())
    assert counts[-1] <= counts[0]


def test_nobody_hears_of_it(small, tmp_path):
    """`import openvino` alone sends a message and writes into the home folder; a process of ours does neither."""
    (tmp_path / "m.onnx").write_bytes(small)
    script = """if True:
        import json, sys, socket
        def no(*_, **__): raise SystemExit("a connection was wanted")
        socket.getaddrinfo = socket.create_connection = no
        from dbnet.spec import SPECS
        from dbnet.seeded import seeded_images
        from evaluation.openvino_runner import OpenVinoRunner
        OpenVinoRunner(sys.argv[1], SPECS["dbnet_mobilenetv3"]).run(seeded_images(1, 32, 32))
        print(json.dumps([name for name in sys.modules if name.startswith("openvino_telemetry")]))"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "m.onnx"], capture_output=True, text=True,
                          check=False, env={**os.environ, "HOME": str(tmp_path)}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


def test_an_interrupt_after_models_that_are_gone(root, tmp_path):
    """Given up in the order in which they came, and in another thread. In a process of its own, for it once died."""
    program = """
import gc, os, signal, sys, threading
import numpy as np
from evaluation.runners import open_runner

def opened():
    runner = open_runner(sys.argv[1], runner="openvino", device="cpu")
    runner.run(np.zeros((1, 3, 64, 64), np.float32))
    return runner

def interrupted():
    gc.collect()
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)
first, second = opened(), opened()
del first
gc.collect()
del second
interrupted()
kept = [opened()]
thread = threading.Thread(target=lambda: (kept.clear(), gc.collect()))
thread.start()
thread.join()
interrupted()
"""
    done = subprocess.run([sys.executable, "-c", program, root / "dbnet/embedded/dbnet_mobilenetv3.safetensors"],
                          cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["interrupted"] * 2), done.stderr
