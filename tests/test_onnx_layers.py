"""Single layers of the ONNX graph against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import onnx_layers
from converters.onnx_backbones import stem_pool
from converters.onnx_layers import Graph
from converters.tensor_file import Weights
from tests.test_onnx_graph import image, session


def run_layer(layer: Callable[[Graph, str], str], x: np.ndarray, weights: Weights | None = None,
              opset: int = 13, delivery: bool = False) -> np.ndarray:
    """What one layer makes of x (N, C, H, W)."""
    g = Graph(weights or {}, opset, delivery)
    out = layer(g, "x")
    graph = helper.make_graph(
        g.nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [None] * x.ndim)],
        [numpy_helper.from_array(array, name) for name, array in g.used.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return session(model.SerializeToString()).run(None, {"x": x})[0]


def windows(x: np.ndarray, kernel: int, stride: int, padding: str, fill: float) -> np.ndarray:
    """(N, C, H, W) -> (N, C, H / stride, W / stride, kernel, kernel); TensorFlow's rule for SAME, or even padding."""
    sides = []
    for side in x.shape[2:]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        sides.append((total // 2, total - total // 2) if padding == "same" else (kernel // 2, kernel // 2))
    padded = np.pad(x, ((0, 0), (0, 0), *sides), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))
    return view[:, :, ::stride, ::stride]


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_stem_pool(padding):
    x = image(8, 12) - 5  # below zero, so that padding by zeros would be seen
    found = run_layer(lambda g, name: stem_pool(g, "pool", name, padding), x)
    np.testing.assert_array_equal(found, windows(x, 3, 2, padding, -np.inf).max((4, 5)))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_convolution(kernel, stride, padding):
    x, weights = image(8, 12), {"dw.weight": image(kernel, kernel)[0][:, None]}
    found = run_layer(lambda g, name: onnx_layers.conv(g, "dw", name, stride, 3, padding), x, weights)
    expected = np.einsum("nchwij,cij->nchw", windows(x, kernel, stride, padding, 0.0), weights["dw.weight"][:, 0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ("hard_sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    ("hard_sigmoid_0.2", lambda x: np.clip(0.2 * x + 0.5, 0, 1))])
def test_gate(kind, expected):
    x = 3 * image(8, 12)
    found = run_layer(lambda g, name: onnx_layers.gate(g, "gate", name, kind), x)
    np.testing.assert_allclose(found, expected(x), atol=1e-6)


@pytest.mark.parametrize("opset", [13, 14])
def test_hard_swish(opset):
    x = 3 * image(8, 12)
    found = run_layer(lambda g, name: onnx_layers.hard_swish(g, "act", name), x, opset=opset)
    np.testing.assert_allclose(found, x * np.clip(x + 3, 0, 6) / 6, atol=1e-6)


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlarge(factor, opset):
    x = image(5, 7)
    found = run_layer(lambda g, name: onnx_layers.enlarge(g, "up", name, factor), x, opset=opset)
    np.testing.assert_array_equal(found, x.repeat(factor, 2).repeat(factor, 3))


@pytest.mark.parametrize("opset", [17, 18])
def test_channel_mean(opset):
    x = image(5, 7)
    found = run_layer(lambda g, name: onnx_layers.channel_mean(g, "mean", name), x, opset=opset)
    np.testing.assert_allclose(found, x.mean(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("opset", "delivery", "bound"), [(13, False, 2e-7), (18, False, 2e-7), (13, True, 2e-6)])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 1), (184, 320)])
def test_map_mean(size, opset, delivery, bound):
    x = np.maximum(np.random.default_rng(5).standard_normal((2, 4, *size)), 0).astype(np.float32)
    found = run_layer(lambda g, name: onnx_layers.map_mean(g, "mean", name), x, opset=opset, delivery=delivery)
    exact = x.astype(np.float64).mean((2, 3), keepdims=True)
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() <= bound * x.max()


@pytest.mark.parametrize("as_conv", [False, True])
def test_dense(as_conv):
    rng = np.random.default_rng(3)
    weights = {"fc.weight": rng.normal(size=(4, 6)).astype(np.float32),
               "fc.bias": rng.normal(size=4).astype(np.float32)}
    x = rng.normal(size=(2, 6, 1, 1)).astype(np.float32)

    def layer(g: Graph, name: str) -> str:
        g.delivery = as_conv
        return onnx_layers.dense(g, "fc", name)

    expected = x[:, :, 0, 0] @ weights["fc.weight"].T + weights["fc.bias"]
    np.testing.assert_allclose(run_layer(layer, x, weights)[:, :, 0, 0], expected, atol=1e-5)
