"""The commands as scripts use them: JSON contracts, exit codes, what is printed."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from converters.load import load_model
from dbnet.__main__ import COMMANDS
from dbnet.datasets.drawn import draw
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, STAGES

SMALL = "db_mv3_paddle"
ROOT = Path(__file__).parents[1]


def dbnet(*arguments, code=0):
    done = subprocess.run([sys.executable, "-m", "dbnet", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, check=False, cwd=ROOT)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    weights = seeded_weights(SPECS[SMALL], 8)
    for suffix in ("ckpt", "pth", "onnx", "safetensors"):
        converters.save_weights(weights, folder / f"m.{suffix}", spec=SMALL)
    return folder


@pytest.mark.parametrize("suffix", ["ckpt", "pth", "onnx", "safetensors"])
def test_inspect_json(models, suffix):
    found = json.loads(dbnet("inspect", models / f"m.{suffix}", "--json", "-").stdout)
    assert set(found) >= {"format", "spec", "semantics", "dialect", "tensors", "parameters", "sha256", "metadata",
                          "missing", "unexpected"}
    assert (found["format"], found["spec"], found["missing"], found["unexpected"]) == (suffix, SMALL, [], [])
    assert found["parameters"] == 595794
    assert found["semantics"]["depthwise_padding"] == "symmetric"
    assert found["sha256"] == load_model(models / "m.ckpt").record.sha256
    assert found["metadata"]["origin"] == "paddle"


def test_inspect_names_the_nearest(models, tmp_path):
    tensors = {n: a for n, a in seeded_weights(SPECS["dbnet_resnet18"]).items() if n != "neck.out.2.weight"}
    tensors["neck.spare.weight"] = np.ones(3, np.float32)
    from converters.formats import codec
    with (tmp_path / "a.safetensors").open("w+b") as stream:
        codec("safetensors").write(stream, tensors, None)
    found = json.loads(dbnet("inspect", tmp_path / "a.safetensors", "--json", "-", code=1).stdout)
    assert (found["spec"], found["nearest"]["spec"]) == (None, "dbnet_resnet18")
    assert (found["missing"], found["unexpected"]) == (["neck.out.2.weight"], ["neck.spare.weight"])
    text = dbnet("inspect", tmp_path / "a.safetensors", code=1).stdout
    assert "nearest is dbnet_resnet18" in text
    assert "neck.spare.weight" in text


def test_compare(models, tmp_path):
    assert "same: 269 tensors" in dbnet("compare", models / "m.ckpt", models / "m.onnx", "--weights").stdout
    weights = dict(converters.load_weights(models / "m.ckpt"))
    name = "neck.out.3.weight"
    changed = weights[name].copy()
    changed[0, 0, 0, 0] = np.nextafter(changed[0, 0, 0, 0], np.float32(9))
    converters.save_weights({**weights, name: changed}, tmp_path / "b.pth", spec=SMALL)
    report = tmp_path / "r.json"
    done = dbnet("compare", models / "m.ckpt", tmp_path / "b.pth", "--weights", "--json", report, code=1)
    assert name in done.stdout
    found = json.loads(report.read_text())
    assert (found["same"], found["identical"], [d["name"] for d in found["different"]]) == (False, 268, [name])


def test_compare_notices_semantics(tmp_path):
    spec = SPECS["dbnet_resnet18"]
    for name, s in (("a", spec), ("b", replace(spec, stem_pool="symmetric"))):
        converters.save_weights(seeded_weights(spec), tmp_path / f"{name}.pth", spec=s)
    done = dbnet("compare", tmp_path / "a.pth", tmp_path / "b.pth", "--weights", code=1)
    assert "stem_pool is same in A, symmetric in B" in done.stdout


def test_convert_json_goes_to_stdout_alone(models, tmp_path):
    said = json.loads(dbnet("convert", models / "m.pth", tmp_path / "b.onnx", "--json", "-").stdout)
    assert (said["spec"], said["from"], said["to"], said["tensors"]) == (SMALL, "torch", "mindocr", 269)


def test_stages_become_outputs(models, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    dbnet("convert", models / "m.ckpt", tmp_path / "s.onnx", "--stages")
    session = ort.InferenceSession(str(tmp_path / "s.onnx"), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == list(STAGES)
    plain = ort.InferenceSession(str(models / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [o.name for o in plain.get_outputs()] == ["probability"]
    assert [i.name for i in plain.get_inputs()] == ["image"]


@pytest.mark.parametrize("shape", [None, (64, 96)])
def test_export(models, tmp_path, shape):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    said = dbnet("export", models / "m.pth", tmp_path / "d.onnx", *(("--data-shape", *shape) if shape else ())).stdout
    assert "same probability as the archive form" in said
    model = onnx.load(tmp_path / "d.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    assert not [t.name for t in model.graph.initializer if "thresh" in t.name]
    session = ort.InferenceSession(str(tmp_path / "d.onnx"), providers=["CPUExecutionProvider"])
    sides = session.get_inputs()[0].shape[2:]
    assert sides == (list(shape) if shape else ["H", "W"])
    back = load_model(tmp_path / "d.onnx")
    assert (back.subset, len(back.weights)) == ("inference", 256)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set in ICDAR 2015's layout, drawn by the project."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "test/images").mkdir(parents=True)
    (root / "test/gt").mkdir()
    for i in (1, 2, 10):
        image, polygons = draw(i)
        cv2.imwrite(str(root / f"test/images/img_{i}.jpg"), image)
        lines = [",".join(str(round(v)) for v in p.flat) + ",word" for p in polygons]
        (root / f"test/gt/gt_img_{i}.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("runner", ["torch", "mindspore", "onnxruntime"])
def test_evaluate_json(models, drawn, runner, tmp_path):
    pytest.importorskip(runner)
    report = tmp_path / "e.json"
    done = dbnet("evaluate", models / "m.ckpt", "--dataset", "icdar2015", "--root", drawn, "--runner", runner,
                 "--json", report, "--limit", 2)
    found = json.loads(report.read_text())
    assert set(found) >= {"scores", "images", "versions", "settings"}
    assert set(found["scores"]["rrc"]) == {"precision", "recall", "fscore"}
    assert list(found["images"]) == ["img_1.jpg", "img_2.jpg"]
    for image in found["images"].values():
        for detection in image["detections"]:
            assert np.asarray(detection["polygon"]).shape[1] == 2
            assert 0 <= detection["score"] <= 1
    assert found["versions"]["runner"]["framework"] == runner
    assert "f-score" in done.stdout


def test_evaluate_json_to_stdout(models, drawn):
    pytest.importorskip("onnxruntime")
    assert json.loads(dbnet("evaluate", models / "m.onnx", "--root", drawn, "--json", "-").stdout)["images"]


def test_evaluate_without_data_is_one_line(models, tmp_path):
    done = dbnet("evaluate", models / "m.onnx", "--root", tmp_path, code=3)
    assert done.stderr.count("\n") == 1
    assert "images/" in done.stderr


def test_evaluate_on_a_device_that_is_not_there(models, drawn):
    pytest.importorskip("torch")
    import torch
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = dbnet("evaluate", models / "m.pth", "--root", drawn, "--device", "cuda:0", code=3)
    assert done.stderr.count("\n") == 1
    assert "--device cpu" in done.stderr


def test_specs():
    rows = json.loads(dbnet("specs", "--json", "-").stdout)
    assert [row["spec"] for row in rows] == list(SPECS)
    assert all(str(row["parameters"]) in dbnet("specs").stdout.replace(",", "") for row in rows[:1])


def test_operations_are_torchs(models):
    """Counted by torch itself on the running network."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from dbnet.parameters import count_operations
    from torch_reference import build
    for name, spec in SPECS.items():
        with torch.device("meta"):
            model = build(spec)
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, 96, 160))
        assert counter.get_total_flops() == pytest.approx(count_operations(spec, 96, 160), rel=1e-6), name


