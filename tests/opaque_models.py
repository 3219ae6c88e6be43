"""Text detectors of nobody's: small .onnx files whose probability map is known, in every form that people export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluation.runners import Runner, open_runner

#: logits = GAIN * (brightness - LEVEL): bright pixels are text.
GAIN, LEVEL = 8.0, 0.2
KERNEL = np.full((1, 3, 1, 1), GAIN / 3, np.float32)
#: Under which the input is brightness around 0: (pixel - 128) / 255, so 0.5 is white.
BRIGHT = "mhliao,mean=128/128/128,size=64"
#: Settings under which the texts of photographs are found by brightness.
LOOSE = ("--binary-thresh", "0.5", "--box-thresh", "0.3")


def logits_of(images: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) -> (N, 1, H, W), what every detector here computes."""
    return GAIN * (images.mean(1, keepdims=True, dtype=np.float64) - LEVEL)


def probability_of(images: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits_of(images)))


def detector(path: Path, *, end: str = "sigmoid", shape: Sequence[Any] = ("n", 3, "h", "w"), element: str = "FLOAT",
             output: str = "out", form: str = "n1hw", more: Sequence[str] = (), inputs: Sequence[str] = (),
             stride: int = 1, producer: str = "", graph: str = "main", kernel: str = "k",
             domains: Sequence[str] = (), external: bool = False) -> Path:
    """Writes a detector. end: `sigmoid`, `logits`, `bias` (logits by an addition), `composed` (a sigmoid made of other
    operators), `scaled` (logits whose last operator tells nothing). shape: of the input; NHWC if its last side is 3.
    form: of the output, `n1hw`, `nhw`, `hw`, `nhw1`. more: further outputs, 1 - the map under other names. inputs:
    further inputs. stride: > 1 for a smaller map.
    """
    kind, last = getattr(TensorProto, element), shape[-1] == 3
    nodes, source = [], "image"

    def add(operator: str, *sources: str, **attributes: Any) -> str:
        name = f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, list(sources), [name], name=name, **attributes))
        return name

    numpy = np.float16 if element == "FLOAT16" else np.float32
    bias = np.array([-GAIN * LEVEL], numpy)
    constants = {kernel: KERNEL.astype(numpy), "bias": bias, "bias4": bias.reshape(1, 1, 1, 1),
                 "one": np.array(1, numpy), "two": np.array(2, numpy), "half": np.array(0.5, numpy)}
    if element in ("UINT8", "DOUBLE"):  # ONNX Runtime has no such convolution
        source = add("Cast", source, to=TensorProto.FLOAT)
    if last:
        source = add("Transpose", source, perm=[0, 3, 1, 2])
    strides = {"strides": [stride, stride]}
    if end == "bias":
        source = add("Add", add("Conv", source, kernel, **strides), "bias4")
    else:
        source = add("Conv", source, kernel, "bias", **strides)
    if end == "sigmoid":
        source = add("Sigmoid", source)
    elif end == "composed":
        source = add("Div", "one", add("Add", "one", add("Exp", add("Neg", source))))
    elif end == "scaled":
        source = add("Mul", add("Mul", source, "two"), "half")
    other = add("Sub", "one", source)
    if form == "nhw1":
        source = add("Transpose", source, perm=[0, 2, 3, 1])
    elif form != "n1hw":
        axes = {"nhw": [1], "hw": [0, 1]}[form]
        source = add("Squeeze", source, axes=axes)
    nodes.append(helper.make_node("Identity", [source], [output], name="last"))
    nodes += [helper.make_node("Identity", [other], [name]) for name in more]
    used = {name for node in nodes for name in node.input}
    made = [helper.make_tensor_value_info("image", kind, shape)]
    made += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in inputs]
    type_out = kind if element == "FLOAT16" else TensorProto.FLOAT
    given = [helper.make_tensor_value_info(name, type_out, None) for name in (output, *more)]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    model = helper.make_model(helper.make_graph(nodes, graph, made, given, tensors), producer_name=producer,
                              opset_imports=[helper.make_opsetid("", 12),
                                             *(helper.make_opsetid(domain, 1) for domain in domains)])
    model.ir_version = 8
    onnx.save(model, path, **({"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0}
                              if external else {}))
    return path


def photo(height: int = 96, width: int = 128) -> np.ndarray:
    """(H, W, 3) uint8: two white texts on black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[20:36, 10:70] = 255
    image[56:76, 40:110] = 255
    return image


def opened(path: Path, pixels: str = BRIGHT, **others: Any) -> Runner:
    """The detector as it is, for the probability."""
    return open_runner(path, pixels=pixels, stages=("probability",), **others)
