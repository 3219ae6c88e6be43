"""The three runners: the same stages from the same file, and one line for whatever cannot be run."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import converters
from converters.load import SourceOptions
from dbnet.errors import DbnetError
from dbnet.running import Device, check_stages, parse_device
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, TRAINING_STAGES
from evaluation import runners
from evaluation.runners import FRAMEWORKS, OnnxRuntimeRunner, open_runner

R18 = SPECS["dbnet_resnet18"]
#: The changes of meaning that no file shows, beside MindOCR's own ones.
OTHER_MV3 = replace(SPECS["dbnet_mobilenetv3"], depthwise_padding="symmetric", se_gate="hard_sigmoid_0.2")
ENVIRONMENT = {"framework", "version", "numpy", "device", "device_name", "driver", "precision", "hf32", "tf32",
               "jit_level", "threads"}
CPUINFO = Path("/proc/cpuinfo")
AVX512 = CPUINFO.exists() and "avx512f" in CPUINFO.read_text().split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A function that writes a model once: (spec, suffix, dtype, subset) -> path."""
    folder = tmp_path_factory.mktemp("models")

    def write(spec=R18, suffix=".safetensors", dtype="float32", inference=False):
        path = folder / f"{spec.name}-{zlib.crc32(repr(spec).encode()):x}-{dtype}-{inference}{suffix}"
        if not path.exists():
            weights = {name: array for name, array in seeded_weights(spec, 4, dtype).items()
                       if not (inference and name.startswith("head.thresh."))}
            converters.save_weights(weights, path, spec=spec)
        return path

    return write


