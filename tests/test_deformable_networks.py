"""Deformable networks as a whole: stage by stage in every runtime, in files, in records, at the start of a training.
The operator by itself: test_deformable.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converters
from converters import onnx_file
from converters.convert import convert, load_model
from converters.export import export
from converters.onnx_graph import build_graph
from dbnet.__main__ import main
from dbnet.errors import DbnetError
from dbnet.initial import initial_weights
from dbnet.parameters import count_operations, parameters
from dbnet.record import Record
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, STAGES, ModelSpec, with_semantics
from evaluation.delivery.check import missing
from evaluation.delivery.settings import Delivered
from parity.tolerances import tolerances

R18, R50, R50_PP = (SPECS[f"{name}_deformable"] for name in ("dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50"))
STRIDED = replace(R50, offsets="strided")
CASES = {"R18": R18, "R50": R50, "R50++": R50_PP, "R50 strided": STRIDED}


def later(*values: Any) -> Any:
    """Of the long run: its parts are those of other rows."""
    return pytest.param(*values, marks=pytest.mark.long)


@lru_cache(maxsize=8)
def in_torch(spec: ModelSpec, precision: Any = "float32", changed: str = "") -> dict[str, np.ndarray]:
    """All stages; `changed`: a part of the name of the weights that are 0 instead."""
    pytest.importorskip("torch")
    from torch_reference.runner import TorchRunner
    weights = {name: array * (not changed or changed not in name) for name, array in seeded_weights(spec, 3).items()}
    return TorchRunner(spec, weights, "cpu", STAGES, precision=precision).run(images())


def images() -> np.ndarray:
    """A batch of two, neither square nor of equal content."""
    return seeded_images(2, 64, 96, seed=8)


def in_runtime(spec: ModelSpec, x: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    stream = BytesIO()
    onnx_file.write(stream, seeded_weights(spec, 3), spec, None, stages=True, **options)
    session = ort.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    return dict(zip(STAGES, session.run(None, {"image": x}), strict=True))


def assert_close(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> None:
    """Within the tolerances of parity/, so that these networks need none of their own."""
    for stage in STAGES:
        assert exact[stage].std() > 1e-3 * np.abs(exact[stage]).max(), stage
        error = np.abs(found[stage] - exact[stage]).max() / np.abs(exact[stage]).max()
        assert error <= tolerances("cpu").of(stage), (stage, error)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [R18, later(R50), R50_PP, STRIDED], ids=CASES)
def test_torch_equals_its_float64(spec):
    assert_close(in_torch(spec), in_torch(spec, "float64"))


@pytest.mark.parametrize(("spec", "options"), [
    *((spec, {"deformable": form}) for spec in (R18, R50_PP) for form in ("native", "decomposed")),
    *(later(R50, {"deformable": form}) for form in ("native", "decomposed")),
    (STRIDED, {"deformable": "decomposed"}), later(STRIDED, {"deformable": "native"}),
    *((R18, {"form": "delivery", "deformable": "decomposed", "opset": opset}) for opset in (11, 22)),
    *((R18, {"form": "delivery", "deformable": form, "data_shape": (64, 96), "batch": 2})
      for form in ("native", "decomposed"))],
    ids=lambda value: value.name if isinstance(value, ModelSpec) else str(value))
def test_onnx_equals_float64(spec, options):
    assert_close(in_runtime(spec, images(), **options), in_torch(spec, "float64"))


@pytest.mark.long  # that of ResNet-18 is in parity/test_feature_maps.py
@pytest.mark.parametrize("spec", [R18, R50, R50_PP, STRIDED], ids=CASES)
def test_mindspore_equals_float64(spec):
    pytest.importorskip("mindspore")
    from ms_models.runner import MindSporeRunner
    runner = MindSporeRunner(spec, seeded_weights(spec, 3), "cpu", STAGES)
    assert_close(runner.run(images()), in_torch(spec, "float64"))
    assert runner.run(seeded_images(1, 32, 64))["probability"].shape == (1, 1, 32, 64)  # c5 is 1 x 2 then


@pytest.mark.parametrize("spec", [R18, later(R50)], ids=["R18", "R50"])
def test_offsets_and_masks_matter(spec):
    """With seeded weights; else the tests above would pass with plain convolutions of half the strength."""
    whole = in_torch(spec)
    for changed in ("conv2_offset.weight", "conv2_offset.bias", "layer2.0.conv2_offset"):
        other = in_torch(spec, changed=changed)
        assert np.array_equal(other["c2"], whole["c2"])
        for stage in ("c3", "c4", "c5", "logits"):
            least = 5e-3 if changed.endswith("bias") else 0.05
            assert np.abs(other[stage] - whole[stage]).max() > least * np.abs(whole[stage]).max(), (changed, stage)


def test_two_kinds_of_offsets():
    """They part in the first block with a stride, which a BasicBlock never has in its second convolution."""
    one, other = in_torch(R50), in_torch(STRIDED)
    assert np.array_equal(one["c2"], other["c2"])
    assert all(np.abs(one[s] - other[s]).max() > 0.05 * np.abs(one[s]).max() for s in ("c3", "c4", "c5"))
    other_r18 = in_torch(replace(R18, offsets="strided"))
    assert all(np.array_equal(in_torch(R18)[stage], other_r18[stage]) for stage in STAGES)


@pytest.mark.parametrize(("spec", "form"), [(R18, "native"), (R50, "decomposed"), later(R50, "native")],
                         ids=["R18 native", "R50 decomposed", "R50 native"])
def test_sizes_are_dynamic(spec, form):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    from torch_reference.runner import TorchRunner
    weights, stream = seeded_weights(spec, 3), BytesIO()
    onnx_file.write(stream, weights, spec, None, deformable=form)
    session = ort.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    runner = TorchRunner(spec, weights, "cpu")
    for n, height, width in ((1, 32, 32), (3, 64, 32), (1, 96, 160)):
        x = seeded_images(n, height, width)
        found, = session.run(None, {"image": x})
        assert np.abs(found - runner.run(x)["probability"]).max() <= 2e-5


def test_operations():
    """Plain, plus the convolution for the offsets, which at stride 1 has four times the places of its block's."""
    sizes = {2: (128, 8), 3: (256, 16), 4: (512, 32)}
    blocks = {2: 4, 3: 6, 4: 3}
    each = {layer: 2 * 27 * 9 * width * (64 // grid) * (96 // grid) for layer, (width, grid) in sizes.items()}
    plain = replace(R50, deformable="none")
    more = sum(each[layer] * blocks[layer] for layer in sizes)
    assert count_operations(STRIDED, 64, 96) - count_operations(plain, 64, 96) == pytest.approx(more)
    assert count_operations(R50, 64, 96) - count_operations(plain, 64, 96) == \
        pytest.approx(more + 3 * sum(each.values()))


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deformable") / "model.ckpt"
    converters.save_weights(seeded_weights(R18, 3), path, spec=R18)
    return path


@pytest.mark.parametrize("form", ["native", "decomposed"])
def test_onnx_and_back_loses_nothing(form, checkpoint, tmp_path):
    there = convert(checkpoint, tmp_path / "model.onnx", deformable=form).target
    model = onnx.load(there)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == (19 if form == "native" else 17)
    native = sum(node.op_type == "DeformConv" for node in model.graph.node)
    assert native == (6 if form == "native" else 0)
    kinds = {p.name: p.shape for p in parameters(R18)}
    assert {t.name: tuple(t.dims) for t in model.graph.initializer} == kinds
    back = load_model(convert(there, tmp_path / "back.ckpt").target)
    first = load_model(checkpoint)
    assert back.record == first.record and back.record.spec == R18
    assert all(np.array_equal(back.weights[name], array) for name, array in first.weights.items())


@pytest.mark.parametrize(("spec", "form"), [(R50_PP, "native"), (R18, "decomposed"), later(R50, "decomposed")],
                         ids=lambda value: value if isinstance(value, str) else value.name)
def test_the_checker_infers_what_is_declared(spec, form):
    stream = BytesIO()
    onnx_file.write(stream, seeded_weights(spec), spec, None, stages=True, deformable=form)
    model = onnx.load_from_string(stream.getvalue())
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert [v.type for v in inferred.graph.output] == [v.type for v in model.graph.output]


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["convert", "model.ckpt", "a.onnx", "--deformable", "native"], 0, "12,786,660 values"),
    (["convert", "model.ckpt", "a.pth", "--deformable", "native"], 3, "leave out --deformable"),
    (["convert", "model.ckpt", "a.onnx", "--deformable", "both"], 2, "is not one of"),
    (["export", "model.ckpt", "a.onnx"], 0, "opset 13"),
    pytest.param(["export", "model.ckpt", "a.onnx", "--deformable", "native"], 0, "opset 19", marks=pytest.mark.long),
    pytest.param(["export", "model.ckpt", "a.onnx", "--deformable", "native", "--opset", "22"], 0, "opset 22",
                 marks=pytest.mark.long),
    (["export", "model.ckpt", "a.onnx", "--deformable", "native", "--opset", "18"], 3, "opset 19 or newer, not 18"),
    (["export", "model.ckpt", "a.onnx", "--deformable", "decomposed", "--opset", "11"], 0, "plain operators"),
])
def test_the_command_line(arguments, code, told, checkpoint, tmp_path, monkeypatch, capsys):
    paths = [str(checkpoint if a == "model.ckpt" else tmp_path / a) if "." in a else a for a in arguments]
    monkeypatch.setattr("sys.argv", ["dbnet", *paths])
    found = 0
    try:
        main()
    except SystemExit as stop:
        found = int(stop.code or 0)
    done = capsys.readouterr()
    assert (found, told in done.out + done.err) == (code, True), done
    assert bool(list(tmp_path.iterdir())) == (code == 0)


