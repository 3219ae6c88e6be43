"""Every runner that --runner names computes what the others do, whatever file it opens; or says in a line why not."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.preprocess import prepare
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES
from evaluation.delivery.deliver import deliver
from evaluation.delivery.settings import ExportSettings
from evaluation.elsewhere_graphs import DbApiElsewhere
from evaluation.evaluate import versions
from evaluation.onnx_maps import sigmoid
from evaluation.opencv_db import db_api_boxes
from evaluation.polygraphy_files import exchanges
from evaluation.runners import open_runner
from parity.kit import _opened
from parity.staged import open_staged
from tests.elsewhere import THIS, wrapped
from tests.running import command
from tests.runtimes import runtime

SPEC = SPECS["dbnet_mobilenetv3"]
IMAGES = seeded_images(2, 96, 160)
PROBABILITY = ("probability",)
#: 24-bit arithmetic in another order.
SAME = 1e-4
#: Files that take or give what their record does not say.
EXPORTED = {"logits.onnx": {"target": "onnx", "output": "logits"}, "rapid.onnx": {"target": "rapidocr"},
            "matrix.onnx": {"target": "opencv", "data_shape": (160, 224)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("variants")
    for name in ("a.ckpt", "a.onnx"):
        converters.save_weights(seeded_weights(SPEC, 5), found / name, spec=SPEC)
    cv2.imwrite(str(found / "scene.png"), draw(3, 160, 224)[0])
    return found


@pytest.fixture(scope="module")
def exported(folder):
    """What `dbnet export` writes with some settings; once each, and compared in ONNX Runtime alone."""
    @functools.cache
    def write(name: str, **settings) -> Path:
        deliver(folder / "a.ckpt", folder / name, SourceOptions(), ExportSettings(**settings))
        return folder / name
    return write


@pytest.fixture(scope="module")
def reference(folder):
    pytest.importorskip("onnxruntime")
    return open_runner(folder / "a.ckpt", "onnxruntime", stages=STAGES).run(IMAGES)


def far(found, reference) -> float:
    """Over the largest value of each stage."""
    return max(float(np.abs(found[stage] - reference[stage]).max() / np.abs(reference[stage]).max()) for stage in found)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["ckpt", "onnx"])
@pytest.mark.parametrize("runner", ["torch:eager", "onnxruntime:CPUExecutionProvider", "openvino:auto", "opencv",
                                    *(pytest.param(name, marks=pytest.mark.long)
                                      for name in ("openvino", "openvino:CPU"))])
def test_every_stage(runner, suffix, folder, reference):
    pytest.importorskip({"opencv": "cv2"}.get(runner, runner.partition(":")[0]))
    opened = open_runner(folder / f"a.{suffix}", runner, stages=STAGES)
    assert far(opened.run(IMAGES), reference) < SAME
    assert opened.spec == SPEC and opened.name == runner.partition(":")[0].lower()
    told = opened.environment()
    assert told["framework"] == opened.name and json.dumps(told) and versions()
    again = open_runner(folder / f"a.{suffix}", runner, stages=PROBABILITY)
    assert set(again.run(IMAGES)) == {"probability"} and again.digest


@pytest.mark.long
@pytest.mark.parametrize("runner", ["mindspore:graph", "mindspore:O0", "mindspore:O1", "mindspore:O2"])
def test_jit_levels(runner, folder, reference):
    """On a CPU MindSpore takes each of them, and computes the same bits."""
    pytest.importorskip("mindspore")
    plain = open_runner(folder / "a.ckpt", "mindspore", "cpu", PROBABILITY).run(IMAGES)
    opened = open_runner(folder / "a.ckpt", runner, "cpu", PROBABILITY)
    np.testing.assert_array_equal(opened.run(IMAGES)["probability"], plain["probability"])
    level = runner.partition(":")[2]
    assert opened.environment()["jit_level"] == ("default" if level == "graph" else level)
    assert any("they are for Ascend" in note for note in opened.notes) == (level != "graph")


@pytest.mark.long
def test_a_mindir_by_its_own_graph(folder, exported, reference):
    pytest.importorskip("mindspore")
    path = exported("a.mindir", target="mindir")
    by_graph, by_weights = (open_runner(path, name, "cpu", PROBABILITY) for name in ("mindspore:mindir", "mindspore"))
    np.testing.assert_array_equal(by_graph.run(IMAGES)["probability"], by_weights.run(IMAGES)["probability"])
    assert by_graph.environment()["graph"] == "mindir" and by_graph.title == "mindspore:mindir"
    there = open_runner(path, f"mindspore:mindir@{THIS}", "cpu", PROBABILITY)
    assert far(there.run(IMAGES), reference) < SAME and there.environment()["graph"] == "mindir"
    side = open_staged(path, "mindspore:mindir", "cpu")
    assert side.stages == PROBABILITY and side.lab is None


@pytest.mark.long
def test_compiled_eagerly(folder, monkeypatch):
    """What is handed to torch.compile; the real compiler is tried in `test_compiled`."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, eager = (open_runner(folder / "a.ckpt", f"torch:{how}", "cpu", ("fused", "probability"))
                       for how in ("compile", "eager"))
    images = seeded_images(2, 64, 96)
    found, wanted = compiled.run(images), eager.run(images)
    assert list(found) == list(wanted) and far(found, wanted) < SAME
    assert compiled.environment()["compiled"] == "inductor" and "compiled" not in eager.environment()
    assert compiled.title == "torch:compile"
    with pytest.raises(DbnetError, match="write --runner torch"):
        open_runner(folder / "a.ckpt", "torch:compile", "cpu", PROBABILITY, precision="fp16")


