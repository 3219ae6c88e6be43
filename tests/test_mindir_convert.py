"""A .mindir that MindSpore wrote, converted: the same bits, the same semantics, the same numbers as in MindSpore."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import converters
from converters.compare_weights import compare_weights
from converters.convert import convert, describe
from converters.formats import read_file
from converters.inspect import inspect
from converters.load import SourceOptions, load_model
from converters.weights import digest, same_bits
from dbnet.__main__ import cli
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import MHLIAO_PIXELS, SPECS, ModelSpec
from evaluation.runners import open_runner
from tests.mindir_scenes import changed, export, exported, net_of
from tests.test_mindir_semantics import hard_gates

MV3 = SPECS["dbnet_mobilenetv3"]
#: Numbers of MindSpore against torch.
CLOSE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def _mindspore() -> None:
    pytest.importorskip("mindspore")


@pytest.fixture(scope="module", name="net")
def _net(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mindir") / "net.mindir"
    path.write_bytes(exported(MV3))
    return path


def inference(spec: ModelSpec) -> dict[str, np.ndarray]:
    return {name: array for name, array in seeded_weights(spec).items() if not name.startswith("head.thresh.")}


def in_mindspore(path: Path, images: np.ndarray) -> np.ndarray:
    """The probability that the file's own graph gives."""
    import mindspore as ms

    from ms_models import compat
    compat.set_device(None)
    ms.set_context(mode=ms.GRAPH_MODE)
    compat.cure_avx512()
    return ms.nn.GraphCell(ms.load(str(path)))(ms.Tensor(images)).asnumpy()


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".onnx", ".safetensors"])
def test_every_target_holds_the_same_bits(suffix, net, tmp_path):
    conversion = convert(net, tmp_path / f"y{suffix}")
    model = load_model(tmp_path / f"y{suffix}")
    expected = inference(MV3)
    assert list(model.weights) == list(expected) and model.subset == "inference"
    assert all(same_bits(model.weights[name], array) for name, array in expected.items())
    assert model.record.sha256 == conversion.source.record.sha256 == digest(expected)
    assert model.record.spec.semantics() == MV3.semantics()
    assert compare_weights(conversion.source, model).same
    told = "\n".join(describe(conversion))
    assert "read from its graph: norm_eps=1e-05, se_gate=sigmoid, depthwise_padding=same" in told
    assert "MindOCR's are taken" in told and "1x3x64x64 only" in told and "inference subset" in told


def test_what_the_graph_says_goes_into_the_record(net, tmp_path):
    path = tmp_path / "x.mindir"
    path.write_bytes(changed(net.read_bytes(), hard_gates))
    conversion = convert(path, tmp_path / "y.ckpt")
    assert load_model(tmp_path / "y.ckpt").record.spec == replace(MV3, se_gate="hard_sigmoid")
    told = "\n".join(describe(conversion))
    assert "se_gate=hard_sigmoid" in told and "se_gate is not MindOCR's, so its pixels may not be either" in told
    shown = inspect(path)
    assert shown["semantics"]["se_gate"] == "hard_sigmoid" and "read from its graph" in " ".join(shown["notes"])
    images = seeded_images(1, 64, 64)
    ours = open_runner(path, "torch", stages=("probability",)).run(images)["probability"]
    assert np.abs(ours - in_mindspore(path, images)).max() <= CLOSE
    said = load_model(path, SourceOptions(semantics={"se_gate": "sigmoid"}))
    assert said.record.spec == MV3 and "you say se_gate=sigmoid, its graph computes hard_sigmoid" in said.notes


def with_record(spec: ModelSpec, sha256: str | None) -> dict:
    record = Record(spec, "mindocr", sha256).to_json()
    return {"custom_func": lambda proto: proto.user_info.update({"dbnet": record})}


@pytest.mark.long
def test_mindspore_keeps_a_record_that_its_export_is_given(tmp_path):
    spec = replace(MV3, pixels=MHLIAO_PIXELS)
    path = export(spec, tmp_path / "x.mindir", **with_record(spec, digest(inference(spec))))
    assert load_model(path).record.spec == spec
    assert in_mindspore(path, seeded_images(1, 64, 64)).shape == (1, 1, 64, 64)


