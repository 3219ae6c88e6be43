"""The operator in all implementations: against onnx's reference evaluator, and each other. Whole networks:
test_deformable_networks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from converters.onnx_deform import deformable_conv
from converters.onnx_layers import Graph
from dbnet.spec import Offsets

#: Largest difference relative to the largest value; measured 9e-7.
TOLERANCE = 5e-6
PATH = "backbone.layer2.0.conv2"
Arrays = dict[str, np.ndarray]


def scene(seed: int, n: int = 2, c: int = 3, o: int = 4, h: int = 6, w: int = 10, stride: int = 1,
          offsets: Offsets = "strided", reach: float = 2.0) -> Arrays:
    """Input, what predicts offsets (its bias spreads them by `reach` pixels, each channel by itself), and kernel."""
    rng = np.random.default_rng(seed)
    small = stride if offsets == "strided" else 1
    return {"x": rng.normal(0, 1, (n, c, h, w)).astype(np.float32),
            "predicted": np.concatenate([rng.normal(0, reach, (n, 18, h // small, w // small)),
                                         rng.normal(0, 2, (n, 9, h // small, w // small))], 1).astype(np.float32),
            "weight": rng.normal(0, 1, (o, c, 3, 3)).astype(np.float32)}


# What is right: the reference evaluator, and the origin's reading of memory as its kernel has it ----------------------


def in_memory(predicted: np.ndarray, channels: slice, count: int, rows: int, columns: int) -> np.ndarray:
    """What MhLiao/DB's kernel reads, index by index: it takes the map for one of the output's size."""
    out = np.empty((len(predicted), count, rows, columns), predicted.dtype)
    for b, image in enumerate(predicted):
        flat = np.ascontiguousarray(image[channels]).reshape(-1)
        for k in range(count):
            for i in range(rows):
                for j in range(columns):
                    out[b, k, i, j] = flat[(k * rows + i) * columns + j]
    return out


def reference(arrays: Arrays, stride: int, offsets: Offsets) -> np.ndarray:
    x, predicted, weight = arrays["x"], arrays["predicted"], arrays["weight"]
    offset, mask = predicted[:, :18], 1 / (1 + np.exp(-predicted[:, 18:].astype(np.float64))).astype(np.float32)
    rows, columns = x.shape[2] // stride, x.shape[3] // stride
    if offsets == "mhliao":
        offset = in_memory(offset, slice(0, 18), 18, rows, columns)
        mask = in_memory(mask, slice(0, 9), 9, rows, columns)
    node = helper.make_node("DeformConv", ["x", "w", "offset", "", "mask"], ["y"], kernel_shape=[3, 3],
                            strides=[stride] * 2, pads=[1] * 4)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w", "offset", "mask")]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    found, = ReferenceEvaluator(model).run(None, {"x": x, "w": weight, "offset": offset, "mask": mask})
    return found


@lru_cache
def case(stride: int, offsets: Offsets) -> list[tuple[Arrays, np.ndarray]]:
    """Scenes with what is right: the evaluator takes seconds."""
    scenes = [scene(seed, n, 3, 4, h, w, stride, offsets) for seed, (n, h, w) in
              enumerate([(1, 6, 10), (2, 6, 4), (1, 2, 2)])]
    return [(arrays, reference(arrays, stride, offsets)) for arrays in scenes]


# The implementations --------------------------------------------------------------------------------------------------


def torch_layer(arrays: Arrays, stride: int, offsets: Offsets) -> Any:
    torch = pytest.importorskip("torch")
    from torch_reference.deform import DeformableConv2d
    weight = torch.tensor(arrays["weight"])
    layer = DeformableConv2d(weight.shape[1], weight.shape[0], stride, offsets).to(weight.dtype)
    layer.load_state_dict({"weight": weight})
    return layer


def in_torch(arrays: Arrays, stride: int, offsets: Offsets) -> np.ndarray:
    import torch
    with torch.inference_mode():
        found = torch_layer(arrays, stride, offsets)(torch.tensor(arrays["x"]), torch.tensor(arrays["predicted"]))
    return found.numpy()


def in_graph_mode() -> None:
    import mindspore as ms

    from ms_models import compat
    compat.set_device(None)  # a later runner of this process could not
    ms.set_context(mode=ms.GRAPH_MODE)
    compat.cure_avx512()


@lru_cache(maxsize=16)
def mindspore_layer(shape: tuple[int, ...], stride: int, offsets: Offsets) -> Any:
    """With dynamic sides and batch, as in the runner: one compilation for all sizes."""
    ms = pytest.importorskip("mindspore")
    from ms_models.deform import DeformableConv2d
    in_graph_mode()
    layer = DeformableConv2d(shape[1], shape[0], stride, offsets)
    layer.set_inputs(*(ms.Tensor(shape=[None, c, None, None], dtype=ms.float32) for c in (shape[1], 27)))
    return layer


def in_mindspore(arrays: Arrays, stride: int, offsets: Offsets) -> np.ndarray:
    layer = mindspore_layer(arrays["weight"].shape, stride, offsets)
    from mindspore import Tensor
    layer.weight.set_data(Tensor(arrays["weight"]))
    return layer(Tensor(arrays["x"]), Tensor(arrays["predicted"])).asnumpy()


def onnx_model(arrays: Arrays, stride: int, offsets: Offsets, form: Any, opset: int) -> onnx.ModelProto:
    """The layer as the converter writes it; its offset convolution hands through what is predicted."""
    weights = {f"{PATH}.weight": arrays["weight"], f"{PATH}_offset.weight": np.zeros((27, 3, 3, 3), np.float32)}
    g = Graph(weights, opset, delivery=False, deformable=form)
    found = deformable_conv(g, PATH, "x", stride, offsets)
    nodes = g.nodes = [node for node in g.nodes if node.output[0] != f"{PATH}_offset"]
    g.rename({f"{PATH}_offset": "predicted"})
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT,
                                            ["N", arrays[name].shape[1], f"h_{name}", f"w_{name}"])
              for name in ("x", "predicted")]
    output = helper.make_tensor_value_info(found, TensorProto.FLOAT, ["N", arrays["weight"].shape[0], "hy", "wy"])
    kernel = helper.make_tensor(f"{PATH}.weight", TensorProto.FLOAT, arrays["weight"].shape, arrays["weight"].tobytes(),
                                raw=True)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, [output], [kernel]), opset_imports=opsets,
                              ir_version=max(8, helper.find_min_ir_version_for(opsets)))
    onnx.checker.check_model(model, full_check=True)
    return model


def in_runtime(form: str, opset: int) -> Callable[[Arrays, int, Offsets], np.ndarray]:
    def run(arrays: Arrays, stride: int, offsets: Offsets) -> np.ndarray:
        ort = pytest.importorskip("onnxruntime")
        model = onnx_model(arrays, stride, offsets, form, opset)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {name: arrays[name] for name in ("x", "predicted")})[0]
    return run


def decomposed_by_reference(arrays: Arrays, stride: int, offsets: Offsets) -> np.ndarray:
    """The plain operators mean the same outside ONNX Runtime."""
    model = onnx_model(arrays, stride, offsets, "decomposed", 13)
    return ReferenceEvaluator(model).run(None, {name: arrays[name] for name in ("x", "predicted")})[0]


QUICK: dict[str, Callable[[Arrays, int, Offsets], np.ndarray]] = {
    "torch": in_torch, "native": in_runtime("native", 19), "decomposed": in_runtime("decomposed", 17),
    "decomposed, opset 11": in_runtime("decomposed", 11), "decomposed, opset 22": in_runtime("decomposed", 22),
    "decomposed by the evaluator": decomposed_by_reference}
ALL = {**QUICK, "mindspore": in_mindspore}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    assert expected.std() > 0.1 * np.abs(expected).max(), "a constant proves nothing"
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ALL)
@pytest.mark.parametrize(("stride", "offsets"), [(1, "strided"), (2, "strided"), (2, "mhliao")])
def test_equals_the_reference(who, stride, offsets):
    for arrays, expected in case(stride, offsets):
        found = ALL[who](arrays, stride, offsets)
        assert difference(found, expected) <= TOLERANCE, arrays["x"].shape


@given(seed=st.integers(0, 2**32), n=st.integers(1, 3), c=st.integers(1, 3), o=st.integers(1, 3),
       h=st.integers(1, 3), w=st.integers(1, 3), stride=st.sampled_from([1, 2]),
       offsets=st.sampled_from(get_args(Offsets)), reach=st.sampled_from([0.0, 0.4, 3.0, 40.0]))
@example(seed=0, n=1, c=1, o=2, h=1, w=1, stride=2, offsets="mhliao", reach=3.0)
@settings(max_examples=15, deadline=None)
def test_any_shape_equals_the_reference(seed, n, c, o, h, w, stride, offsets, reach):
    arrays = scene(seed, n, c, o, 2 * h, 2 * w, stride, offsets, reach)
    expected = reference(arrays, stride, offsets)
    scale = np.abs(expected).max() + 1e-3  # everything may lie outside
    for who in ("torch", "native", "decomposed"):
        found = QUICK[who](arrays, stride, offsets)
        assert np.abs(found - expected).max() <= TOLERANCE * scale, who


@pytest.mark.parametrize("who", ["torch", "native", "decomposed"])
def test_one_tap_by_hand(who):
    """Only the kernel's middle row, left column: its offset moves it down by 2 and to the right by 1/2."""
    arrays = scene(0, n=1, c=1, o=1, h=6, w=8)
    arrays["weight"][:] = 0
    arrays["weight"][0, 0, 1, 0] = 3
    arrays["predicted"][:, :18] = 100  # the others look into the void
    arrays["predicted"][:, 2 * 3], arrays["predicted"][:, 2 * 3 + 1] = 2, 0.5
    arrays["predicted"][:, 18:] = -50  # and have no weight
    arrays["predicted"][:, 18 + 3] = 0  # a mask of 1/2
    padded = np.pad(arrays["x"][0, 0], ((1, 3), (1, 1)))
    rows = padded[3:9]  # two below
    expected = 3 * 0.5 * (0.5 * rows[:, 0:8] + 0.5 * rows[:, 1:9])
    np.testing.assert_allclose(ALL[who](arrays, 1, "strided")[0, 0], expected, atol=1e-6)