@pytest.mark.long
def test_compiled(folder):
    pytest.importorskip("torch")
    compiled, eager = (open_runner(folder / "a.ckpt", f"torch:{how}", "cpu", PROBABILITY)
                       for how in ("compile", "eager"))
    for shape in ((1, 640, 704), (2, 640, 640)):
        images = seeded_images(*shape)
        assert far(compiled.run(images), eager.run(images)) < SAME


@pytest.mark.long
def test_no_compiler(folder, tmp_path):
    """In a process of its own, for torch reads CXX once."""
    pytest.importorskip("torch")
    python = wrapped(tmp_path / "w", f"export CXX=/nowhere/g++ TORCHINDUCTOR_CACHE_DIR='{tmp_path}/cache'")
    opened = open_runner(folder / "a.ckpt", f"torch:compile@{python}", "cpu", PROBABILITY)
    assert opened.title.startswith("torch:compile ")
    with pytest.raises(DbnetError, match=r"could not compile the network .*; it needs a C\+\+ compiler"):
        opened.run(IMAGES)


# Files that were exported ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runner", "name"), [
    ("onnxruntime", "logits.onnx"), ("opencv", "matrix.onnx"),
    *(pytest.param(runner, name, marks=pytest.mark.long) for runner in ("onnxruntime", "openvino", "opencv", "torch")
      for name in EXPORTED if (runner, name) not in (("onnxruntime", "logits.onnx"), ("opencv", "matrix.onnx")))])
def test_an_exported_file_just_runs(runner, name, folder, exported):
    """On an image, for the files take other pixels than the weights; torch runs the weights, with their own."""
    pytest.importorskip({"opencv": "cv2"}.get(runner, runner))
    opened = open_runner(exported(name, **EXPORTED[name]), runner, stages=PROBABILITY)
    model = open_runner(folder / "a.ckpt", "onnxruntime", stages=PROBABILITY)
    image = cv2.imread(str(folder / "scene.png"))
    pixels = opened.spec.pixels
    if runner != "torch":
        assert (pixels == SPEC.pixels) == (name == "logits.onnx")
    own = replace(SPEC.pixels, resize=pixels.resize, size=pixels.size)
    batch, theirs = (np.repeat(prepare(image, each).tensor, 2, axis=0) for each in (pixels, own))
    found, wanted = opened.run(batch), model.run(theirs)
    assert found["probability"].shape == (2, 1, *batch.shape[2:]) and far(found, wanted) < SAME


@pytest.mark.parametrize(("runner", "name", "output", "shape"), [
    *((runner, "matrix.onnx", "probability", (160, 224))
      for runner in ("onnxruntime", "openvino", "opencv", f"opencv@{THIS}")),
    ("openvino", "logits.onnx", "logits", (1, 1, 736, 1280))], ids=str)
def test_what_polygraphy_gets_is_what_the_file_gives(runner, name, output, shape, folder, exported):
    """Under the file's own names and in its shapes, before any sigmoid of ours."""
    pytest.importorskip({"opencv": "cv2"}.get(runner.partition("@")[0], runner.partition("@")[0]))
    opened = open_runner(exported(name, **EXPORTED[name]), runner, stages=PROBABILITY)
    [(fed, given)] = exchanges(opened, [str(folder / "scene.png")])
    assert list(fed) == ["image"] and {key: value.shape for key, value in given.items()} == {output: shape}
    found = opened.run(fed["image"])["probability"]
    ours = given[output] if output == "probability" else sigmoid(given[output])
    np.testing.assert_array_equal(found.reshape(ours.shape), ours)


