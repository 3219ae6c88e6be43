"""The ONNX graph of a spec, built from canonical weights with numpy and onnx alone: no framework, no exporter.

It is the third implementation, to be compared like the two halves. Two forms: the *archive* keeps all that a checkpoint
holds (every tensor under its name, in its shape and type, also the training branch), the *delivery* is for runtimes
(no training branch, IR 8 and opset 13, only what OpenCV 4 and 5, OpenVINO, CANN and old ONNX Runtimes take).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from converters.onnx_backbones import backbone
from converters.onnx_layers import (
    DTYPES,
    DeformableForm,
    Graph,
    batch_norm,
    channel_mean,
    conv,
    conv_transpose,
    map_mean,
    relu,
    sigmoid,
    split,
)
from converters.onnx_rsefpn import larger, rsefpn
from converters.tensor_file import Weights
from dbnet.errors import DbnetError
from dbnet.parameters import BACKBONE_CHANNELS, parameters
from dbnet.spec import STAGES, ModelSpec, check_size

Form = Literal["archive", "delivery"]
#: Opset by default: 17 has HardSwish and goes with IR 8, 13 is what CANN's older tools take.
DEFAULT_OPSET: dict[Form, int] = {"archive": 17, "delivery": 13}
MIN_OPSET, MAX_OPSET = 11, 22
#: The first one with DeformConv.
DEFORM_OPSET = 19
#: ONNX Runtime 1.15 refuses newer ones. Newer opsets need newer ones all the same.
IR_VERSION = 8
INPUT, OUTPUT = "image", "probability"


@dataclass(frozen=True)
class OnnxModel:
    """proto: the model without its initialisers; initialisers: their names and values, as they are to be stored."""

    proto: ModelProto
    initialisers: Weights


def build_graph(spec: ModelSpec, weights: Weights, *, form: Form, opset: int | None = None, stages: bool = False,
                data_shape: tuple[int, int] | None = None, batch: int | None = None,
                deformable: DeformableForm | None = None) -> OnnxModel:
    """The graph of `spec`: input `image` (N, 3, H, W) float32, output `probability` (N, 1, H, W) in [0, 1].

    weights: canonical names; the training branch may be absent. stages: every stage before `probability` is an output
    too, in the order of STAGES. data_shape: fixes height and width (pixels) and, unless `batch` says else, N = 1;
    without it N, H and W are symbolic. deformable: how deformable convolutions are written, by default
    `decomposed`: DeformConv needs opset 19, and ONNX Runtime has had it on CPUs since 1.25 only.
    Weights keep their type (a Cast to float32 follows), but OpenCV 4 does not read bfloat16.
    Raises DbnetError for weights that are not those of the spec, an opset that cannot be written, a size that is no
    multiple of 32.
    """
    opset = default_opset(form, deformable) if opset is None else opset
    _check(spec, weights, opset)
    _check_deformable(spec, opset, deformable)
    if data_shape is not None:
        check_size(*data_shape)
        batch = 1 if batch is None else batch
    if batch is not None and batch < 1:
        raise DbnetError(f"a batch of {batch} images cannot be; give 1 or more")
    g = Graph(weights, opset, delivery=form == "delivery", deformable=deformable or "decomposed")
    detector(g, spec)
    if form == "archive":
        keep(g, [name for name in weights if name not in g.used])
    outputs = [name for name in STAGES if stages or name == OUTPUT]
    size = (batch or "N", *(data_shape or ("H", "W")))
    graph = helper.make_graph(g.nodes, spec.name, [_value(INPUT, 3, 1, *size)],
                              [_value(name, *stage_shape(spec, name), *size) for name in outputs])
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, producer_name="dbnet-parity", opset_imports=opsets,
                              ir_version=max(IR_VERSION, helper.find_min_ir_version_for(opsets)))
    return OnnxModel(proto, {name: g.used[name] for name in weights if name in g.used})


def default_opset(form: Form, deformable: DeformableForm | None = None) -> int:
    """The opset that is written unless another one is asked for."""
    return DEFORM_OPSET if deformable == "native" else DEFAULT_OPSET[form]


def _check_deformable(spec: ModelSpec, opset: int, deformable: DeformableForm | None) -> None:
    if deformable is not None and spec.deformable == "none":
        raise DbnetError(f"{spec.name} has no deformable convolutions; leave out --deformable")
    if deformable == "native" and opset < DEFORM_OPSET:
        raise DbnetError(f"DeformConv needs opset {DEFORM_OPSET} or newer, not {opset}; leave out --opset, or choose "
                         f"--deformable decomposed")


def stage_shape(spec: ModelSpec, stage: str) -> tuple[int, int]:
    """Channels and stride of a stage."""
    shapes = {f"c{i + 2}": (channels, 4 * 2**i) for i, channels in enumerate(BACKBONE_CHANNELS[spec.backbone])}
    shapes |= {f"p{i + 2}": (spec.neck_channels // 4, 4 * 2**i) for i in range(4)}
    return {**shapes, "fused": (spec.neck_channels, 4), "logits": (1, 1), OUTPUT: (1, 1)}[stage]


def _value(name: str, channels: int, stride: int, batch: int | str, height: int | str,
           width: int | str) -> ValueInfoProto:
    sides = [side // stride if isinstance(side, int) else f"{side}/{stride}" if stride > 1 else side
             for side in (height, width)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, *sides])


def _check(spec: ModelSpec, weights: Weights, opset: int) -> None:
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise DbnetError(f"opset {opset} cannot be written; choose one from {MIN_OPSET} to {MAX_OPSET}")
    shapes = {p.name: p.shape for p in parameters(spec)}
    complete = any(p.name in weights for p in parameters(spec) if p.training_only)
    needed = {p.name for p in parameters(spec) if complete or not p.training_only}
    wrong = sorted((needed - set(weights)) | {name for name in weights if shapes.get(name) != weights[name].shape})
    if wrong:
        raise DbnetError(f"these are not the weights of {spec.name}: missing, unknown or of another shape: "
                         f"{', '.join(wrong[:3])} ({len(wrong)} in all)")
    for name, array in weights.items():
        if array.dtype.name not in DTYPES:
            raise DbnetError(f"{name}: {array.dtype.name} cannot be a weight in .onnx; convert it to float32")
        if array.dtype.name == "bfloat16" and opset < 13:
            raise DbnetError(f"{name}: bfloat16 needs opset 13 or newer, not {opset}; convert it to float32")


# The detector ---------------------------------------------------------------------------------------------------------


def detector(g: Graph, spec: ModelSpec) -> None:
    """image -> every stage, under the stages' names."""
    maps = backbone(g, spec, INPUT)
    *pyramid, fused = (rsefpn if spec.neck == "rsefpn" else dbfpn)(g, spec, maps)
    logits = branch(g, "head.segm", fused, spec.norm_eps)
    probability = sigmoid(g, "head.sigmoid", logits)
    g.rename(dict(zip((*maps, *pyramid, fused, logits, probability), STAGES, strict=True)))