def relative(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    assert list(a) == list(b)
    assert all(x.dtype == np.float32 and x.shape == b[stage].shape for stage, x in a.items())
    return {stage: float(np.abs(x - b[stage]).max() / np.abs(x).max()) for stage, x in a.items()}


@pytest.mark.parametrize("spec", [R18, OTHER_MV3], ids=["resnet18", "other mobilenetv3"])
def test_three_runners_agree(spec, models):
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    opened = [open_runner(models(spec), runner=name, stages=STAGES) for name in FRAMEWORKS]
    for shape in ((1, 64, 96), (2, 96, 64)):
        images = seeded_images(*shape)
        images[0, :, :32] = np.random.default_rng(0).normal(size=images[0, :, :32].shape)
        outputs = [runner.run(images) for runner in opened]
        assert outputs[0]["probability"].shape == (shape[0], 1, *shape[1:])
        assert outputs[0]["probability"].std() > 0.01
        for other in outputs[1:]:
            assert max(relative(outputs[0], other).values()) <= 5e-5
    for name, runner in zip(FRAMEWORKS, opened, strict=True):
        assert (runner.name, runner.spec, runner.device) == (name, spec, "cpu")
        environment = runner.environment()
        assert set(environment) >= ENVIRONMENT
        assert environment["framework"] == name


def test_training_stages_agree(models):
    for name in ("torch", "mindspore"):
        pytest.importorskip(name)
    wanted, images = ("binary", "probability", "threshold"), seeded_images(1, 64, 96)
    outputs = [open_runner(models(R18, ".ckpt"), runner=name, stages=wanted).run(images)
               for name in ("torch", "mindspore")]
    errors = relative(*outputs)
    assert list(errors) == list(wanted)
    assert errors["threshold"] <= 5e-5
    assert errors["binary"] <= 5e-4
    assert np.allclose(outputs[0]["binary"], 1 / (1 + np.exp(-50 * (outputs[0]["probability"].astype("f8")
                                                                    - outputs[0]["threshold"]))), atol=1e-5)


@pytest.mark.parametrize(("suffix", "expected"), [
    (".onnx", "onnxruntime"), (".ckpt", "mindspore"), (".pth", "torch"), (".safetensors", "torch")])
def test_the_formats_own_runner(suffix, expected, models, monkeypatch, caplog):
    pytest.importorskip(expected)
    path = models(R18, suffix)
    assert open_runner(path).name == expected
    assert not caplog.records
    monkeypatch.setattr(runners, "installed", lambda name: name not in (expected, "mindspore"))
    other = next(name for name in ("onnxruntime", "torch") if name != expected)
    pytest.importorskip(other)
    assert open_runner(path).name == other
    assert [record.getMessage() for record in caplog.records] == \
        [f"{expected} is not installed: {path.name} runs in {other}"]
    monkeypatch.setattr(runners, "installed", lambda name: False)
    with pytest.raises(DbnetError, match="no framework to run"):
        open_runner(path)


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize(("dtype", "inference"), [("float16", False), ("bfloat16", True)])
def test_small_types_and_subsets_run(name, dtype, inference, models):
    pytest.importorskip(name)
    spec, images = SPECS["db_mv3_paddle"], seeded_images(1, 64, 64)
    exact = pytest.importorskip("torch_reference.runner").TorchRunner(
        spec, {n: a.astype("f8") for n, a in seeded_weights(spec, 4, dtype).items()}, precision="float64").run(images)
    found = open_runner(models(spec, ".pth", dtype, inference), runner=name).run(images)["probability"]
    assert found.dtype == np.float32
    assert np.abs(found - exact["probability"]).max() <= 1e-5
    if inference:
        with pytest.raises(DbnetError, match="no stage threshold"):
            open_runner(models(spec, ".pth", dtype, inference), runner=name, stages=("probability", "threshold"))


def test_float64_is_not_rounded():
    runner = pytest.importorskip("torch_reference.runner").TorchRunner(
        OTHER_MV3, seeded_weights(OTHER_MV3), precision="float64", threads=2)
    assert runner.run(seeded_images(1, 32, 32))["probability"].dtype == np.float64
    assert runner.environment()["threads"] == 2


def test_said_semantics_reach_every_runner(models):
    for name in ("torch", "onnxruntime"):
        pytest.importorskip(name)
    images, options = seeded_images(1, 64, 64), SourceOptions(semantics={"stem_pool": "symmetric"})
    path = models(R18, ".onnx")
    plain = open_runner(path, threads=2).run(images)["probability"]
    outputs = [open_runner(path, runner=name, options=options) for name in ("torch", "onnxruntime")]
    assert all(runner.spec.stem_pool == "symmetric" for runner in outputs)
    changed = [runner.run(images)["probability"] for runner in outputs]
    assert np.abs(changed[0] - plain).max() > 1e-3
    assert np.abs(changed[0] - changed[1]).max() <= 5e-5


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_images_that_cannot_be_run(name, models):
    pytest.importorskip(name)
    runner = open_runner(models(), runner=name)
    good = seeded_images(1, 64, 96)
    for wrong, message in (
        (good[:, :, :33], "multiples of 32, not 33 x 96; nearest: 32 x 96"), (good[..., :0], "multiples of 32"),
        (good[:, :2], r"\(N, 3, H, W\)"), (good[0], r"\(N, 3, H, W\)"), (good.astype("f8"), "float64"),
        (good.tolist(), "list"), (good[:0], "no images"), (good.transpose(0, 2, 3, 1), r"\(1, 64, 96, 3\)"),
    ):
        with pytest.raises(DbnetError, match=message):
            runner.run(wrong)
    sliced = seeded_images(1, 64, 192)[..., ::2]  # not contiguous
    sliced.flags.writeable = False
    assert np.array_equal(runner.run(sliced)["probability"], runner.run(sliced.copy())["probability"])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"runner": "tensorflow"}, "unknown runner 'tensorflow'"), ({"device": "tpu"}, "unknown device 'tpu'"),
    ({"device": "cpu:1"}, "unknown device"), ({"stages": ("c6",)}, "unknown stage 'c6'; choose from c2, "),
    ({"stages": ()}, "no stages"), ({"threads": 0}, "threads must be at least 1"),
    ({"runner": "onnxruntime", "stages": ("binary",)}, "no stage binary in ONNX"),
    ({"runner": "mindspore", "threads": 2}, "taskset -c 0-1"),
    ({"runner": "torch", "device": "cuda:99"}, "no device cuda:99"),
    ({"runner": "torch", "device": "Ascend:99"}, "torch_npu and CANN"),
])
def test_requests_that_cannot_be_met(arguments, message, models):
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    with pytest.raises(DbnetError, match=message) as error:
        open_runner(models(), **arguments)
    assert "\n" not in str(error.value)