def test_an_old_runtime_does_not_stop_an_export(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "native.onnx"
    export(checkpoint, path, deformable="native")
    delivered = Delivered(path, "onnx", R18, "image", "probability", ("N", 3, "H", "W"), opset=19)
    assert missing("onnxruntime", delivered) is None
    monkeypatch.setattr("onnxruntime.__version__", "1.24.4")
    assert missing("onnxruntime", delivered) == "ONNX Runtime 1.24.4 has no DeformConv"


def test_a_plain_network_has_no_form():
    spec = SPECS["dbnet_mobilenetv3"]
    with pytest.raises(DbnetError, match="no deformable convolutions"):
        build_graph(spec, seeded_weights(spec), form="archive", deformable="decomposed")


# Records and initial weights ------------------------------------------------------------------------------------------

#: As versions without deformable convolutions wrote it.
OLD_RECORD = (
    '{"boxes": {"binary_thresh": 0.3, "box_thresh": 0.6, "box_type": "quad", "dilation": false, "max_candidates": 1000,'
    ' "rule": "mindocr", "score_mode": "fast", "unclip_ratio": 1.5}, "origin": "mindocr", "pixels": {"colour": "RGB", '
    '"ignore_orientation": false, "mean": [123.675, 116.28, 103.53], "resize": "stretch", "size": [736, 1280], "std": '
    '[58.395, 57.120000000000005, 57.375]}, "semantics": {"backbone": "resnet50", "depthwise_padding": "same", '
    '"fusion": "concat", "k": 50.0, "neck_channels": 256, "norm_eps": 1e-05, "se_gate": "sigmoid", "stem_pool": '
    '"same", "step_function": "paper"}, "sha256": null, "spec": "dbnet_resnet50", "version": 1}')


def test_records_of_plain_networks_are_what_they_were():
    record = Record.from_json(OLD_RECORD, "old.ckpt")
    assert record.spec == SPECS["dbnet_resnet50"]
    assert record.to_json() == OLD_RECORD


@pytest.mark.parametrize("spec", [*CASES.values(), replace(R50, deformable="none"), replace(R18, offsets="strided"),
                                  replace(SPECS["dbnet_resnet50"], deformable="modulated"),
                                  replace(SPECS["dbnet_resnet50"], offsets="mhliao")])
def test_records_keep_the_kind_of_offsets(spec):
    text = Record(spec, "mhliao").to_json()
    assert Record.from_json(text, "x") == Record(spec, "mhliao")
    assert json.loads(text)["spec"] == spec.name


@pytest.mark.parametrize("changes", [{"deformable": True}, {"deformable": "v1"}, {"offsets": "dense"},
                                     {"offsets": None}])
def test_semantics_are_checked(changes):
    with pytest.raises(DbnetError, match="cannot be"):
        with_semantics(R50, changes)


def test_the_kind_of_offsets_is_told_only_where_it_counts():
    assert R50.relevant_semantics()["offsets"] == "mhliao"
    assert "offsets" not in R18.relevant_semantics()
    assert "offsets" not in SPECS["dbnet_resnet50"].relevant_semantics()
    assert "deformable" not in SPECS["dbnet_mobilenetv3"].relevant_semantics()


def test_a_training_begins_without_offsets():
    weights = initial_weights(R18, 0)
    predicting = {name: array for name, array in weights.items() if "conv2_offset" in name}
    assert len(predicting) == 12 and not any(array.any() for array in predicting.values())
    plain = initial_weights(replace(R18, deformable="none"), 0)
    assert all(np.array_equal(weights[name], array) for name, array in plain.items())
