"""What torch's exporter writes, converted: the command's proof, its report, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from converters.convert import convert
from converters.load import load_model
from converters.onnx_proof import prove
from dbnet.__main__ import cli
from dbnet.errors import DbnetError
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS
from tests.foreign_onnx import as_constants, exported, network, saved, scrambled
from tests.test_onnx_foreign import MV3, R18, V3, assert_read, ours

ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
MV3_SE = replace(SPECS["dbnet_mobilenetv3"], neck_channels=64)
EVERY = [pytest.param(spec, opset, folded, dynamic, marks=pytest.mark.long) for spec in SPECS.values()
         for opset, folded, dynamic in ((13, False, False), (17, True, True), (18, False, True), (20, True, False))]


@pytest.mark.parametrize(("spec", "opset", "folded", "dynamic"), [
    (MV3_SE, 11, True, True), (MV3, 16, False, True), pytest.param(
        replace(V3, upsampling="align_corners"), 12, True, False, marks=pytest.mark.long),
    (replace(MV3, fusion="asf", neck_channels=64), 20, True, False), *EVERY])
def test_torchs_exports(spec, opset, folded, dynamic, tmp_path):
    model = exported(spec, opset, folded=folded, dynamic=dynamic)
    if opset % 2 and len(model.graph.node) < 500:
        model = scrambled(model)
    found = load_model(saved(as_constants(model) if opset % 4 else model, tmp_path / "x.onnx"))
    assert_read(found, spec, None if folded else seeded_weights(spec))
    assert found.foreign is not None and bool(found.foreign.folded) == folded
    proof = prove(found)
    assert proof is not None and max(proof.random, proof.picture) < 5e-6


def test_an_export_in_training_mode_keeps_the_threshold_branch(tmp_path):
    found = load_model(saved(scrambled(exported(MV3, 13, folded=False, training=True)), tmp_path / "x.onnx"))
    assert found.subset == "complete"
    assert_read(found, MV3, seeded_weights(MV3))


def test_a_folded_export_computes_the_same_in_torch(tmp_path):
    path = saved(exported(MV3), tmp_path / "x.onnx")
    done = convert(path, tmp_path / "y.pth")
    assert any(item.status == "folded" and "48 of 49" in item.why for item in done.report)
    from evaluation.runners import open_runner
    image = seeded_images(1, 64, 96)
    with torch.inference_mode():
        wanted = network(MV3)(torch.from_numpy(image)).numpy()
    for file in (path, tmp_path / "y.pth"):
        got = open_runner(file, "torch", stages=("probability",)).run(image)["probability"]
        assert np.abs(got - wanted).max() < 2e-6


def test_the_command_tells_and_proves(tmp_path):
    path, target = saved(exported(MV3), tmp_path / "x.onnx"), tmp_path / "y.onnx"
    done = CliRunner().invoke(cli, ["convert", str(path), str(target), "--json", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    assert "x.onnx (its graph) -> y.onnx" in done.output and "proved: largest difference" in done.output
    assert "folded: batch norms in their convolutions (48 of 49" in done.output
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["proof"]["random"] < 1e-6 and data["proof"]["picture"] < 1e-6
    assert data["proof"]["runtime"].startswith("ONNX Runtime")
    assert {item["status"] for item in data["report"]} <= {"applied", "folded", "not representable"}
    again = convert(target, tmp_path / "z.ckpt")  # it is ours now: by its record, which needs no proof
    assert again.proof is None and again.source.record.sha256 == data["sha256"]
    told = CliRunner().invoke(cli, ["inspect", str(path)]).output
    assert "read by its graph" in told and "48 of 49" in told and "db_mv3_paddle" in told


def test_what_is_not_read_is_proved_or_refused(tmp_path):
    """Between a deformable convolution's offsets and its matrix anything may be: here one thing is, which is wrong."""
    model = ours(replace(R18, deformable="modulated"), opset=13)
    node = next(node for node in model.graph.node if node.op_type == "Floor")
    node.op_type = "Ceil"
    path, target = saved(model, tmp_path / "x.onnx"), tmp_path / "y.pth"
    with pytest.raises(DbnetError, match=r"was not understood: largest difference.*nothing was written"):
        convert(path, target)
    assert not target.exists()


@pytest.mark.long
def test_a_file_that_onnx_runtime_refuses_is_proved_by_the_reference_evaluator(tmp_path):
    path = saved(exported(replace(R18, deformable="modulated"), 11), tmp_path / "x.onnx")
    proof = convert(path, tmp_path / "y.pth").proof
    assert proof is not None and "reference evaluator" in proof.runtime


def test_without_onnx_runtime_the_reference_evaluator_proves(tmp_path, monkeypatch):
    from converters import onnx_proof
    monkeypatch.setattr(onnx_proof, "installed", lambda name: False)
    spec = replace(MV3, neck_channels=16)
    proof = prove(load_model(saved(ours(spec), tmp_path / "x.onnx")))
    assert proof is not None and "reference evaluator" in proof.runtime and max(proof.random, proof.picture) < 1e-5


@pytest.mark.parametrize(("change", "told"), [
    ({"H": 100, "W": 96}, "takes images of 100x96 only"),
    ({"bad": True}, "cannot be proved, ONNX Runtime .* refuses it"),
])
def test_a_file_that_cannot_be_run_is_not_converted(change, told, tmp_path):
    model = ours(MV3, data_shape=(96, 96)) if "H" in change else ours(MV3)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in ((2, "H"), (3, "W")):
        if name in change:
            sides[place].dim_value = change[name]
    if change.get("bad"):
        next(node for node in model.graph.node if node.output[0] == "probability").domain = "nobody"
        model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    with pytest.raises(DbnetError, match=told):
        convert(saved(model, tmp_path / "x.onnx"), tmp_path / "y.pth")
    assert not (tmp_path / "y.pth").exists()


@pytest.mark.parametrize(("function", "k"), [("paper", 30.0), ("mindocr", 50.0)])
def test_the_step_of_a_training_is_read(function, k, tmp_path):
    spec = replace(MV3, neck_channels=16, step_function=function, k=k)
    found = load_model(saved(exported(spec, training=True), tmp_path / "x.onnx"))
    assert found.subset == "complete"
    assert (found.record.spec.step_function, found.record.spec.k) == (function, k)


@pytest.mark.parametrize(("outputs", "told"), [((1,), True), ((1, 0), False), ((0, 1), False)])
def test_names_of_a_threshold_branch(outputs, told, tmp_path):
    """Alone it is taken for the probability, with a note; beside that it is the threshold, whatever comes first."""
    spec = replace(MV3, neck_channels=16)
    model = exported(spec, training=True)
    kept = [onnx.ValueInfoProto.FromString(model.graph.output[i].SerializeToString()) for i in outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    found = load_model(saved(model, tmp_path / "x.onnx"))
    assert any("called as a threshold branch" in note for note in found.notes) == told
    assert found.foreign.output == ("t" if told else "p") and (found.subset == "complete") != told