def test_other_stages_of_an_exported_file_come_from_its_weights(exported, reference):
    path = exported("logits.onnx", **EXPORTED["logits.onnx"])
    every = open_runner(path, "onnxruntime", stages=STAGES)
    assert far(every.run(IMAGES), reference) < SAME
    both = open_runner(path, "onnxruntime", stages=("logits", "probability"))
    assert far(both.run(IMAGES), reference) < SAME and both.environment()["sigmoid"]
    assert every.digest != both.digest
    assert open_runner(path, "onnxruntime", stages=PROBABILITY, pixels="mhliao").spec.pixels != every.spec.pixels


@pytest.mark.parametrize("output", ["probability", pytest.param("logits", marks=pytest.mark.long)])
def test_an_xml_runs_in_openvino(output, exported, reference, folder):
    pytest.importorskip("openvino")
    path = exported(f"{output}.xml", target="openvino", output=output)
    opened = open_runner(path)
    assert opened.name == "openvino" and opened.spec == SPEC and len(opened.digest) == 64
    assert far(opened.run(IMAGES), {"probability": reference["probability"]}) < SAME
    assert open_staged(path).stages == PROBABILITY
    done = command("detect", str(folder / "scene.png"), "-m", str(path), "-o", str(folder / f"out-{output}"))
    assert done.returncode == 0, done.stderr
    for arguments, told in [({"runner": "torch"}, "use --runner openvino"), ({"precision": "fp16"}, "--precision"),
                            ({"stages": STAGES}, "no"), ({"options": SourceOptions(spec=SPEC.name)}, "mean nothing"),
                            ({"options": SourceOptions(output="x")}, "--map-output")]:
        with pytest.raises(DbnetError, match=told) as failure:
            open_runner(path, **arguments)
        assert "\n" not in str(failure.value)


def test_an_xml_of_somebody(exported, tmp_path):
    """Without a record it says nothing of its pixels."""
    pytest.importorskip("openvino")
    path = exported("probability.xml", target="openvino", output="probability")
    bare = tmp_path / "bare.xml"
    text = path.read_text()
    begin, end = text.index("<rt_info>"), text.index("</rt_info>") + len("</rt_info>")
    assert "dbnet" in text[begin:end]
    bare.write_text(text[:begin] + text[end:])
    bare.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes())
    with pytest.raises(DbnetError, match=r"says nothing of its pixels .*--pixels NAME"):
        open_runner(bare)
    assert open_runner(bare, pixels="paddle").run(IMAGES)["probability"].shape == (2, 1, 96, 160)
    bare.with_suffix(".bin").unlink()
    with pytest.raises(DbnetError, match=r"bare\.bin: is not beside"):
        open_runner(bare, pixels="paddle")


# What is not here -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runner", "told"), [
    ("onnxruntime:cann", "has no CANNExecutionProvider, only .*CPUExecutionProvider.*install onnxruntime-cann"),
    ("onnxruntime:CUDAExecutionProvider", "has no CUDAExecutionProvider, only .*install onnxruntime-gpu"),
    ("onnxruntime:tensorrt", "has no TensorrtExecutionProvider, only"), ("onnxruntime:dml", "onnxruntime-directml"),
    ("onnxruntime:openvino", "onnxruntime-openvino"), ("onnxruntime:webgpu", "built for it"),
    ("onnxruntime:NewExecutionProvider", "has no NewExecutionProvider"), ("openvino:gpu", "OpenVINO has no GPU"),
    ("openvino:npu", "OpenVINO has no NPU"), ("mindspore:mindir", "is no .mindir.*--target mindir"),
    ("mindspore_lite", "is no .mindir.*--target lite"),
    (f"mindspore_lite:ascend@{THIS}", "is no .mindir.*--target ascend|--target lite")])
def test_what_cannot_run(runner, told, folder, reference):
    if runner.startswith("openvino"):
        pytest.importorskip("openvino")
    done = command("detect", str(folder / "scene.png"), "-m", str(folder / "a.ckpt"), "--runner", runner)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    with pytest.raises(DbnetError, match=told):
        open_runner(folder / "a.ckpt", runner)


@pytest.mark.parametrize(("runner", "device", "told"), [
    ("onnxruntime:cuda", "cpu", "--device cpu contradicts onnxruntime:cuda, which runs on gpu"),
    ("onnxruntime:cpu", "cuda:0", "contradicts onnxruntime:cpu, which runs on cpu"),
    ("onnxruntime:cann", "cuda", "runs on ascend"), ("onnxruntime:webgpu", "gpu", "has a device of its own"),
    ("openvino:gpu", "cpu", "--device cpu contradicts --runner openvino:gpu"),
    ("openvino:cpu", "gpu:1", "--device gpu:1 contradicts"), ("openvino:cpu", "nonsense", "contradicts")])
