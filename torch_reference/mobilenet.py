"""MobileNetV3-large of width 0.5 as feature extractor (arXiv:1905.02244), under MindOCR's names.

Sources: MindOCR `mindocr/models/backbones/mindcv_models/mobilenet_v3.py`, PaddleOCR `ppocr/modeling/backbones/
det_mobilenet_v3.py`. Both expand in every block, also where the width stays the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dbnet.parameters import MOBILENET_BLOCKS, MOBILENET_LAST, MOBILENET_STEM, MOBILENET_TAPS, MobileBlock
from dbnet.spec import ModelSpec, SeGate


class HardSigmoid(nn.Module):
    """min(1, max(0, slope x + 1/2)); torch's hard sigmoid has slope 1/6, Paddle's had 0.2 in its layer's default."""

    def __init__(self, slope: float):
        super().__init__()
        self.scale = 6 * slope
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu6(self.scale * x + 3) / 6


def gate(kind: SeGate) -> nn.Module:
    """The last function of squeeze-and-excitation."""
    if kind == "sigmoid":
        return nn.Sigmoid()
    return HardSigmoid(0.2 if kind == "hard_sigmoid_0.2" else 1 / 6)


class SqueezeExcite(nn.Module):
    """Weighs each channel by a function of all channels' means; shape unchanged."""

    def __init__(self, channels: int, kind: SeGate):
        super().__init__()
        self.conv_reduce = nn.Linear(channels, channels // 4, bias=True)
        self.act = nn.ReLU()
        self.conv_expand = nn.Linear(channels // 4, channels, bias=True)
        self.gate = gate(kind)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.mean(x, (2, 3), False)
        weight = self.gate(self.conv_expand(self.act(self.conv_reduce(weight))))
        return x * torch.unsqueeze(torch.unsqueeze(weight, -1), -1)


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise, squeeze-and-excitation, project by 1x1; a shortcut where the shape stays the same."""

    def __init__(self, in_channels: int, block: MobileBlock, spec: ModelSpec):
        super().__init__()
        self.residual = block.stride == 1 and in_channels == block.channels
        act = nn.Hardswish if block.hard_swish else nn.ReLU
        width, kernel, eps = block.expanded, block.kernel, spec.norm_eps
        pad, padding = nn.Identity(), kernel // 2
        if spec.depthwise_padding == "same" and block.stride == 2:
            # On even sides 0/1 for a 3x3 and 1/2 for a 5x5. torch's convolution pads both ends alike, so the padding
            # comes before it, in the activation's place: an index of its own would shift the names that follow.
            pad, padding = nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2), 0
        layers = [
            nn.Conv2d(in_channels, width, 1, stride=1, padding=0, bias=False),
            nn.BatchNorm2d(width, eps=eps, momentum=0.1),
            nn.Sequential(act(), pad),
            nn.Conv2d(width, width, kernel, stride=block.stride, padding=padding, groups=width, bias=False),
            nn.BatchNorm2d(width, eps=eps, momentum=0.1),
            act(),
        ]
        if block.squeeze and spec.se_gate != "none":
            layers.append(SqueezeExcite(width, spec.se_gate))
        layers.append(nn.Conv2d(width, block.channels, 1, stride=1, padding=0, bias=False))
        layers.append(nn.BatchNorm2d(block.channels, eps=eps, momentum=0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.residual:
            return x + self.layers(x)
        return self.layers(x)


class MobileNetV3(nn.Module):
    """(N, 3, H, W) -> c2, c3, c4, c5 at strides 4, 8, 16, 32."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        features = [
            nn.Conv2d(3, MOBILENET_STEM, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(MOBILENET_STEM, eps=spec.norm_eps, momentum=0.1),
            nn.Hardswish(),
        ]
        channels = MOBILENET_STEM
        for block in MOBILENET_BLOCKS:
            features.append(InvertedResidual(channels, block, spec))
            channels = block.channels
        features += [
            nn.Conv2d(channels, MOBILENET_LAST, 1, stride=1, padding=0, bias=False),
            nn.BatchNorm2d(MOBILENET_LAST, eps=spec.norm_eps, momentum=0.1),
            nn.Hardswish(),
        ]
        self.features = nn.ModuleList(features)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = ()
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in MOBILENET_TAPS:
                maps = (*maps, x)
        return maps

    def parts(self, x: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> tuple[Tensor, ...]:
        """c2 of the image, c3 of the given c2, c4 of the given c3, c5 of the given c4."""
        maps, given = (), (c2, c3, c4)
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in MOBILENET_TAPS:
                maps = (*maps, x)
                x = given[len(maps) - 1] if len(maps) < 4 else x
        return maps
