"""The ONNX graph against the originals' outputs, form against form, and in the runtimes that are to take it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from converters import onnx_file, onnx_layers
from converters.check import weight_map
from converters.onnx_graph import MAX_OPSET, MIN_OPSET, build_graph
from converters.tensor_file import Weights
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import SPECS, STAGES, ModelSpec
from parity.cases import LONG, marked
from tests.test_onnx_file import MV3, weights_of

ort = pytest.importorskip("onnxruntime")

MINDOCR_SPECS = ("dbnet_mobilenetv3", "dbnet_resnet18", "dbnet_resnet50", "dbnetpp_resnet50")
#: Maximum difference, relative to the stage's largest value, from the originals' own outputs.
STAGE_TOLERANCE, PROBABILITY_TOLERANCE = 1e-5, 5e-5


def image(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1, (batch, 3, height, width)).astype(np.float32)


def model_bytes(spec: ModelSpec, weights: Weights, **options: Any) -> bytes:
    stream = BytesIO()
    onnx_file.write(stream, weights, spec, None, **options)
    return stream.getvalue()


def session(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    opened = session(model)
    return dict(zip([o.name for o in opened.get_outputs()], opened.run(None, {"image": x}), strict=True))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value; a constant reference proves nothing."""
    assert found.shape == expected.shape
    assert np.ptp(expected) > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Against the originals ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeded(need: Callable[[str], Path]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("seeded_weights", need("oracle/seeded_weights.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_stages(found: dict[str, np.ndarray], oracle: Path, stage: float, probability: float) -> None:
    with np.load(oracle) as expected:
        names = set(STAGES) & set(expected.files)
        assert {"c2", "c3", "c4", "c5", "probability"} <= names
        for name in names:
            allowed = probability if name == "probability" else stage
            assert difference(found[name], expected[name]) <= allowed, name


@pytest.mark.parametrize("form", ["archive", "delivery"])
@pytest.mark.parametrize("name", MINDOCR_SPECS)
def test_equals_mindocr(name, form, seeded, need):
    spec = SPECS[name]
    weights = {p.name: seeded.seeded_array(p.name, p.shape, 0) for p in parameters(spec)}
    found = run(model_bytes(spec, weights, form=form, stages=True), seeded.seeded_image(96, 160, 0))
    assert_stages(found, need(f"oracle/mindocr_seed0_96x160/{name}.npz"), STAGE_TOLERANCE, PROBABILITY_TOLERANCE)


@pytest.mark.parametrize(("name", "oracle"), [
    ("dbnet_resnet18", "resnet18"), ("dbnet_resnet50", "resnet50"), ("dbnetpp_resnet50", "resnet50_asf")])
def test_equals_the_authors(name, oracle, seeded, need):
    spec = replace(SPECS[name], stem_pool="symmetric")
    mapping = weight_map("mhliao", spec)
    theirs = {}
    for entry in mapping.entries:  # seeded under the file's module paths, with MindSpore's leaves
        path = entry.foreign.rpartition(".")[0]
        leaf = entry.parameter.role.leaf("mindspore")
        theirs[entry.foreign] = seeded.seeded_array(f"{path}.{leaf}", entry.foreign_shape, 0)
    found = run(model_bytes(spec, mapping.apply(theirs), stages=True), seeded.seeded_image(96, 160, 0))
    assert_stages(found, need(f"oracle/mhliao_seed0_96x160/{oracle}.npz"), 1e-4, 1e-4)


# Semantics ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), [
    ("dbnet_resnet18", {"stem_pool": "symmetric"}), ("dbnet_resnet18", {"norm_eps": 1e-3}),
    ("dbnet_mobilenetv3", {"depthwise_padding": "symmetric"}), ("dbnet_mobilenetv3", {"se_gate": "hard_sigmoid"}),
    ("dbnet_mobilenetv3", {"se_gate": "hard_sigmoid_0.2"}), ("dbnet_mobilenetv3", {"norm_eps": 1e-3})])
def test_a_semantic_field_changes_the_numbers(name, changes):
    spec, x = SPECS[name], image(64, 96)
    weights = weights_of(spec)
    before, after = (run(model_bytes(s, weights), x)["probability"] for s in (spec, replace(spec, **changes)))
    assert np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_every_norm_has_the_epsilon(eps):
    spec = replace(MV3, norm_eps=eps)
    nodes = build_graph(spec, weights_of(spec), form="archive").proto.graph.node
    found = [helper.get_node_attr_value(node, "epsilon") for node in nodes if node.op_type == "BatchNormalization"]
    norms = {p.path for p in parameters(spec) if p.role.is_norm and not p.training_only}
    assert found == [pytest.approx(eps)] * len(norms)


# The graph's face -----------------------------------------------------------------------------------------------------


def shapes(values: Any) -> dict[str, list[int | str]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_inputs_and_outputs():
    graph = build_graph(MV3, weights_of(MV3), form="archive").proto.graph
    assert shapes(graph.input) == {"image": ["N", 3, "H", "W"]}
    assert shapes(graph.output) == {"probability": ["N", 1, "H", "W"]}


def test_stage_outputs():
    graph = build_graph(MV3, weights_of(MV3), form="delivery", stages=True).proto.graph
    assert tuple(shapes(graph.output)) == STAGES
    assert shapes(graph.output)["c4"] == ["N", 56, "H/16", "W/16"]
    fixed = build_graph(MV3, weights_of(MV3), form="delivery", stages=True, data_shape=(64, 96)).proto.graph
    assert shapes(fixed.input) == {"image": [1, 3, 64, 96]}
    assert shapes(fixed.output)["p5"] == [1, 64, 2, 3]
    two = build_graph(MV3, weights_of(MV3), form="delivery", data_shape=(64, 96), batch=2).proto.graph
    assert shapes(two.output) == {"probability": [2, 1, 64, 96]}


@pytest.mark.parametrize("name", SPECS)
def test_initialisers_are_the_parameters(name):
    spec = SPECS[name]
    weights = weights_of(spec)
    archive = build_graph(spec, weights, form="archive").initialisers
    assert {n: a.shape for n, a in archive.items()} == {p.name: p.shape for p in parameters(spec)}
    assert all(archive[n] is weights[n] for n in weights)
    delivery = build_graph(spec, weights, form="delivery").initialisers
    assert list(delivery) == [p.name for p in parameters(spec) if not p.training_only]
    subset = {p.name: weights[p.name] for p in parameters(spec) if not p.training_only}
    assert list(build_graph(spec, subset, form="archive").initialisers) == list(subset)


def test_nodes_are_named_by_module_path():
    graph = build_graph(SPECS["dbnetpp_resnet50"], weights_of(SPECS["dbnetpp_resnet50"]), form="archive").proto.graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    modules = {p.path for p in parameters(SPECS["dbnetpp_resnet50"]) if not p.training_only}
    assert modules <= set(names)


# Numbers that must not depend on the form -----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [
    *(pytest.param(spec, marks=pytest.mark.long if name in LONG else ()) for name, spec in SPECS.items()),
    replace(MV3, se_gate="hard_sigmoid_0.2"), replace(SPECS["dbnet_resnet18"], neck_channels=96, fusion="asf"),
], ids=lambda s: f"{s.name}-{s.neck_channels}-{s.se_gate}-{s.fusion}")
def test_forms_agree(spec):
    x, weights = image(64, 96), weights_of(spec)
    archive = run(model_bytes(spec, weights, stages=True), x)
    assert list(archive) == list(STAGES)
    # ONNX Runtime has other kernels for sizes that it knows.
    for options, tolerance in (({}, 1e-6), ({"data_shape": (64, 96)}, 1e-5)):
        delivery = run(model_bytes(spec, weights, form="delivery", stages=True, **options), x)
        for stage in STAGES:
            assert difference(delivery[stage], archive[stage]) <= tolerance, (stage, options)


