"""A framework of another environment computes what it computes in this process, stage by stage, in every command."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.load import SourceOptions, load_model
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.portable import closure
from dbnet.precision import FORMATS
from dbnet.record import Record
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, TRAINING_STAGES
from evaluation import elsewhere_onnx, half, opening
from evaluation.elsewhere import Worker
from evaluation.elsewhere_onnx import ElsewhereSession, OnnxRuntimeElsewhere
from evaluation.half import open_half
from evaluation.onnx_runner import OnnxRuntimeRunner
from evaluation.runners import open_runner
from parity.staged import open_staged
from parity.whole import title_of
from tests import opaque_models
from tests.bare import bare_python
from tests.elsewhere import THIS
from tests.running import dbnet

SPEC = SPECS["dbnet_mobilenetv3"]
IMAGES = seeded_images(2, 64, 96)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """suffix -> a file of one model."""
    folder = tmp_path_factory.mktemp("models")
    found = {suffix: folder / f"model.{suffix}" for suffix in ("ckpt", "pth", "onnx")}
    for path in found.values():
        converters.save_weights(seeded_weights(SPEC), path, spec=SPEC)
    return found


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "p.png"
    cv2.imwrite(str(path), draw(3, 160, 224)[0])
    return path


@pytest.fixture(scope="module", autouse=True)
def one_worker():
    """For all tests, of each framework: starting one takes seconds, and test_elsewhere_ends.py starts many. One thread
    here and there: torch's digits hang on their number, and other tests of this process may have set it."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setenv("OMP_NUM_THREADS", "1")
        started = functools.cache(Worker)
        for module in (opening, half, elsewhere_onnx):
            patch.setattr(module, "Worker", started)
        yield


@contextlib.contextmanager
def one_thread():
    if not installed("torch"):
        yield
        return
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def there(name: str) -> str:
    pytest.importorskip(name)
    return f"{name}@{THIS}"


def assert_equal(a, b):
    assert list(a) == list(b)
    for stage, array in a.items():
        assert array.dtype == b[stage].dtype == np.float32
        assert np.array_equal(array, b[stage]), stage


@pytest.mark.parametrize(("name", "suffix"), [
    ("torch", "pth"), pytest.param("mindspore", "ckpt", marks=pytest.mark.long)])
def test_a_half_gives_the_same_digits(name, suffix, models):
    """Chained, isolated, for the probability alone, and what computes in training."""
    here, other = (open_staged(models[suffix], runner, "cpu") for runner in (name, there(name)))
    assert here.stages == other.stages == STAGES + TRAINING_STAGES
    ours = here.run(IMAGES)
    assert_equal(ours, other.run(IMAGES))
    assert_equal(here.parts(IMAGES, ours), other.parts(IMAGES, ours))
    alone = other.for_images()
    assert alone.worker is other.runner.worker, "no second process, which would import it all again"
    assert_equal({"probability": ours["probability"]}, alone.run(IMAGES))
    for runner in (other.runner, alone):
        assert runner.digest == here.runner.digest and runner.weights_digest == here.runner.weights_digest
    environment = here.runner.environment()
    assert other.runner.environment().items() >= environment.items()


@pytest.mark.parametrize("suffix", ["onnx", "pth"])
def test_onnxruntime_gives_the_same_digits(suffix, models):
    """By the file's own graph, and by ours."""
    here, other = (open_staged(models[suffix], runner) for runner in ("onnxruntime", there("onnxruntime")))
    assert here.stages == other.stages == STAGES
    ours = here.run(IMAGES)
    assert_equal(ours, other.run(IMAGES))
    assert_equal(here.parts(IMAGES, ours), other.parts(IMAGES, ours))
    assert_equal(here.for_images().run(IMAGES), other.for_images().run(IMAGES))
    assert other.lab.ort is other.runner.ort, "its stages are those of the other environment"
    if suffix == "onnx":
        layers = other.lab.layers("c2", IMAGES, ours)
        assert_equal(here.lab.layers("c2", IMAGES, ours), layers)


