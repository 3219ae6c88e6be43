"""MobileNetV3-large of width 0.5 as feature extractor (arXiv:1905.02244), under MindOCR's names.

Sources: MindOCR `mindocr/models/backbones/mindcv_models/mobilenet_v3.py`, PaddleOCR `ppocr/modeling/backbones/
det_mobilenet_v3.py`. Both expand in every block, also where the width stays the same.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from dbnet.parameters import MOBILENET_BLOCKS, MOBILENET_LAST, MOBILENET_STEM, MOBILENET_TAPS, MobileBlock
from dbnet.spec import ModelSpec, SeGate


class HardSigmoid(nn.Cell):
    """min(1, max(0, slope x + 1/2)); torch's hard sigmoid has slope 1/6, Paddle's had 0.2 in its layer's default."""

    def __init__(self, slope: float):
        super().__init__()
        self.scale = 6 * slope
        self.relu6 = nn.ReLU6()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu6(self.scale * x + 3) / 6


def gate(kind: SeGate) -> nn.Cell:
    """The last function of squeeze-and-excitation."""
    if kind == "sigmoid":
        return nn.Sigmoid()
    return HardSigmoid(0.2 if kind == "hard_sigmoid_0.2" else 1 / 6)


class SqueezeExcite(nn.Cell):
    """Weighs each channel by a function of all channels' means; shape unchanged."""

    def __init__(self, channels: int, kind: SeGate):
        super().__init__()
        self.conv_reduce = nn.Dense(channels, channels // 4, has_bias=True)
        self.act = nn.ReLU()
        self.conv_expand = nn.Dense(channels // 4, channels, has_bias=True)
        self.gate = gate(kind)

    def construct(self, x: Tensor) -> Tensor:
        weight = ops.mean(x, (2, 3), False)
        weight = self.gate(self.conv_expand(self.act(self.conv_reduce(weight))))
        return x * ops.expand_dims(ops.expand_dims(weight, -1), -1)


class InvertedResidual(nn.Cell):
    """Expand by 1x1, depthwise, squeeze-and-excitation, project by 1x1; a shortcut where the shape stays the same."""

    def __init__(self, in_channels: int, block: MobileBlock, spec: ModelSpec):
        super().__init__()
        self.residual = block.stride == 1 and in_channels == block.channels
        act = nn.HSwish if block.hard_swish else nn.ReLU
        width, kernel, eps = block.expanded, block.kernel, spec.norm_eps
        # `same` on even sides at stride 2 pads 0/1 for a 3x3 and 1/2 for a 5x5.
        same = spec.depthwise_padding == "same"
        pad_mode, padding = ("same", 0) if same else ("pad", kernel // 2)
        layers = [
            nn.Conv2d(in_channels, width, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.BatchNorm2d(width, eps=eps, momentum=0.9),
            act(),
            nn.Conv2d(width, width, kernel, stride=block.stride, pad_mode=pad_mode, padding=padding, group=width,
                      has_bias=False),
            nn.BatchNorm2d(width, eps=eps, momentum=0.9),
            act(),
        ]
        if block.squeeze and spec.se_gate != "none":
            layers.append(SqueezeExcite(width, spec.se_gate))
        layers.append(nn.Conv2d(width, block.channels, 1, stride=1, pad_mode="pad", padding=0, has_bias=False))
        layers.append(nn.BatchNorm2d(block.channels, eps=eps, momentum=0.9))
        self.layers = nn.SequentialCell(*layers)

    def construct(self, x: Tensor) -> Tensor:
        if self.residual:
            return x + self.layers(x)
        return self.layers(x)


class MobileNetV3(nn.Cell):
    """(N, 3, H, W) -> c2, c3, c4, c5 at strides 4, 8, 16, 32."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        features = [
            nn.Conv2d(3, MOBILENET_STEM, 3, stride=2, pad_mode="pad", padding=1, has_bias=False),
            nn.BatchNorm2d(MOBILENET_STEM, eps=spec.norm_eps, momentum=0.9),
            nn.HSwish(),
        ]
        channels = MOBILENET_STEM
        for block in MOBILENET_BLOCKS:
            features.append(InvertedResidual(channels, block, spec))
            channels = block.channels
        features += [
            nn.Conv2d(channels, MOBILENET_LAST, 1, stride=1, pad_mode="pad", padding=0, has_bias=False),
            nn.BatchNorm2d(MOBILENET_LAST, eps=spec.norm_eps, momentum=0.9),
            nn.HSwish(),
        ]
        self.features = nn.CellList(features)

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = ()
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in MOBILENET_TAPS:
                maps = maps + (x,)
        return maps

    def parts(self, x: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> tuple[Tensor, ...]:
        """c2 of the image, c3 of the given c2, c4 of the given c3, c5 of the given c4."""
        maps, given = (), (c2, c3, c4)
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in MOBILENET_TAPS:
                maps = maps + (x,)
                x = given[len(maps) - 1] if len(maps) < 4 else x
        return maps
