"""PaddleOCR's DBNets in Paddle, for `benchmarks/dialects.py`: its package on PyPI holds no networks.

Written anew from the published definition; attributes are named as PaddleOCR names them (release 2.7), so that a state
dict of these is one of its own. Sources of the facts: `ppocr/modeling/` `backbones/det_mobilenet_v3.py`,
`backbones/det_resnet.py`, `backbones/det_resnet_vd.py`, `necks/db_fpn.py`, `heads/det_db_head.py`.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional
from paddle.vision.ops import DeformConv2D

#: kernel, expanded, channels, squeeze, hard swish, stride: MobileNetV3-large at width 0.5.
BLOCKS = ((3, 8, 8, 0, 0, 1), (3, 32, 16, 0, 0, 2), (3, 40, 16, 0, 0, 1), (5, 40, 24, 1, 0, 2), (5, 64, 24, 1, 0, 1),
          (5, 64, 24, 1, 0, 1), (3, 120, 40, 0, 1, 2), (3, 104, 40, 0, 1, 1), (3, 96, 40, 0, 1, 1),
          (3, 96, 40, 0, 1, 1), (3, 240, 56, 1, 1, 1), (3, 336, 56, 1, 1, 1), (5, 336, 80, 1, 1, 2),
          (5, 480, 80, 1, 1, 1), (5, 480, 80, 1, 1, 1))
#: Blocks in stage0..stage3; the last stage ends with a convolution to 480 channels.
STAGES = (3, 3, 6, 3)


def conv(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2D:
    return nn.Conv2D(into, out, kernel, stride, kernel // 2, groups=groups, bias_attr=None if bias else False)


class ConvNorm(nn.Layer):
    """MobileNetV3's: convolution `conv`, batch norm `bn`, activation."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = None):
        super().__init__()
        self.conv, self.bn, self.act = conv(into, out, kernel, stride, groups), nn.BatchNorm(out), act

    def forward(self, x: Any) -> Any:
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


class Squeeze(nn.Layer):
    """Squeeze-and-excitation with a hard sigmoid of slope 0.2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv(channels, channels // 4, 1, bias=True)
        self.conv2 = conv(channels // 4, channels, 1, bias=True)

    def forward(self, x: Any) -> Any:
        weight = self.conv2(functional.relu(self.conv1(x.mean([2, 3], keepdim=True))))
        return x * functional.hardsigmoid(weight, slope=0.2, offset=0.5)


class Residual(nn.Layer):
    def __init__(self, into: int, block: tuple[int, ...], squeezing: bool):
        super().__init__()
        kernel, expanded, channels, squeeze, swish, stride = block
        act = functional.hardswish if swish else functional.relu
        self.shortcut = stride == 1 and into == channels
        self.expand_conv = ConvNorm(into, expanded, 1, act=act)
        self.bottleneck_conv = ConvNorm(expanded, expanded, kernel, stride, expanded, act)
        self.mid_se = Squeeze(expanded) if squeeze and squeezing else None
        self.linear_conv = ConvNorm(expanded, channels, 1)

    def forward(self, x: Any) -> Any:
        out = self.bottleneck_conv(self.expand_conv(x))
        out = self.linear_conv(out if self.mid_se is None else self.mid_se(out))
        return x + out if self.shortcut else out


class MobileNet(nn.Layer):
    channels = (16, 24, 56, 480)

    def __init__(self, squeezing: bool):
        super().__init__()
        self.conv = ConvNorm(3, 8, 3, 2, act=functional.hardswish)
        into, blocks, self.stages = 8, iter(BLOCKS), []
        for number, count in enumerate(STAGES):
            layers = []
            for _ in range(count):
                block = next(blocks)
                layers.append(Residual(into, block, squeezing))
                into = block[2]
            if number == len(STAGES) - 1:
                layers.append(ConvNorm(into, 480, 1, act=functional.hardswish))
            stage = self.add_sublayer(f"stage{number}", nn.Sequential(*layers))
            self.stages.append(stage)

    def forward(self, x: Any) -> Any:
        x, maps = self.conv(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Deformable(nn.Layer):
    def __init__(self, into: int, out: int, stride: int):
        super().__init__()
        self.conv_dcn = DeformConv2D(into, out, 3, stride, 1, bias_attr=False)
        self.conv_offset = conv(into, 27, 3, stride, bias=True)

    def forward(self, x: Any) -> Any:
        offset, mask = paddle.split(self.conv_offset(x), [18, 9], 1)
        return self.conv_dcn(x, offset, functional.sigmoid(mask))


class Layer(nn.Layer):
    """ResNet's: convolution `_conv`, batch norm `_batch_norm` with its activation."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, act: str | None = None,
                 deformable: bool = False):
        super().__init__()
        self._conv = Deformable(into, out, stride) if deformable else conv(into, out, kernel, stride)
        self._batch_norm = nn.BatchNorm(out, act=act)

    def forward(self, x: Any) -> Any:
        return self._batch_norm(self._conv(x))