@pytest.mark.parametrize("name", ["dbnet_mobilenetv3", "dbnetpp_resnet50"])
def test_sizes_are_dynamic(name):
    spec = SPECS[name]
    opened = session(model_bytes(spec, weights_of(spec)))
    for height, width in ((64, 96), (224, 352)):
        both = image(height, width, batch=2)
        found, = opened.run(["probability"], {"image": both})
        assert found.shape == (2, 1, height, width)
        for i in range(2):
            alone, = opened.run(["probability"], {"image": both[i:i + 1]})
            np.testing.assert_allclose(found[i:i + 1], alone, atol=2e-6)


@pytest.mark.parametrize("form", ["archive", "delivery"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda d: np.dtype(d).name)
def test_weights_of_other_types_compute_in_float32(dtype, form):
    x, weights = image(64, 96), weights_of(MV3, dtype=dtype)
    model = model_bytes(MV3, weights, form=form)
    stored = {i.name: i.data_type for i in onnx.load_from_string(model).graph.initializer}
    assert set(stored.values()) == {onnx_layers.DTYPES[np.dtype(dtype).name]}
    widened = {n: a.astype(np.float32) for n, a in weights.items()}
    expected = run(model_bytes(MV3, widened, form=form), x)["probability"]
    assert difference(run(model, x)["probability"], expected) <= 1e-6


@pytest.mark.parametrize("form", ["archive", "delivery"])
def test_every_opset_is_valid(form):
    spec, x = replace(MV3, fusion="asf"), image(32, 32)  # every operator there is
    weights, outputs = weights_of(spec), []
    for opset in range(MIN_OPSET, MAX_OPSET + 1):
        model = model_bytes(spec, weights, form=form, opset=opset)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        outputs.append(run(model, x)["probability"])
    assert max(np.abs(out - outputs[0]).max() for out in outputs) <= 1e-6


@pytest.mark.parametrize("options", [{"form": "archive"}, {"form": "delivery"}, {"form": "archive", "stages": True},
                                     {"form": "delivery", "stages": True, "data_shape": (64, 96)}])
@pytest.mark.parametrize("name", marked(SPECS, (*LONG, "dbnet_resnet50")))
def test_the_checker_infers_what_is_declared(name, options):
    model = onnx.load_from_string(model_bytes(SPECS[name], weights_of(SPECS[name]), **options))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert shapes(inferred.graph.output) == shapes(model.graph.output)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17 if options["form"] == "archive" else 13)


