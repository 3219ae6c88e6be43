"""The backbones as ONNX nodes, function by function what the classes of the two halves are."""

from __future__ import annotations

from converters.onnx_deform import deformable_conv
from converters.onnx_layers import (
    Graph,
    batch_norm,
    conv,
    dense,
    gate,
    hard_swish,
    map_mean,
    pads,
    relu,
)
from dbnet.parameters import (
    MOBILENET_BLOCKS,
    MOBILENET_FIRST_BLOCK,
    MOBILENET_STEM,
    MOBILENET_TAPS,
    RESNET_BLOCKS,
    MobileBlock,
)
from dbnet.spec import ModelSpec, Offsets, Padding, SeGate


def backbone(g: Graph, spec: ModelSpec, image: str) -> list[str]:
    """(N, 3, H, W) -> c2, c3, c4, c5 at strides 4, 8, 16, 32."""
    return mobilenetv3(g, spec, image) if spec.backbone == "mobilenetv3" else resnet(g, spec, image)


# ResNet ---------------------------------------------------------------------------------------------------------------


def stem_pool(g: Graph, path: str, x: str, padding: Padding) -> str:
    """3x3 max-pool of stride 2 for even sides; `same` pads the bottom and right only."""
    return g.node("MaxPool", path, x, kernel_shape=[3, 3], strides=[2, 2], pads=pads(3, 2, padding))


def down_sample(g: Graph, path: str, x: str, stride: int, eps: float) -> str:
    """The shortcut: 1x1 convolution and batch norm where the shape changes, else the identity."""
    if f"{path}.0.weight" not in g.weights:
        return x
    return batch_norm(g, f"{path}.1", conv(g, f"{path}.0", x, stride), eps)


def conv2(g: Graph, path: str, x: str, stride: int, offsets: Offsets) -> str:
    """A block's second convolution, deformable if the weights have what predicts its offsets."""
    if f"{path}_offset.weight" in g.weights:
        return deformable_conv(g, path, x, stride, offsets)
    return conv(g, path, x, stride)


def basic_block(g: Graph, path: str, x: str, stride: int, eps: float, offsets: Offsets) -> str:
    """Two 3x3 convolutions beside a shortcut."""
    out = relu(g, f"{path}.relu1", batch_norm(g, f"{path}.bn1", conv(g, f"{path}.conv1", x, stride), eps))
    out = batch_norm(g, f"{path}.bn2", conv2(g, f"{path}.conv2", out, 1, offsets), eps)
    out = g.node("Add", f"{path}.add", out, down_sample(g, f"{path}.down_sample", x, stride, eps))
    return relu(g, f"{path}.relu", out)


def bottleneck(g: Graph, path: str, x: str, stride: int, eps: float, offsets: Offsets) -> str:
    """1x1, 3x3 (which has the stride), 1x1 beside a shortcut."""
    out = relu(g, f"{path}.relu1", batch_norm(g, f"{path}.bn1", conv(g, f"{path}.conv1", x), eps))
    out = relu(g, f"{path}.relu2", batch_norm(g, f"{path}.bn2", conv2(g, f"{path}.conv2", out, stride, offsets), eps))
    out = batch_norm(g, f"{path}.bn3", conv(g, f"{path}.conv3", out), eps)
    out = g.node("Add", f"{path}.add", out, down_sample(g, f"{path}.down_sample", x, stride, eps))
    return relu(g, f"{path}.relu", out)


def resnet(g: Graph, spec: ModelSpec, x: str) -> list[str]:
    block, eps = basic_block if spec.backbone == "resnet18" else bottleneck, spec.norm_eps
    x = relu(g, "backbone.relu", batch_norm(g, "backbone.bn1", conv(g, "backbone.conv1", x, 2), eps))
    x = stem_pool(g, "backbone.max_pool", x, spec.stem_pool)
    maps = []
    for layer, count in enumerate(RESNET_BLOCKS[spec.backbone], start=1):
        for i in range(count):
            x = block(g, f"backbone.layer{layer}.{i}", x, 2 if i == 0 and layer > 1 else 1, eps, spec.offsets)
        maps.append(x)
    return maps


# MobileNetV3 ----------------------------------------------------------------------------------------------------------


def squeeze_excite(g: Graph, path: str, x: str, kind: SeGate) -> str:
    """Weighs each channel by a function of all channels' means."""
    weight = map_mean(g, f"{path}.mean", x)
    weight = relu(g, f"{path}.act", dense(g, f"{path}.conv_reduce", weight))
    weight = gate(g, f"{path}.gate", dense(g, f"{path}.conv_expand", weight), kind)
    return g.node("Mul", path, x, weight)


def inverted_residual(g: Graph, path: str, x: str, in_channels: int, block: MobileBlock, spec: ModelSpec) -> str:
    """Expand by 1x1, depthwise, squeeze-and-excitation, project by 1x1; a shortcut where the shape stays the same."""
    act, eps, layers = hard_swish if block.hard_swish else relu, spec.norm_eps, f"{path}.layers"
    out = act(g, f"{layers}.2", batch_norm(g, f"{layers}.1", conv(g, f"{layers}.0", x), eps))
    out = conv(g, f"{layers}.3", out, block.stride, block.expanded, spec.depthwise_padding)
    out = act(g, f"{layers}.5", batch_norm(g, f"{layers}.4", out, eps))
    last = 6
    if block.squeeze and spec.se_gate != "none":
        out = squeeze_excite(g, f"{layers}.6", out, spec.se_gate)
        last = 7
    out = batch_norm(g, f"{layers}.{last + 1}", conv(g, f"{layers}.{last}", out), eps)
    if block.stride == 1 and in_channels == block.channels:
        out = g.node("Add", f"{path}.add", x, out)
    return out


def mobilenetv3(g: Graph, spec: ModelSpec, x: str) -> list[str]:
    def conv_norm_swish(first: int, x: str, stride: int) -> str:
        x = batch_norm(g, f"backbone.features.{first + 1}", conv(g, f"backbone.features.{first}", x, stride),
                       spec.norm_eps)
        return hard_swish(g, f"backbone.features.{first + 2}", x)

    maps, channels = [], MOBILENET_STEM
    x = conv_norm_swish(0, x, 2)
    for i, block in enumerate(MOBILENET_BLOCKS, start=MOBILENET_FIRST_BLOCK):
        x = inverted_residual(g, f"backbone.features.{i}", x, channels, block, spec)
        channels = block.channels
        if i in MOBILENET_TAPS:
            maps.append(x)
    maps.append(conv_norm_swish(MOBILENET_FIRST_BLOCK + len(MOBILENET_BLOCKS), x, 1))
    return maps