class Block(nn.Layer):
    def __init__(self, into: int, width: int, stride: int, first: bool, bottleneck: bool, deformable: bool):
        super().__init__()
        out = width * 4 if bottleneck else width
        if bottleneck:
            self.conv0 = Layer(into, width, 1, act="relu")
            self.conv1 = Layer(width, width, 3, stride, "relu", deformable)
            self.conv2 = Layer(width, out, 1)
        else:
            self.conv0, self.conv1 = Layer(into, width, 3, stride, "relu"), Layer(width, width, 3)
            self.conv2 = None
        self.short = Layer(into, out, 1, stride) if first else None

    def forward(self, x: Any) -> Any:
        out = self.conv1(self.conv0(x))
        out = out if self.conv2 is None else self.conv2(out)
        return functional.relu(out + (x if self.short is None else self.short(x)))


class ResNet(nn.Layer):
    def __init__(self, depth: int, deformable: bool):
        super().__init__()
        self.conv = Layer(3, 64, 7, 2, "relu")
        self.pool = nn.MaxPool2D(3, 2, 1)
        into, self.stages, bottleneck = 64, [], depth == 50
        self.channels = tuple(64 * 2**i * (4 if bottleneck else 1) for i in range(4))
        for number, count in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)):
            stage = []
            for i in range(count):
                stride = 2 if i == 0 and number else 1
                stage.append(self.add_sublayer(f"res{number + 2}{chr(97 + i)}", Block(
                    into, 64 * 2**number, stride, i == 0, bottleneck, deformable and number > 0)))
                into = self.channels[number]
            self.stages.append(stage)

    def forward(self, x: Any) -> Any:
        x, maps = self.pool(self.conv(x)), []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps


def larger(x: Any, factor: int) -> Any:
    return functional.upsample(x, scale_factor=factor, mode="nearest", align_mode=1)