def test_a_record_is_read_and_must_agree(net, tmp_path):
    path, content, spec = tmp_path / "x.mindir", net.read_bytes(), replace(MV3, pixels=MHLIAO_PIXELS)
    path.write_bytes(changed(content, with_record(spec, digest(inference(spec)))["custom_func"]))
    model = load_model(path)
    assert model.record.spec == spec and not model.bare and inspect(path)["record"] == "matches"
    assert not any("read from its graph" in note for note in model.notes)
    path.write_bytes(changed(content, with_record(replace(MV3, se_gate="hard_sigmoid"), None)["custom_func"]))
    with pytest.raises(DbnetError, match="its record says se_gate=hard_sigmoid, its graph computes sigmoid"):
        load_model(path)
    assert "its graph computes sigmoid" in " ".join(inspect(path)["notes"])
    path.write_bytes(changed(content, with_record(MV3, "0" * 64)["custom_func"]))
    with pytest.raises(DbnetError, match="digest"):
        load_model(path)


@pytest.mark.long
def test_a_large_export_is_two_files(tmp_path, monkeypatch):
    from mindspore.train import serialization
    monkeypatch.setattr(serialization, "TOTAL_SAVE", 100)
    export(MV3, tmp_path / "big")
    path = tmp_path / "big_graph.mindir"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400 and path.stat().st_size < 1 << 20
    assert load_model(path).record.sha256 == digest(inference(MV3))
    os.rename(tmp_path / "big_variables", tmp_path / "other")
    with pytest.raises(DbnetError, match="copy the folder big_variables too"):
        load_model(path)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC"])
def test_an_encrypted_export_says_what_to_do(mode, tmp_path):
    import mindspore as ms
    secret = {"_key": b"0123456789abcdef", "_mode": mode}
    path = export(MV3, tmp_path / "x.mindir", **{f"enc{name}": value for name, value in secret.items()})
    with pytest.raises(DbnetError, match="is encrypted; decrypt it with MindSpore"):
        read_file(path)
    graph = ms.load(str(path), **{f"dec{name}": value for name, value in secret.items()})
    ms.save_checkpoint(ms.nn.GraphCell(graph), str(tmp_path / "x.ckpt"))
    assert load_model(tmp_path / "x.ckpt").record.sha256 == digest(inference(MV3))


@pytest.mark.parametrize(("arguments", "told"), [
    (["convert", "{}", "{out}/y.safetensors"], "depthwise_padding=same, se_gate=sigmoid"),
    (["inspect", "{}"], "(mindir)"), (["compare", "--weights", "{}", "{}"], "same: 288 tensors"),
    (["export", "{}", "{out}/y.onnx"], "dbnet_mobilenetv3"),
])
def test_the_commands(arguments, told, net, tmp_path):
    result = CliRunner().invoke(cli, [one.format(net, out=tmp_path) for one in arguments])
    assert told in result.output and result.exit_code == 0, result.output


def test_json_tells_where_the_semantics_come_from(net, tmp_path):
    result = CliRunner().invoke(cli, ["convert", str(net), str(tmp_path / "y.pth"), "--json", "-"])
    data = json.loads(result.output)
    assert data["bare"] and data["semantics"]["se_gate"] == "sigmoid"
    assert any("read from its graph" in note for note in data["notes"])


def test_the_python_interface(net):
    assert list(converters.load_weights(net)) == list(inference(MV3))


# Numbers --------------------------------------------------------------------------------------------------------------

RUNS = [(replace(SPECS["dbnet_resnet18"], stem_pool="symmetric"), None), (SPECS["dbnet_resnet50"], None),
        (SPECS["dbnetpp_resnet50"], 96), (SPECS["dbnet_resnet50_deformable"], 96), (SPECS["dbpp_resnet50_paddle"], 96),
        (replace(SPECS["db_mv3_ppocrv3"], upsampling="align_corners"), None),
        (replace(MV3, se_gate="hard_sigmoid_0.2", depthwise_padding="symmetric", norm_eps=1e-3), None),
        (replace(SPECS["db_mv3_paddle"], upsampling="rounded"), None)]