def test_contradictions(runner, device, told, folder, reference):
    with pytest.raises(DbnetError, match=told) as failure:
        open_runner(folder / "a.ckpt", runner, device)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("runner", ["openvino", "opencv", "mindspore:mindir", "mindspore_lite", "torch:compile"])
def test_a_kit_wants_every_stage_of_the_weights(runner, folder, tmp_path):
    done = command("kit", str(folder / "a.ckpt"), "--images", str(folder / "scene.png"), "-o", str(tmp_path / "kit"),
                   "--runner", runner)
    assert done.returncode == 3 and "a kit's reference has every stage" in done.stderr
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize("runner", ["onnxruntime:CPU", "torch:eager"])
def test_a_kit_takes_the_default_by_its_name(runner, folder):
    pytest.importorskip(runner.partition(":")[0])
    assert _opened(folder / "a.ckpt", SourceOptions(), runner).runner.name == runner.partition(":")[0]


def test_stages_without_parts(folder, reference):
    """A runtime whose graph cannot be cut gives its stages all the same."""
    pytest.importorskip("openvino")
    side = open_staged(folder / "a.ckpt", "openvino", "cpu")
    assert side.lab is None and side.parts(IMAGES, reference) is None
    assert far(side.run(IMAGES), reference) < SAME and set(side.run(IMAGES)) == set(STAGES)
    assert set(side.for_images().run(IMAGES)) == {"probability"}


# Other environments ---------------------------------------------------------------------------------------------------


def test_a_graph_in_a_process_of_its_own(folder, reference, exported):
    pytest.importorskip("openvino")
    logits = exported("logits.onnx", target="onnx", output="logits")
    for path in (folder / "a.ckpt", folder / "a.onnx", logits):
        opened = open_runner(path, f"openvino:cpu@{THIS}", stages=PROBABILITY, threads=1)
        assert far(opened.run(IMAGES), reference) < SAME
        assert opened.environment()["process"] == "its own" and opened.threads == 1 and opened.at_once == 1
    with pytest.raises(DbnetError, match="OpenVINO has no GPU"):
        open_runner(folder / "a.onnx", f"openvino:gpu@{THIS}")
    with pytest.raises(DbnetError, match="must be a float32 array"):
        opened.run(IMAGES.astype(np.float64))


def test_another_environment_without_it(folder, tmp_path):
    hide = ("import importlib.util as u\nfind = u.find_spec\n"
            "u.find_spec = lambda n, *a: None if n == 'cv2' else find(n, *a)")
    python = wrapped(tmp_path / "w", sitecustomize=hide)
    with pytest.raises(DbnetError, match=r"has no cv2; install it there: .* -m pip install opencv-python-headless"):
        open_runner(folder / "a.onnx", f"opencv@{python}")


@pytest.mark.long
@pytest.mark.parametrize("spec", SPECS)
def test_opencv_5_runs_every_network(spec, tmp_path):
    """Deformable convolutions too, which no OpenCV 4 reads; from weights, with every stage."""
    pytest.importorskip("onnxruntime")
    path = tmp_path / "a.safetensors"
    converters.save_weights(seeded_weights(SPECS[spec], 5), path, spec=SPECS[spec])
    opened = open_runner(path, f"opencv@{runtime('opencv-5')}", stages=STAGES)
    wanted = open_runner(path, "onnxruntime", stages=STAGES).run(IMAGES[:1])
    assert far(opened.run(IMAGES[:1]), wanted) < SAME and opened.environment()["version"].startswith("5.")


def test_the_db_api_of_another_opencv(exported, folder):
    path = exported("matrix.onnx", target="opencv", data_shape=(160, 224))
    spec = open_runner(path, "opencv").spec
    theirs = DbApiElsewhere(runtime("opencv-5"))
    image = cv2.imread(str(folder / "scene.png"))
    rule = replace(spec.boxes, box_thresh=0.0, binary_thresh=0.5)
    here, there = db_api_boxes(path, image, spec.pixels, rule), theirs(path, image, spec.pixels, rule)
    assert theirs.title.startswith("opencv 5.") and len(here) == len(there) > 0
    with pytest.raises(DbnetError, match="does not detect with it"):
        theirs(folder / "missing.onnx", image, spec.pixels, rule)


def test_the_oldest_onnxruntime_by_its_provider(folder, reference):
    python = runtime("onnxruntime-1.15")
    opened = open_runner(folder / "a.onnx", f"onnxruntime:cpu@{python}", stages=STAGES)
    assert far(opened.run(IMAGES), reference) < SAME and opened.title.startswith("onnxruntime:cpu 1.15")
    with pytest.raises(DbnetError, match=r"this onnxruntime has no CANNExecutionProvider"):
        open_runner(folder / "a.onnx", f"onnxruntime:cann@{python}")