class Asf(nn.Layer):
    """Adaptive scale fusion without its attention over the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv(width, width // 4, 3, bias=True)
        self.spatial_scale = nn.Sequential(conv(1, 1, 3), nn.ReLU(), conv(1, 1, 1), nn.Sigmoid())
        self.channel_scale = nn.Sequential(conv(width // 4, 4, 1), nn.Sigmoid())

    def forward(self, maps: Any) -> Any:
        x = self.conv(paddle.concat(maps, 1))
        weights = self.channel_scale(self.spatial_scale(x.mean(1, keepdim=True)) + x)
        return paddle.concat([weights[:, i:i + 1] * part for i, part in enumerate(maps)], 1)


class Neck(nn.Layer):
    def __init__(self, channels: tuple[int, ...], width: int, asf: bool):
        super().__init__()
        for i, into in enumerate(channels, start=2):
            self.add_sublayer(f"in{i}_conv", conv(into, width, 1))
            self.add_sublayer(f"p{i}_conv", conv(width, width // 4, 3))
        self.asf = Asf(width) if asf else None

    def forward(self, c: Any) -> Any:
        merged = [getattr(self, f"in{i + 2}_conv")(c[i]) for i in range(4)]
        for i in (2, 1, 0):
            merged[i] = merged[i] + larger(merged[i + 1], 2)
        p = [getattr(self, f"p{i + 2}_conv")(merged[i]) for i in range(4)]
        maps = [larger(p[3], 8), larger(p[2], 4), larger(p[1], 2), p[0]]
        return paddle.concat(maps, 1) if self.asf is None else self.asf(maps)


class Rse(nn.Layer):
    def __init__(self, into: int, out: int, kernel: int):
        super().__init__()
        self.in_conv, self.se_block = conv(into, out, kernel), Squeeze(out)

    def forward(self, x: Any) -> Any:
        x = self.in_conv(x)
        return x + self.se_block(x)


class RseNeck(nn.Layer):
    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        self.ins_conv = nn.LayerList([Rse(into, width, 1) for into in channels])
        self.inp_conv = nn.LayerList([Rse(width, width // 4, 3) for _ in channels])

    def forward(self, c: Any) -> Any:
        merged = [layer(x) for layer, x in zip(self.ins_conv, c, strict=True)]
        for i in (2, 1, 0):
            merged[i] = merged[i] + larger(merged[i + 1], 2)
        p = [layer(x) for layer, x in zip(self.inp_conv, merged, strict=True)]
        return paddle.concat([larger(p[3], 8), larger(p[2], 4), larger(p[1], 2), p[0]], 1)


class Branch(nn.Layer):
    def __init__(self, width: int):
        super().__init__()
        quarter = width // 4
        self.conv1, self.conv_bn1 = conv(width, quarter, 3), nn.BatchNorm(quarter, act="relu")
        self.conv2, self.conv_bn2 = nn.Conv2DTranspose(quarter, quarter, 2, 2), nn.BatchNorm(quarter, act="relu")
        self.conv3 = nn.Conv2DTranspose(quarter, 1, 2, 2)

    def forward(self, x: Any) -> Any:
        return functional.sigmoid(self.conv3(self.conv_bn2(self.conv2(self.conv_bn1(self.conv1(x))))))


class Head(nn.Layer):
    def __init__(self, width: int):
        super().__init__()
        self.binarize, self.thresh = Branch(width), Branch(width)

    def forward(self, x: Any) -> Any:
        return self.binarize(x)


class Detector(nn.Layer):
    """The network of a recipe: `backbone`, `neck`, `head`."""

    def __init__(self, backbone: nn.Layer, width: int, neck: str = "dbfpn"):
        super().__init__()
        self.backbone, self.head = backbone, Head(width)
        self.neck = RseNeck(backbone.channels, width) if neck == "rsefpn" else Neck(backbone.channels, width,
                                                                                     neck == "asf")

    def forward(self, x: Any) -> Any:
        return self.head(self.neck(self.backbone(x)))


def networks() -> dict[str, Any]:
    """By PaddleOCR's names for the recipes: a function that builds the network."""
    return {
        "det_mv3_db, no SE, 96 (ch_PP-OCR v2)": lambda: Detector(MobileNet(False), 96),
        "det_mv3_db (SE, 256)": lambda: Detector(MobileNet(True), 256),
        "det_mv3_db (SE, 96)": lambda: Detector(MobileNet(True), 96),
        "ch_PP-OCRv3_det_student (RSEFPN)": lambda: Detector(MobileNet(False), 96, "rsefpn"),
        "DB, ResNet-18": lambda: Detector(ResNet(18, False), 256),
        "DB, ResNet-50": lambda: Detector(ResNet(50, False), 256),
        "DB, ResNet-50 with deformable": lambda: Detector(ResNet(50, True), 256),
        "det_r50_db++ (deformable, ASF)": lambda: Detector(ResNet(50, True), 256, "asf"),
    }