@pytest.mark.long
@pytest.mark.parametrize(("spec", "side"), RUNS, ids=[f"{i}-{spec.name}" for i, (spec, _) in enumerate(RUNS)])
def test_the_converted_model_computes_what_the_file_does(spec, side, tmp_path):
    path = export(spec, tmp_path / "x.mindir", side)
    convert(path, tmp_path / "y.pth")
    model = load_model(tmp_path / "y.pth")
    assert model.record.spec.relevant_semantics() == spec.relevant_semantics()
    assert model.record.sha256 == digest(inference(spec))
    images = seeded_images(1, 96, 96, 5)
    ours = open_runner(tmp_path / "y.pth", "torch", stages=("probability",)).run(images)["probability"]
    theirs = in_mindspore(path, images)
    assert theirs.std() > 0.01 and np.abs(ours - theirs).max() <= CLOSE


@pytest.mark.long
@pytest.mark.parametrize("side", [64, None])
def test_a_neck_as_mindocr_writes_it(side, tmp_path):
    """Additions in place; and, where the sides are free, a choice at run time."""
    from tests.mindir_cells import InPlaceFPN
    net = net_of(MV3)
    neck = InPlaceFPN(MV3)
    neck.set_train(False)
    for own, other in zip(neck.get_parameters(), net.neck.get_parameters(), strict=True):
        own.set_data(other)
        own.name = other.name
    net.neck = neck
    content = export(net, tmp_path / "x.mindir", side).read_bytes()
    assert b"InplaceAddExt" in content and (b"Switch" in content) == (side is None)
    model = load_model(tmp_path / "x.mindir")
    assert model.record.spec == MV3 and model.record.sha256 == digest(inference(MV3))
    assert not any("not read" in note for note in model.notes)


def padded_pool(net: Any) -> Any:
    from mindspore import nn
    net.backbone.max_pool = nn.MaxPool2d(3, stride=2, pad_mode="pad", padding=1)
    return net


def in_half(net: Any) -> Any:
    import mindspore as ms
    return net.to_float(ms.float16)


def mixed(net: Any) -> Any:
    from mindspore import amp
    return amp.auto_mixed_precision(net, "O2").set_train(False)


@pytest.mark.long
@pytest.mark.parametrize(("spec", "change", "changes", "note"), [
    (SPECS["dbnet_resnet18"], padded_pool, {"stem_pool": "symmetric"}, "so its pixels may not be"),
    (MV3, in_half, {}, "computes in float16"), (MV3, mixed, {}, "computes in float16"),
    (MV3, lambda net: net.set_train(True), {}, "exported in training mode")], ids=["pool", "half", "mixed", "training"])
def test_networks_that_were_changed_before_their_export(spec, change, changes, note, tmp_path):
    model = load_model(export(change(net_of(spec)), tmp_path / "x.mindir"))
    assert model.record.spec == replace(spec, **changes) and model.record.sha256 == digest(inference(spec))
    assert note in " ".join(model.notes) and "not read" not in " ".join(model.notes)


@pytest.mark.long
def test_several_outputs_and_the_training_branch(tmp_path):
    from ms_models.runner import Stages
    stages = Stages(net_of(MV3), ("c2", "probability", "threshold", "binary")).set_train(False)
    model = load_model(export(stages, tmp_path / "x.mindir"))
    assert model.subset == "complete" and model.record.sha256 == digest(seeded_weights(MV3))
    assert model.record.spec == MV3 and "threshold branch" in " ".join(model.notes)
    assert "not read to its end" not in " ".join(model.notes)


@pytest.mark.long
def test_logits_alone_are_refused(tmp_path):
    from tests.mindir_cells import Logits
    export(Logits(net_of(MV3)).set_train(False), tmp_path / "x.mindir")
    with pytest.raises(DbnetError, match=r"no sigmoid follows head\.segm\.6"):
        load_model(tmp_path / "x.mindir")