#: What somebody could get wrong, as another order of the predicted channels.
SWAPPED = {"x before y": [i ^ 1 for i in range(18)] + list(range(18, 27)),
           "all y, then all x": [*range(0, 18, 2), *range(1, 18, 2), *range(18, 27)],
           "masks first": [*range(9, 27), *range(9)],
           "masks backwards": [*range(18), *range(26, 17, -1)],
           "taps by columns": [*(2 * (i % 3 * 3 + i // 3) + j for i in range(9) for j in (0, 1)), *range(18, 27)]}


@pytest.mark.parametrize("order", SWAPPED.values(), ids=SWAPPED)
def test_another_order_would_be_seen(order):
    arrays, expected = case(1, "strided")[0]
    wrong = {**arrays, "predicted": arrays["predicted"][:, order]}
    assert difference(in_torch(wrong, 1, "strided"), expected) > 0.1


def test_the_two_kinds_of_offsets_are_two():
    arrays = scene(1, stride=2, offsets="mhliao")
    thinned = {**arrays, "predicted": arrays["predicted"][:, :, ::2, ::2]}
    assert difference(in_torch(thinned, 2, "strided"), in_torch(arrays, 2, "mhliao")) > 0.1


def test_without_offsets_it_is_a_convolution():
    torch = pytest.importorskip("torch")
    arrays = scene(3)
    arrays["predicted"][:] = 0
    plain = torch.nn.functional.conv2d(torch.tensor(arrays["x"]), torch.tensor(arrays["weight"]), padding=1) / 2
    assert difference(in_torch(arrays, 1, "strided"), plain.numpy()) <= 1e-6


@pytest.mark.parametrize("who", list(ALL))
def test_positions_far_off_and_not_finite(who):
    """No index leaves the image, however far an unlucky step of a training throws a tap."""
    for value in (1e9, -1e9, 3e38, np.inf, -np.inf, np.nan):
        arrays = scene(4)
        arrays["predicted"][:, :18] = value
        found = ALL[who](arrays, 1, "strided")
        assert found.shape == (2, 4, 6, 10)
        if np.isfinite(value):
            assert not found.any()


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize(("stride", "offsets"), [(1, "strided"), (2, "strided"), (2, "mhliao")])
def test_gradients_in_torch_are_the_slopes(stride, offsets, fast):
    """fast: along random directions, not number by number, which takes half a minute."""
    torch = pytest.importorskip("torch")
    arrays = {name: a.astype(np.float64) for name, a in scene(5, 1, 2, 2, 4, 6, stride, offsets, reach=1.0).items()}
    layer = torch_layer(arrays, stride, offsets)
    x, predicted = (torch.tensor(arrays[name], requires_grad=True) for name in ("x", "predicted"))

    def run(x: Any, predicted: Any, weight: Any) -> Any:
        return torch.func.functional_call(layer, {"weight": weight}, (x, predicted))

    assert torch.autograd.gradcheck(run, (x, predicted, layer.weight), eps=1e-7, atol=1e-5, fast_mode=fast)


def torch_gradients(arrays: Arrays, sens: np.ndarray, stride: int, offsets: Offsets) -> list[np.ndarray]:
    torch = pytest.importorskip("torch")
    layer = torch_layer(arrays, stride, offsets)
    x, predicted = (torch.tensor(arrays[name], requires_grad=True) for name in ("x", "predicted"))
    layer(x, predicted).backward(torch.tensor(sens, dtype=x.dtype))
    return [x.grad.numpy(), predicted.grad.numpy(), layer.weight.grad.numpy()]


@pytest.mark.parametrize(("stride", "offsets", "reach"), [(2, "mhliao", 2.0), (1, "strided", 0.0)])
def test_gradients_in_mindspore_are_torchs(stride, offsets, reach):
    """reach 0: offsets of exactly 0, with which a training begins, are at a kink; both halves take the slope above."""
    ms = pytest.importorskip("mindspore")
    from ms_models.deform import DeformableConv2d
    arrays = scene(6, stride=stride, offsets=offsets, reach=reach)
    expected_shape = (2, 4, 6 // stride, 10 // stride)
    sens = np.random.default_rng(0).normal(0, 1, expected_shape).astype(np.float32)
    in_graph_mode()
    layer = DeformableConv2d(3, 4, stride, offsets)
    layer.weight.set_data(ms.Tensor(arrays["weight"]))
    gradient = ms.ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)
    (x, predicted), (weight,) = gradient(layer, ms.ParameterTuple([layer.weight]))(
        ms.Tensor(arrays["x"]), ms.Tensor(arrays["predicted"]), ms.Tensor(sens))
    found = [tensor.asnumpy() for tensor in (x, predicted, weight)]
    wide = {name: a.astype(np.float64) for name, a in arrays.items()}
    for ours, theirs, exact in zip(found, torch_gradients(arrays, sens, stride, offsets),
                                   torch_gradients(wide, sens, stride, offsets), strict=True):
        assert exact.any()
        for values in (ours, theirs):
            assert np.abs(values - exact).max() <= 1e-5 * np.abs(exact).max()


def test_autocast_leaves_positions_alone():
    torch = pytest.importorskip("torch")
    arrays = scene(7)
    layer = torch_layer(arrays, 1, "strided")
    x, predicted = torch.tensor(arrays["x"]), torch.tensor(arrays["predicted"])
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x, predicted)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(x, predicted))


def test_gradients_in_mindspore_come_every_time():
    """That of MindSpore 2.10's ops.pad, which is not used, stops returning after some steps."""
    ms = pytest.importorskip("mindspore")
    from ms_models.deform import DeformableConv2d
    in_graph_mode()
    layer, arrays = DeformableConv2d(3, 4, 1, "strided"), scene(6)
    gradient = ms.ops.GradOperation(get_all=True)(layer)
    for _ in range(40):
        gradient(ms.Tensor(arrays["x"]), ms.Tensor(arrays["predicted"]))[0].asnumpy()


# ONNX: what a file holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "operators"), [("native", {"DeformConv"}), ("decomposed", {"Gather", "MatMul"})])
def test_the_kernel_keeps_its_name_and_shape(form, operators):
    model = onnx_model(scene(0), 1, "strided", form, 19)
    assert [(t.name, tuple(t.dims)) for t in model.graph.initializer] == [(f"{PATH}.weight", (4, 3, 3, 3))]
    found = {node.op_type for node in model.graph.node}
    assert operators <= found
    assert ("DeformConv" in found) == (form == "native")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and PATH in names