def dbfpn(g: Graph, spec: ModelSpec, maps: list[str]) -> tuple[str, ...]:
    """c2..c5 -> p2..p5 (neck_channels / 4 each, at their own strides) and fused (neck_channels, stride 4)."""
    merged = conv(g, "neck.unify_channels.3", maps[3])
    pyramid = [conv(g, "neck.out.3", merged)]
    for i in (2, 1, 0):
        above = larger(g, f"neck.enlarge.{i + 1}", merged, 2, spec.upsampling)
        merged = g.node("Add", f"neck.add.{i}", conv(g, f"neck.unify_channels.{i}", maps[i]), above)
        pyramid.insert(0, conv(g, f"neck.out.{i}", merged))
    # p5 first, as by the original authors, Paddle and MindOCR; MMOCR joins them the other way round.
    joined = [*(larger(g, f"neck.enlarge_out.{i}", pyramid[i], 2**i, spec.upsampling) for i in (3, 2, 1)), pyramid[0]]
    if spec.fusion == "concat":
        return *pyramid, concat(g, "neck.fuse", joined)
    return *pyramid, adaptive_scale_fusion(g, "neck.fuse", joined, spec.fusion == "asf")


def concat(g: Graph, path: str, maps: list[str]) -> str:
    return g.node("Concat", path, *maps, axis=1)


def adaptive_scale_fusion(g: Graph, path: str, maps: list[str], channel_attention: bool) -> str:
    """Weighs four maps by attention over channels, places and scales; the attentions are added, as published."""
    x = conv(g, f"{path}.conv", concat(g, f"{path}.joined", maps))
    if channel_attention:
        channels = map_mean(g, f"{path}.chan_mean", x)
        channels = relu(g, f"{path}.chan_att.1", conv(g, f"{path}.chan_att.0", channels))
        channels = sigmoid(g, f"{path}.chan_att.3", conv(g, f"{path}.chan_att.2", channels))
        x = g.node("Add", f"{path}.chan_add", channels, x)
    places = channel_mean(g, f"{path}.spat_mean", x)
    places = relu(g, f"{path}.spat_att.1", conv(g, f"{path}.spat_att.0", places))
    # A 1x1 convolution of one channel to one, which OpenCV 5 refuses, is a product.
    places = g.node("Mul", f"{path}.spat_att.2", places, g.weight(f"{path}.spat_att.2.weight"))
    x = g.node("Add", f"{path}.spat_add", sigmoid(g, f"{path}.spat_att.3", places), x)
    scales = split(g, f"{path}.scales", sigmoid(g, f"{path}.scale_att.1", conv(g, f"{path}.scale_att.0", x)), 4)
    weighed = [g.node("Mul", f"{path}.weigh.{i}", scale, maps[i]) for i, scale in enumerate(scales)]
    return concat(g, path, weighed)


def branch(g: Graph, path: str, x: str, eps: float) -> str:
    """Fused (N, C, H, W) -> logits (N, 1, 4 H, 4 W)."""
    x = relu(g, f"{path}.2", batch_norm(g, f"{path}.1", conv(g, f"{path}.0", x), eps))
    x = relu(g, f"{path}.5", batch_norm(g, f"{path}.4", conv_transpose(g, f"{path}.3", x), eps))
    return conv_transpose(g, f"{path}.6", x)


def keep(g: Graph, names: Iterable[str]) -> None:
    """Ties tensors that inference does not need to the graph, each by a node whose output nobody uses.

    ONNX Runtime prints a warning for every initialiser without a node. Such a node it folds at loading and drops with
    the tensor, silently; the training branch itself, as nodes, it would run at every call. OpenCV takes Identity here,
    but not Shape.
    """
    for name in names:
        g.used[name] = g.weights[name]
        g.node("Identity", f"{name}.kept", name)