def test_help_is_short_and_imports_nothing_heavy():
    assert len(COMMANDS) <= 18  # more would not fit on a screen with its descriptions
    script = ("import sys; sys.argv[1:] = ['--help']\nfrom dbnet.__main__ import main\n"
              "try: main()\nexcept SystemExit: print([m for m in ('numpy', 'cv2', 'onnx', 'rich', 'shapely') "
              "if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_demo(tmp_path):
    theirs = [tmp_path / "demo" / name for name in ("images/holiday.jpg", "models/best.ckpt")]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"precious")
    done = dbnet("demo", "--out", tmp_path / "demo")
    assert all(file.read_bytes() == b"precious" for file in theirs)
    assert "the same model everywhere; report: " in done.stdout
    rows = re.findall(r"^ +(torch|mindspore|onnxruntime) +(\d+) +\S+ +\S+ +(\S+)", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["torch", "mindspore", "onnxruntime"]
    assert len({(boxes, score) for _, boxes, score in rows}) == 1 and float(rows[0][2]) > 0.5
    assert done.stdout.count(f"within tolerance; {rows[0][1]} boxes identical") == 2
    for name in ("mindspore", "onnxruntime"):
        page = (tmp_path / "demo" / f"{name}_against_torch.html").read_text()
        assert "drawn_3.png" in page and "data:image/" in page