@pytest.mark.parametrize("changes", [{"external": True}, {"element": "FLOAT16", "end": "logits"},
                                     {"shape": (1, 64, 64, 3), "form": "nhw1"}, {"element": "DOUBLE"}])
def test_a_file_of_others_runs_there(changes, tmp_path, monkeypatch):
    """By its path, relative to here, with the weights beside it."""
    there("onnxruntime")
    opaque_models.detector(tmp_path / "d.onnx", **changes)
    monkeypatch.chdir(tmp_path)
    options = {"pixels": opaque_models.BRIGHT}
    here, other = (open_runner("d.onnx", runner, **options) for runner in ("onnxruntime", there("onnxruntime")))
    images = seeded_images(1, 64, 64)
    assert_equal(here.run(images), other.run(images))
    assert (here.spec, here.digest) == (other.spec, other.digest)
    with pytest.raises(DbnetError, match="ONNX Runtime only, not in torch"):
        open_runner("d.onnx", there("torch"), **options)


@pytest.mark.parametrize(("name", "dtype", "subset"), [("torch", "bfloat16", True), ("onnxruntime", "float16", False)])
def test_small_types_and_subsets(name, dtype, subset, tmp_path):
    weights = {key: array for key, array in seeded_weights(SPEC, 4, dtype).items()
               if not (subset and key.startswith("head.thresh."))}
    converters.save_weights(weights, tmp_path / "m.pth", spec=SPEC)
    here, other = (open_runner(tmp_path / "m.pth", runner, "cpu", STAGES) for runner in (name, there(name)))
    assert_equal(here.run(IMAGES), other.run(IMAGES))
    if subset:
        with pytest.raises(DbnetError, match="no stage threshold: these weights have no training branch"):
            open_runner(tmp_path / "m.pth", there(name), stages=("threshold",))


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_half_precision(name, models):
    chosen = {"precision": "fp16", "keep_float32": ["head"]}
    here, other = (open_runner(models["pth"], runner, "cpu", ("c2", "probability"), **chosen)
                   for runner in (name, there(name)))
    assert_equal(here.run(IMAGES), other.run(IMAGES))
    assert other.environment().items() >= here.environment().items()
    with pytest.raises(DbnetError, match="only here, not mindspore"):
        open_runner(models["pth"], f"mindspore@{THIS}", precision="fp16")
    with pytest.raises(DbnetError, match="in this environment only; leave out @PYTHON"):
        open_half(load_model(models["pth"]), there(name), "cpu", None, None, SourceOptions(), precision="fp16",
                  counting=FORMATS["fp16"])


