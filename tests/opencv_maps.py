"""Any probability map in OpenCV's real DB API: a network that makes it of the bytes of an image."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

#: A probability is three bytes of a pixel, blue first.
_SCALE = 2**24


def map_network() -> bytes:
    """(1, 3, H, W) of whole values -> (H, W), exact in float32."""
    weights = np.array([65536, 256, 1], np.float32) / np.float32(_SCALE)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["map"], kernel_shape=[1, 1]),
         helper.make_node("Squeeze", ["map"], ["probability"], axes=[0, 1])], "map",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["H", "W"])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [1, 3, 1, 1], weights.tobytes(), raw=True)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def image_of(probability: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 that `map_network` makes this map of, to 2**-24."""
    whole = np.clip(np.round(probability.astype(np.float64) * _SCALE), 0, _SCALE - 1).astype(np.int64)
    return np.stack([whole >> 16, whole >> 8 & 255, whole & 255], axis=2).astype(np.uint8)


def map_of(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map of an image that OpenCV stretches to `size`, (height, width), float32."""
    net = cv2.dnn.readNetFromONNX(np.frombuffer(map_network(), np.uint8))
    net.setInput(cv2.dnn.blobFromImage(image, 1.0, size[::-1], (0, 0, 0), False, False))
    return np.squeeze(net.forward())
