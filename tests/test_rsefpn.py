"""PP-OCRv3's neck: three implementations, both ways to enlarge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converters.onnx_graph import MAX_OPSET, MIN_OPSET, build_graph
from dbnet.extras import installed
from dbnet.parameters import count_operations, parameters
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, STAGES

PADDLE = SPECS["db_mv3_ppocrv3"]
MINDOCR = replace(PADDLE, upsampling="align_corners", neck_gate="hard_sigmoid")
#: What an .onnx of Paddle2ONNX computes whose Resize does not say how it rounds (PP-OCRv2); its neck is a DBFPN.
ROUNDED = replace(SPECS["db_mv3_paddle"], upsampling="rounded", neck_channels=32)
BOTH = pytest.mark.parametrize("spec", [PADDLE, MINDOCR], ids=["paddle", "mindocr"])


def image(height=64, width=96):
    return np.random.default_rng(1).standard_normal((1, 3, height, width)).astype(np.float32)


def graph(spec, weights, **options):
    made = build_graph(spec, weights, **options)
    made.proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in made.initialisers.items())
    return made.proto


def by_torch(spec, weights, x):
    pytest.importorskip("torch")
    from torch_reference.runner import TorchRunner
    return TorchRunner(spec, weights, device="cpu", stages=STAGES).run(x)


def by_onnx(model, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": x}), strict=True))


@pytest.mark.parametrize("spec", [PADDLE, MINDOCR, ROUNDED, replace(PADDLE, upsampling="rounded"),
                                  replace(ROUNDED, upsampling="align_corners", fusion="asf", neck_channels=64)],
                         ids=["paddle", "mindocr", "rounded", "rounded rsefpn", "aligned dbfpn"])
def test_torch_and_onnx_agree_at_every_stage(spec):
    weights = seeded_weights(spec, 1)
    theirs = by_torch(spec, weights, image())
    ours = by_onnx(graph(spec, weights, form="archive", stages=True), image())
    assert list(ours) == list(STAGES)
    for stage in STAGES:
        assert np.abs(ours[stage] - theirs[stage]).max() <= 1e-5 * np.abs(theirs[stage]).max(), stage


@pytest.mark.skipif(not installed("mindspore"), reason="mindspore is not installed")
@pytest.mark.parametrize("spec", [MINDOCR, ROUNDED], ids=["mindocr", "rounded"])
def test_torch_and_mindspore_agree(spec):
    """Not Paddle's, which needs no operator of its own."""
    from ms_models.runner import MindSporeRunner
    weights = seeded_weights(spec, 1)
    theirs, ours = by_torch(spec, weights, image()), MindSporeRunner(
        spec, weights, device="cpu", stages=("fused", "probability")).run(image())
    for stage, found in ours.items():
        assert np.abs(found - theirs[stage]).max() <= 1e-5 * np.abs(theirs[stage]).max(), stage


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (23, 40), (46, 82)])
def test_aligned_corners_are_what_their_definition_says(size, factor):
    torch = pytest.importorskip("torch")
    from torch_reference.fpn import enlarge_aligned
    x = np.arange(size[0] * size[1], dtype=np.float32).reshape(1, 1, *size)
    exact = [[(2 * i * (n - 1) + factor * n - 1) // (2 * (factor * n - 1)) for i in range(factor * n)] for n in size]
    expected = x[:, :, exact[0]][:, :, :, exact[1]]
    found = enlarge_aligned(torch.from_numpy(x), factor).numpy()
    assert np.array_equal(found, expected)
    assert [found[0, 0, i, j] for i in (0, -1) for j in (0, -1)] == [x[0, 0, i, j] for i in (0, -1) for j in (0, -1)]


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (23, 40)])
def test_rounded_is_what_onnx_runtime_makes_of_a_resize_without_nearest_mode(size, factor):
    torch, ort = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    from torch_reference.fpn import larger
    scales = onnx.helper.make_tensor("s", 1, [4], [1.0, 1.0, factor, factor])
    nodes = [onnx.helper.make_node("Constant", [], ["s"], value=scales),
             onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest",
                                   coordinate_transformation_mode="asymmetric")]
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 1, "h", "w"]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=8,
                                   opset_imports=[onnx.helper.make_opsetid("", 13)])
    x = np.arange(size[0] * size[1], dtype=np.float32).reshape(1, 1, *size)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.array_equal(larger(torch.from_numpy(x), factor, "rounded").numpy(), expected)


@BOTH
@pytest.mark.parametrize("opset", [MIN_OPSET, 13, 18, MAX_OPSET])
def test_every_opset_is_valid_and_dynamic(spec, opset):
    weights = seeded_weights(spec, 1)
    model = graph(spec, weights, form="delivery", opset=opset)
    onnx.checker.check_model(model, full_check=True)
    for size in ((32, 32), (64, 96)):
        found = by_onnx(model, image(*size))["probability"]
        assert np.abs(found - by_torch(spec, weights, image(*size))["probability"]).max() < 1e-5


def test_opencv_refuses_aligned_corners_rather_than_computing_something_else():
    cv2 = pytest.importorskip("cv2")
    model = graph(MINDOCR, seeded_weights(MINDOCR, 1), form="delivery")
    data = np.frombuffer(model.SerializeToString(), np.uint8)
    try:
        net = cv2.dnn.readNetFromONNX(data)
        net.setInput(image())
        found = net.forward()
    except cv2.error:
        return
    assert np.abs(found - by_onnx(model, image())["probability"]).max() < 1e-4


def test_its_squeezes_count_once_per_image():
    squeezes = [p for p in parameters(PADDLE) if ".se_block." in p.path and p.role.value[3] == "conv"]
    assert {p.grid for p in squeezes} == {0}
    plain = count_operations(SPECS["db_mv3_paddle"], 736, 1280)
    assert count_operations(PADDLE, 736, 1280) == plain + 2 * sum(p.size for p in squeezes)