def test_devices_by_name():
    assert parse_device(" CUDA:1 ") == Device("gpu", 1)
    assert parse_device("gpu") == Device("gpu", 0)
    assert parse_device("NPU:3") == parse_device("Ascend:3") == Device("ascend", 3)
    assert parse_device("CPU") == parse_device("cpu:0") == Device("cpu", 0)
    for text in ("", "cuda:", "cuda:-1", "cuda:x", "cpu:2", "cuda:1:1", "cuda:99999999999", "cuda:١"):
        with pytest.raises(DbnetError, match="unknown device"):
            parse_device(text)
    assert check_stages(STAGES + TRAINING_STAGES) == STAGES + TRAINING_STAGES


# ONNX files ----------------------------------------------------------------------------------------------------------


def tiny_onnx(shape=(1, 3, 64, 64), output="probability", element="FLOAT", dtype=None) -> bytes:
    """A graph that is no DBNet: the mean over the channels."""
    from onnx import TensorProto, helper
    kind = getattr(TensorProto, element)
    node = helper.make_node("ReduceMean", ["image"], [output], axes=[1])
    graph = helper.make_graph([node], "tiny", [helper.make_tensor_value_info("image", kind, shape)],
                              [helper.make_tensor_value_info(output, kind, (shape[0], 1, *shape[2:]))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


def test_a_static_file_takes_its_own_size_only():
    pytest.importorskip("onnxruntime")
    runner = OnnxRuntimeRunner(tiny_onnx(), R18)
    image = seeded_images(1, 64, 64)
    assert np.allclose(runner.run(image)["probability"], image.mean(1, keepdims=True), atol=1e-6)
    for other in (seeded_images(1, 64, 96), seeded_images(2, 64, 64)):
        with pytest.raises(DbnetError, match=r"takes images of shape \(1, 3, 64, 64\) only"):
            runner.run(other)


@pytest.mark.parametrize(("content", "message"), [
    (tiny_onnx(output="mean"), "has no output probability, only mean; is it a DBNet?"),
    (tiny_onnx(element="FLOAT16"), r"takes image tensor\(float16\) .*, not one float32 image"),
    (tiny_onnx(shape=(1, 3, 64, 64, 1)), "not one float32 image"),
    (b"", "refuses it"), (b"<html></html>", "refuses it"), (tiny_onnx()[:60], "refuses it"),
])
def test_files_that_are_no_dbnet(content, message, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        with pytest.raises(DbnetError, match=message) as error:
            OnnxRuntimeRunner(source, R18)
        assert "\n" not in str(error.value)
    with pytest.raises(DbnetError, match=r"model\.onnx"):
        open_runner(path)


@pytest.mark.parametrize(("device", "package"), [("cuda:0", "onnxruntime-gpu"), ("npu", "onnxruntime-cann")])
def test_an_onnxruntime_without_the_device(device, package):
    ort = pytest.importorskip("onnxruntime")
    if {"cuda:0": "CUDAExecutionProvider", "npu": "CANNExecutionProvider"}[device] in ort.get_available_providers():
        pytest.skip("this one has it")
    with pytest.raises(DbnetError, match=package):
        OnnxRuntimeRunner(tiny_onnx(), R18, device=device)


def test_onnxruntime_is_silent(models, capfd):
    """head.thresh is unused in the archive form, and ONNX Runtime warns of every unused initialiser by default."""
    pytest.importorskip("onnxruntime")
    open_runner(models(R18, ".onnx")).run(seeded_images(1, 32, 32))
    assert capfd.readouterr() == ("", "")


# MindSpore, in processes of its own -----------------------------------------------------------------------------------


def in_a_process(code: str, root, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python without a oneDNN limit but those given."""
    kept = {key: value for key, value in os.environ.items() if not key.endswith("_MAX_CPU_ISA")}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=kept | environment, capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.parametrize("name", ["dbnet_mobilenetv3", "dbnetpp_resnet50"])
def test_only_what_no_file_gives_is_computed_with_exact_sigmoids(name):
    """In a layer's attribute (the gates of MobileNetV3, the head) and in a sequence (the attentions of DBNet++)."""
    nn = pytest.importorskip("mindspore").nn
    from ms_models.runner import MindSporeRunner
    spec = SPECS[name]
    weights = seeded_weights(spec)

    def sigmoids(stages):
        runner = MindSporeRunner(spec, weights, "cpu", stages)
        return runner.environment()["sigmoid"], sum(isinstance(c, nn.Sigmoid) for _, c in runner.net.cells_and_names())

    count = {"dbnet_mobilenetv3": 8 + 1, "dbnetpp_resnet50": 3 + 1}[name]
    assert sigmoids(("probability",)) == sigmoids(("logits", "probability")) == ("own", count)
    assert sigmoids(("c2", "probability")) == sigmoids(("threshold",)) == ("float64", 0)


OPEN = """
import os
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS
from ms_models.runner import MindSporeRunner
spec = SPECS["db_mv3_paddle"]
runner = MindSporeRunner(spec, seeded_weights(spec), device="cpu")
runner.run(seeded_images(1, 32, 32))
print("limit", os.environ.get("ONEDNN_MAX_CPU_ISA"), runner.environment()["onednn_max_isa"])
"""
THEN_TORCH = """
import torch
torch.nn.functional.conv2d(torch.ones(1, 64, 64, 64), torch.ones(64, 64, 3, 3))  # smaller ones need no oneDNN
"""


def isas(output: str) -> list[str]:
    """The instruction sets that each oneDNN in the process says it uses."""
    return [line.rpartition("isa:")[2] for line in output.splitlines() if "info,cpu,isa:" in line]


@pytest.mark.skipif(not AVX512, reason="this processor has no AVX-512, so there is nothing to cure")
def test_mindspore_is_cured_and_torch_is_not_slowed(root):
    for name in ("mindspore", "torch"):
        pytest.importorskip(name)
    done = in_a_process(OPEN + THEN_TORCH, root, ONEDNN_VERBOSE="1")
    mindspore, torch = isas(done.stdout)
    assert mindspore.endswith("AVX2")
    assert "AVX-512" in torch or "AVX10" in torch  # newer processors have it under another name
    assert "limit None AVX2" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(("variable", "value"), [
    ("ONEDNN_MAX_CPU_ISA", "DEFAULT"), pytest.param("ONEDNN_MAX_CPU_ISA", "SSE41", marks=pytest.mark.long),
    pytest.param("DNNL_MAX_CPU_ISA", "AVX", marks=pytest.mark.long)])
def test_the_cure_leaves_the_users_setting_alone(variable, value, root):
    pytest.importorskip("mindspore")
    code = ("import os\nfrom ms_models.compat import cure_avx512, isa_limit\n"
            f"assert not cure_avx512()\nprint(isa_limit(), os.environ[{variable!r}])")
    assert in_a_process(code, root, **{variable: value}).stdout.split() == [value, value]


def test_building_changes_no_setting(root):
    pytest.importorskip("mindspore")
    code = ("import os, sys, ms_models\nassert 'mindspore' not in sys.modules\nbefore = dict(os.environ)\n"
            "net = ms_models.build('dbnet_resnet18')\nimport mindspore as ms\n"
            "assert ms.get_context('mode') == ms.PYNATIVE_MODE\n"
            "print({k for k in os.environ if k.endswith('_MAX_CPU_ISA')})")
    assert in_a_process(code, root).stdout == "set()\n"


@pytest.mark.parametrize("device", ["ascend", "gpu:0"])
def test_mindspore_without_the_device_says_one_line(device, root):
    ms = pytest.importorskip("mindspore")
    if ms.get_context("device_target") != "CPU":
        pytest.skip("this machine has a device")
    code = ("from dbnet.errors import DbnetError\nfrom dbnet.running import parse_device\n"
            "from ms_models.compat import set_device\n"
            f"try:\n    set_device(parse_device({device!r}))\nexcept DbnetError as error:\n    print(error)")
    done = in_a_process(code, root)
    assert done.stdout.startswith(f"MindSpore {ms.__version__} cannot use ")
    assert "use --device cpu" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