def test_what_is_told_of_it(models):
    """The version and that it is another environment; no path of this machine, for it goes into traces."""
    side = open_staged(models["onnx"], there("onnxruntime"))
    import onnxruntime
    whole = f"onnxruntime {onnxruntime.__version__} of another environment"
    told = side.told()
    assert told["runner"] == side.runner.name == "onnxruntime"
    assert told["environment"]["process"] == "its own"
    assert told["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert any(note.startswith(f"runs in {whole} (Python ") for note in told["notes"])
    assert title_of(side) == f"model.onnx: {SPEC.name} on {whole} (cpu)"
    assert str(THIS) not in json.dumps(told | {"file": ""})
    assert "process" not in open_runner(models["onnx"]).environment()


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_the_network_arrives_as_it_was(spec):
    assert Record.from_json(Record(spec, "").to_json(), "").spec == spec


def test_images_are_checked_here(models):
    runner = open_runner(models["onnx"], there("onnxruntime"))
    for images in (IMAGES[..., :50], IMAGES.astype("f8"), IMAGES[:0]):
        with pytest.raises(DbnetError, match=r"multiples of 32|float32|no images"):
            runner.run(images)
    assert_equal(runner.run(IMAGES), runner.run(IMAGES))


def test_threads_and_devices(models):
    assert open_runner(models["pth"], there("torch"), "cpu", threads=1).environment()["threads"] == 1
    with pytest.raises(DbnetError, match="no device cuda:9 for torch"):
        open_runner(models["pth"], there("torch"), "cuda:9")
    with pytest.raises(DbnetError, match="this onnxruntime has no CANNExecutionProvider"):
        open_runner(models["pth"], there("onnxruntime"), "ascend")
    with pytest.raises(DbnetError, match="taskset"):
        open_runner(models["pth"], there("mindspore"), threads=1)
    shared = open_runner(models["onnx"], there("onnxruntime"), concurrent=True)
    assert shared.at_once == 1


def test_what_onnxruntime_refuses(tmp_path):
    there("onnxruntime")
    ort = OnnxRuntimeElsewhere(THIS)
    with pytest.raises(DbnetError, match=f"ONNX Runtime {ort.__version__} refuses it"):
        OnnxRuntimeRunner(b"nonsense", SPEC, ort=ort)
    path = opaque_models.detector(tmp_path / "d.onnx", output="probability", shape=(1, 3, 64, 64))
    runner = OnnxRuntimeRunner(path, SPEC, ort=ort)
    with pytest.raises(DbnetError, match=r"takes images of shape \(1, 3, 64, 64\) only"):
        runner.run(IMAGES)
    assert runner.run(seeded_images(1, 64, 64))["probability"].shape == (1, 1, 64, 64)
    runner._input.name = "another"
    with pytest.raises(DbnetError, match="ONNX Runtime failed on cpu"):
        runner.run(seeded_images(1, 64, 64))


def test_models_that_are_gone_are_let_go_of(models):
    there("onnxruntime")
    worker = Worker(THIS, "onnxruntime")
    for _ in range(3):
        ElsewhereSession(worker, str(models["onnx"]), {}, ["CPUExecutionProvider"])
        gc.collect()
    assert worker._forgotten == [2], "the others were named in later calls"


# Commands -------------------------------------------------------------------------------------------------------------


def test_detect_finds_the_same(models, photo, tmp_path):
    found = []
    for runner in ("onnxruntime", there("onnxruntime")):
        done = dbnet("detect", photo, "-m", models["onnx"], "--runner", runner, "--json", tmp_path / "d.json",
                     "--binary-thresh", "0.45", "--box-thresh", "0.1")
        found.append(json.loads((tmp_path / "d.json").read_text()))
        assert ("of another environment" in done.stderr) == ("@" in runner)
    assert found[0]["images"] == found[1]["images"]
    assert found[1]["settings"]["runner"] == "onnxruntime"
    assert found[1]["versions"]["runner"]["process"] == "its own"


def test_compare_with_another_environment(models, photo):
    done = dbnet("compare", models["pth"], models["onnx"], "--runner-a", there("torch"), "--runner-b",
                 there("onnxruntime"), "--device", "cpu", "--images", photo)
    assert "A: model.pth: dbnet_mobilenetv3 on torch" in done.stdout
    assert done.stdout.count("of another environment (cpu)") == 2
    assert "within tolerance" in done.stdout
    assert all(f"\n{stage} " in done.stdout for stage in STAGES)


# What the other interpreter needs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "onnxruntime", pytest.param("mindspore", marks=pytest.mark.long)])
def test_an_environment_with_nothing_of_ours(name, models, tmp_path):
    """NumPy and the framework, in a folder with a blank. (MindSpore's own digits here: a long case above.)"""
    there(name)
    python = bare_python(tmp_path / "bare env", "numpy", name)
    here, other = (open_runner(models["pth"], runner, "cpu", ("probability",)).run(IMAGES)
                   for runner in ("onnxruntime" if name == "mindspore" else name, f"{name}@{python}"))
    assert np.abs(here["probability"] - other["probability"]).max() <= (1e-5 if name == "mindspore" else 0)


@pytest.mark.parametrize("half", ["torch_reference.runner", "ms_models.runner"])
def test_python_3_10_reads_it(half):
    files = closure(["evaluation.elsewhere_worker", half])
    assert {"evaluation.elsewhere_wire", "dbnet.record", half} <= set(files)
    assert not {"converters", "parity"} & {module.split(".")[0] for module in files}
    for path in files.values():
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