# Runtimes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"form": "archive"}, {"form": "delivery"},
                                     {"form": "delivery", "data_shape": (96, 160)}])
@pytest.mark.parametrize("name", marked((name for name, spec in SPECS.items() if spec.deformable == "none"),
                                        (*LONG, "dbnet_resnet50")))
def test_opencv_agrees(name, options, tmp_path, capfd):
    x, path = image(96, 160), tmp_path / "model.onnx"
    model = model_bytes(SPECS[name], weights_of(SPECS[name]), **options)
    path.write_bytes(model)
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(x)
    assert np.abs(net.forward() - run(model, x)["probability"]).max() <= 1e-4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("names", [("dbnet_resnet18_deformable", "dbnet_mobilenetv3", "db_mv3_ppocrv3"),
                                   pytest.param(tuple(SPECS), marks=pytest.mark.long)], ids=["some", "all"])
def test_onnx_runtime_is_silent(names, tmp_path):
    paths = []
    for name, form in [(name, form) for name in names for form in ("archive", "delivery")]:
        paths.append(tmp_path / f"{name}.{form}.onnx")
        paths[-1].write_bytes(model_bytes(SPECS[name], weights_of(SPECS[name]), form=form))
    code = ("import sys, numpy as np, onnxruntime as ort\n"
            "for path in sys.argv[1:]:\n"
            "    ort.InferenceSession(path, providers=['CPUExecutionProvider']).run(\n"
            "        None, {'image': np.zeros((1, 3, 64, 64), np.float32)})\n")
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["dbnet_resnet18", "dbnet_mobilenetv3"])
def test_the_archive_costs_nothing_at_run_time(name, tmp_path):
    """After ONNX Runtime's basic optimisation it runs the same operators as the delivery form, but for the means of
    maps, of which the archive's two steps are the faster ones.
    """
    operators = []
    for form in ("archive", "delivery"):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{form}.onnx")
        model = model_bytes(SPECS[name], weights_of(SPECS[name]), form=form, opset=13)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath).graph
        assert not [v for v in optimised.initializer if "thresh" in v.name]
        operators.append([node.op_type for node in optimised.node])
    means = operators[1].count("GlobalAveragePool")
    assert operators[0].count("ReduceMean") == 2 * means
    others = [[each for each in found if each not in ("ReduceMean", "GlobalAveragePool")] for found in operators]
    assert sorted(others[0]) == sorted(others[1]) and len(operators[1]) == len(others[1]) + means
    assert not {"Reshape", "Cast", "Identity", "Shape", "Transpose"} & set(operators[0])


# What cannot be written -----------------------------------------------------------------------------------------------


def changed(**changes: np.ndarray | None) -> Weights:
    weights = {**weights_of(MV3), **{name.replace("__", "."): array for name, array in changes.items()}}
    return {name: array for name, array in weights.items() if array is not None}


@pytest.mark.parametrize(("weights", "options", "told"), [
    ({}, {"opset": MIN_OPSET - 1}, "choose one from 11"),
    ({}, {"opset": MAX_OPSET + 1}, "choose one from 11"),
    ({}, {"data_shape": (100, 96)}, "multiples of 32"),
    ({}, {"data_shape": (0, 96)}, "multiples of 32"),
    ({}, {"batch": 0}, "batch of 0"),
    ({"backbone__features__0__weight": None}, {}, "backbone.features.0.weight"),
    ({"backbone__features__0__weight": np.zeros((8, 3, 1, 1), np.float32)}, {}, "backbone.features.0.weight"),
    ({"head__thresh__6__bias": None}, {}, "head.thresh.6.bias"),
    ({"extra": np.zeros(1, np.float32)}, {}, "extra"),
    ({"head__segm__6__bias": np.zeros(1, np.int8)}, {}, "int8"),
    ({"head__segm__6__bias": np.zeros(1, ml_dtypes.bfloat16)}, {"opset": 12}, "needs opset 13"),
])
def test_refused(weights, options, told):
    with pytest.raises(DbnetError, match=told):
        build_graph(MV3, changed(**weights), form="delivery", **options)
